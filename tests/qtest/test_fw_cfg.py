# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware configuration device: items through the ports and through DMA, and bad commands."""

import random

from sidebyside import QTestCase

SELECT, DATA, DMA = 0x510, 0x511, 0x514
SIGNATURE, RAM_SIZE, NB_CPUS, FILE_DIR = 0x00, 0x03, 0x05, 0x19
ERROR, READ, SKIP, SELECTS, WRITE = 1, 2, 4, 8, 16
COMMAND, BUFFER = 0x10000, 0x20000


class FwCfg(QTestCase):
    def item(self, key, size):
        self.vm.qtest.outw(SELECT, key)
        return bytes(self.vm.qtest.inb(DATA) for _ in range(size))

    def files(self):
        count = int.from_bytes(self.item(FILE_DIR, 4), "big")
        raw = self.item(FILE_DIR, 4 + 64 * count)[4:]
        entries = [raw[i:i + 64] for i in range(0, len(raw), 64)]
        return {e[8:].split(b"\0")[0].decode(): (int.from_bytes(e[:4], "big"), int.from_bytes(e[4:6], "big"))
                for e in entries}

    def dma(self, control, length, address, at=COMMAND, halves=True):
        """Starts a command and returns what it leaves in its control word."""
        qtest = self.vm.qtest
        qtest.write(at, control.to_bytes(4, "big") + length.to_bytes(4, "big") +
                    address.to_bytes(8, "big"))
        qtest.outl(DMA, int.from_bytes((at >> 32).to_bytes(4, "big"), "little"))
        qtest.outl(DMA + 4, int.from_bytes((at & 0xffffffff).to_bytes(4, "big"), "little"))
        return int.from_bytes(qtest.read(at, 4), "big")

    def test_items(self):
        self.boot("-smp", "3", memory=48)
        self.assertEqual(self.item(SIGNATURE, 6), b"QEMU\0\0")
        self.assertEqual(self.item(1, 4), b"\3\0\0\0")
        self.assertEqual(self.item(RAM_SIZE, 8), (48 << 20).to_bytes(8, "little"))
        self.assertEqual(self.item(NB_CPUS, 2), b"\3\0")
        for key in (0x06, 0x18, 0x3fff, 0x7fff, 0xbfff, 0xffff):
            self.assertEqual(self.item(key, 16), bytes(16), hex(key))

    def test_kernel_and_command_line(self):
        with open(self.path("initrd"), "wb") as f:
            f.write(b"initial ramdisk" * 100)
        from ferrytest.machine import guest_image
        self.boot("-kernel", guest_image("workload.elf"), "-append", "one two=3", "-initrd",
                  self.path("initrd"), memory=32)
        size = int.from_bytes(self.item(0x14, 4), "little")
        line = self.item(0x15, size)
        self.assertTrue(line.startswith(b"one two=3"), line)
        self.assertEqual(line[-1:], b"\0")
        self.assertEqual(int.from_bytes(self.item(0x0b, 4), "little"), 1500)
        self.assertEqual(self.item(0x12, 15), b"initial ramdisk")

    def test_files(self):
        self.boot()
        files = self.files()
        self.assertIn("etc/acpi/tables", files)
        self.assertEqual(list(files), sorted(files))
        size, key = files["etc/acpi/rsdp"]
        self.assertEqual(self.item(key, 8), b"RSD PTR ")
        size, key = files["etc/e820"]
        self.assertEqual(self.item(key, 16), bytes(8) + (16 << 20).to_bytes(8, "little"))

    def test_port_reads_go_on_at_the_end(self):
        self.boot()
        self.item(SIGNATURE, 4)
        self.assertEqual([self.vm.qtest.inb(DATA) for _ in range(3)], [0, 0, 0])
        self.vm.qtest.outb(SELECT, 5)  # no selection: a byte
        self.vm.qtest.outb(DATA, 5)
        self.assertEqual(self.item(SIGNATURE, 4), b"QEMU")

    def test_dma_read(self):
        self.boot()
        qtest = self.vm.qtest
        qtest.memset(BUFFER, 64, 0xee)
        self.assertEqual(self.dma(SIGNATURE << 16 | SELECTS | READ, 4, BUFFER), 0)
        self.assertEqual(qtest.read(BUFFER, 5), b"QEMU\xee")
        # past the end come zeros
        self.assertEqual(self.dma(SIGNATURE << 16 | SELECTS | READ, 8, BUFFER), 0)
        self.assertEqual(qtest.read(BUFFER, 9), b"QEMU\0\0\0\0\xee")
        # in pieces, without selecting anew
        self.assertEqual(self.dma(SIGNATURE << 16 | SELECTS | SKIP, 1, 0), 0)
        self.assertEqual(self.dma(READ, 2, BUFFER), 0)
        self.assertEqual(qtest.read(BUFFER, 2), b"EM")
        self.assertEqual(qtest.inb(DATA), ord("U"))

    def test_dma_reads_whole_files(self):
        self.boot(memory=32)
        for name, (size, key) in self.files().items():
            if not size:
                continue
            self.assertEqual(self.dma(key << 16 | SELECTS | READ, size, 0x100001), 0)
            self.assertEqual(self.vm.qtest.read(0x100001, min(size, 256)), self.item(key, min(size, 256)), name)

    def test_signature_of_dma(self):
        self.boot()
        self.assertEqual(self.vm.qtest.inl(DMA).to_bytes(4, "little"), b"QEMU")
        self.assertEqual(self.vm.qtest.inl(DMA + 4).to_bytes(4, "little"), b" CFG")

    def test_refused_commands(self):
        self.boot(memory=16)
        end = 16 << 20
        for name, control, length, address in (
                ("write", SELECTS | WRITE, 4, BUFFER),
                ("read to no memory", SELECTS | READ, 4, end),
                ("read across the end of memory", SELECTS | READ, 4, end - 2),
                ("read to device registers", SELECTS | READ, 4, 0xfec00000),
                ("read to an address that wraps", SELECTS | READ, 4, 0xfffffffffffffffe),
                ("read of 4 GiB", SELECTS | READ, 0xffffffff, 0)):
            with self.subTest(name):
                at = 0xe0000 if length == 0xffffffff else COMMAND
                self.assertEqual(self.dma(control, length, address, at=at) & ERROR, ERROR)
        self.assertEqual(self.item(SIGNATURE, 4), b"QEMU")

    def test_command_outside_memory(self):
        """Nothing says so to the guest; the machine goes on."""
        self.boot(memory=16)
        qtest = self.vm.qtest
        for at in (0, (16 << 20) - 8, 0xfec00000, 0xffffffffffffff00, 0xfffffffffffffff8):
            qtest.outl(DMA, int.from_bytes((at >> 32).to_bytes(4, "big"), "little"))
            qtest.outl(DMA + 4, int.from_bytes((at & 0xffffffff).to_bytes(4, "big"), "little"))
            self.assertEqual(self.vm.status(), "running")
        self.assertEqual(self.item(SIGNATURE, 4), b"QEMU")

    def test_random_commands(self):
        self.boot(memory=16)
        rng = random.Random(7)
        for _ in range(400):
            control = rng.choice((0, rng.randrange(32), rng.randrange(1 << 32)))
            length = rng.choice((0, 1, rng.randrange(1 << 12), rng.randrange(1 << 32)))
            address = rng.choice((BUFFER, rng.randrange(1 << 24), rng.randrange(1 << 64)))
            self.dma(control, length, address, at=rng.choice((COMMAND, rng.randrange(1 << 24))))
        self.assertEqual(self.vm.status(), "running")

    def test_reset_selects_the_signature(self):
        self.boot()
        self.item(NB_CPUS, 1)
        self.vm.cmd("system_reset")
        self.vm.qmp.wait_event("RESET")
        self.assertEqual(self.vm.qtest.inb(DATA), ord("Q"))

    def test_selection_moves(self):
        """The selected item and the offset in it go along to another machine."""
        self.boot()
        self.item(SIGNATURE, 2)
        stream = self.path("stream")
        self.vm.cmd("migrate", uri=f"exec:cat > {stream}")
        self.vm.wait_state("postmigrate")
        self.boot(incoming=f"exec:cat {stream}")
        self.vm.wait_state("running")
        self.assertEqual([self.vm.qtest.inb(DATA) for _ in range(2)], [ord("M"), ord("U")])
