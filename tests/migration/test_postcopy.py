# SPDX-License-Identifier: GPL-2.0-or-later
"""Post-copy between two Ferries: the switch at any moment, what is refused, what a lost side means."""

import fcntl
import time

from ferrytest import QmpError, is_sanitized, migrate
from ferrytest.qtest import QTestError
from postcopycase import GUEST, MIB, PostcopyCase

HUGE = "memfd,hugetlb=on,hugetlbsize=2M"
NR_HUGE = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


def resident_mib(vm):
    with open(f"/proc/{vm.process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) >> 10


class Switch(PostcopyCase):
    def test_kinds_of_memory(self):
        for preempt in (False, True):
            for ram in ("shm", "memfd", None):
                with self.subTest(ram=ram, preempt=preempt):
                    src, dst = self.postcopy_pair(preempt, ram=ram)
                    self.switch(src)
                    self.assertEqual(src.status(), "finish-migrate")
                    dst.guest.wait_alive()
                    self.assertGreater(migrate.info(dst)["postcopy-faults"]["missing-pages"], 100)
                    self.go_on(src)
                    done, there = self.arrive(src, dst)
                    ram_info = done["ram"]
                    self.assertGreater(ram_info["postcopy-requests"], 0)
                    self.assertGreater(ram_info["postcopy-bytes"], MIB)
                    self.assertEqual(ram_info["remaining"], 0)
                    self.assertGreater(done["downtime"], 0)
                    self.assertGreater(there["postcopy-faults"]["faults"], 0)
                    self.assertEqual(sum(there["postcopy-latency-dist"]),
                                     there["postcopy-faults"]["faults"])
                    self.assertEqual(len(there["postcopy-vcpu-blocktime"]), 2)
                    self.assertLessEqual(there["postcopy-latency-p50"],
                                         there["postcopy-latency-p99"])

    def test_huge_pages(self):
        pages = 2 * 16 // 2 + 4
        lock = open("/dev/shm/ferry-test-huge-pages", "w", encoding="ascii")  # as test-arrival
        self.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(NR_HUGE, "r+", encoding="ascii") as f:
            before = f.read().strip()
            f.seek(0)
            f.write(str(int(before) + pages))
        self.addCleanup(lambda: open(NR_HUGE, "w", encoding="ascii").write(before))
        with open(NR_HUGE, encoding="ascii") as f:
            if int(f.read()) < int(before) + pages:
                self.skipTest(f"This host has no {pages} free huge pages of 2 MiB; where it has, as "
                              "on a machine that was started lately, this runs")
        for preempt in (False, True):
            with self.subTest(preempt=preempt):
                src, dst = self.postcopy_pair(preempt, ram=HUGE)
                self.switch(src)
                dst.guest.wait_alive()
                self.go_on(src)
                self.arrive(src, dst)
                src.quit()
                dst.quit()

    def test_moments(self):
        """In a later round, where a small part is dirty; and when precopy has just been started."""
        with self.subTest(moment="later"):
            src, dst = self.postcopy_pair(guest="report=100 rate=max ws=4M pattern=random "
                                                "data=random precheck=0 vrate=0")
            migrate.start(src, self.uri, max_bandwidth=16 * MIB, downtime_limit=1)
            migrate.wait_for("a third round", lambda: len(migrate.info(src).get("rounds", [])) >= 2)
            src.cmd("migrate-start-postcopy")
            done, _ = self.arrive(src, dst)
            self.assertLess(done["ram"]["postcopy-bytes"], 6 * MIB)
        with self.subTest(moment="setup"):
            src, dst = self.postcopy_pair()
            migrate.hold(src, "active")
            migrate.start(src, self.uri, max_bandwidth=4 * MIB)
            migrate.wait_held(src, "active")
            src.cmd("migrate-start-postcopy")
            migrate.release(src)
            done, _ = self.arrive(src, dst)
            self.assertGreater(done["ram"]["postcopy-bytes"], 8 * MIB)

    def test_sixteen_vcpus(self):
        src, dst = self.postcopy_pair(True, smp=16, memory=32, guest=GUEST)
        self.switch(src)
        dst.guest.wait_alive()
        self.go_on(src)
        _, there = self.arrive(src, dst)
        # the thread that answers faults does not become the queue
        self.assertLessEqual(there["postcopy-faults"]["queue-max"], 16)
        self.assertEqual(len(there["postcopy-vcpu-blocktime"]), 16)

    def test_paused_guest_stays_paused(self):
        src, dst = self.postcopy_pair()
        src.cmd("stop")
        self.switch(src, slow=False)
        migrate.wait_status(src, "completed")
        migrate.wait_status(dst, "completed")
        self.assertEqual(dst.status(), "paused")
        dst.cmd("cont")
        dst.guest.check()

    def test_stop_and_cont_while_memory_comes(self):
        src, dst = self.postcopy_pair()
        self.switch(src)
        dst.wait_state("running")
        dst.cmd("stop")
        self.assertEqual(dst.status(), "paused")
        dst.cmd("cont")
        dst.guest.wait_alive()
        self.go_on(src)
        self.arrive(src, dst)

    def test_moves_on(self):
        """By post-copy to a second machine and from there to a third."""
        src, dst = self.postcopy_pair(True)
        self.switch(src, slow=False)
        self.arrive(src, dst)
        src.quit()
        third = self.vm(name="third", guest=GUEST, peek=True, incoming="defer")
        self.allow(third, preempt=True)
        uri = self.link()
        third.cmd("migrate-incoming", uri=uri)
        self.switch(dst, uri)
        dst.cmd("migrate-pause")
        self.wait_paused(dst, third)
        self.recover(dst, third)
        self.go_on(dst)
        self.arrive(dst, third)

    def test_release_ram(self):
        """Only what came after the switch is given back, and only with the capability."""
        for release in (False, True):
            with self.subTest(release=release):
                src, dst = self.postcopy_pair(ram=None, memory=160, guest="report=100 data=random",
                                              capabilities={"release_ram": release})
                before = resident_mib(src)
                self.switch(src, slow=False)
                migrate.wait_status(src, "completed")
                after = resident_mib(src)
                if not is_sanitized():
                    self.assertGreater(before, 150)
                    self.assertEqual(after < before - 60, release, (before, after))
                self.arrive(src, dst)

    def test_events(self):
        src, dst = self.postcopy_pair()
        self.switch(src, slow=False)
        self.arrive(src, dst)
        for vm, status, other in ((src, "device", "STOP"), (dst, "postcopy-active", "RESUME")):
            vm.qmp.wait_event("MIGRATION", status="active")
            if vm is src:
                vm.qmp.wait_event(other)
            vm.qmp.wait_event("MIGRATION", status=status)
            if vm is dst:
                vm.qmp.wait_event(other)
            vm.qmp.wait_event("MIGRATION", status="completed")

    def test_qtest_reaches_missing_memory(self):
        src, dst = self.postcopy_pair(memory=64, destination={"qtest": True})
        self.switch(src)
        self.assertEqual(len(dst.qtest.read(48 * MIB, 8192)), 8192)
        dst.cmd("migrate-pause")
        self.wait_paused(src, dst)
        begun = time.monotonic()
        for _ in range(2):
            with self.assertRaises(QTestError) as refused:
                dst.qtest.read(50 * MIB, 8192)
            self.assertIn("Memory at 0x3200000 has not come yet", str(refused.exception))
        self.assertLess(time.monotonic() - begun, migrate.scaled(20))
        self.assertEqual(migrate.status(dst), "postcopy-paused")  # QMP answers
        self.recover(src, dst)
        self.go_on(src)
        self.arrive(src, dst)


class Refused(PostcopyCase):
    def test_commands(self):
        src, dst = self.pair(peek=True)
        for vm in (src, dst):
            self.refused("Enable postcopy with migrate_set_capability before the start of migration",
                         vm, "migrate-start-postcopy")
            self.refused("migrate-pause is currently only supported during postcopy-active state",
                         vm, "migrate-pause")
            self.refused("Migrate recover can only be run when postcopy is paused.",
                         vm, "migrate-recover", uri="unix:/nowhere")
        self.refused("Cannot resume if there is no paused migration", src, "migrate", uri=self.uri,
                     resume=True)
        self.allow(src)
        self.refused("Postcopy must be started after migration has been started", src,
                     "migrate-start-postcopy")

    def test_destination_without_it(self):
        src, dst = self.pair(peek=True)
        self.allow(src)
        migrate.start(src, self.uri)
        said = migrate.wait_status(src, "failed")["error-desc"]
        self.assertIn("Capability 'postcopy-ram' is on on the source and off on the destination", said)
        self.check_source_goes_on(src)
        self.allow(dst)
        self.switch(src, slow=False)
        self.arrive(src, dst)

    def test_needs_a_socket(self):
        src, _ = self.pair(peek=True)
        self.allow(src)
        migrate.start(src, "exec:cat >/dev/null")
        self.assertIn("Capability 'postcopy-ram' needs a socket",
                      migrate.wait_status(src, "failed")["error-desc"])
        self.check_source_goes_on(src)

    def test_cancel(self):
        src, dst = self.postcopy_pair()
        self.switch(src)
        self.refused("The migration cannot be cancelled any more: the destination has been told to "
                     "run the guest; migrate-pause pauses it", src, "migrate_cancel")
        for vm in (src, dst):
            with self.assertRaises(QmpError):
                vm.cmd("migrate", uri="unix:/nowhere")
        self.go_on(src)
        self.arrive(src, dst)


class LostSide(PostcopyCase):
    """Around the moment in which the guest changes sides."""

    def held(self, vm, point):
        src, dst = self.postcopy_pair(True)
        held = src if vm == "source" else dst
        migrate.hold(held, point)
        migrate.start(src, self.uri, max_bandwidth=4 * MIB)
        migrate.wait_status(src, "active")
        src.cmd("migrate-start-postcopy")
        migrate.wait_held(held, point)
        return src, dst

    def another(self):
        dst = self.another_destination(guest=GUEST, peek=True)
        self.allow(dst, preempt=True)
        return dst

    def test_destination_dies_before_the_guest_runs(self):
        for point in ("incoming-loaded", "incoming-ready"):
            with self.subTest(point=point):
                src, dst = self.held("destination", point)
                dst.kill()
                migrate.wait_status(src, "failed")
                self.check_source_goes_on(src)
                dst = self.another()
                self.switch(src, slow=False)
                self.arrive(src, dst)

    def test_cancel_before_the_guest_leaves(self):
        for vm, point in (("source", "device"), ("destination", "incoming-loaded"),
                          ("source", "ready")):
            with self.subTest(point=point):
                src, dst = self.held(vm, point)
                src.cmd("migrate_cancel")
                migrate.wait_status(src, "cancelled")
                self.check_source_goes_on(src)
                if vm == "destination":
                    migrate.release(dst)
                dst.wait(1)
                dst = self.another()
                self.switch(src, slow=False)
                self.arrive(src, dst)

    def test_destination_dies_with_the_word_to_go(self):
        """Nobody knows whether the guest has run: only a person can say."""
        src, dst = self.held("destination", "incoming-go")
        dst.kill()
        self.wait_paused(src)
        self.assertEqual(src.status(), "finish-migrate")
        self.assertFalse(src.guest.is_alive(0.1))
        src.cmd("migrate-take-back")
        self.assertIn("taken back", migrate.wait_status(src, "failed")["error-desc"])
        self.check_source_goes_on(src)
        dst = self.another()
        self.switch(src, slow=False)
        self.arrive(src, dst)

    def test_take_back_is_refused_once_it_ran(self):
        src, dst = self.postcopy_pair()
        self.switch(src)
        dst.guest.wait_alive()
        dst.cmd("migrate-pause")
        self.wait_paused(src, dst)
        self.refused("The guest has run at the destination, and what is here is its memory of "
                     "before: resume the migration instead", src, "migrate-take-back")
        with self.assertRaises(QmpError):
            src.cmd("cont")
        self.recover(src, dst)
        self.go_on(src)
        self.arrive(src, dst)

    def test_quit_of_either_side_while_paused(self):
        for who in ("source", "destination"):
            with self.subTest(who=who):
                src, dst = self.postcopy_pair(True)
                self.switch(src)
                src.cmd("migrate-pause")
                self.wait_paused(src, dst)
                (src if who == "source" else dst).quit()
                other = dst if who == "source" else src
                self.assertEqual(migrate.status(other), "postcopy-paused")
                other.quit()
