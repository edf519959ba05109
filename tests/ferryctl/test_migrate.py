# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate and watch without a terminal: what is told to the machine, what is printed, how it ends."""

import signal
import time
import unittest

from ctlcase import CANCELLED, DONE, FAILED, LEFT_RUNNING, REFUSED, UNREACHABLE, CtlCase
from fakeqmp import QEMU, Refusal, a_round, ram

ROUNDS = [a_round(1, 0, 1000), a_round(2, 100, 500, throttle=20), a_round(3, 200, 10, throttle=20)]
DECISION = {"round": 2, "time": 200, "action": "throttle", "value": 20, "reason": "No progress"}
SWITCH = {"round": 3, "time": 300, "action": "switchover", "reason": "It pays no more"}
ACTIVE = {"status": "active", "total-time": 200, "expected-downtime": 300, "policy": "legacy",
          "ram": ram(), "rounds": ROUNDS[:1], "decisions": []}
LATER = {**ACTIVE, "total-time": 250, "rounds": ROUNDS[:2], "decisions": [DECISION],
         "cpu-throttle-percentage": 20}
COMPLETED = {"status": "completed", "total-time": 345, "setup-time": 1, "downtime": 12,
             "ram": ram(remaining=0), "rounds": ROUNDS, "decisions": [DECISION, SWITCH],
             "run-state": "postmigrate"}
DEST = "host:4444"
CHECKED = {"possible": True, "peer-asked": True, "peer-version": "Ferry 0.1", "findings": []}


class Settings(CtlCase):
    def sent(self, *args, **options):
        fake = self.fake(states=[COMPLETED], **options)
        self.ctl("migrate", DEST, *args)
        return fake

    def test_none(self):
        fake = self.sent()
        self.assertEqual(fake.log, [
            ("migrate-set-capabilities",
             {"capabilities": [{"capability": "return-path", "state": True}]}),
            ("migrate", {"uri": "tcp:host:4444"})])

    def test_all(self):
        fake = self.sent("--auto-converge", "--bandwidth", "400M", "--max-downtime", "150ms", "--policy",
                         "minimal-downtime", "--timeout", "10m",
                         commands={"migrate-set-policy": {}, "migrate-check": CHECKED})
        self.assertEqual(fake.arguments("migrate-set-capabilities"), {"capabilities": [
            {"capability": "auto-converge", "state": True},
            {"capability": "return-path", "state": True}]})
        self.assertEqual(fake.arguments("migrate-set-parameters"),
                         {"max-bandwidth": 400 << 20, "downtime-limit": 150})
        self.assertEqual(fake.arguments("migrate-set-policy"),
                         {"policy": "minimal-downtime", "max-downtime": 150,
                          "allow-auto-converge": True})
        self.assertEqual(fake.arguments("migrate-check"), {"uri": "tcp:host:4444", "peer": "ferry"})

    def test_sizes(self):
        for text, value in (("unlimited", 0), ("0", 0), ("1000", 1000), ("1.5G", 3 << 29),
                            ("64MiB/s", 64 << 20), ("2k", 2048), ("2K", 2048)):
            fake = self.sent("--bandwidth", text)
            self.assertEqual(fake.arguments("migrate-set-parameters"), {"max-bandwidth": value})
            fake.close()

    def test_no_way_back_into_a_file(self):
        fake = self.fake(states=[COMPLETED], commands={"migrate-check": CHECKED})
        self.ctl("migrate", "file:saved")
        self.assertEqual(fake.log, [
            ("migrate-set-capabilities",
             {"capabilities": [{"capability": "return-path", "state": False}]}),
            ("migrate", {"uri": f"file:{self.tmp}/saved"})])

    def test_no_check(self):
        fake = self.sent("--no-check", commands={"migrate-check": CHECKED})
        self.assertNotIn("migrate-check", [c for c, _ in fake.log])

    def test_detach(self):
        fake = self.fake(states=[ACTIVE])
        self.assertIn("Started", self.ctl("migrate", DEST, "--detach").out)
        self.assertEqual(fake.log[-1][0], "migrate")

    def test_post_copy_after(self):
        """The machine is told once, after that many rounds."""
        fake = self.fake(states=[{**ACTIVE, "ram": ram(dirty_sync_count=2)}, 0.2,
                                 {**ACTIVE, "ram": ram(dirty_sync_count=4)}],
                         capabilities=("return-path", "postcopy-ram"),
                         commands={"migrate-start-postcopy": lambda: fake.states.append(COMPLETED)})
        self.ctl("migrate", DEST, "--post-copy-after", "3")
        self.assertEqual([c for c, _ in fake.log],
                         ["migrate-set-capabilities", "migrate", "migrate-start-postcopy"])


class Refused(CtlCase):
    def refused(self, text, *args, changed=(), **options):
        fake = self.fake(**options)
        result = self.ctl("migrate", DEST, *args, expect=REFUSED)
        self.assertIn(text, result.err)
        self.assertEqual([c for c, _ in fake.log], list(changed))
        fake.close()
        return result

    def test_what_the_machine_lacks(self):
        self.refused("--auto-converge needs the capability auto-converge, which this machine (QEMU "
                     "7.2.22) does not have", "--auto-converge", greeting=QEMU, capabilities=())
        self.refused("--post-copy-after needs the capability postcopy-ram", "--post-copy-after", "3")
        self.refused("no migration policies", "--policy", "legacy", greeting=QEMU,
                     changed=["migrate-set-capabilities"])

    def test_busy(self):
        self.refused("going on already", started=True, states=[ACTIVE])
        self.refused("waits for a guest itself", started=True,
                     states=[{"socket-address": [{"type": "unix", "path": "/x"}]}])

    def test_by_the_check(self):
        check = {"possible": False, "peer-asked": True, "findings": [
            {"severity": "obstacle", "kind": "memory", "subject": "pc.ram", "reason": "Too large"}]}
        result = self.refused("cannot go to tcp:host:4444: 1 obstacle",
                              commands={"migrate-check": check},
                              changed=["migrate-set-capabilities", "migrate-check"])
        self.assertIn("pc.ram: Too large", result.out)

    def test_by_the_machine(self):
        def refuse(**_):
            raise Refusal("The device cannot be moved")
        result = self.refused("The device cannot be moved", commands={"migrate": refuse},
                              changed=["migrate-set-capabilities", "migrate"])
        self.assertEqual(result.err, "ferryctl: The device cannot be moved\n")


class Ends(CtlCase):
    def test_completed(self):
        self.fake(states=[ACTIVE, 0.1, LATER, 0.1, COMPLETED])
        out = self.ctl("migrate", DEST).out
        self.assertEqual(out.splitlines(), [
            "web1 → tcp:host:4444",
            "0:00:00 round 1: 10.0 MiB sent at 100 MiB/s, 3.91 MiB dirtied, 3.91 MiB remain, would "
            "pause 40 ms",
            "0:00:00 active: 10.0 MiB sent, 6.00 MiB of 16.0 MiB remain, 100 MiB/s, 20.0 MiB/s dirtied",
            "0:00:00 round 2: 10.0 MiB sent at 100 MiB/s, 1.95 MiB dirtied, 1.95 MiB remain, throttle "
            "20 %, would pause 20 ms",
            "0:00:00 decided: throttle 20 %: No progress",
            "0:00:00 round 3: 10.0 MiB sent at 100 MiB/s, 40.0 KiB dirtied, 40.0 KiB remain, throttle "
            "20 %, would pause 400 us",
            "0:00:00 decided: switchover: It pays no more",
            "0:00:00 completed: 10.0 MiB sent, 0 B of 16.0 MiB remain, 100 MiB/s, 20.0 MiB/s dirtied",
            "Completed in 345 ms: the guest paused for 12 ms, 10.0 MiB sent in 3 rounds.",
            "The guest runs at tcp:host:4444; what is here is a stopped copy, which ferryctl quit ends.",
        ])

    def test_order_of_time(self):
        """What has come at once is told in the order in which it was."""
        decisions = [{**DECISION, "time": t} for t in (0, 150, 200, 301)]
        self.fake(states=[{**COMPLETED, "decisions": decisions}])
        lines = self.ctl("migrate", DEST, "--json").lines
        self.assertEqual([n.get("number", n.get("time")) for n in lines
                          if n["type"] in ("round", "decision")], [0, 1, 150, 2, 200, 3, 301])

    def test_failed(self):
        self.fake(states=[ACTIVE, {"status": "failed", "error-desc": "The link broke"}])
        result = self.ctl("migrate", DEST, expect=FAILED)
        self.assertEqual(result.err, "ferryctl: The migration failed: The link broke. The guest runs "
                                     "here.\n")

    def test_cancelled_elsewhere(self):
        self.fake(states=[ACTIVE, 0.1, {"status": "cancelled"}])
        self.assertIn("was cancelled. The guest runs here",
                      self.ctl("migrate", DEST, expect=CANCELLED).err)

    def test_timeout(self):
        fake = self.fake(states=[ACTIVE])
        began = time.monotonic()
        result = self.ctl("migrate", DEST, "--timeout", "300ms", expect=CANCELLED)
        self.assertGreater(time.monotonic() - began, 0.3)
        self.assertIn("since its time was up", result.err)
        self.assertIn(("migrate_cancel", {}), fake.log)

    def test_the_machine_keeps_the_time_too(self):
        policy = {"policy": "suspend", "completion-timeout-per-gib": 150, "completion-timeout": 0,
                  "progress-timeout": 150, "max-downtime": 400, "allow-post-copy": False,
                  "steps": [{"stalls": 1, "action": "abort"}]}
        for name in ("suspend", "custom"):
            policy["policy"] = name
            fake = self.fake(states=[ACTIVE, COMPLETED], commands={
                "query-migrate-policy": policy, "migrate-set-policy": {}})
            self.ctl("migrate", DEST, "--timeout", "10m")
            want = {**policy, "completion-timeout": 602000}
            if name != "custom":
                del want["steps"]
            self.assertEqual(fake.arguments("migrate-set-policy"), want)
            fake.close()
        fake = self.fake(states=[ACTIVE], commands={
            "query-migrate-policy": policy, "migrate-set-policy": {}})
        self.ctl("migrate", DEST, "--timeout", "10m", "--detach")
        self.assertEqual(fake.arguments("migrate-set-policy"), {**policy, "completion-timeout": 600000})

    def test_a_machine_that_keeps_no_time(self):
        for commands in ({}, {"query-migrate-policy": {"policy": "legacy"}, "migrate-set-policy": {}}):
            fake = self.fake(states=[COMPLETED], commands=commands)
            self.ctl("migrate", DEST, "--timeout", "10m")
            self.assertIn("keeps no time",
                          self.ctl("migrate", DEST, "--timeout", "10m", "--detach", expect=REFUSED).err)
            self.assertNotIn("migrate-set-policy", [name for name, _ in fake.log])
            fake.close()

    def test_machine_gone(self):
        fake = self.fake(states=[ACTIVE])
        process = self.start("migrate", DEST)
        self.wait_line(process, "round 1")
        fake.close()
        result = self.finish(process)
        self.assertEqual(result.status, UNREACHABLE)
        self.assertIn("What became of the migration is not known", result.err)

    def test_qemu_in_lines(self):
        """No rounds, no decisions: a line for each round that is counted."""
        self.fake(greeting=QEMU, states=[
            {"status": "setup"}, {"status": "active", "total-time": 1000, "ram": ram()}, 0.1,
            {"status": "active", "total-time": 2000, "ram": ram(dirty_sync_count=3)}, 0.1,
            {"status": "completed", "total-time": 3000, "downtime": 3, "run-state": "postmigrate",
             "ram": ram(dirty_sync_count=4)}])
        out = self.ctl("migrate", DEST, "--peer", "qemu").out
        self.assertEqual([line.split(":")[2][3:] for line in out.splitlines()[1:-2]],
                         ["setup", "active", "active", "completed"])
        self.assertIn("Completed in 3.00 s: the guest paused for 3.00 ms, 10.0 MiB sent in 4 rounds.",
                      out)

    def test_history_that_forgets(self):
        """Rounds and decisions are told once although the machine keeps only the last ones."""
        decisions = [{**DECISION, "time": t, "reason": f"d{i}"} for i, t in enumerate((1, 1, 2, 2, 2))]
        states = []
        for seen in range(1, 6):
            states += [{**ACTIVE, "rounds": [a_round(n, 0, 1) for n in range(max(1, seen - 1), seen + 1)],
                        "decisions": decisions[:seen]}, 0.1]
        states[-4]["decisions"] = decisions[1:4]  # one of the two that have the time 1 is gone
        self.fake(states=[*states, {**COMPLETED, "rounds": [a_round(6, 0, 1)], "decisions": []}])
        lines = self.ctl("migrate", DEST, "--json")
        self.assertEqual([r["number"] for r in lines.of_type("round")], [1, 2, 3, 4, 5, 6])
        self.assertEqual([d["reason"] for d in lines.of_type("decision")],
                         ["d0", "d1", "d2", "d3", "d4"])


class Json(CtlCase):
    def test_completed(self):
        self.fake(states=[ACTIVE, 0.1, LATER, 0.1, COMPLETED])
        result = self.ctl("migrate", DEST, "--json")
        self.assertEqual(result.err, "")
        self.assertEqual(result.of_type("round"), [{"type": "round", **r} for r in ROUNDS])
        self.assertEqual(result.of_type("decision"),
                         [{"type": "decision", **d} for d in (DECISION, SWITCH)])
        progress = result.of_type("progress")
        self.assertEqual(progress[0], {
            "type": "progress", "status": "active", "run-state": "running", "policy": "legacy",
            "total-time": 200, "transferred": 10 << 20, "remaining": 6 << 20, "total": 16 << 20,
            "bandwidth": 104857600, "dirty-rate": 20971520, "page-size": 4096, "round": 2,
            "expected-downtime": 300})
        self.assertEqual(result.end, {
            "type": "end", "status": "completed", "run-state": "postmigrate", "total-time": 345,
            "setup-time": 1, "transferred": 10 << 20, "remaining": 0, "total": 16 << 20,
            "bandwidth": 104857600, "dirty-rate": 20971520, "page-size": 4096, "round": 2,
            "downtime": 12, "outcome": "done", "exit-status": 0})

    def test_failed(self):
        self.fake(states=[{"status": "failed", "error-desc": "Why"}])
        end = self.ctl("migrate", DEST, "--json", expect=FAILED).end
        self.assertEqual((end["outcome"], end["error"], end["exit-status"]), ("failed", "Why", 1))


class Watch(CtlCase):
    def test_over_already(self):
        self.fake(started=True, states=[COMPLETED])
        self.ctl("watch")
        self.fake(started=True, states=[{"status": "failed", "error-desc": "x"}])
        self.ctl("watch", expect=FAILED)

    def test_nothing(self):
        self.fake()
        self.assertIn("no migration to watch", self.ctl("watch", expect=REFUSED).err)

    def test_receiving_side(self):
        self.fake(started=True, run_state="inmigrate", states=[
            {"socket-address": [{"type": "unix", "path": "/x"}]}, 0.1, {"status": "active"}, 0.1,
            {"status": "completed", "run-state": "running"}])
        self.assertIn("Completed. The guest runs here.", self.ctl("watch").out)


class Signals(CtlCase):
    def begin(self, command="migrate", **options):
        fake = self.fake(**{"states": [ACTIVE], "started": command == "watch", **options})
        process = self.start(command, *([DEST] if command == "migrate" else []))
        self.wait_line(process, "round 1")
        return fake, process

    def ends(self, process, status, text):
        result = self.finish(process)
        self.assertEqual(result.status, status, result.err)
        self.assertIn(text, result.err)

    def test_interrupt_cancels(self):
        fake, process = self.begin()
        process.send_signal(signal.SIGINT)
        self.ends(process, CANCELLED, "was cancelled")
        self.assertIn(("migrate_cancel", {}), fake.log)

    def test_second_interrupt_leaves(self):
        _, process = self.begin(cancelled={"status": "cancelling"})
        process.send_signal(signal.SIGINT)
        self.wait_line(process, "cancelling")
        process.send_signal(signal.SIGINT)
        self.ends(process, LEFT_RUNNING, "goes on")

    def test_term_and_hangup_leave(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            fake, process = self.begin()
            process.send_signal(number)
            self.ends(process, LEFT_RUNNING, "the migration goes on")
            self.assertNotIn(("migrate_cancel", {}), fake.log)
            fake.close()

    def test_watching_never_cancels(self):
        fake, process = self.begin("watch")
        process.send_signal(signal.SIGINT)
        self.ends(process, LEFT_RUNNING, "Stopped watching")
        self.assertEqual(fake.log, [])

    def test_cancel_that_is_refused(self):
        """The migration goes on, and so does watching it."""
        def refuse():
            raise Refusal("It has been committed")
        fake, process = self.begin(commands={"migrate_cancel": refuse})
        process.send_signal(signal.SIGINT)
        self.wait_line(process, "The machine refused: It has been committed")
        fake.states = [COMPLETED]
        self.assertEqual(self.finish(process).status, DONE)

    def test_another_gets_a_turn(self):
        """The socket serves one client at a time; cancel works while migrate watches."""
        _, process = self.begin()
        self.ctl("cancel")
        self.ends(process, CANCELLED, "was cancelled")


if __name__ == "__main__":
    unittest.main()
