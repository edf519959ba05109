# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration tells of its rounds, its decisions, and what it is doing."""

from ferrytest import migrate
from migrationcase import MigrationCase

LIMITED = 8 << 20  # bytes per second


class History(MigrationCase):
    def check_rounds(self, done):
        rounds = done["rounds"]
        self.assertEqual([r["number"] for r in rounds], list(range(1, len(rounds) + 1)))
        for before, after in zip(rounds, rounds[1:]):
            self.assertGreaterEqual(after["start"], before["start"] + before["duration"])
        for r in rounds:
            self.assertGreater(r["bytes"], 0)
            self.assertGreater(r["duration"], 0)
            self.assertGreater(r["expected-downtime"], 0)
            self.assertEqual(r["throttle"], 0)
        return rounds

    def test_rounds(self):
        src, dst = self.pair(memory=32, guest="report=100 rate=2000 pattern=random data=random")
        done = migrate.move(src, dst, self.uri, max_bandwidth=LIMITED * 4)
        rounds = self.check_rounds(done)
        # the first sends everything, each later one what the sync before it left to be sent
        self.assertGreater(rounds[0]["bytes"], 24 << 20)
        first = rounds[0]
        self.assertAlmostEqual(first["bandwidth"], first["bytes"] * 1e6 / first["duration"],
                               delta=LIMITED / 4)
        self.assertLess(first["bandwidth"], LIMITED * 5)
        self.assertGreater(first["dirtied-pages"], 100)
        for before, after in zip(rounds, rounds[1:]):
            self.assertLess(after["bytes"], before["remaining-pages"] * 4200 + 100000)
        self.assertLess(rounds[-1]["remaining-pages"], rounds[0]["remaining-pages"])
        total = sum(r["bytes"] for r in rounds)
        self.assertLess(abs(total - done["ram"]["precopy-bytes"]), 100000)

    def test_decision(self):
        """Why the guest was stopped: in the history and, without any capability, as an event."""
        # what lies between two parts of the pause is next to nothing, where the host lets us run
        for _ in range(5):
            if self.decision() > 0.5:
                return
        self.fail("The parts of the pause are not half of it")

    def decision(self):
        src, dst = self.pair()
        done = migrate.move(src, dst, self.uri)
        (decision,) = done["decisions"]
        self.assertEqual(decision["action"], "switchover")
        self.assertEqual(decision["round"], done["rounds"][-1]["number"])
        self.assertRegex(decision["reason"], r"^A pause of [0-9.]+ ms is expected")
        self.assertNotIn("value", decision)
        event = src.qmp.wait_event("MIGRATION_DECISION")
        self.assertEqual(event["data"], decision)
        self.assertNotIn("rounds", migrate.info(dst))
        pause = done["pause"]
        whole = pause.pop("whole")
        self.assertEqual((whole + 999) // 1000, done["downtime"])
        self.assertLessEqual(sum(pause.values()), whole)
        src.quit()
        dst.quit()
        return sum(pause.values()) / whole

    def test_paused_guest_has_no_rounds_to_judge(self):
        src, dst = self.pair()
        src.cmd("stop")
        migrate.start(src, self.uri)
        done = migrate.wait_status(src, "completed")
        self.assertNotIn("decisions", done)

    def test_phases(self):
        """What is waited for has a name, on both sides."""
        for point, phase in (("setup", "connect"), ("active", "setup"), ("device", "switchover"),
                             ("ready", "ready"), ("go", "ready")):
            with self.subTest(point=point):
                src, dst = self.pair()
                self.assertEqual(migrate.info(dst).get("phase"), "listen")
                migrate.hold(src, point)
                migrate.start(src, self.uri)
                migrate.wait_held(src, point)
                self.assertEqual(migrate.info(src)["phase"], phase)
                migrate.release(src)
                self.assertNotIn("phase", migrate.finish(src, dst))
        for point, phase in (("incoming-setup", "listen"), ("incoming-active", "stream"),
                             ("incoming-loaded", "load"), ("incoming-go", "go")):
            with self.subTest(point=point):
                src, dst = self.pair()
                migrate.hold(dst, point)
                migrate.start(src, self.uri)
                migrate.wait_held(dst, point)
                self.assertEqual(migrate.info(dst)["phase"], phase)
                migrate.release(dst)
                migrate.finish(src, dst)
