# SPDX-License-Identifier: GPL-2.0-or-later
"""ferryctl with real machines: Ferry, and QEMU where it is installed."""

import os
import signal
import socket
import unittest
import xml.etree.ElementTree as ET

from ctlcase import (BINARY, CANCELLED, DONE, FAILED, REFUSED, UNREACHABLE, CtlCase, Terminal, need)
from ferrytest import QEMU, have_kvm, migrate

DEVICES = "pit=on,pic=on,rtc=on,isa-serial=on"


class RealCase(CtlCase):
    def setUp(self):
        if not have_kvm():
            raise unittest.SkipTest("No /dev/kvm")
        super().setUp()

    def machine(self, name, **options):
        """A machine with a second QMP socket in the run folder."""
        os.makedirs(self.path("ferry"), exist_ok=True)
        vm = self.ferry("-qmp", f"unix:{self.path('ferry')}/{name}.qmp,server=on,wait=off",
                        **{"name": name, "machine": DEVICES, "memory": 16, "ram": "shm",
                           "guest": "report=100 rate=2000", **options})
        return vm

    def pair(self, rate=2000, **options):
        self.dest = "unix:" + self.path("link")
        self.src = self.machine("a", guest=f"report=100 rate={rate}", **options)
        self.dst = self.machine("b", incoming="defer", **options)
        self.dst.cmd("migrate-incoming", uri=self.dest)
        self.src.guest.wait_ready()

    def on(self, name, *args, **options):
        return self.ctl("-s", name, *args, socket=False, **options)


class Ferry(RealCase):
    def test_move(self):
        self.pair()
        self.assertRegex(self.ctl("list", socket=False).out,
                         r"(?m)^a +running +- +Ferry(.|\n)*^b +inmigrate +- +Ferry")
        out = self.on("a", "migrate", self.dest, "--bandwidth", "unlimited").out
        self.assertRegex(out, r"(?m)^Completed in .*: the guest paused for .* sent in \d+ rounds?\.$")
        self.assertRegex(out, r"(?m)^0:00:\d\d round 1: ")
        self.assertRegex(out, r"(?m)^0:00:\d\d decided: switchover")
        self.dst.guest.check()
        self.assertIn("The guest runs here", self.on("b", "watch").out)
        self.on("a", "report", "-o", self.path("r.svg"))
        ET.parse(self.path("r.svg"))
        self.on("a", "resume", expect=REFUSED)
        self.on("b", "quit", expect=REFUSED)
        self.on("a", "quit")
        self.src.wait()

    def test_rounds(self):
        """What --json says of the rounds agrees with the whole."""
        self.pair(rate=20000)
        result = self.on("a", "migrate", self.dest, "--bandwidth", "50M", "--json")
        rounds = result.of_type("round")
        self.assertEqual([r["number"] for r in rounds], list(range(1, len(rounds) + 1)))
        self.assertLessEqual(sum(r["bytes"] for r in rounds), result.end["transferred"])
        for before, after in zip(rounds, rounds[1:]):
            self.assertGreaterEqual(after["start"], before["start"] + before["duration"])
        self.assertLess(rounds[-1]["start"] / 1000, result.end["total-time"])
        self.assertEqual(result.of_type("decision")[-1]["action"], "switchover")

    def test_cancel(self):
        self.pair()
        process = self.start("-s", "a", "migrate", self.dest, "--bandwidth", "2M", socket=False)
        migrate.wait_status(self.src, "active")
        process.send_signal(signal.SIGINT)
        result = self.finish(process)
        self.assertEqual(result.status, CANCELLED, result.err)
        self.assertIn("The guest runs here", result.err)
        self.src.guest.check()
        self.dst.wait(None)

    def test_cancel_from_elsewhere(self):
        """While one ferryctl shows the migration, another one gives it up."""
        self.pair()
        process = self.start("-s", "a", "migrate", self.dest, "--bandwidth", "2M", socket=False)
        migrate.wait_status(self.src, "active")
        self.on("a", "cancel")
        self.assertEqual(self.finish(process).status, CANCELLED)
        self.dst.wait(None)

    def test_nobody_there(self):
        src = self.machine("a")
        src.guest.wait_ready()
        nowhere = "unix:" + self.path("nowhere")
        result = self.on("a", "migrate", nowhere, "--no-check", expect=FAILED)
        self.assertIn("The migration failed: ", result.err)
        self.assertIn("The guest runs here", result.err)

    def test_machine_killed(self):
        self.pair()
        process = self.start("-s", "a", "migrate", self.dest, "--bandwidth", "2M", socket=False)
        migrate.wait_status(self.src, "active")
        self.src.kill()
        self.assertEqual(self.finish(process).status, UNREACHABLE)
        self.dst.wait(None)

    def test_paused_moves_paused(self):
        self.pair()
        self.on("a", "pause")
        self.on("a", "migrate", self.dest)
        self.assertEqual(self.dst.status(), "paused")
        self.on("b", "resume")
        self.dst.guest.check()

    def test_detach_and_watch(self):
        self.pair()
        self.on("a", "migrate", self.dest, "--bandwidth", "20M", "--detach")
        self.on("a", "watch", expect=DONE)
        self.dst.guest.check()

    def test_operator_says_when(self):
        """With pause-before-switchover the guest waits, stopped, for `ferryctl resume`."""
        self.pair()
        migrate.set_capabilities(self.src, self.dst, pause_before_switchover=True)
        process = self.start("-s", "a", "migrate", self.dest, socket=False)
        migrate.wait_status(self.src, "pre-switchover")
        self.wait_line(process, "waiting for ferryctl resume")
        self.assertRegex(self.on("a", "status").out, r"(?m)^now +stopped, waiting for ferryctl resume$")
        self.on("a", "resume")
        self.assertEqual(self.finish(process).status, DONE)
        self.dst.guest.check()

    def test_auto_converge(self):
        """A guest that the link cannot keep up with gets there, and the throttle is seen."""
        # seven times what the link carries: also a guest that a busy host starves is too fast for it
        self.pair(rate=30000, memory=32)
        result = self.on("a", "migrate", self.dest, "--auto-converge", "--bandwidth", "16M",
                         "--max-downtime", "50ms", "--timeout", f"{int(migrate.scaled(60))}s", "--json")
        self.assertTrue(any(r["throttle"] > 0 for r in result.of_type("round")))
        self.assertIn("throttle", [d["action"] for d in result.of_type("decision")])
        self.on("a", "report", "-o", self.path("r.svg"))
        self.dst.guest.check()

    def test_saved(self):
        self.machine("a").guest.wait_ready()
        self.on("a", "migrate", f"file:{self.path('saved')}")
        self.assertGreater(os.path.getsize(self.path("saved")), 1 << 16)

    def test_blocked_by_a_connection(self):
        """On a socket that somebody holds, that is what is said."""
        self.machine("a")
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.path("ferry/a.qmp"))
            self.assertIn("another program holds it",
                          self.on("a", "status", "--wait", "500ms", expect=UNREACHABLE).err)
        self.on("a", "status")

    def test_terminal(self):
        need("tmux")
        self.pair(rate=20000)
        terminal = Terminal(self, f"{BINARY} -s a migrate {self.dest} --bandwidth 8M")
        terminal.wait(r"^active, round 1\. The guest runs here\.$")
        terminal.wait(r"^    1 +\d+\.?\d* MiB")
        self.src.cmd("migrate-set-parameters", **{"max_bandwidth": 0})
        self.assertEqual(terminal.status(), DONE)
        terminal.wait("^Completed in ")
        self.dst.guest.check()

    def has(self, vm, command):
        if command not in [c["name"] for c in vm.cmd("query-commands")]:
            self.skipTest(f"No {command} yet")

    def test_check(self):
        self.pair()
        self.has(self.src, "migrate-check")
        self.on("a", "check", self.dest)
        self.on("a", "check", self.dest)
        self.on("a", "check", "unix:" + self.path("nowhere"), expect=REFUSED)
        self.on("a", "migrate", self.dest)
        self.dst.guest.check()

    def test_check_finds(self):
        self.dest = "unix:" + self.path("link")
        src = self.machine("a")
        self.has(src, "migrate-check")
        self.machine("b", incoming=self.dest, memory=32)
        src.guest.wait_ready()
        result = self.on("a", "migrate", self.dest, expect=REFUSED)
        self.assertIn("obstacle", result.out)
        src.guest.check()

    def test_policy(self):
        src = self.machine("a")
        self.has(src, "migrate-set-policy")
        self.assertRegex(self.on("a", "policy").out, r"(?m)^policy +legacy$")
        self.assertRegex(self.on("a", "policy", "minimal-downtime").out,
                         r"(?m)^after +1 stalls +downtime-limit 150 ms$")
        self.on("a", "policy", "custom", "--step", "2:abort", "--progress-timeout", "1m")
        self.on("a", "policy", "custom", "--step", "2:dance", expect=REFUSED)

    def test_block(self):
        self.pair()
        self.has(self.src, "migrate-set-blocker")
        self.on("a", "block", "It holds the licence")
        self.assertIn("It holds the licence", self.on("a", "status").out)
        self.assertIn("It holds the licence", self.on("a", "migrate", self.dest, expect=REFUSED).out)
        self.src.guest.check()
        self.on("a", "unblock")
        self.on("a", "migrate", self.dest)
        self.dst.guest.check()

    def test_time_is_up_without_us(self):
        """ferryctl has gone: the machine itself ends what takes too long."""
        self.pair(rate=20000)
        self.has(self.src, "migrate-set-policy")
        self.on("a", "migrate", self.dest, "--bandwidth", "1M", "--max-downtime", "1ms", "--detach",
                "--timeout", "1500ms")
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        self.assertIn("The 1.5 s that the policy allows are over", said)
        self.src.guest.check()
        self.dst.wait(None)

    def test_policy_gives_up(self):
        """What the machine decides by itself is told, and why."""
        self.pair(rate=20000)
        self.has(self.src, "migrate-set-policy")
        self.on("a", "policy", "custom", "--step", "1:suspend=10", "--step", "2:abort")
        result = self.on("a", "migrate", self.dest, "--bandwidth", "16M", "--max-downtime", "1ms",
                         expect=FAILED)
        self.assertRegex(result.out, r"(?m)^0:00:\d\d decided: suspend 10 ms: ")
        self.assertRegex(result.out, r"(?m)^0:00:\d\d decided: abort: ")
        self.assertIn("policy 'custom'", result.err)
        self.assertIn("The guest runs here.", result.err)
        self.src.guest.check()
        self.dst.wait(None)


@unittest.skipUnless(os.path.exists(QEMU), "No QEMU")
class Qemu(RealCase):
    def test_move(self):
        self.pair(binary=QEMU)
        self.assertRegex(self.ctl("list", socket=False).out, r"(?m)^a +running +- +QEMU \d+\.\d+\.\d+ ")
        out = self.on("a", "migrate", self.dest, "--peer", "qemu", "--bandwidth", "unlimited").out
        self.assertRegex(out, r"(?m)^Completed in .*: the guest paused for .* in \d+ rounds\.$")
        self.dst.wait_state("running")
        for command, text in (("policy", "no migration policies"), ("report -o x", "no history"),
                              ("check x:1", "cannot check")):
            self.assertIn(text, self.on("a", *command.split(), expect=REFUSED).err)
        self.on("a", "quit")
        self.src.wait()

    def test_post_copy(self):
        """ferryctl tells the machine to switch, after a round that did not end it."""
        self.pair(binary=QEMU, rate=20000)
        migrate.set_capabilities(self.dst, postcopy_ram=True)
        result = self.on("a", "migrate", self.dest, "--peer", "qemu", "--bandwidth", "8M",
                         "--max-downtime", "1ms", "--post-copy-after", "1", "--interval", "20ms",
                         "--json")
        self.assertEqual([n["message"] for n in result.of_type("notice")], ["Switching to post-copy"])
        self.dst.wait_state("running")
        self.assertGreater(migrate.info(self.src)["ram"]["postcopy-bytes"], 0)

    def test_cancel(self):
        self.pair(binary=QEMU)
        process = self.start("-s", "a", "migrate", self.dest, "--bandwidth", "1M", socket=False)
        migrate.wait_status(self.src, "active")
        self.on("a", "cancel")
        self.assertEqual(self.finish(process).status, CANCELLED)
        self.dst.wait(None)


if __name__ == "__main__":
    unittest.main()
