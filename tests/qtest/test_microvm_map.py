# SPDX-License-Identifier: GPL-2.0-or-later
"""Which options of the machine make which device answer where, compared with QEMU's machine."""

import itertools

from sidebyside import FULL, QTestCase, answer

# What a read tells of each device: addresses where unclaimed reads look different.
PORTS = {"rtc": 0x71, "serial": 0x3ff, "fw_cfg": 0x511}
MEMORY = {"virtio 0": 0xfeb00000, "virtio 7": 0xfeb00e00, "virtio 8": 0xfeb01000,
          "virtio 23": 0xfeb02e00, "virtio 24": 0xfeb03000, "ioapic": 0xfec00010, "ioapic2": 0xfec10010,
          "firmware": 0xfffffff0, "firmware below 1 MiB": 0xffff0}


class Map(QTestCase):
    def present(self, qtest):
        """Names of what answers."""
        found = set()
        qtest.outb(0x70, 0x0d)  # of the RTC: "valid", 0x80
        for base in (0xfec00000, 0xfec10000):
            qtest.writel(base, 1)  # the version register
        for name, port in PORTS.items():
            if qtest.inb(port) != 0xff:
                found.add(name)
        for name, address in MEMORY.items():
            # unclaimed memory reads as ones here and as zeros in QEMU
            if qtest.readl(address) not in (0, 0xffffffff):
                found.add(name)
        return found

    def test_defaults(self):
        qtest = self.boot(machine="")
        self.assertEqual(self.present(qtest),
                         {"rtc", "serial", "fw_cfg", "virtio 0", "virtio 7", "virtio 8", "virtio 23",
                          "ioapic", "ioapic2", "firmware", "firmware below 1 MiB"})
        self.assertEqual(qtest.readl(0xfea00000), 0)

    def test_options(self):
        """Each option that decides about devices, in pairs of settings."""
        for acpi, ioapic2, serial, rtc in itertools.product(("on", "off"), repeat=4):
            machine = f"acpi={acpi},ioapic2={ioapic2},isa-serial={serial},rtc={rtc}"
            with self.subTest(machine=machine):
                qemu = self.boot_qemu(machine=machine)
                ferry = self.boot(machine=machine)
                have = self.present(ferry)
                self.assertEqual(have, self.present(qemu))
                self.assertEqual("rtc" in have, rtc == "on")
                self.assertEqual("serial" in have, serial == "on")
                self.assertEqual("ioapic2" in have, acpi == ioapic2 == "on")
                self.assertEqual(ferry.readl(0xfea00000), 0 if acpi == "on" else 0xffffffff)
                self.vm.terminate()
                self.vm.wait()

    def test_auto(self):
        """auto is: all of them, but no RTC where the guest has kvmclock."""
        self.assertIn("rtc", self.present(self.boot(machine="rtc=auto,acpi=auto,ioapic2=auto")))
        vm = self.ferry(accel="kvm", paused=True, qtest=True, serial="null", machine="")
        self.assertEqual(vm.qtest.inb(0x71), 0xff)
        vm = self.ferry(accel="kvm", paused=True, qtest=True, serial="null", machine="rtc=on")
        self.assertNotEqual(vm.qtest.inb(0x71), 0xff)

    def test_memory(self):
        """RAM up to its size, the firmware over its last 64 KiB below 1 MiB, nothing else."""
        for memory in (1, 16, 17):
            with self.subTest(memory=memory):
                qtest = self.boot(memory=memory)
                end = memory << 20
                probes = [0, 0x9fff8, 0xa0000, 0xefff8] + ([0x100000, end - 8] if memory > 1 else [])
                for at in probes:
                    qtest.writeq(at, 0x1122334455667788 + at)
                for at in probes:
                    self.assertEqual(qtest.readq(at), 0x1122334455667788 + at, hex(at))
                qtest.writeq(max(end, 0x100000), 5)
                self.assertEqual(qtest.readq(max(end, 0x100000)), 0xffffffffffffffff)

    def test_memory_above_4g(self):
        """What is above 3 GiB is mapped at 4 GiB. (Nothing of it is touched but these pages.)"""
        qtest = self.boot(memory=3073)
        qtest.writeq(0xbffffff8, 1)
        qtest.writeq(0x100000000, 2)
        qtest.writeq(0x1000ffff8, 3)
        self.assertEqual([qtest.readq(a) for a in (0xbffffff8, 0x100000000, 0x1000ffff8)], [1, 2, 3])
        for at in (0xc0000000, 0x100100000):
            qtest.writeq(at, 5)
            self.assertEqual(qtest.readq(at), 0xffffffffffffffff)

    def test_firmware_is_ram(self):
        """As in QEMU the guest can write to its firmware, and a reset brings it back."""
        commands = ["readq 0xfffffff0", "readq 0xffff0", "writel 0xf1000 0x12345678",
                    "readl 0xf1000", "readl 0xffff1000", "writel 0xffff1004 0x9abcdef0",
                    "readl 0xf1004"]
        self.compare(commands)
        before = self.vm.qtest.readq(0xffff0)
        self.vm.qtest.writeq(0xffff0, 7)
        self.vm.cmd("system_reset")
        self.vm.qmp.wait_event("RESET")
        self.assertEqual(self.vm.qtest.readq(0xffff0), before)

    def test_firmware_bytes(self):
        commands = [f"b64read {0xffff0000 + n * 4096:#x} 4096" for n in range(16)]
        self.compare(commands)

    def test_legacy_ports_are_empty(self):
        """Nothing of a PC's that the machine does not have."""
        qtest = self.boot(machine="pit=off,pic=off,rtc=off,isa-serial=off")
        for port in (0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xcf8,
                     0xcfc, 0x2f8, 0x3f8, 0x4d0, 0xb004):
            self.assertEqual(answer(qtest, f"inb {port:#x}"), "0x00ff", hex(port))

    def test_wide_accesses_split(self):
        """Across the end of a device the rest is unclaimed."""
        qtest = self.boot(machine=FULL)
        qtest.outb(0x3ff, 0x5a)
        self.assertEqual(qtest.inw(0x3ff), 0xff5a)
        self.assertEqual(qtest.inl(0x3fe) >> 8, 0xffff5a)
