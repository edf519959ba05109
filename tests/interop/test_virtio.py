# SPDX-License-Identifier: GPL-2.0-or-later
"""
Virtio devices move between Ferry and QEMU with their rings in use: the test is their driver, over
qtest, and goes on with the same ring on the other side. Legacy and modern.
"""

import socket
import struct

from ferrytest import Timeout, migrate, scaled, wait_for
from ferrytest.virtio import EVENT_IDX, INDIRECT_DESC, Memory, VirtioMmio, slot
from interopcase import BACKPORT, FERRY, INSTALLED, InteropCase

ROUTE = (FERRY, INSTALLED, FERRY, BACKPORT, FERRY)
RINGS = 0x800000  # nobody else in the guest uses memory here


class Virtio(InteropCase):
    devices = ()
    qemu_devices = None  # where they differ

    def start(self, who, legacy, incoming=False):
        devices = self.devices if who == FERRY else self.qemu_devices or self.devices
        extra = [*devices, "-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}"]
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


class Serial(Virtio):
    """The guest's end of a port stays open, and output that was half written goes on."""

    def setUp(self):
        super().setUp()
        self.number = 0

    def start(self, who, legacy, incoming=False):
        self.number += 1
        path = self.path(f"port{self.number}")
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.bind(path)
        sock.listen(1)
        sock.settimeout(scaled(10))
        self.devices = ("-chardev", f"socket,id=c,path={path}", "-chardev", "null,id=n",
                        "-device", "virtio-serial-device", "-device", "virtconsole,chardev=n",
                        "-device", "virtserialport,chardev=c,nr=5,name=org.example,id=port")
        vm = super().start(who, legacy, incoming)
        self.peer = sock.accept()[0]
        self.addCleanup(self.peer.close)
        self.peer.settimeout(scaled(10))
        return vm

    @staticmethod
    def drain(peer):
        data = b""
        peer.settimeout(scaled(0.5))
        try:
            while more := peer.recv(1 << 20):
                data += more
        except TimeoutError:
            pass
        return data

    def stuff(self, queue, addr, block):
        """Output until nobody takes it; how much."""
        for n in range(1, 100):
            queue.add([(addr, len(block), False)])
            queue.kick()
            try:
                queue.wait(2)
            except Timeout:
                return n * len(block)
        self.fail("The link takes everything")

    def travel(self, legacy):
        vm = self.start(ROUTE[0], legacy)
        device = self.driver(vm, 0, legacy, 1 << 1)
        out, into = device.add_queue(13, 8), device.add_queue(12, 8)
        control_in, control = device.add_queue(2, 32), device.add_queue(3, 32)
        device.driver_ok()
        message = control.memory.take(8)
        vm.qtest.write(message, struct.pack("<IHH", 5, 6, 1))  # the port is open
        control.add([(message, 8, False)])
        control.kick()
        control.wait()
        addr, block = out.memory.take(1 << 18), bytes(range(256)) * 1024
        vm.qtest.b64write(addr, block)
        for who in ROUTE[1:]:
            count = self.stuff(out, addr, block)
            old = self.peer
            vm = self.move_on(vm, who, legacy, device)
            data = self.drain(old)
            self.assertLess(len(data), count)
            data += self.receive(self.peer, count - len(data))
            self.assertEqual(data, block * (count // len(block)), who)
            out.wait()
            buffer = into.memory.take(16)
            into.add([(buffer, 16, True)])
            into.kick()
            self.peer.sendall(b"still open")
            self.assertEqual(into.wait()[1], 10, who)
            self.assertEqual(vm.qtest.read(buffer, 10), b"still open")
        self.assertIsNone(control_in.poll())

    def test_legacy(self):
        self.travel(legacy=True)

    def test_modern(self):
        self.travel(legacy=False)
