# SPDX-License-Identifier: GPL-2.0-or-later
"""-accel kvm,dirty-ring-size=N: the ring finds the pages, all of them."""

import time
import unittest

from ferrytest import migrate, wait_for
from migrationcase import MigrationCase

RING = "kvm,dirty-ring-size=4096"


class DirtyRing(MigrationCase):
    def ring_pair(self, entries=4096, **options):
        src, dst = self.pair(**{"accel": f"kvm,dirty-ring-size={entries}", "memory": 32, **options})
        info = src.cmd("x-query-dirty-tracking")
        if not info["ring-size"]:
            raise unittest.SkipTest("This host's KVM has no dirty ring")
        self.assertEqual(info, {"ring-size": entries, "ring-entries": 0, "ring-full-exits": 0})
        return src, dst

    def test_move(self):
        src, dst = self.ring_pair(guest="report=200 rate=20000 pattern=random data=mixed")
        done = self.move_and_check(src, dst)
        info = src.cmd("x-query-dirty-tracking")
        self.assertGreater(info["ring-entries"], 0)
        self.assertGreaterEqual(done["ram"]["dirty-sync-count"], 2)

    def test_more_than_the_ring_holds(self):
        """16 MiB written again and again between two looks at rings of 4,096 entries."""
        src, dst = self.ring_pair(guest="report=200 rate=max precheck=0 vrate=0 ws=16M data=random",
                                  smp=1)
        migrate.start(src, self.uri, max_bandwidth=16 << 20, downtime_limit=20)
        migrate.wait_status(src, "active")
        wait_for("a third round", lambda: migrate.info(src)["ram"]["dirty-sync-count"] >= 3)
        src.guest.box.put("rate", 1000)
        migrate.set_parameters(src, max_bandwidth=1 << 30, downtime_limit=300)
        migrate.finish(src, dst)
        dst.guest.check()
        info = src.cmd("x-query-dirty-tracking")
        self.assertGreater(info["ring-entries"], 4096)

    def test_stopped_guest_has_equal_memory(self):
        src, dst = self.ring_pair(guest="report=200 pv=0 rate=30000 pattern=random data=random",
                                  destination={"paused": True})
        migrate.start(src, self.uri, max_bandwidth=20 << 20)
        migrate.wait_status(src, "active")
        migrate.set_parameters(src, max_bandwidth=1 << 30)
        migrate.finish(src, dst, running=False)
        dst.wait_state("paused")
        self.assert_memory_equal(src, dst)

    def test_kicked_while_its_ring_is_full(self):
        """Small rings that are always full, and brakes that kick their vCPUs: a reset that a signal
        breaks off must not lose a page (tests/unit/test-dirty-ring.c does it by the entry)."""
        src, dst = self.ring_pair(guest="report=200 rate=max data=sparse pattern=random precheck=0 "
                                        "vrate=0 pv=0", entries=1024, destination={"paused": True})
        migrate.set_capabilities(src, auto_converge=True)
        migrate.start(src, self.uri, max_bandwidth=30 << 20, downtime_limit=1)
        end = time.monotonic() + 6
        while time.monotonic() < end and migrate.status(src) in ("setup", "active"):
            src.check_alive()
            time.sleep(0.002)
        migrate.set_parameters(src, max_bandwidth=1 << 30, downtime_limit=2000)
        migrate.finish(src, dst, running=False)
        dst.wait_state("paused")
        self.assert_memory_equal(src, dst)

    def test_cancel_and_move(self):
        src, dst = self.ring_pair()
        migrate.hold(src, "device")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "device")
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        self.check_source_goes_on(src)
        dst.wait(1)
        self.move_and_check(src, self.another_destination(accel=RING, memory=32))

    def test_from_ring_to_log(self):
        """How pages are found is the source's business alone."""
        src, dst = self.ring_pair(destination={"accel": "kvm"})
        self.assertEqual(dst.cmd("x-query-dirty-tracking")["ring-size"], 0)
        self.move_and_check(src, dst)
