# SPDX-License-Identifier: GPL-2.0-or-later
"""
Devices answer register accesses as Debian's QEMU does: the same accesses go to both, and every
answer and interrupt must be the same. The other tests of this folder say what is right; this one
says that a guest cannot tell the two apart.
"""

import random

from sidebyside import QTestCase


class Serial(QTestCase):
    DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(0x3f8, 0x400)

    def test_after_reset(self):
        self.compare([f"inb {r:#x}" for r in range(0x3f8, 0x400)])

    def test_divider(self):
        self.compare(["outb 0x3fb 0x80", "inb 0x3f8", "inb 0x3f9", "outb 0x3f8 0x34",
                      "outb 0x3f9 0x12", "inb 0x3f8", "inb 0x3f9", "outb 0x3fb 0x03", "inb 0x3f9",
                      "inb 0x3fb", "outb 0x3f9 0xff", "inb 0x3f9", "outb 0x3fb 0x80", "inb 0x3f8",
                      "inb 0x3f9", "outb 0x3f8 0", "outb 0x3f9 0", "outb 0x3fb 0", "inb 0x3f9"])

    def test_writable_bits(self):
        commands = []
        for register in (self.IER, self.IIR, self.LCR, self.MCR, self.LSR, self.MSR, self.SCR):
            for value in (0xff, 0x00, 0xa5):
                commands += [f"outb {register:#x} {value:#x}", f"inb {register:#x}"]
                if register == self.LCR:  # back from the divider
                    commands.append("outb 0x3fb 0")
        self.compare(commands)

    def test_wide_accesses(self):
        self.compare(["outb 0x3ff 0x5a", "inw 0x3fe", "inl 0x3fc", "outw 0x3fe 0xa500", "inb 0x3ff"])

    def test_modem_lines(self):
        self.compare([c for v in range(16) for c in (f"outb 0x3fc {v | 0x10:#x}", "inb 0x3fe")])

    def test_loopback(self):
        """Random accesses with the port looped back to itself, no FIFO."""
        registers = (self.DATA, self.DATA, self.DATA, self.IER, self.LCR, self.MCR, self.LSR,
                     self.MSR, self.SCR, self.IIR)
        for seed in range(4):
            rng = random.Random(seed)
            commands = ["outb 0x3fc 0x10"]
            for _ in range(250):
                register = rng.choice(registers)
                value = rng.randrange(256)
                if register == self.LCR:
                    value &= 0x7f
                if register == self.MCR:
                    value |= 0x10
                if rng.random() < 0.5 or register == self.IIR:
                    commands.append(f"inb {register:#x}")
                else:
                    commands.append(f"outb {register:#x} {value:#x}")
            with self.subTest(seed=seed):
                self.compare(commands, intercept="ioapic")

    def test_fifo_loopback(self):
        for seed in range(4):
            rng = random.Random(seed)
            commands = ["outb 0x3fc 0x10", "outb 0x3fa 0x01"]
            for _ in range(250):
                commands.append(rng.choice((
                    f"outb 0x3f8 {rng.randrange(256):#x}", "inb 0x3f8", "inb 0x3fd", "inb 0x3fa",
                    f"outb 0x3fa {rng.choice((0x01, 0x41, 0x81, 0xc1)):#x}",
                    f"outb 0x3f9 {rng.randrange(16):#x}")))
            with self.subTest(seed=seed):
                self.compare(commands, intercept="ioapic")


class Rtc(QTestCase):
    BASE = ("-rtc", "base=2024-02-28T23:58:57,clock=vm")

    @staticmethod
    def dump():
        # register C is read last: reading it clears it
        return [c for i in [*range(12), *range(13, 128), 12] for c in (f"outb 0x70 {i:#x}", "inb 0x71")]

    def test_after_reset(self):
        for memory in (16, 100):
            with self.subTest(memory=memory):
                self.compare(["inb 0x70"] + self.dump(), *self.BASE, memory=memory)

    def test_random_accesses(self):
        """The clock stands (in QEMU it cannot be stepped), so this is about the registers."""
        for seed in range(4):
            rng = random.Random(seed)
            commands = []
            for _ in range(300):
                index = rng.choice((*range(14), 0x32, 0x37, rng.randrange(128)))
                commands.append(f"outb 0x70 {index | rng.choice((0, 0x80)):#x}")
                if rng.random() < 0.5:
                    # numbers that are none would say more about timegm() than about the clock
                    value = {0x0a: rng.choice((0x26, 0x20, 0x2f)),
                             0x0b: rng.choice((0x02, 0x82, 0x12, 0x22, 0x72)),
                             0x07: 0x15, 0x08: 0x11, 0x32: 0x20, 0x37: 0x19,
                             0x04: 0x22}.get(index, rng.randrange(6) * 16 + rng.randrange(10))
                    commands.append(f"outb 0x71 {value:#x}")
                else:
                    commands.append("inb 0x71")
            with self.subTest(seed=seed):
                self.compare(commands, *self.BASE, intercept="ioapic")


class IoApic(QTestCase):
    BASE = 0xfec00000

    def registers(self):
        return [c for i in range(0x50)
                for c in (f"writel {self.BASE:#x} {i:#x}", f"readl {self.BASE + 16:#x}")]

    def test_after_reset(self):
        self.compare(self.registers() + [f"readl {self.BASE + o:#x}" for o in (0, 4, 8, 0x20, 0x40, 0x80)])

    def test_sizes(self):
        self.compare([f"write{s} {self.BASE:#x} 1" for s in "bwlq"] +
                     [f"read{s} {self.BASE + o:#x}" for s in "bwl" for o in (0, 16, 18)])

    def test_writable_bits(self):
        commands = []
        for value in (0xffffffff, 0, 0xa5a5a5a5):
            for index in (0, 1, 2, 3, 0x0f, 0x10, 0x11, 0x3e, 0x3f, 0x40, 0xff):
                commands += [f"writel {self.BASE:#x} {index:#x}",
                             f"writel {self.BASE + 16:#x} {value:#x}", f"readl {self.BASE + 16:#x}"]
        self.compare(commands)

    def test_edge_pins(self):
        """
        Edge pins, masked and not: what the entries then say. Level pins are another matter: Ferry's
        IOAPIC does not see the local APICs' end of interrupt, see hw/intc/ioapic.c.
        """
        for seed in range(4):
            rng = random.Random(seed)
            commands = []
            levels = [0] * 24
            for _ in range(200):
                pin = rng.randrange(3, 8)
                if rng.random() < 0.4:
                    entry = 0x30 + pin | rng.choice((0, 1 << 16))
                    commands += [f"writel {self.BASE:#x} {0x10 + 2 * pin:#x}",
                                 f"writel {self.BASE + 16:#x} {entry:#x}"]
                else:
                    levels[pin] ^= 1
                    commands.append(f"set_irq_in ioapic unnamed-gpio-in {pin} {levels[pin]}")
                commands += [f"writel {self.BASE:#x} {0x10 + 2 * pin:#x}", f"readl {self.BASE + 16:#x}"]
            with self.subTest(seed=seed):
                self.compare(commands)


class FwCfg(QTestCase):
    def read_item(self, qtest, key, size):
        qtest.outw(0x510, key)
        return bytes(qtest.inb(0x511) for _ in range(size))

    def directory(self, qtest):
        count = int.from_bytes(self.read_item(qtest, 0x19, 4), "big")
        raw = self.read_item(qtest, 0x19, 4 + 64 * count)[4:]
        files = {}
        for i in range(count):
            entry = raw[64 * i:64 * i + 64]
            name = entry[8:].rstrip(b"\0").decode()
            files[name] = (int.from_bytes(entry[:4], "big"), int.from_bytes(entry[4:6], "big"))
        return files

    # Ours are not QEMU's byte by byte; a unit test disassembles and checks them.
    OWN_CONTENT = {"etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader", "etc/fdt"}

    def compare_all(self, *extra, **options):
        qemu = self.boot_qemu(*extra, **options)
        ferry = self.boot(*extra, **options)
        for key in (0, 1, 2, 3, 4, 5, 0x0d, 0x0e, 0x0f, 0x10, 0x19, 0x8000, 0x8001, 0x8002, 0x8003):
            self.assertEqual(self.read_item(ferry, key, 64), self.read_item(qemu, key, 64), hex(key))
        want, have = self.directory(qemu), self.directory(ferry)
        self.assertEqual({n: k for n, (_, k) in have.items()}, {n: k for n, (_, k) in want.items()})
        for name, (size, key) in want.items():
            if name not in self.OWN_CONTENT:
                self.assertEqual(have[name][0], size, name)
                self.assertEqual(self.read_item(ferry, key, size), self.read_item(qemu, key, size), name)

    def test_items(self):
        self.compare_all("-smp", "3", "-uuid", "00112233-4455-6677-8899-aabbccddeeff", memory=48)

    def test_without_acpi(self):
        self.compare_all(machine="acpi=off")

    def test_ports(self):
        self.compare(["inb 0x510", "inw 0x510", "inb 0x511", "outw 0x510 0", "inb 0x511",
                      "inb 0x511", "inb 0x511", "inb 0x511", "inb 0x511", "inl 0x514", "inl 0x518",
                      "inw 0x516", "inb 0x514", "outw 0x510 0x7fff", "inb 0x511", "outw 0x510 0x19",
                      "inb 0x511", "outb 0x510 0", "inb 0x511", "outb 0x511 5", "inb 0x511"])
