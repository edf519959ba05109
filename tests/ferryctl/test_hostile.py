# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that cannot be trusted: no crash, no hang, no megabytes, nothing for the terminal."""

import json
import random
import socket
import threading
import time
import unittest

from ctlcase import BINARY, FAILED, REFUSED, UNREACHABLE, CtlCase, Terminal, need
from fakeqmp import FERRY, Refusal, a_round, ram
from ferrytest import is_sanitized, scaled

# Clears the screen, sets a title, colours, C1's CSI, a turn of the direction, a bell, bad UTF-8.
NASTY = "\x1b[2J\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp\x08\x7f\r\n\tend"


def line(value):
    return json.dumps(value).encode() + b"\r\n"


def linger(client):
    """Until the other side closes."""
    while client.recv(4096):
        pass


def forever(client, data, pause=0.0):
    while True:
        client.sendall(data)
        if pause:
            time.sleep(pause)


class Connection(CtlCase):
    def unreachable(self, function, text, wait="20s"):
        """`wait` is short where it is what ends it, and where a server of ours has to be that fast."""
        server = self.hostile(function)
        began = time.monotonic()
        result = self.ctl("status", "--wait", wait, expect=UNREACHABLE)
        self.assertIn(text, result.err)
        self.assertLess(time.monotonic() - began, 15)
        server.close()

    def after_greeting(self, data):
        """Greets, takes commands, and answers the second one (query-migrate) with this."""
        def serve(client):
            client.sendall(line(FERRY))
            client.recv(4096)
            client.sendall(line({"return": {}, "id": 1}))
            client.recv(4096)
            client.sendall(data)
            linger(client)
        return serve

    def test_garbage(self):
        for data in (b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 100, b"\xff\xfe", b"]", b'"x"', b"1\n"):
            self.unreachable(lambda c, d=data: (c.sendall(d), linger(c)), "is not QMP")

    def test_bad_json(self):
        for data in (b"{]}", b"{'a': 1}", b'{"a": }', b"[]", b'{"a": "\x80"}', b'{"a": 1e999}',
                     b"{" * 100 + b"}" * 100, b"[" * 5000 + b"]" * 5000, b'{"QMP": [' + b"[" * 5000 +
                     b"]" * 5001 + b"}", b'{"QMP": {"version": 3}}', b"{}", b'{"QMP": null}'):
            self.unreachable(lambda c, d=data: (c.sendall(d), linger(c)), "is not QMP")

    def test_closes(self):
        self.unreachable(lambda c: None, "closed the connection")
        self.unreachable(lambda c: c.sendall(b'{"QMP'), "closed the connection")
        self.unreachable(lambda c: (c.sendall(line(FERRY)), c.recv(4096)), "closed the connection")

    def test_silence(self):
        self.unreachable(linger, "does not greet: most likely another program holds it", "600ms")
        self.unreachable(lambda c: (c.sendall(line(FERRY)), linger(c)),
                         "No answer to qmp_capabilities", "3s")

    def test_drip(self):
        """A byte now and then does not keep the wait alive."""
        self.unreachable(lambda c: forever(c, b" ", 0.05), "does not greet", "600ms")
        self.unreachable(lambda c: (c.sendall(b'{"QMP": "'), forever(c, b"x", 0.05)), "does not greet",
                         "600ms")

    def test_flood_of_events(self):
        event = line({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 1}})
        self.unreachable(lambda c: (c.sendall(line(FERRY)), forever(c, event * 50)),
                         "No answer to qmp_capabilities", "3s")

    @unittest.skipIf(is_sanitized(), "The sanitizers take memory of their own")
    def test_endless_message(self):
        """Not more than the limit is kept."""
        self.hostile(lambda c: (c.sendall(b'{"QMP": "'), forever(c, b"x" * 65536)))
        process = self.start("status", "--wait", "20s")
        peak = 0
        while process.poll() is None:
            try:
                with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
                    for entry in f:
                        if entry.startswith("VmHWM"):
                            peak = max(peak, int(entry.split()[1]))
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.002)
        result = self.finish(process)
        self.assertEqual(result.status, UNREACHABLE)
        self.assertIn("a message of more than 16 MiB", result.err)
        self.assertLess(peak, 60 << 10)

    def test_wrong_answers(self):
        for data, text in ((b'{"return": {}, "id": 7}', "something else than it was asked"),
                           (b'{"return": {}}', "something else"),
                           (b'{"return": {}, "id": "2"}', "something else"),
                           (b'{"id": null}', "something else")):
            self.unreachable(self.after_greeting(data), text)

    def test_errors_without_sense(self):
        for data in (b'{"id": 2}', b'{"error": 3, "id": 2}', b'{"error": {"desc": 4}, "id": 2}',
                     b'{"error": {}}'):
            server = self.hostile(self.after_greeting(data))
            self.assertIn("without a reason", self.ctl("status", expect=REFUSED).err)
            server.close()

    def test_pretty(self):
        """Indented answers, brackets in strings, many in one packet: all of that is fine."""
        def serve(client):
            client.sendall(json.dumps(FERRY, indent=4).encode() + b"\r\n")
            for number in range(1, 20):
                client.recv(4096)
                answer = {"return": {"status": 'run}{]["\\', "name": "x", "UUID": "y"}, "id": number}
                event = {"event": "X}", "data": {"a": '"{'}}
                text = json.dumps(event, indent=4) + "\n" + json.dumps(answer, indent=4)
                for i in range(0, len(text), 7):
                    client.sendall(text[i:i + 7].encode())
        self.hostile(serve)
        self.assertIn('guest        run}{]["\\\n', self.ctl("status").out)


class Values(CtlCase):
    def test_control_characters(self):
        """In every string, in every command, in each way of printing (checked by ctl())."""
        nasty_round = {**a_round(1, 0, 1), "number": NASTY}
        decision = {"round": 1, "time": 5, "action": NASTY, "reason": NASTY, "value": NASTY}
        states = [{"status": NASTY, "ram": ram(), "phase": NASTY, "policy": NASTY,
                   "rounds": [nasty_round, a_round(1, 0, 1)], "decisions": [decision],
                   "blocked-reasons": [NASTY], "run-state": NASTY, "error-desc": NASTY}, 0.1,
                  {"status": "failed", "error-desc": NASTY, "run-state": NASTY}]
        finding = {"severity": NASTY, "kind": NASTY, "subject": NASTY, "reason": NASTY}

        def refuse(**_):
            raise Refusal(NASTY)
        commands = {"query-name": {"name": NASTY}, "query-uuid": {"UUID": NASTY},
                    "migrate-check": {"possible": True, "peer-asked": True, "peer-version": NASTY,
                                      "findings": [finding]},
                    "query-migrate-policy": {NASTY: NASTY, "policy": NASTY,
                                             "steps": [{"stalls": 1, "action": NASTY}]},
                    "stop": refuse}
        for args, status in ((("status",), 0), (("check", "a:1"), REFUSED), (("policy",), 0),
                             (("watch",), FAILED), (("list",), 0), (("pause",), REFUSED)):
            for more in ((), ("--json",)):
                fake = self.fake(started=True, states=list(states), commands=commands)
                if args == ("pause",):
                    fake.started = False
                self.ctl(*args, *more, expect=status)
                fake.close()

    def test_version(self):
        greeting = {"QMP": {"version": {"qemu": {"major": 1 << 70, "minor": -1, "micro": "x"},
                                        "package": "ferry-" + NASTY * 100}}}
        self.fake(greeting=greeting)
        self.ctl("status")

    def test_characters_of_the_locale(self):
        self.fake(commands={"query-name": {"name": "größe"}})
        self.assertIn("größe", self.ctl("status").out)
        self.assertIn("gr?", self.ctl("status", env={"LC_ALL": "C"}).out)

    def test_numbers(self):
        """None is too large, too small or of the wrong kind."""
        chooser = random.Random(1)
        values = [0, -1, 1, 1 << 31, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 100, 1e308,
                  -1e308, 0.5, True, None, "7", [], {}, [1], {"a": 1}]
        for _ in range(25):
            def any_of(keys):
                return {k: chooser.choice(values) for k in keys}
            info = {**any_of(("total-time", "setup-time", "downtime", "expected-downtime", "deadline",
                              "expected-total-time", "cpu-throttle-percentage", "error-desc", "phase",
                              "policy", "blocked-reasons", "socket-address")),
                    "status": "completed", "ram": any_of(ram()), "run-state": "postmigrate",
                    "rounds": [any_of(a_round(1, 0, 0)) for _ in range(5)] + [7],
                    "decisions": [any_of(("round", "time", "action", "reason", "value"))
                                  for _ in range(5)] + [None]}
            fake = self.fake(started=True, states=[info])
            self.ctl("watch")
            self.ctl("watch", "--json")
            self.ctl("status")
            self.ctl("report", "-o", self.path("x.svg"))
            fake.close()
            fake = self.fake(started=True, states=[{**info, "ram": chooser.choice(values),
                                                    "rounds": chooser.choice(values),
                                                    "decisions": chooser.choice(values)}])
            self.ctl("watch")
            fake.close()

    def test_whole_answers(self):
        for value in ([], 7, "x", True, None, {}):
            fake = self.fake(commands={name: value for name in (
                "query-status", "query-migrate", "query-name", "query-uuid", "query-commands",
                "query-migrate-capabilities", "migrate-check", "query-migrate-policy")})
            for args in (("status",), ("list",), ("policy",), ("check", "a:1"), ("watch",),
                         ("migrate", "a:1"), ("cancel",)):
                result = self.finish(self.start(*args))
                self.assertIn(result.status, range(7), f"{args} {value}")
            fake.close()

    def test_long_strings(self):
        self.fake(commands={"query-name": {"name": "x" * 1000000}})
        self.assertLess(len(self.ctl("status").out), 10000)

    def test_many_rounds(self):
        rounds = [a_round(n, n, 5) for n in range(1, 20001)]
        self.fake(started=True, states=[{"status": "completed", "rounds": rounds, "ram": ram()}])
        self.assertEqual(len(self.ctl("watch", "--json").of_type("round")), 20000)
        self.ctl("report", "-o", self.path("x.svg"))


class Stalls(CtlCase):
    def test_stall_while_watching(self):
        """The signal is heeded at once although the machine does not answer."""
        stall, asked = threading.Event(), threading.Event()

        def status():
            asked.set()
            return stall.wait(30) and {}
        self.fake(started=True, states=[{"status": "active", "total-time": 1, "ram": ram()}],
                  commands={"query-status": status})
        self.addCleanup(stall.set)
        process = self.start("watch")
        self.assertTrue(asked.wait(scaled()))
        began = time.monotonic()
        process.terminate()
        self.assertEqual(self.finish(process).status, 6)
        self.assertLess(time.monotonic() - began, 15)  # the machine answers after 30 s

    def test_display_while_the_machine_is_silent(self):
        need("tmux")
        answers = []
        stall = threading.Event()

        def status():
            answers.append(1)
            if len(answers) > 2:
                stall.wait(30)
            return {"status": "running"}
        self.fake(started=True, states=[{"status": "active", "total-time": 1, "ram": ram()}],
                  commands={"query-status": status})
        self.addCleanup(stall.set)
        terminal = Terminal(self, f"{BINARY} -s {self.sock} watch")
        terminal.wait("No answer from the machine for ([3-9]|[12][0-9]) s")
        terminal.keys("C-c")
        self.assertEqual(terminal.status(), 6)

    def test_socket_held_by_another(self):
        self.fake()
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.sock)
            result = self.ctl("status", "--wait", "500ms", expect=UNREACHABLE)
        self.assertIn("another program holds it; give the machine a second -qmp", result.err)


if __name__ == "__main__":
    unittest.main()
