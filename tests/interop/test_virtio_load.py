# SPDX-License-Identifier: GPL-2.0-or-later
"""
Ferry -> QEMU 7.2 -> Ferry with a disk and a network under load: the workload guest drives them, with
requests in flight all the time, and checks every sector and frame. Legacy and modern.
"""

import unittest

from ferrytest import load, migrate, net
from ferrytest.load import Disk, Peer, Taps
from ferrytest.net import Wire
from interopcase import FERRY, INSTALLED, InteropCase

WHY_NOT = net.own_network()
ROUTE = (FERRY, INSTALLED, FERRY, INSTALLED, FERRY)
WORK = "report=100 rate=500"
DRIVERS = ("", "virtidx=1 virtind=1 virtirq=1")


class DiskLoad(InteropCase):
    def travel(self, legacy, guest, route=ROUTE, options=""):
        path = load.make_disk(self.path(f"disk{len(self.machines)}"))
        extra = load.drive(path, legacy, options)
        guest = f"{WORK} {guest}"
        vm = self.machine(route[0], *extra, guest=guest)
        vm.guest.wait_ready()
        Disk(vm.guest).wait_run()
        for who in route[1:]:
            Disk(vm.guest).wait_requests(300)
            vm = self.hop(vm, who, *extra, guest=guest)
        Disk(vm.guest).wait_requests(300)
        Disk(vm.guest).check(path)
        self.check_well(vm)
        vm.quit()

    def test_moves(self):
        for legacy in (True, False):
            for driver in DRIVERS:
                with self.subTest(legacy=legacy, driver=driver):
                    self.travel(legacy, f"blk=1 blkdepth=16 blkflush=50 {driver}")

    def test_direct(self):
        self.travel(False, "blk=1 blkdepth=64 blkread=20 virtidx=1", options=",cache=none")

    def test_from_qemu(self):
        self.travel(True, "blk=1 blkdepth=16", route=(INSTALLED, FERRY, INSTALLED))


@unittest.skipIf(WHY_NOT, WHY_NOT)
class NetLoad(InteropCase, Taps):
    def travel(self, legacy, guest):
        guest = f"{WORK} {guest}"
        with Peer() as peer:
            vm = self.machine(ROUTE[0], *self.tap(legacy), guest=guest, paused=True)
            wire = Wire(self.ifname)
            peer.add(wire)
            vm.cmd("cont")
            vm.guest.wait_ready()
            for who in ROUTE[1:]:
                self.wait_frames(vm, 200)
                old = wire
                dst = self.destination(who, *self.tap(legacy), guest=guest)
                wire = Wire(self.ifname)
                peer.add(wire)
                self.move(vm, dst)
                peer.drop(old)
                vm.quit()
                vm = dst
            self.wait_frames(vm, 200)
            peer.check(vm.guest)
            self.check_well(vm)
            vm.quit()

    def test_moves(self):
        for legacy in (True, False):
            for driver in DRIVERS:
                with self.subTest(legacy=legacy, driver=driver):
                    self.travel(legacy, f"net=both netrate=2000 netlen=200 {driver}")
