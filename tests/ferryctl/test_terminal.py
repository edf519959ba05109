# SPDX-License-Identifier: GPL-2.0-or-later
"""The display on a terminal, driven through tmux."""

import re
import time
import unittest

from ctlcase import BINARY, CANCELLED, DONE, FAILED, LEFT_RUNNING, CtlCase, Terminal, need
from fakeqmp import a_round, ram
from ferrytest import scaled
from test_migrate import ACTIVE, COMPLETED, DECISION, LATER

BUSY = {**LATER, "expected-total-time": 65000, "deadline": 3723000, "phase": "memory",
        "rounds": [a_round(n, n * 100, 1000 - n, throttle=20) for n in range(1, 61)],
        "decisions": [{**DECISION, "time": 1000 * n, "round": n} for n in range(1, 10)],
        "ram": ram(dirty_sync_count=61)}


class TerminalCase(CtlCase):
    def setUp(self):
        need("tmux")
        super().setUp()

    def terminal(self, command="migrate host:4444", columns=100, rows=30, env=None):
        return Terminal(self, f"{BINARY} -s {self.sock} {command}", columns, rows, env)


class Display(TerminalCase):
    def test_everything_is_there(self):
        self.fake(states=[BUSY])
        screen = self.terminal().wait("round 61")
        text = "\n".join(screen)
        self.assertRegex(screen[0], r"^web1 → tcp:host:4444 +0:00:\d\d$")
        self.assertEqual(len(screen[0]), 100)
        self.assertEqual(screen[1], "active, round 61. The guest runs here.")
        self.assertRegex(screen[2], r"^\[█+░+\]  62 %  6.00 MiB of 16.0 MiB remain$")
        self.assertEqual(len(screen[2]), 100)
        done = screen[2].count("█") / (screen[2].count("█") + screen[2].count("░"))
        self.assertAlmostEqual(done, 10 / 16, delta=0.02)
        for figure in ("sent +10.0 MiB", "throttle +20 %", "link +100 MiB/s", "policy +legacy",
                       r"dirtied +20.0 MiB/s \(5,120 pages/s\)", r"deadline +1:0[12]:\d\d",
                       "pause +300 ms", "whole move +1:05 min", "now +sending memory"):
            self.assertRegex(text, figure)
        # the latest rounds, as many as there is room for, and the latest decisions
        self.assertRegex(text, r"(?m)^   60   10\.0 MiB    100 MiB/s   3\.67 MiB   3\.67 MiB      20 %")
        self.assertNotRegex(text, r"(?m)^    1 ")
        self.assertRegex(text, r"(?m)^0:00:09 round 9: throttle 20 %: No progress$")
        self.assertEqual(len(screen), 30)
        self.assertEqual("Ctrl-C: cancel or detach", screen[-1])

    def test_ends_with_a_summary(self):
        """The display goes away; what was on the terminal before is there again."""
        fake = self.fake(states=[ACTIVE])
        terminal = self.terminal()
        terminal.wait("round 1|round 2")
        fake.states = [COMPLETED]
        self.assertEqual(terminal.status(), DONE)
        self.assertEqual(terminal.wait("after")[:4], [
            "before", "Completed in 345 ms: the guest paused for 12 ms, 10.0 MiB sent in 3 rounds.",
            "The guest runs at tcp:host:4444; what is here is a stopped copy, which ferryctl quit ends.",
            "after"])
        with open(terminal.modes_path, encoding="utf-8") as f:
            modes = f.read().split()
        for mode in ("icanon", "echo", "isig"):
            self.assertIn(mode, modes)

    def test_failure(self):
        self.fake(states=[ACTIVE, 0.2, {"status": "failed", "error-desc": "The link broke"}])
        terminal = self.terminal()
        self.assertEqual(terminal.status(), FAILED)
        terminal.wait("^ferryctl: The migration failed: The link broke. The guest runs here.$")

    def test_clock_goes_on(self):
        """Also between answers: the machine's own clock stands in this test."""
        self.fake(states=[ACTIVE])
        self.terminal("migrate host:4444 --interval 1h").wait("0:00:(0[2-9]|[1-5])")

    def test_without_utf8(self):
        self.env["LANG"] = self.env["LC_ALL"] = "C"
        self.fake(states=[BUSY])
        screen = self.terminal().wait("round 61")
        self.assertIn("web1 -> tcp:host:4444", screen[0])
        self.assertRegex(screen[2], r"^\[#+\.+\]  62 %")

    def test_nasty_strings(self):
        nasty = "\x1b[2J\x1b[1;1Hgone\x1b[31m\u202e\x9b2J\r\nx"
        self.fake(states=[{**BUSY, "status": "a" + nasty, "policy": nasty,
                           "decisions": [{**DECISION, "reason": nasty + "y" * 1000}]}])
        screen = self.terminal().wait(", round 61")
        self.assertTrue(screen[0].startswith("web1"))
        self.assertTrue(screen[1].startswith("a?[2J?[1;1Hgone?[31m"))
        self.assertEqual(len(screen), 30)

    def test_lines_when_asked_and_when_dumb(self):
        for command, env in (("migrate host:4444 --plain", {}), ("migrate host:4444", {"TERM": "dumb"})):
            fake = self.fake(states=[ACTIVE, 0.2, COMPLETED])
            terminal = self.terminal(command, columns=150, env=env)
            terminal.status()
            terminal.wait("^0:00:00 round 1: 10.0 MiB sent at 100 MiB/s")
            terminal.close()
            fake.close()


class Resize(TerminalCase):
    def test_any_size(self):
        """Whatever the size, lines are cut and not wrapped, the first and the last are there, and what
        belonged to the old size is gone."""
        self.fake(states=[BUSY])
        terminal = self.terminal()
        terminal.wait("round 61")
        for columns, rows in ((60, 30), (100, 12), (200, 50), (20, 8), (80, 24), (10, 2), (5, 1),
                              (100, 30)):
            terminal.resize(columns, rows)
            want = "^w" if rows > 1 else "^Ctrl-"
            end = time.monotonic() + scaled()
            while True:
                screen = terminal.screen()
                good = (re.search(want, screen[0]) and len(screen) == rows and
                        screen[-1] == "Ctrl-C: cancel or detach"[:columns] and
                        all(len(line) <= columns for line in screen))
                if good or time.monotonic() > end:
                    break
                time.sleep(0.05)
            self.assertTrue(good, f"{columns}x{rows}:\n" + "\n".join(screen))
        self.assertRegex("\n".join(screen), r"(?m)^   60   10\.0 MiB")

    def test_one_column_of_figures(self):
        self.fake(states=[BUSY])
        text = "\n".join(self.terminal(columns=60).wait("round 61"))
        self.assertRegex(text, r"(?m)^throttle +20 %$")
        self.assertRegex(text, r"(?m)^link +100 MiB/s$")


class Keys(TerminalCase):
    def asked(self, **options):
        fake = self.fake(states=[ACTIVE], **options)
        terminal = self.terminal()
        terminal.wait("round 2")
        terminal.keys("C-c")
        terminal.wait(r"Interrupted\. c: cancel the migration   d: detach")
        self.assertEqual(fake.log[-1][0], "migrate")
        return fake, terminal

    def test_cancel(self):
        fake, terminal = self.asked()
        terminal.keys("c")
        self.assertEqual(terminal.status(), CANCELLED)
        self.assertEqual(fake.log[-1][0], "migrate_cancel")
        terminal.wait("^ferryctl: The migration was cancelled. The guest runs here.$")

    def test_interrupt_twice_cancels(self):
        _, terminal = self.asked()
        terminal.keys("C-c")
        self.assertEqual(terminal.status(), CANCELLED)

    def test_detach(self):
        fake, terminal = self.asked()
        terminal.keys("d")
        self.assertEqual(terminal.status(), LEFT_RUNNING)
        self.assertEqual(fake.log[-1][0], "migrate")
        terminal.wait("^ferryctl: Detached: the migration goes on")

    def test_go_on(self):
        fake, terminal = self.asked()
        terminal.keys("x")
        terminal.wait("^Ctrl-C: cancel or detach$")
        fake.states = [COMPLETED]
        self.assertEqual(terminal.status(), DONE)

    def test_keys_typed_ahead_are_no_answer(self):
        fake = self.fake(states=[ACTIVE])
        terminal = self.terminal()
        terminal.wait("round 2")
        terminal.keys("c", "d", "q", "Enter")
        time.sleep(0.3)
        terminal.wait("^Ctrl-C: cancel or detach$")
        self.assertEqual(fake.log[-1][0], "migrate")

    def test_watch_asks_nothing(self):
        fake = self.fake(started=True, states=[ACTIVE])
        terminal = self.terminal("watch")
        terminal.wait("round 2(.|\n)*^Ctrl-C stops watching")
        terminal.keys("C-c")
        self.assertEqual(terminal.status(), LEFT_RUNNING)
        self.assertEqual(fake.log, [])

    def test_in_the_background(self):
        """Lines, since a display would be stopped by the terminal."""
        fake = self.fake(states=[ACTIVE])
        terminal = Terminal(self, "PS1='prompt ' bash --norc --noprofile -i", columns=120)
        terminal.wait("^prompt")
        terminal.keys(f"{BINARY} -s {self.sock} migrate host:4444 &", "Enter")
        terminal.wait("^0:00:00 round 1")
        fake.states = [COMPLETED]
        terminal.wait("^Completed in ")

    def test_stop_and_continue(self):
        """^Z gives the terminal back; fg draws anew."""
        self.fake(states=[ACTIVE])
        terminal = Terminal(self, "PS1='prompt ' bash --norc --noprofile -i", columns=120)
        terminal.wait("^prompt")
        terminal.keys(f"{BINARY} -s {self.sock} migrate host:4444", "Enter")
        terminal.wait("^active, round 2")
        terminal.keys("C-z")
        terminal.wait("^.*Stopped")
        terminal.keys("stty -a", "Enter")
        terminal.wait(" icanon(.|\n)* echo ")
        terminal.keys("fg", "Enter")
        terminal.wait("^active, round 2")
        terminal.keys("C-c")
        terminal.wait("^Interrupted")
        terminal.keys("c")
        terminal.wait("^ferryctl: The migration was cancelled")


if __name__ == "__main__":
    unittest.main()
