# SPDX-License-Identifier: GPL-2.0-or-later
"""
A virtio driver half in the guest: the test sets up the ring, code of a few bytes in the guest does
the notifications, which KVM passes on by itself (ioeventfd).
"""

import struct
import unittest

from ferrytest import TestCase, have_kvm, wait_for
from ferrytest.virtio import STATUS, VirtioMmio, slot

ASK, DONE = 0x5000, 0x5004  # the guest notifies for what is written here, and counts here
NOTIFY = 0x50


def rom(address):
    """A firmware that goes to protected mode and writes 0 to an address each time it is asked."""
    base = 0xFFFF0000
    gdt, pointer, flat = 0x100, 0x120, 0x40
    image = bytearray(b"\xf4" * 0x10000)

    def put(at, data):
        image[at:at + len(data)] = data
    put(0xFFF0, b"\xe9" + struct.pack("<H", 0x10000 - 0xFFF3))         # jmp 0
    put(0, b"\xfa"                                                     # cli
        b"\x2e\x66\x0f\x01\x16" + struct.pack("<H", pointer) +         # lgdt cs:[pointer]
        b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"                            # cr0 |= 1
        b"\x66\xea" + struct.pack("<IH", base + flat, 8))              # jmp 8:flat
    put(gdt, struct.pack("<3Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF))
    put(pointer, struct.pack("<HI", 23, base + gdt))
    loop = (b"\xa1" + struct.pack("<I", ASK) +                         # mov eax, [ASK]
            b"\x85\xc0\x74\xf7"                                        # test; jz loop
            b"\xc7\x05" + struct.pack("<II", ASK, 0) +                 # mov [ASK], 0
            b"\xc7\x05" + struct.pack("<II", address, 0) +             # mov [address], 0
            b"\xff\x05" + struct.pack("<I", DONE))                     # inc [DONE]
    put(flat, b"\x66\xb8\x10\x00\x8e\xd8" + loop + b"\xeb" +           # ds; ...; jmp loop
        struct.pack("b", -len(loop) - 2))
    return bytes(image)


@unittest.skipUnless(have_kvm(), "/dev/kvm cannot be used")
class Notification(TestCase):
    def start(self, legacy):
        path = self.path("rom.bin")
        with open(path, "wb") as f:
            f.write(rom(slot(0) + NOTIFY))
        self.vm = self.ferry("-device", "virtio-rng-device", "-global",
                             f"virtio-mmio.force-legacy={'on' if legacy else 'off'}", bios=path,
                             accel="kvm", qtest=True)
        self.device = VirtioMmio(self.vm.qtest, slot(0), legacy)
        self.queue = None

    def ring(self):
        self.device.start()
        self.queue = self.device.add_queue(0)
        self.device.driver_ok()

    def ask(self):
        """Has the guest notify."""
        done = self.vm.qtest.readl(DONE)
        self.vm.qtest.writel(ASK, 1)
        wait_for("the guest", lambda: self.vm.qtest.readl(DONE) == (done + 1) & 0xFFFFFFFF)

    def request(self, length=16):
        addr = self.queue.memory.take(length)
        self.queue.add([(addr, length, True)])
        return addr

    def check(self, legacy):
        self.start(legacy)
        self.ring()
        self.request()
        # Later ones may be served before they are notified of: when the device looks once more after
        # the one before, or hears late of a notification.
        self.assertIsNone(self.queue.poll())
        for _ in range(3):  # reset, notify while nothing is set up, and set up again
            self.device.write(STATUS, 0)
            self.ask()
            self.ring()
            for _ in range(5):
                addr = self.request()
                self.ask()
                self.assertEqual(self.queue.wait()[1], 16)
                self.assertNotEqual(self.vm.qtest.read(addr, 16), bytes(16))
        self.device.write(STATUS, 0)
        self.request()
        self.ask()
        self.vm.qmp.cmd("query-status")
        self.assertIsNone(self.queue.poll())

    def test_legacy(self):
        self.check(True)

    def test_modern(self):
        self.check(False)

    def test_while_stopped(self):
        """A notification that came just before a stop is not lost."""
        self.start(True)
        self.ring()
        for _ in range(20):
            self.request()
            self.vm.qtest.writel(ASK, 1)
            self.vm.qmp.cmd("stop")
            self.vm.qmp.cmd("cont")
            self.queue.wait()
