# SPDX-License-Identifier: GPL-2.0-or-later
"""
Every QMP command with arguments it does not take, made from the server's own schema: missing, unknown,
of another type, out of range, huge. Each request gets one answer; one that is refused has changed
nothing that can be asked for. (tests/fuzz/fuzz-qmp.c does the same with random bytes.)
"""

import json
import unittest

from ferry_cli import Machine

MACHINE = ["-nodefaults", "-accel", "qtest", "-M", "microvm", "-m", "4", "-S"]
# What a value may be that is not what is asked for.
VALUES = [None, True, -1, 0, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, -(1 << 63), 1e308, 0.5, "", " ",
          "x" * 100000, "\u0001\u007f", "\ud83d\ude00", "exec:", "fd:-1", "/", [], {}, [[]], [{}],
          [None] * 100, {"x": 1}, {"type": "main"}]
QUESTIONS = ["query-status", "query-migrate-parameters", "query-migrate-capabilities",
             "query-fdsets", "query-chardev", "query-cpus-fast", "query-name", "query-uuid",
             "x-query-migrate-hold", "query-memory-size-summary"]
# Well-formed, these do what they are there for.
WITHOUT_ARGUMENTS_NOT = {"quit", "stop", "cont", "system_reset", "system_powerdown",
                         "qmp_capabilities"}


class HostileQmp(unittest.TestCase):
    def setUp(self):
        machine = Machine(*MACHINE)
        self.qmp = machine.__enter__().qmp
        self.addCleanup(machine.__exit__, None, None, None)
        self.schema = {entry["name"]: entry for entry in self.qmp.cmd("query-qmp-schema")}

    def state(self):
        answers = [self.qmp.cmd(question) for question in QUESTIONS]
        answers.append(self.qmp.cmd("qom-list", path="/objects"))
        return json.dumps(answers)

    def request(self, text):
        """The answer to a request, which must be one, and say why if it is an error."""
        self.qmp.send_raw(text + "\n")
        while True:
            message = self.qmp.read_message()
            if "event" not in message:
                break
        self.assertIn("return" if "return" in message else "error", message)
        if "error" in message:
            self.assertTrue(message["error"]["desc"])
            self.assertNotIn("\n", message["error"]["desc"])
        return message

    def refused(self, text, before):
        if "error" in self.request(text):
            self.assertEqual(self.state(), before, text[:200])
            return True
        return False

    def commands(self):
        for name, entry in sorted(self.schema.items()):
            if entry["meta-type"] == "command":
                yield name, self.schema[entry["arg-type"]]["members"]

    def test_arguments(self):
        count = refused = 0
        for name, members in self.commands():
            before = self.state()
            tries = [{"arguments": {"nosuch": 1}}, {"arguments": 1}, {"arguments": []},
                     {"nosuch": 1}, {"arguments": None}]
            if members or name not in WITHOUT_ARGUMENTS_NOT:
                tries.append({})
            for member in members:
                tries += [{"arguments": {member["name"]: value}} for value in VALUES]
            if members:
                tries += [{"arguments": {m["name"]: value for m in members}} for value in VALUES]
            for extra in tries:
                with self.subTest(command=name, extra=str(extra)[:80]):
                    count += 1
                    if self.refused(json.dumps({"execute": name, **extra}), before):
                        refused += 1
                    else:
                        before = self.state()
        self.assertGreater(refused, count * 2 // 3)

    def test_forms(self):
        """What is no request: at least one error, nothing changed, and the next request is heard."""
        before = self.state()
        for text in ('{"execute":"stop","execute":"stop"}', '{"execute":"query-status"',
                     '{"execute":"query-status"}}', "[]", "1", '"x"', "null", "{}", "{'execute':}",
                     '{"execute":"\\u0000"}', '{"execute":"' + "x" * (1 << 20) + '"}',
                     '{"arguments":' + "[" * 5000, '{"execute":"qom-get","arguments":{"path":1}}',
                     '{"execute":"query-status","id":' + "[" * 900 + "]" * 900 + ',"x":1}',
                     "\x01", "\xff", "nan", "-", "0x10", "1e999", "tru", '"', "'", "\\"):
            with self.subTest(text=text[:60]):
                # a byte that no value contains ends whatever is still open
                self.qmp.send_raw(text.encode("latin-1") + b"\n\xff\n" +
                                  b'{"execute":"query-name","id":"end"}\n')
                errors = 0
                while True:
                    message = self.qmp.read_message()
                    if message.get("id") == "end":
                        break
                    errors += "error" in message
                self.assertGreater(errors, 0)
                self.assertEqual(message, {"return": {}, "id": "end"})
                self.assertEqual(self.state(), before)


if __name__ == "__main__":
    unittest.main()
