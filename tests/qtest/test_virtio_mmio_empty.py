# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtio-mmio slots without a device: a guest must find that they are there and empty."""

from sidebyside import FULL, QTestCase

FIRST, SIZE = 0xfeb00000, 0x200
MAGIC, VERSION, DEVICE_ID, VENDOR = 0x0, 0x4, 0x8, 0xc


class Empty(QTestCase):
    def slots(self, qtest):
        count = 0
        while qtest.readl(FIRST + count * SIZE + MAGIC) == 0x74726976 and count < 64:
            count += 1
        return count

    def test_count(self):
        for machine, count in (("", 24), ("ioapic2=off", 8), ("acpi=off", 8)):
            with self.subTest(machine=machine):
                self.assertEqual(self.slots(self.boot(machine=machine)), count)

    def test_registers(self):
        qtest = self.boot()
        for slot in range(24):
            base = FIRST + slot * SIZE
            self.assertEqual([qtest.readl(base + r) for r in (MAGIC, VERSION, DEVICE_ID, VENDOR)],
                             [0x74726976, 1, 0, 0x554d4551])

    def test_modern(self):
        qtest = self.boot("-global", "virtio-mmio.force-legacy=false")
        self.assertEqual(qtest.readl(FIRST + VERSION), 2)

    def test_as_qemu(self):
        commands = []
        for base in (FIRST, FIRST + 23 * SIZE):
            for register in range(0, SIZE, 4):
                commands += [f"readl {base + register:#x}", f"writel {base + register:#x} 0xffffffff",
                             f"readl {base + register:#x}"]
            commands += [f"read{s} {base + r:#x}" for s in "bw" for r in (0, 2, 8, 0x70)]
        self.compare(commands, machine=FULL)
