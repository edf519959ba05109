# SPDX-License-Identifier: GPL-2.0-or-later
"""The balloon moves between Ferry and QEMU; the test is its driver, as in test_virtio.py."""

import struct

from ferrytest import migrate, wait_for
from ferrytest.balloon import ACTUAL, COMMAND, NUM_PAGES, PATH, POISON, STATS
from ferrytest.balloon import Balloon as BalloonDriver
from ferrytest.virtio import CONFIG, Memory, slot
from interopcase import BACKPORT, FERRY, INSTALLED
from test_virtio import RINGS, ROUTE, Virtio


class Balloon(Virtio):
    """Numbers, the page poison, and the driver's buffer with statistics, which both sides keep."""

    devices = ("-device", "virtio-balloon-device,free-page-reporting=on")

    def tell(self, vm, queue, number):
        """The driver's statistics; those that are known then."""
        at = queue.memory.take(16)
        queue.qtest.write(at, struct.pack("<HQ", 4, number))
        queue.add([(at, 10, False)])
        queue.kick()
        self.know(vm, number)

    def know(self, vm, number):
        wait_for("statistics", lambda: vm.cmd(
            "qom-get", path=PATH, property="guest-stats")["stats"]["stat-free-memory"] == number)

    def travel(self, legacy):
        vm = self.start(ROUTE[0], legacy)
        device = BalloonDriver(vm.qtest, slot(0), legacy, Memory(RINGS))
        device.begin(0x32)
        stats, reports = device.queues[STATS], device.queues[3]
        vm.cmd("balloon", value=12 << 20)
        device.write(CONFIG + 4 * ACTUAL, 256)
        device.write(CONFIG + 4 * POISON, 0xAABBCCDD)
        self.tell(vm, stats, 7)
        for hop, who in enumerate(ROUTE[1:]):
            vm = self.move_on(vm, who, legacy, device)
            self.assertEqual([device.config(i) for i in (NUM_PAGES, ACTUAL, POISON)],
                             [1024, 256, 0xAABBCCDD], who)
            self.assertEqual(vm.cmd("query-balloon"), {"actual": 15 << 20})
            # it is read again, and comes back when new ones are wanted
            self.know(vm, 7 + hop)
            vm.cmd("qom-set", path=PATH, property="guest-stats-polling-interval", value=1)
            stats.wait()
            vm.cmd("qom-set", path=PATH, property="guest-stats-polling-interval", value=0)
            self.tell(vm, stats, 8 + hop)
            # the other queues go on
            vm.qtest.memset(0x400000, 0x2000, 0x5A)
            device.inflate([0x400])
            device.deflate([0x400])
            self.assertEqual(vm.qtest.readb(0x400000), 0, who)
            reports.add([(0x401000, 4096, True)])
            reports.kick()
            reports.wait()
            self.assertEqual(vm.qtest.readb(0x401000), 0x5A, who)  # a poison: as it was

    def test_legacy(self):
        self.travel(legacy=True)

    def test_modern(self):
        self.travel(legacy=False)


class Hints(Virtio):
    """Pages that the guest names as free while it moves. QEMU wants an iothread for it."""

    devices = ("-device", "virtio-balloon-device,free-page-hint=on")
    qemu_devices = ("-object", "iothread,id=io0", "-device",
                    "virtio-balloon-device,free-page-hint=on,iothread=io0")
    AREA = 0x400000

    def leave(self, vm, device, who):
        """Moves on; 1 MiB is named before the first round has come to it, then a page written."""
        dst = self.start(who, True, incoming=True)
        vm.qtest.memset(self.AREA, 0x200000, 0x5A)
        device.take_interrupt()
        migrate.start(vm, self.uri, max_bandwidth=64 << 10)
        device.wait_interrupt(2)
        device.command(device.config(COMMAND))
        device.hint(self.AREA + 0x100000, 0x100000)
        device.command(0)
        vm.qtest.memset(self.AREA + 0x180000, 4096, 0x77)
        migrate.set_parameters(vm, max_bandwidth=1 << 30)
        sent = migrate.finish(vm, dst)["ram"]["normal"]
        device.qtest = dst.qtest
        for queue in device.queues.values():
            queue.qtest = dst.qtest
        self.assertLess(sent, 0x180)
        self.assertEqual(dst.qtest.readb(self.AREA), 0x5A)
        self.assertEqual(dst.qtest.readb(self.AREA + 0x180000), 0x77)
        self.assertEqual(dst.qtest.readb(self.AREA + 0x1FF000), 0)
        self.assertEqual(device.config(COMMAND), 1)
        vm.quit()
        return dst

    def test_there_and_back(self):
        vm = self.start(FERRY, True)
        device = BalloonDriver(vm.qtest, slot(0), True, Memory(RINGS))
        device.begin()
        for who in (INSTALLED, FERRY, BACKPORT, FERRY):
            vm = self.leave(vm, device, who)
