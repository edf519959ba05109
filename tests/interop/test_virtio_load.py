# SPDX-License-Identifier: GPL-2.0-or-later
"""
Ferry -> QEMU 7.2 -> Ferry with a disk and a network under load: the workload guest drives them, with
requests in flight all the time, and checks every sector and frame. Legacy and modern.
"""

import unittest

from ferrytest import net
from ferrytest.load import Travels
from interopcase import FERRY, INSTALLED, InteropCase

WHY_NOT = net.own_network()
ROUTE = (FERRY, INSTALLED, FERRY, INSTALLED, FERRY)
WORK = "report=100 rate=500"


class Load(Travels, InteropCase):
    def first(self, who, extra, guest, paused=False):
        vm = self.machine(who, *extra, guest=f"{WORK} {guest}", paused=paused)
        if not paused:
            vm.guest.wait_ready()
        return vm

    def next(self, who, extra, guest):
        return self.destination(who, *extra, guest=f"{WORK} {guest}")


class DiskLoad(Load):
    def test_moves(self):
        self.with_each_driver(lambda legacy, driver: self.carry_disk(
            ROUTE, f"blk=1 blkdepth=16 blkflush=50 {driver}", legacy))

    def test_direct(self):
        self.carry_disk(ROUTE, "blk=1 blkdepth=64 blkread=20 virtidx=1", False,
                        options=",cache=none")

    def test_from_qemu(self):
        self.carry_disk((INSTALLED, FERRY, INSTALLED), "blk=1 blkdepth=16", True)


@unittest.skipIf(WHY_NOT, WHY_NOT)
class NetLoad(Load):
    def test_moves(self):
        self.with_each_driver(lambda legacy, driver: self.carry_network(
            ROUTE, f"net=both netrate=2000 netlen=200 {driver}", legacy))
