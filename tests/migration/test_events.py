# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of a migration on both sides, and the run states that belong to them, in order."""

from ferrytest import migrate
from migrationcase import MigrationCase


def told(vm):
    """The events that came, in short: setup, pass 1, STOP... Decisions are test_history.py's."""
    vm.qmp.drain_events()
    out = []
    for event in vm.qmp.events:
        if event["event"] == "MIGRATION":
            out.append(event["data"]["status"])
        elif event["event"] == "MIGRATION_PASS":
            out.append(f"pass {event['data']['pass']}")
        elif event["event"] != "MIGRATION_DECISION":
            out.append(event["event"])
    return out


class Events(MigrationCase):
    def check_passes(self, events, count):
        """They are numbered from 1, one for each collection of dirty memory."""
        passes = [e for e in events if e.startswith("pass ")]
        self.assertEqual(passes, [f"pass {i + 1}" for i in range(len(passes))])
        self.assertEqual(len(passes), count)

    def test_completed(self):
        src, dst = self.pair(events=True)
        done = migrate.move(src, dst, self.uri)
        events = told(src)
        self.check_passes(events, done["ram"]["dirty-sync-count"])
        self.assertEqual(events[:3], ["setup", "pass 1", "active"])
        self.assertEqual([e for e in events if not e.startswith("pass ")],
                         ["setup", "active", "STOP", "device", "completed"])
        # the last collection comes after the guest has been stopped
        self.assertEqual(events[-3:], ["device", f"pass {done['ram']['dirty-sync-count']}", "completed"])
        self.assertEqual(told(dst), ["setup", "active", "RESUME", "completed"])

    def test_completed_without_return_path(self):
        src, dst = self.pair(events=True, return_path=False)
        migrate.move(src, dst, self.uri)
        self.assertEqual([e for e in told(src) if not e.startswith("pass ")],
                         ["setup", "active", "STOP", "device", "completed"])
        dst.qmp.wait_event("MIGRATION", status="completed")
        self.assertEqual(told(dst), ["setup", "active", "RESUME", "completed"])

    def test_order_on_the_destination(self):
        """RESUME comes before completed, and the source's completed not before the guest runs."""
        src, dst = self.pair(events=True)
        migrate.hold(dst, "incoming-go")
        migrate.start(src, self.uri)
        migrate.wait_held(dst, "incoming-go")
        self.assertEqual(told(dst), ["setup", "active"])
        self.assertEqual(told(src)[-2], "device")
        migrate.release(dst)
        src.qmp.wait_event("MIGRATION", status="completed")
        dst.qmp.wait_event("RESUME")
        dst.qmp.wait_event("MIGRATION", status="completed")

    def test_pause_before_switchover(self):
        src, dst = self.pair(events=True)
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.uri)
        src.qmp.wait_event("MIGRATION", status="pre-switchover")
        self.assertEqual(src.status(), "finish-migrate")
        src.cmd("migrate-continue", state="pre-switchover")
        src.qmp.wait_event("MIGRATION", status="completed")
        self.assertEqual([e for e in told(src) if not e.startswith("pass ")],
                         ["setup", "active", "STOP", "pre-switchover", "device", "completed"])
        dst.wait_state("running")

    def test_cancelled(self):
        src, dst = self.pair(events=True)
        migrate.hold(src, "device")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "device")
        src.cmd("migrate_cancel")
        src.qmp.wait_event("MIGRATION", status="cancelled")
        self.assertEqual([e for e in told(src) if not e.startswith("pass ")],
                         ["setup", "active", "STOP", "device", "cancelling", "RESUME", "cancelled"])
        dst.qmp.wait_event("MIGRATION", status="failed")
        dst.wait(1)
        self.assertEqual(told(dst), ["setup", "active", "failed"])

    def test_cancelled_while_active(self):
        src, dst = self.pair(events=True)
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        src.cmd("migrate_cancel")
        src.qmp.wait_event("MIGRATION", status="cancelled")
        self.assertEqual(told(src), ["setup", "pass 1", "active", "cancelling", "cancelled"])
        dst.wait(1)

    def test_destination_dies(self):
        src, dst = self.pair(events=True)
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        dst.kill()
        migrate.release(src)
        src.qmp.wait_event("MIGRATION", status="failed")
        self.assertEqual(told(src), ["setup", "pass 1", "active", "failed"])

    def test_no_connection(self):
        src = self.vm(name="source", guest=None)
        migrate.set_capabilities(src, events=True)
        src.cmd("migrate", uri="unix:/nonexistent/x")
        src.qmp.wait_event("MIGRATION", status="failed")
        self.assertEqual(told(src), ["setup", "failed"])

    def test_stopped_guest(self):
        """No STOP and no RESUME where nothing ran; the destination is paused."""
        src, dst = self.pair(events=True)
        src.cmd("stop")
        src.qmp.wait_event("STOP")
        migrate.start(src, self.uri)
        migrate.finish(src, dst, running=False)
        dst.qmp.wait_event("MIGRATION", status="completed")
        self.assertEqual([e for e in told(src) if not e.startswith("pass ")],
                         ["STOP", "setup", "active", "device", "completed"])
        self.assertEqual(told(dst), ["setup", "active", "completed"])

    def test_without_the_capability(self):
        """Only the run state shows then."""
        src, dst = self.pair()
        migrate.move(src, dst, self.uri)
        self.assertEqual(told(src), ["STOP"])
        self.assertEqual(told(dst), ["RESUME"])

    def test_query_migrate_on_the_way(self):
        """What there is to see in each state, as clients expect it."""
        src, dst = self.pair(events=True)
        self.assertEqual(migrate.info(src), {})
        self.assertEqual(migrate.info(dst), {"socket-address": [{"type": "unix", "path": self.uri[5:]}],
                                             "phase": "listen"})
        migrate.hold(src, "setup")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "setup")
        self.assertEqual(migrate.info(src), {"status": "setup", "phase": "connect",
                                             "policy": "legacy"})
        migrate.hold(src, "active")
        migrate.wait_held(src, "active")
        active = migrate.info(src)
        self.assertEqual(set(active), {"status", "setup-time", "total-time", "expected-downtime", "ram",
                                       "phase", "policy"})
        self.assertEqual(set(active["ram"]), {
            "total", "postcopy-requests", "dirty-sync-count", "multifd-bytes", "pages-per-second",
            "downtime-bytes", "page-size", "remaining", "postcopy-bytes", "mbps", "transferred",
            "dirty-sync-missed-zero-copy", "precopy-bytes", "duplicate", "dirty-pages-rate",
            "skipped", "normal-bytes", "normal"})
        migrate.wait_status(dst, "active")
        migrate.release(src)
        migrate.finish(src, dst)
        self.assertEqual(set(migrate.info(src)),
                         {"status", "setup-time", "downtime", "total-time", "ram", "rounds",
                          "decisions", "pause", "policy"})
        migrate.wait_status(dst, "completed")
        self.assertEqual(migrate.info(dst), {"status": "completed"})
