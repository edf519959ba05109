# SPDX-License-Identifier: GPL-2.0-or-later
"""
Policies: what a migration does by itself when it gets no further, with real guests. The ladders
step by step, under a clock of the test's own, are tests/unit/test-policy.c.

The guest writes 8 MiB again and again, and the limit sees to it that it has written all of them in
each round. What the switchover may count on is set
(avail-switchover-bandwidth), so that the length of the pause it expects is the test's choice.
"""

import time

from ferrytest import QmpError, Relay, migrate
from migrationcase import MigrationCase

MIB = 1 << 20
GUEST = "report=100 rate=max ws=8M pattern=random data=random precheck=0 vrate=0"


def actions(info):
    return [(d["action"], d.get("value")) for d in info.get("decisions", [])]


class Policy(MigrationCase):
    def setUp(self):
        super().setUp()
        self.relays = []

    def busy(self, **options):
        return self.pair(**{"memory": 32, "smp": 1, "guest": GUEST, **options})

    def relay(self):
        relay = Relay(self, self.uri[5:])
        self.relays.append(relay)
        return relay

    def go(self, expect_ms, uri=None, **parameters):
        """Starts; a pause of so many milliseconds is expected for the guest's working set."""
        migrate.set_parameters(self.src, **{
            "avail-switchover-bandwidth": int(8 * MIB * 1000 / expect_ms)})
        migrate.start(self.src, uri or self.uri, **{"max_bandwidth": 32 * MIB, **parameters})

    def check_given_up(self, policy, why):
        failed = migrate.wait_status(self.src, "failed")
        self.assertIn(f"The migration was given up by policy '{policy}': ", failed["error-desc"])
        self.assertIn(why, failed["error-desc"])
        self.assertEqual(failed["decisions"][-1]["action"], "abort")
        for relay in self.relays:
            relay.close()
        self.dst.wait(1)
        self.assertIn(failed["decisions"][-1]["reason"], failed["error-desc"])
        self.check_source_goes_on(self.src)
        return failed

    def limit(self):
        return self.src.cmd("query-migrate-parameters")["downtime-limit"]

    def test_minimal_downtime_gives_up(self):
        src, dst = self.busy()
        src.cmd("migrate-set-policy", policy="minimal-downtime")
        self.go(expect_ms=3000, **{"downtime-limit": 77})
        failed = self.check_given_up("minimal-downtime", "7 rounds have brought no progress")
        self.assertEqual(actions(failed), [("downtime-limit", n) for n in (100, 150, 200, 300, 400,
                                                                           500)] + [("abort", None)])
        self.assertEqual(failed["policy"], "minimal-downtime")
        self.assertEqual(self.limit(), 77)
        events = [e["data"] for e in src.qmp.events if e["event"] == "MIGRATION_DECISION"]
        self.assertEqual(events, failed["decisions"])
        self.assertNotIn("STOP", [e["event"] for e in src.qmp.events])
        # and the next one finds everything as it was
        src.cmd("migrate-set-policy", policy="legacy")
        migrate.set_parameters(src, **{"avail-switchover-bandwidth": 0})
        self.move_and_check(src, self.another_destination(memory=32, smp=1))

    def test_raised_limit_lets_it_go(self):
        """400 ms are allowed after four rounds without progress, and then it fits."""
        src, dst = self.busy()
        src.cmd("migrate-set-policy", policy="minimal-downtime")
        self.go(expect_ms=350, **{"downtime-limit": 10})
        done = migrate.finish(src, dst)
        self.assertEqual(actions(done)[-2:], [("downtime-limit", 400), ("switchover", None)])
        self.assertEqual(self.limit(), 10)
        dst.guest.check()

    def test_limit_set_meanwhile_stays(self):
        src, dst = self.busy()
        src.cmd("migrate-set-policy", policy="custom", steps=[
            {"stalls": 0, "action": "downtime-limit", "value": 100}])
        self.go(expect_ms=3000)
        src.qmp.wait_event("MIGRATION_DECISION")
        self.assertEqual(self.limit(), 100)
        migrate.set_parameters(src, **{"downtime-limit": 5000})
        migrate.finish(src, dst)
        self.assertEqual(self.limit(), 5000)

    def test_max_downtime(self):
        src, _ = self.busy()
        src.cmd("migrate-set-policy", policy="minimal-downtime", **{"max-downtime": 250})
        self.go(expect_ms=450)
        failed = self.check_given_up("minimal-downtime", "nothing left to try")
        self.assertEqual(max(v for a, v in actions(failed) if a == "downtime-limit"), 250)

    def test_suspend(self):
        """The guest is stopped for the rest, which takes longer than any limit allows."""
        src, dst = self.busy()
        relay = self.relay()
        relay.throttle(32 * MIB)
        src.cmd("migrate-set-policy", policy="custom", steps=[
            {"stalls": 1, "action": "suspend", "value": 5000}, {"stalls": 2, "action": "abort"}])
        self.go(expect_ms=1000, uri=relay.uri, **{"downtime-limit": 5})
        done = migrate.finish(src, dst)
        self.assertEqual(actions(done), [("suspend", 5000)])
        self.assertGreater(done["downtime"], 150)
        self.assertLess(done["downtime"], 5000)
        self.assertGreater(done["ram"]["downtime-bytes"], 4 * MIB)
        parts = {name: us for name, us in done["pause"].items() if name != "whole"}
        self.assertEqual(max(parts, key=parts.get), "memory", parts)
        dst.guest.check()

    def test_suspend_that_takes_too_long(self):
        """The guest runs again after that time, and the migration goes on."""
        src, dst = self.busy()
        relay = self.relay()
        relay.throttle(8 * MIB)
        src.cmd("migrate-set-policy", policy="custom", steps=[
            {"stalls": 1, "action": "suspend", "value": 300}, {"stalls": 3, "action": "abort"}])
        self.go(expect_ms=100, uri=relay.uri, **{"downtime-limit": 5})
        failed = self.check_given_up("custom", "nothing left to try")
        self.assertEqual(actions(failed), [("suspend", 300), ("resume", None), ("abort", None)])
        stop, resume = (self.event(src, name) for name in ("STOP", "RESUME"))
        self.assertGreater(resume - stop, 0.29)
        # a busy host may take its time to let anybody run, but the rest would have taken seconds
        self.assertLess(resume - stop, migrate.scaled(1.2))

    def test_suspend_that_cannot_do_is_not_tried(self):
        src, _ = self.busy()
        src.cmd("migrate-set-policy", policy="custom", steps=[
            {"stalls": 1, "action": "suspend", "value": 300}, {"stalls": 2, "action": "abort"}])
        self.go(expect_ms=3000, **{"downtime-limit": 5})
        failed = self.check_given_up("custom", "nothing left to try")
        self.assertIn("the guest is not stopped", failed["decisions"][0]["reason"])
        self.assertNotIn("STOP", [e["event"] for e in src.qmp.events])

    @staticmethod
    def event(vm, name):
        (event,) = [e for e in vm.qmp.events if e["event"] == name]
        return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6

    def test_cancel_while_suspended(self):
        src, dst = self.busy()
        relay = self.relay()
        relay.throttle(4 * MIB)
        src.cmd("migrate-set-policy", policy="custom", steps=[
            {"stalls": 1, "action": "suspend", "value": 60000}])
        self.go(expect_ms=100, uri=relay.uri, **{"downtime-limit": 5})
        src.qmp.wait_event("STOP", timeout=migrate.scaled(60))
        self.assertEqual(migrate.info(src)["phase"], "suspended")
        start = time.monotonic()
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        self.assertLess(time.monotonic() - start, migrate.scaled(migrate.PROMPT))
        self.check_source_goes_on(src)
        relay.close()
        dst.wait(1)

    def test_throttle(self):
        src, _ = self.busy()
        src.cmd("migrate-set-policy", policy="custom", steps=[
            {"stalls": 1, "action": "throttle", "value": 60}, {"stalls": 3, "action": "abort"}],
            **{"allow-auto-converge": True})
        self.go(expect_ms=3000, **{"downtime-limit": 5})
        failed = self.check_given_up("custom", "nothing left to try")
        self.assertEqual(actions(failed), [("throttle", 60), ("abort", None)])
        self.assertEqual({r["throttle"] for r in failed["rounds"]}, {0, 60})
        # gone: the next one begins without
        src.cmd("migrate-set-policy", policy="legacy")
        migrate.set_parameters(src, **{"avail-switchover-bandwidth": 0, "downtime-limit": 300})
        done = self.move_and_check(src, self.another_destination(memory=32, smp=1))
        self.assertEqual({r["throttle"] for r in done["rounds"]}, {0})

    def test_auto_converge(self):
        """Allowed, it works as the capability would, without that being on; by a step, from it on."""
        for steps in ([], [{"stalls": 1, "action": "throttle"}]):
            with self.subTest(steps=steps):
                src, dst = self.busy()
                ladder = {"policy": "custom", "steps": steps} if steps else {"policy": "legacy"}
                src.cmd("migrate-set-policy", **ladder, **{"allow-auto-converge": True})
                self.go(expect_ms=3000, **{"downtime-limit": 5})
                migrate.wait_for("decision to throttle", lambda: "throttle" in [
                    a for a, _ in actions(migrate.info(src))])
                src.cmd("migrate_cancel")
                migrate.wait_status(src, "cancelled")
                self.check_source_goes_on(src)
                dst.wait(1)

    def test_post_copy_is_passed_over(self):
        src, _ = self.busy()
        src.cmd("migrate-set-policy", policy="post-copy")
        self.go(expect_ms=3000)
        failed = self.check_given_up("post-copy", "nothing left to try")
        self.assertEqual([a for a, _ in actions(failed)],
                         ["downtime-limit"] * 3 + ["post-copy", "abort"])
        self.assertIn("'postcopy-ram' is off", failed["decisions"][3]["reason"])

    def check_post_copy(self, ladder, actions_before):
        src, dst = self.busy()
        migrate.set_capabilities(src, dst, postcopy_ram=True)
        src.cmd("migrate-set-policy", **ladder)
        self.go(expect_ms=3000)
        done = migrate.finish(src, dst)
        self.assertEqual([a for a, _ in actions(done)], actions_before + ["post-copy"])
        self.assertGreater(done["ram"]["postcopy-bytes"], 0)
        dst.guest.check()
        return done

    def test_post_copy(self):
        done = self.check_post_copy({"policy": "post-copy"}, ["downtime-limit"] * 3)
        self.assertIn("3 rounds have brought no progress", done["decisions"][-1]["reason"])

    def test_post_copy_after_a_time(self):
        done = self.check_post_copy(
            {"policy": "custom", "allow-post-copy": True,
             "steps": [{"stalls": 1000, "action": "post-copy", "value": 2}]}, [])
        self.assertIn("2 s have passed", done["decisions"][-1]["reason"])

    def test_post_copy_at_the_deadline(self):
        done = self.check_post_copy(
            {"policy": "minimal-downtime", "allow-post-copy": True,
             "completion-timeout-per-gib": 1}, ["downtime-limit"])
        self.assertIn("1 s that the policy allows", done["decisions"][-1]["reason"])

    def test_completion_deadline(self):
        """In the middle of a round, however long that still has to go."""
        src, _ = self.busy()
        src.cmd("migrate-set-policy", policy="legacy", **{"completion-timeout-per-gib": 3})
        start = time.monotonic()
        self.go(expect_ms=3000, max_bandwidth=MIB)
        time.sleep(0.3)
        self.assertLess(migrate.info(src)["deadline"], 2800)
        self.check_given_up("legacy", "The 3 s that the policy allows are over")
        self.assertLess(time.monotonic() - start, 20)  # the round takes 32 s

    def test_completion_deadline_with_a_deaf_peer(self):
        """The link takes nothing: the wait for it ends at the deadline too."""
        src, dst = self.busy()
        relay = self.relay()
        src.cmd("migrate-set-policy", policy="legacy", **{"completion-timeout-per-gib": 2})
        start = time.monotonic()
        self.go(expect_ms=3000, uri=relay.uri, max_bandwidth=8 * MIB)
        relay.wait_passed(256 << 10)  # else it is not the one that the destination waits for
        relay.stall("fwd")
        self.check_given_up("legacy", "The 2 s that the policy allows are over")
        self.assertLess(time.monotonic() - start, 2 + migrate.scaled(migrate.PROMPT))

    def test_deadline_of_the_whole(self):
        """In milliseconds, and earlier than the one that goes by size."""
        src, dst = self.busy()
        relay = self.relay()
        src.cmd("migrate-set-policy", policy="legacy",
                **{"completion-timeout-per-gib": 3600, "completion-timeout": 1500})
        start = time.monotonic()
        self.go(expect_ms=3000, uri=relay.uri, max_bandwidth=8 * MIB)
        relay.wait_passed(256 << 10)  # else it is not the one that the destination waits for
        relay.stall("fwd")
        self.check_given_up("legacy", "The 1.5 s that the policy allows are over")
        self.assertLess(time.monotonic() - start, 2 + migrate.scaled(migrate.PROMPT))

    def test_progress_deadline(self):
        src, dst = self.busy()
        relay = self.relay()
        src.cmd("migrate-set-policy", policy="legacy", **{"progress-timeout": 3})
        self.go(expect_ms=3000, uri=relay.uri, max_bandwidth=8 * MIB)
        migrate.wait_status(src, "active")
        time.sleep(0.3)
        self.assertEqual(migrate.status(src), "active")
        relay.stall("fwd")
        self.check_given_up("legacy", "For 3 s there has been no progress")

    def test_query(self):
        src = self.vm(guest=None)
        self.assertEqual(src.cmd("query-migrate-policy"), {
            "policy": "legacy", "steps": [], "completion-timeout-per-gib": 0, "completion-timeout": 0,
            "progress-timeout": 0,
            "allow-post-copy": False, "allow-auto-converge": False})
        src.cmd("migrate-set-policy", policy="suspend", **{"max-downtime": 2000})
        policy = src.cmd("query-migrate-policy")
        self.assertEqual(len(policy["steps"]), 8)
        self.assertEqual(policy["steps"][6], {"stalls": 7, "action": "suspend", "value": 5000})
        self.assertEqual((policy["completion-timeout-per-gib"], policy["progress-timeout"],
                          policy["max-downtime"]), (150, 150, 2000))
        steps = [{"stalls": 2, "action": "abort"}]
        src.cmd("migrate-set-policy", policy="custom", steps=steps)
        self.assertEqual(src.cmd("query-migrate-policy")["steps"], steps)
        # what is refused changes nothing; each reason is in tests/unit/test-policy.c
        for arguments in ({"policy": "custom"}, {"policy": "suspend", "steps": steps},
                          {"policy": "custom", "steps": steps * 33},
                          {"policy": "post-copy", "allow-post-copy": False}):
            with self.assertRaises(QmpError):
                src.qmp.cmd("migrate-set-policy", **arguments)
            self.assertEqual(src.cmd("query-migrate-policy")["steps"], steps)

    def test_not_while_one_is_under_way(self):
        src, dst = self.pair()
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        self.refused("There's a migration process in progress", src, "migrate-set-policy",
                     policy="suspend")
        migrate.release(src)
        migrate.finish(src, dst)
