# SPDX-License-Identifier: GPL-2.0-or-later
"""
Virtio devices move between Ferry and QEMU with their rings in use: the test is their driver, over
qtest, and goes on with the same ring on the other side. Legacy and modern.
"""

from ferrytest import migrate, wait_for
from ferrytest.virtio import EVENT_IDX, INDIRECT_DESC, Memory, VirtioMmio, slot
from interopcase import BACKPORT, FERRY, INSTALLED, InteropCase

ROUTE = (FERRY, INSTALLED, FERRY, BACKPORT, FERRY)
RINGS = 0x800000  # nobody else in the guest uses memory here


class Virtio(InteropCase):
    devices = ()

    def start(self, who, legacy, incoming=False):
        extra = [*self.devices, "-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}"]
        options = {"guest": None, "qtest": True, "smp": 1, "ram": None}
        return self.destination(who, *extra, **options) if incoming else \
            self.machine(who, *extra, **options)

    def driver(self, vm, number, legacy, features):
        device = VirtioMmio(vm.qtest, slot(number), legacy, Memory(RINGS + number * 0x100000))
        device.start(features)
        return device

    def move_on(self, vm, who, legacy, *drivers):
        """The machine's next place; the drivers talk to it from then on."""
        dst = self.start(who, legacy, incoming=True)
        migrate.move(vm, dst, self.uri)
        wait_for("the guest runs", lambda: dst.status() == "running")
        for device in drivers:
            device.qtest = dst.qtest
            for queue in device.queues.values():
                queue.qtest = dst.qtest
        vm.quit()
        return dst


class Rng(Virtio):
    devices = ("-device", "virtio-rng-device")

    def fill(self, device, queue, count=1):
        for _ in range(count):
            addr = queue.memory.take(16)
            queue.add([(addr, 8, True), (addr + 8, 8, True)], indirect=True)
            queue.kick()
            self.assertEqual(queue.wait()[1], 16)
            self.assertNotEqual(queue.qtest.read(addr, 16), bytes(16))
            queue.set_used_event(queue.last_used)
            device.take_interrupt()

    def travel(self, legacy):
        vm = self.start(ROUTE[0], legacy)
        device = self.driver(vm, 0, legacy, 1 << INDIRECT_DESC | 1 << EVENT_IDX)
        queue = device.add_queue(0, 8)
        device.driver_ok()
        self.fill(device, queue, 11)
        status = device.status()
        for who in ROUTE[1:]:
            vm = self.move_on(vm, who, legacy, device)
            self.assertEqual(device.status(), status, who)
            self.fill(device, queue, 5)
        self.assertEqual(queue.used_index(), 11 + 5 * (len(ROUTE) - 1))

    def test_legacy(self):
        self.travel(legacy=True)

    def test_modern(self):
        self.travel(legacy=False)

    def test_other_version_is_refused(self):
        """Registers of version 1 on one side and 2 on the other."""
        src = self.start(INSTALLED, legacy=False)
        dst = self.start(FERRY, legacy=True, incoming=True)
        migrate.start(src, self.uri)
        dst.wait(1)
        self.assertIn("virtio-mmio.force-legacy", dst.stderr())


class Untouched(Virtio):
    """Devices that no driver has looked at."""

    devices = ("-device", "virtio-rng-device", "-device", "virtio-rng-device")

    def test_reset_state(self):
        for legacy in (True, False):
            vm = self.start(INSTALLED, legacy)
            for who in (FERRY, INSTALLED):
                vm = self.move_on(vm, who, legacy)
            vm.quit()
