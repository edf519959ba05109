# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line, and the commands that ask or tell one thing."""

import os
import socket
import subprocess
import unittest

from ctlcase import FAILED, REFUSED, UNREACHABLE, USAGE, CtlCase
from fakeqmp import QEMU, Refusal, ram

COMMANDS = ("list", "status", "check", "migrate", "watch", "cancel", "pause", "resume", "policy",
            "block", "unblock", "report", "quit")


class CommandLine(CtlCase):
    def test_help(self):
        text = self.ctl("--help", socket=False).out
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  {command} ")
            self.assertIn(f"ferryctl {command} ", self.ctl(command, "--help", socket=False).out)

    def test_version(self):
        self.assertRegex(self.ctl("--version", socket=False).out, r"^ferryctl \(Ferry\) \d+\.\d+")

    def test_usage(self):
        for args in ((), ("fly",), ("--fly",), ("status", "--fly"), ("status", "x"), ("migrate",),
                     ("migrate", "a:1", "b:2"), ("check",), ("migrate", "nowhere"),
                     ("migrate", "tcp:host"), ("migrate", "fd:3"), ("migrate", "a:1", "--peer", "xen"),
                     ("migrate", "a:1", "--bandwidth", "fast"), ("migrate", "a:1", "--bandwidth", "-1"),
                     ("migrate", "a:1", "--bandwidth", "1e9"), ("migrate", "a:1", "--bandwidth", "0x1"),
                     ("migrate", "a:1", "--max-downtime", "100"),
                     ("migrate", "a:1", "--timeout", "0s"), ("migrate", "a:1", "--timeout", "1d"),
                     ("migrate", "a:1", "--post-copy-after", "0"),
                     ("migrate", "a:1", "--detach", "--post-copy-after", "2"),
                     ("migrate", "a:1", "--interval", "1ms"), ("watch", "--wait", "0s"),
                     ("policy", "custom", "--step", "x"), ("policy", "custom", "--step", "1:a=b"),
                     ("policy", "--max-downtime", "5ms"), ("policy", "--completion-timeout", "5ms"),
                     ("block",), ("block", ""), ("block", "a", "b"), ("unblock", "x"), ("report", "x")):
            with self.subTest(args):
                fake = self.fake()
                result = self.ctl(*args, expect=USAGE)
                self.assertEqual(result.out, "")
                self.assertRegex(result.err, r"^ferryctl: .+\n$")
                self.assertEqual(self.ctl(*args, "--json", expect=USAGE).end["outcome"], "usage")
                self.assertEqual(fake.log, [])

    def test_options_before_and_behind(self):
        self.fake()
        for args in (("-s", self.sock, "--json", "status"), ("status", "--json", "-s", self.sock),
                     ("status", f"--socket={self.sock}", "--json", "--wait=3s")):
            self.assertEqual(self.ctl(*args, socket=False).of_type("status")[0]["name"], "web1")


class WhichMachine(CtlCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.tmp, "ferry")
        os.mkdir(self.folder)

    def test_none(self):
        self.assertIn("No machine", self.ctl("status", socket=False, expect=UNREACHABLE).err)
        self.assertIn("No machines", self.ctl("list", socket=False).out)

    def test_the_only_one(self):
        self.fake(path=f"{self.folder}/db.qmp")
        self.assertIn("running", self.ctl("status", socket=False).out)

    def test_by_name(self):
        for name in ("db", "db-2"):
            self.fake(path=f"{self.folder}/{name}.qmp", run_state=name)
        err = self.ctl("status", socket=False, expect=USAGE).err
        self.assertIn("2 machines", err)
        for name in ("db", "db-2"):
            self.assertRegex(self.ctl("-s", name, "status", socket=False).out, rf"guest +{name}\n")
        self.assertRegex(self.ctl("status", socket=False, env={"FERRY_SOCKET": "db"}).out,
                         r"guest +db\n")
        self.ctl("-s", "nix", "status", socket=False, expect=UNREACHABLE)

    def test_list(self):
        self.fake(path=f"{self.folder}/a.qmp", started=True,
                  states=[{"status": "active", "ram": ram()}])
        self.fake(path=f"{self.folder}/b.qmp", greeting=QEMU, commands={"query-name": {}})
        gone = socket.socket(socket.AF_UNIX)
        gone.bind(f"{self.folder}/gone.qmp")
        gone.close()
        with open(f"{self.folder}/file.qmp", "w", encoding="utf-8"):
            pass
        lines = self.ctl("list", socket=False).out.splitlines()
        self.assertEqual([line.split()[:4] for line in lines],
                         [["NAME", "GUEST", "MIGRATION", "VERSION"],
                          ["web1", "running", "active", "Ferry"],
                          ["b", "running", "-", "QEMU"],
                          ["gone", "no", "answer", "-"]])
        found = self.ctl("list", "--json", socket=False).of_type("machine")
        self.assertEqual([m["name"] for m in found], ["web1", "b", "gone"])
        self.assertEqual(found[0]["status"], "active")
        self.assertIn("refused", found[2]["error"])

    def test_tcp(self):
        """A machine behind a TCP port; both forms of the address."""
        # a relay is simpler than a second kind of server
        self.fake()
        relay = subprocess.Popen(["python3", "-c", RELAY, self.sock], stdout=subprocess.PIPE)
        self.addCleanup(relay.communicate)
        self.addCleanup(relay.kill)
        port = int(relay.stdout.readline())
        for address in (f"tcp:127.0.0.1:{port}", f"127.0.0.1:{port}"):
            self.assertIn("running", self.ctl("-s", address, "status", socket=False).out)
        self.ctl("-s", "tcp:127.0.0.1", "status", socket=False, expect=USAGE)
        self.ctl("-s", "tcp:nowhere.invalid:1", "status", socket=False, expect=UNREACHABLE)


class Status(CtlCase):
    def test_plain(self):
        self.fake(started=True, states=[{"status": "active", "total-time": 1500, "ram": ram(),
                                         "expected-downtime": 200, "policy": "legacy",
                                         "deadline": 61000, "phase": "memory",
                                         "cpu-throttle-percentage": 30,
                                         "blocked-reasons": ["Because"]}])
        out = self.ctl("status").out
        for line in ("name +web1", "machine +Ferry 0.1.0", "guest +running", "migration +active",
                     "now +sending memory", "took +1.50 s", "would pause +200 ms", "policy +legacy",
                     "deadline +0:01:01", "throttle +30 %", "blocked +Because",
                     "memory +10.0 MiB sent in 2 rounds, 6.00 MiB of 16.0 MiB remain"):
            self.assertRegex(out, rf"(?m)^{line}$")

    def test_what_cannot_be_is_unknown(self):
        self.fake(started=True, states=[{"status": "active", "total-time": "7", "downtime": -3,
                                         "expected-downtime": True, "phase": 5, "ram": 6}])
        (status,) = self.ctl("status", "--json").of_type("status")
        self.assertEqual(set(status), {"type", "status", "run-state", "blocked", "version", "name",
                                       "uuid"})

    def test_pause(self):
        """What the pause consisted of, where the machine knows it."""
        parts = {"whole": 2400, "stop": 100, "sync": 300, "memory": 500, "devices": 1000, "load": 500,
                 "confirm": 0}
        self.fake(started=True, states=[{"status": "completed", "downtime": 3, "pause": parts}])
        self.assertRegex(self.ctl("status").out, r"(?m)^paused +2.40 ms: stop 100 us, sync 300 us, "
                                                 "memory 500 us, devices 1.00 ms, load 500 us$")
        self.assertEqual(self.ctl("status", "--json").of_type("status")[0]["pause"], parts)

    def test_json(self):
        self.fake(greeting=QEMU)
        (status,) = self.ctl("status", "--json").of_type("status")
        self.assertEqual(status, {"type": "status", "run-state": "running", "blocked": [],
                                  "version": "QEMU 7.2.22", "name": "web1",
                                  "uuid": "00000000-0000-0000-0000-000000000001"})


class Control(CtlCase):
    def test_pause_and_resume(self):
        fake = self.fake()
        self.ctl("pause")
        self.assertEqual(fake.run_state, "paused")
        self.assertIn("nothing to pause", self.ctl("pause", expect=REFUSED).err)
        self.ctl("resume")
        self.assertEqual(fake.run_state, "running")
        self.assertIn("runs already", self.ctl("resume", expect=REFUSED).err)

    def test_resume_what_has_left(self):
        fake = self.fake(run_state="postmigrate")
        self.assertIn("--force", self.ctl("resume", expect=REFUSED).err)
        self.assertEqual(fake.log, [])
        self.ctl("resume", "--force")
        self.assertEqual(fake.log, [("cont", {})])

    def test_resume_before_the_switchover(self):
        fake = self.fake(started=True, states=[{"status": "pre-switchover"}], run_state="paused",
                         commands={"migrate-continue": {}})
        self.ctl("resume")
        self.assertEqual(fake.log, [("migrate-continue", {"state": "pre-switchover"})])

    def test_post_copy(self):
        fake = self.fake(started=True, states=[{"status": "postcopy-active"}],
                         commands={"migrate-pause": {}}, run_state="finish-migrate")
        self.ctl("pause")
        self.assertEqual(fake.log, [("migrate-pause", {})])
        fake.states = [{"status": "postcopy-paused"}]
        self.ctl("resume", expect=USAGE)
        self.ctl("resume", "host:5")
        self.assertEqual(fake.log[1:], [("migrate", {"uri": "tcp:host:5", "resume": True})])

    def test_post_copy_at_the_destination(self):
        fake = self.fake(started=True, states=[{"status": "postcopy-paused"}],
                         commands={"migrate-recover": {}}, run_state="running")
        self.assertIn("resume ADDRESS here, then on the other side", self.ctl("status").out)
        self.ctl("resume", expect=USAGE)
        self.assertIn("now: ferryctl resume", self.ctl("resume", "host:5").out)
        self.assertEqual(fake.log, [("migrate-recover", {"uri": "tcp:host:5"})])

    def test_cancel(self):
        fake = self.fake(started=True, states=[{"status": "active", "ram": ram()}])
        self.assertIn("Cancelled", self.ctl("cancel").out)
        self.assertEqual(fake.log, [("migrate_cancel", {})])
        self.assertIn("no migration", self.ctl("cancel", expect=REFUSED).err)

    def test_cancel_too_late(self):
        def refuse():
            raise Refusal("It has been committed")
        self.fake(started=True, states=[{"status": "device"}], commands={"migrate_cancel": refuse})
        self.assertEqual(self.ctl("cancel", expect=REFUSED).err, "ferryctl: It has been committed\n")

    def test_cancel_overtaken(self):
        self.fake(started=True, states=[{"status": "active"}],
                  cancelled={"status": "completed", "run-state": "postmigrate"})
        self.assertIn("completed", self.ctl("cancel", expect=FAILED).err)

    def test_quit(self):
        fake = self.fake()
        self.ctl("quit", expect=REFUSED)
        self.ctl("quit", "--force")
        self.assertEqual(fake.log, [("quit", {})])
        fake.info, fake.run_state = {"status": "completed"}, "postmigrate"
        self.ctl("quit")
        # the side that has received it
        fake.run_state = "running"
        self.ctl("quit", expect=REFUSED)


class Policy(CtlCase):
    POLICY = {"policy": "minimal-downtime", "completion-timeout-per-gib": 150, "progress-timeout": 0,
              "allow-post-copy": False, "max-downtime": 400,
              "steps": [{"stalls": 0, "action": "downtime-limit", "value": 100},
                        {"stalls": 6, "action": "abort"}]}

    def test_show(self):
        self.fake(commands={"query-migrate-policy": self.POLICY})
        out = self.ctl("policy").out
        for line in ("policy +minimal-downtime", "completion-timeout-per-gib +150 s",
                     "progress-timeout +none", "allow-post-copy +no", "max-downtime +400 ms",
                     "after +0 stalls +downtime-limit 100 ms", "after +6 stalls +abort"):
            self.assertRegex(out, rf"(?m)^{line}$")
        self.assertEqual(self.ctl("policy", "--json").of_type("policy")[0]["policy"], self.POLICY)

    def test_set(self):
        fake = self.fake(commands={"query-migrate-policy": self.POLICY, "migrate-set-policy": {}})
        self.ctl("policy", "custom", "--step", "0:downtime-limit=100", "--step=3:abort",
                 "--max-downtime", "1s", "--progress-timeout", "2m", "--allow-auto-converge",
                 "--completion-timeout-per-gib", "1500ms", "--completion-timeout", "1500ms")
        self.assertEqual(fake.arguments("migrate-set-policy"), {
            "policy": "custom", "max-downtime": 1000, "progress-timeout": 120,
            "completion-timeout-per-gib": 2, "completion-timeout": 1500, "allow-auto-converge": True,
            "steps": [{"stalls": 0, "action": "downtime-limit", "value": 100},
                      {"stalls": 3, "action": "abort"}]})

    def test_refused(self):
        def refuse(**_):
            raise Refusal("Parameter 'policy' does not accept value 'hope'")
        self.fake(commands={"query-migrate-policy": self.POLICY, "migrate-set-policy": refuse})
        self.assertIn("'hope'", self.ctl("policy", "hope", expect=REFUSED).err)

    def test_qemu_has_none(self):
        self.fake(greeting=QEMU)
        for args in (("policy",), ("policy", "legacy")):
            self.assertIn("This machine (QEMU 7.2.22) has no migration policies",
                          self.ctl(*args, expect=REFUSED).err)


class Block(CtlCase):
    def test_mark(self):
        fake = self.fake(commands={"migrate-set-blocker": {}, "migrate-clear-blocker": {}})
        self.assertEqual(self.ctl("block", "It holds the licence").out,
                         "The guest is marked: it does not move.\n")
        self.assertEqual(fake.arguments("migrate-set-blocker"), {"reason": "It holds the licence"})
        self.assertEqual(self.ctl("unblock").out, "The guest is not marked.\n")
        self.assertEqual(fake.arguments("migrate-clear-blocker"), {})

    def test_refused(self):
        def refuse(**_):
            raise Refusal("A migration is under way")
        self.fake(commands={"migrate-set-blocker": refuse})
        self.assertIn("A migration is under way", self.ctl("block", "x", expect=REFUSED).err)

    def test_qemu_has_none(self):
        self.fake(greeting=QEMU)
        for args in (("block", "x"), ("unblock",)):
            self.assertIn("A guest of this machine (QEMU 7.2.22) cannot be marked",
                          self.ctl(*args, expect=REFUSED).err)


class Check(CtlCase):
    def result(self, possible, *findings, asked=True):
        return {"possible": possible, "peer-asked": asked, "peer-version": "Ferry 0.2",
                "findings": [dict(zip(("severity", "kind", "subject", "reason"), f)) for f in findings]}

    def test_possible(self):
        warning = ("warning", "host", "CPUs", "The destination is busy")
        fake = self.fake(commands={"migrate-check": lambda **_: self.result(True, warning)})
        out = self.ctl("check", "host:4444").out
        self.assertRegex(out, r"(?m)^warning +host +CPUs: The destination is busy$")
        self.assertIn("can go to tcp:host:4444 (Ferry 0.2): 1 warning.", out)
        self.assertEqual(fake.arguments("migrate-check"), {"uri": "tcp:host:4444", "peer": "ferry"})
        lines = self.ctl("check", "host:4444", "--json")
        self.assertEqual(lines.of_type("finding"), [
            {"type": "finding", "severity": "warning", "kind": "host", "subject": "CPUs",
             "reason": "The destination is busy"}])
        self.assertEqual(lines.end, {"type": "end", "outcome": "done", "exit-status": 0,
                                     "possible": True, "peer-asked": True,
                                     "peer-version": "Ferry 0.2"})

    def test_what_migrate_settles_is_no_warning(self):
        settled = ("warning", "capability", "return-path", "It is off")
        other = ("warning", "capability", "events", "It is off")
        self.fake(commands={"migrate-check": self.result(True, settled, other)})
        out = self.ctl("check", "host:4444").out
        self.assertNotIn("return-path", out)
        self.assertIn(": 1 warning.", out)

    def test_obstacles(self):
        obstacle = ("obstacle", "cpu", "avx512f", "The destination lacks it")
        self.fake(commands={"migrate-check": self.result(False, obstacle, obstacle)})
        result = self.ctl("check", "unix:/x", expect=REFUSED)
        self.assertIn("obstacle  cpu         avx512f: The destination lacks it\n", result.out)
        self.assertIn("cannot go to unix:/x: 2 obstacles", result.err)
        self.assertFalse(self.ctl("check", "unix:/x", "--json", expect=REFUSED).end["possible"])

    def test_an_answer_that_contradicts_itself(self):
        obstacle = ("obstacle", "cpu", "x", "y")
        for result in (self.result(True, obstacle), self.result(False)):
            self.fake(commands={"migrate-check": result})
            self.ctl("check", "unix:/x", expect=REFUSED)

    def test_qemu_is_not_asked(self):
        fake = self.fake(commands={"migrate-check": self.result(True, asked=False)})
        self.assertIn("The other side was not asked",
                      self.ctl("check", "host:1", "--peer", "qemu").out)
        self.assertEqual(fake.arguments("migrate-check")["peer"], "qemu")

    def test_a_machine_that_cannot(self):
        self.fake(greeting=QEMU)
        self.assertIn("This machine (QEMU 7.2.22) cannot check beforehand",
                      self.ctl("check", "host:1", expect=REFUSED).err)

    def test_destinations(self):
        fake = self.fake(commands={"migrate-check": self.result(True)})
        for given, uri in (("host:1", "tcp:host:1"), ("tcp:host:1", "tcp:host:1"),
                           ("[::1]:5", "tcp:[::1]:5"), ("unix:/a/b", "unix:/a/b"),
                           ("unix:m", f"unix:{self.tmp}/m"), ("./m", f"unix:{self.tmp}/m"),
                           ("/a/m", "unix:/a/m")):
            self.ctl("check", given)
            self.assertEqual(fake.log[-1][1]["uri"], uri)
        for given in ("file:/x", "exec:cat"):
            self.assertIn("Nobody answers", self.ctl("check", given, expect=USAGE).err)


RELAY = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def pump(a, b):
    while data := a.recv(65536):
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
while True:
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
"""

if __name__ == "__main__":
    unittest.main()
