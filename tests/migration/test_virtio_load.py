# SPDX-License-Identifier: GPL-2.0-or-later
"""
Disks and networks under load move: the workload guest drives the devices itself and knows what every
sector must hold and which frames it has sent. The request that is in flight when the guest is
stopped completes once, on one side or the other.
"""

import unittest

from ferrytest import load, migrate, net
from ferrytest.load import Disk, Peer, Taps, Travels
from ferrytest.net import Wire
from migrationcase import MigrationCase
from postcopycase import MIB, PostcopyCase

ROUTE = ("ferry",) * 6
WHY_NOT = net.own_network()
WORK = "report=100 rate=500"


class Moves(Travels, MigrationCase):
    """Every machine of a chain has the same devices."""

    def start(self, extra, guest, incoming=False, paused=False):
        options = {"guest": f"{WORK} {guest}", "incoming": "defer"} if incoming else \
            {"guest": f"{WORK} {guest}"}
        vm = self.vm(*extra, paused=paused, **options)
        migrate.set_capabilities(vm, return_path=True)
        if incoming:
            self.uri = self.link()
            vm.cmd("migrate-incoming", uri=self.uri)
        elif not paused:
            vm.guest.wait_ready()
        return vm

    def first(self, _, extra, guest, paused=False):
        return self.start(extra, guest, paused=paused)

    def next(self, _, extra, guest):
        return self.start(extra, guest, incoming=True)

    def move(self, src, dst):
        migrate.move(src, dst, self.uri)

    def check_well(self, vm):
        vm.guest.check()


class DiskLoad(Moves):
    def test_moves(self):
        self.with_each_driver(lambda legacy, driver: self.carry_disk(
            ROUTE, f"blk=1 blkdepth=16 blkflush=50 {driver}", legacy))

    def test_large_requests(self):
        """Requests of 128 KiB: many pieces of the guest's memory."""
        self.carry_disk(ROUTE, "blk=1 blkdepth=8 blkbs=128K virtidx=1", False, requests=100)

    def test_direct(self):
        """O_DIRECT: requests take longer, more are in flight when the guest stops."""
        self.carry_disk(ROUTE, "blk=1 blkdepth=64 blkread=20", False, options=",cache=none")

    def test_one_at_a_time(self):
        """The I/O thread looks for the requests of a quick driver and is notified by a slow one: none
        is missed where it goes from one to the other, nor at a stop."""
        for driver in load.DRIVERS:
            for rate in (5000, 20000, 40000, "max"):
                with self.subTest(driver=driver, rate=rate):
                    path = load.make_disk(self.path(f"disk{len(self.machines)}"))
                    vm = self.start(load.drive(path, False), f"blk=1 blkdepth=1 blkrate={rate} {driver}")
                    disk = Disk(vm.guest)
                    disk.wait_run()
                    for _ in range(4):
                        disk.wait_requests(500)
                        vm.cmd("stop")
                        vm.cmd("cont")
                    disk.check(path)
                    vm.quit()

    def test_this_test(self):
        """A write that did not happen, and one in the wrong place, are found."""
        path = load.make_disk(self.path("disk"))
        vm = self.start(load.drive(path, False), "blk=1 blkread=100")
        disk = Disk(vm.guest)
        disk.wait_run()
        disk.settle()
        with open(path, "r+b") as f:
            f.seek(3 * 512 + 88)
            f.write(b"spoiled!")
        with self.assertRaisesRegex(AssertionError, r"\(3, 11, "):
            disk.check(path)
        disk.poke(0)
        with self.assertRaisesRegex(AssertionError, r"\(0, "):
            disk.check(path)
        disk.go()
        vm.serial_line("BAD disk sector=")
        self.assertTrue(vm.guest.complaints())
        self.assertGreater(disk.now()["bad_sectors"], 0)


class Postcopy(PostcopyCase):
    extra = []

    def vm(self, *extra, **options):
        return super().vm(*self.extra, *extra, **options)


class DiskPostcopy(Postcopy):
    def test_postcopy(self):
        """The guest leaves early, its rings and buffers follow when the device touches them."""
        for legacy in (True, False):
            for preempt in (False, True):
                with self.subTest(legacy=legacy, preempt=preempt):
                    path = load.make_disk(self.path("disk"))
                    self.extra = load.drive(path, legacy)
                    src, dst = self.postcopy_pair(
                        preempt, guest=f"{WORK} blk=1 blkdepth=16 virtidx=1", memory=32)
                    Disk(src.guest).wait_run()
                    self.switch(src, slow=False, max_bandwidth=8 * MIB)
                    self.arrive(src, dst)
                    Disk(dst.guest).wait_requests(200)
                    Disk(dst.guest).check(path)
                    src.quit()
                    dst.quit()


@unittest.skipIf(WHY_NOT, WHY_NOT)
class NetLoad(Moves):
    def test_moves(self):
        self.with_each_driver(lambda legacy, driver: self.carry_network(
            ROUTE, f"net=both netrate=2000 netlen=200 {driver}", legacy))


@unittest.skipIf(WHY_NOT, WHY_NOT)
class Memory(Moves):
    """What devices have written until the last moment is on the other side."""

    def arrive(self, src, dst):
        migrate.start(src, self.uri)
        migrate.wait_status(src, "completed")
        dst.wait_state("paused")
        self.assert_memory_equal(src, dst)

    def test_network(self):
        for legacy in (True, False):
            with self.subTest(legacy=legacy), Peer(rate=5000) as peer:
                guest = "net=both netrate=500 netlen=200 pv=0"
                src = self.start(self.tap(legacy), guest, paused=True)
                wire = Wire(self.ifname)
                peer.add(wire)
                src.cmd("cont")
                src.guest.wait_ready()
                self.wait_frames(src, 100)
                dst = self.start(self.tap(legacy), guest, incoming=True, paused=True)
                self.arrive(src, dst)
                peer.drop(wire)

    def test_disk(self):
        for legacy in (True, False):
            with self.subTest(legacy=legacy):
                path = load.make_disk(self.path(f"disk{legacy}"))
                extra = load.drive(path, legacy)
                guest = "blk=1 blkdepth=32 virtirq=1 pv=0"
                src = self.start(extra, guest)
                Disk(src.guest).wait_run()
                self.arrive(src, self.start(extra, guest, incoming=True, paused=True))


@unittest.skipIf(WHY_NOT, WHY_NOT)
class NetPostcopy(Postcopy, Taps):
    def test_postcopy(self):
        for legacy in (True, False):
            with self.subTest(legacy=legacy), Peer() as peer:
                guest = f"{WORK} net=both netrate=2000 netlen=200 virtidx=1"
                options = {"guest": guest, "memory": 32, "peek": True}
                self.uri = self.link()
                self.extra = self.tap(legacy)
                src = self.vm(name="source", paused=True, **options)
                wires = [Wire(self.ifname)]
                self.extra = self.tap(legacy)
                dst = self.vm(name="destination", incoming="defer", **options)
                wires.append(Wire(self.ifname))
                for wire in wires:
                    peer.add(wire)
                migrate.set_capabilities(src, dst, return_path=True, events=True)
                self.allow(src, dst)
                dst.cmd("migrate-incoming", uri=self.uri)
                src.cmd("cont")
                src.guest.wait_ready()
                self.wait_frames(src, 100)
                self.switch(src, slow=False, max_bandwidth=8 * MIB)
                self.arrive(src, dst)
                self.wait_frames(dst, 200)
                peer.check(dst.guest)
                src.quit()
                dst.quit()
