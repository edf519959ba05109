# SPDX-License-Identifier: GPL-2.0-or-later
"""The qtest server itself: every command, and input that is none."""

import random

from ferrytest import Qmp, QTest, QTestError
from sidebyside import FULL, QTestCase, answer, answers

GOOD = [
    "outb 0x3ff 0x55", "inb 0x3ff", "inb 0x3ff extra", "outb 0x3ff 0x1ff", "inb 0x3ff",
    "inw 0x3ff", "inl 0x3ff", "inb 1023", "inb 01777",
    "writeb 0x1000 0x12", "readb 0x1000", "writew 0x1000 0x1234", "readw 0x1000",
    "writel 0x1000 0x12345678", "readl 0x1000", "writeq 0x1000 0x1122334455667788", "readq 0x1000",
    "readb 0x1001", "readw 0x1001", "readl 0x1003", "readq 0xffe",
    "read 0x1000 8", "read 0x1000 0x8", "write 0x1000 4 0x01020304", "read 0x1000 8",
    # data of another length than the length says
    "write 0x1000 4 0x0a0B", "read 0x1000 8", "write 0x1000 2 0xffffffff", "read 0x1000 8",
    "b64read 0x1000 8", "b64read 0x1000 0", "b64read 0x1000 7", "b64write 0x1000 4 AQIDBA==",
    "read 0x1000 8", "memset 0x1000 5 0x155", "read 0x1000 8", "memset 0x1000 0 0x55",
    "read 0x1000 8", "endianness", "bogus", "BOGUS 1 2 3", " ", "  inb 0x3ff", "inb\t0x3ff",
    "irq_intercept_in nonexist", "irq_intercept_out nonexist", "irq_intercept_in ioapic",
    "irq_intercept_in /machine/unattached/device[0]", "irq_intercept_out ioapic",
    "outb 0x3fc 8", "outb 0x3f9 2", "outb 0x3f9 2", "outb 0x3f9 0",
    "set_irq_in ioapic unnamed-gpio-in 5 1", "set_irq_in ioapic unnamed-gpio-in 5 1",
    "set_irq_in ioapic unnamed-gpio-in 5 0", "set_irq_in nonexist unnamed-gpio-in 5 0",
]

# QEMU's server aborts at these.
BAD = [
    "inb", "inb zz", "inb 0x", "inb 0x1g", "inb 0x10000", "inw 0xffff", "inl 0xfffd", "outb 0x3ff",
    "outb 0x3ff zz", "outb", "writeb 0x1000", "writeb", "readb", "readb 0x10000000000000000",
    "read", "read 0x1000", "read 0x1000 0", "read 0x1000 -1", "read 0x1000 0x7fffffffffffffff",
    "read 0xfffffffffffffff0 0x20", "write 0x1000 4", "write 0x1000 0 0x", "write 0x1000 4 0102",
    "write 0x1000 4 0xzz", "write 0x1000 4 0x123", "b64read 0x1000", "b64read 0x1000 -1",
    "b64write 0x1000 4", "b64write 0x1000 4 AQID", "b64write 0x1000 4 !!!!", "memset 0x1000 8",
    "memset 0x1000 -1 0", "memset 0x1000 0xffffffffffff 0", "", "inb  0x3ff", "irq_intercept_in",
    "irq_intercept_out", "set_irq_in", "set_irq_in ioapic foo 5 0",
    "set_irq_in ioapic unnamed-gpio-in 24 1", "set_irq_in ioapic unnamed-gpio-in -1 1",
    "set_irq_in ioapic  5 1", "clock_step -5", "clock_step x", "clock_set", "clock_set x",
    "clock_set 0x8000000000000000", "clock_step 0x7fffffffffffffff0", "module_load a b", "rtas x",
]


class Commands(QTestCase):
    def test_as_qemu(self):
        answers = self.compare(GOOD)
        self.assertEqual(answers[1], "0x0055")
        self.assertIn(("", [("raise", 4)]), answers)
        self.assertIn(("", [("lower", 5)]), answers)

    def test_refused(self):
        qtest = self.boot()
        for command in BAD:
            with self.subTest(command=command):
                self.assertRegex(answer(qtest, command), "^FAIL [A-Z']")
        self.assertEqual(qtest.inb(0x3f9), 0)

    def test_all_sizes_of_data(self):
        qtest = self.boot()
        rng = random.Random(1)
        for length in (1, 2, 3, 4095, 4097, 100000, 1 << 20):
            data = rng.randbytes(length)
            qtest.write(0x100001, data)
            self.assertEqual(qtest.b64read(0x100001, length), data)
            qtest.memset(0x100001, length, 0)
            qtest.b64write(0x100001, data)
            self.assertEqual(qtest.read(0x100001, length), data)

    def test_memory_map_edges(self):
        qtest = self.boot(memory=16)
        end = 16 << 20
        qtest.write(end - 4, b"abcdefgh")  # the second half is dropped
        self.assertEqual(qtest.read(end - 4, 4), b"abcd")
        # the firmware is mapped twice
        self.assertEqual(qtest.read(0xffff0, 16), qtest.read(0xfffffff0, 16))
        self.assertNotEqual(qtest.read(0xffff0, 16), bytes(16))
        self.assertEqual(answer(qtest, "readb 0xffffffffffffffff")[:2], "0x")
        self.assertEqual(answer(qtest, "readq 0xfffffffffffffffc")[:2], "0x")


class Clock(QTestCase):
    def test_step(self):
        qtest = self.boot(machine="rtc=off,pit=off,pic=off")
        start = qtest.clock_step(0)
        self.assertEqual(qtest.clock_step(1000), start + 1000)
        self.assertEqual(qtest.clock_step(0x10), start + 1016)
        # no timer is armed: the next deadline is now
        self.assertEqual(qtest.clock_step(), start + 1016)
        self.assertEqual(qtest.clock_set(start + 5000), start + 5000)
        # never backwards
        self.assertEqual(qtest.clock_set(start), start + 5000)

    def test_step_to_deadline(self):
        """Without a number the step goes to the first timer: here the end of the RTC's second."""
        qtest = self.boot("-rtc", "base=2024-01-01T00:00:00,clock=vm")
        qtest.intercept()
        qtest.outb(0x70, 0x0b)
        qtest.outb(0x71, 0x12)
        now = qtest.clock_step(0)
        at = qtest.clock_step()
        self.assertEqual(at - now, 1000000000 - now % 1000000000)
        self.assertEqual(qtest.take_irqs(), [("raise", 8)])

    def test_only_with_qtest_accel(self):
        vm = self.ferry(accel="kvm", paused=True, qtest=True, serial="null", machine=FULL)
        self.assertEqual(answer(vm.qtest, "clock_step"), "FAIL Unknown command 'clock_step'")
        self.assertEqual(answer(vm.qtest, "clock_set 5"), "FAIL Unknown command 'clock_set'")


class Robustness(QTestCase):
    def test_garbage(self):
        qtest = self.boot()
        rng = random.Random(2)
        for _ in range(200):
            data = rng.randbytes(rng.randrange(300))
            lines = data.count(b"\n") + 1
            qtest.send_raw(data + b"\n")
            for _ in range(lines):
                self.assertTrue(qtest.read_line().startswith("FAIL "))
        self.assertEqual(qtest.cmd("endianness"), "little")

    def test_words_of_garbage(self):
        """Commands that exist with arguments that do not fit never end the process."""
        names = sorted({c.split(" ")[0] for c in GOOD + BAD if c.strip()} - {"clock_step", "clock_set"})
        words = ["0", "1", "-1", "0x10", "0xffff", "0xfec00000", "0xffffffffffffffff", "65536",
                 "x", "", "0xzz", "ioapic", "/", "unnamed-gpio-in", "AAAA", "0x00", "%s%n", "a" * 5000]
        qtest = self.boot(memory=16)
        rng = random.Random(3)
        lines = [" ".join([rng.choice(names)] + rng.choices(words, k=rng.randrange(5)))
                 for _ in range(1500)]
        self.assertEqual(len(answers(qtest, lines)), len(lines))
        self.assertEqual(self.vm.status(), "running")

    def test_line_too_long(self):
        qtest = self.boot()
        chunk = b"a" * (1 << 20)
        for _ in range(40):
            qtest.send_raw(chunk)
        qtest.send_raw(b" inb 0x3ff\nendianness\n")
        self.assertEqual(qtest.read_line(), "FAIL Line is too long")
        self.assertEqual(qtest.read_line(), "OK little")

    def test_longest_data(self):
        qtest = self.boot(memory=32)
        data = bytes(range(256)) * (16 << 12)
        qtest.write(0x800000, data)
        self.assertEqual(qtest.read(0x800000, len(data)), data)
        self.assertRegex(answer(qtest, f"read 0x800000 {len(data) + 1}"), "^FAIL")

    def test_many_commands_at_once(self):
        qtest = self.boot()
        qtest.send_raw(b"inb 0x3ff\n" * 5000)
        for _ in range(5000):
            self.assertEqual(qtest.read_line(), "OK 0x0000")

    def test_client_that_does_not_read(self):
        """Its commands wait; the machine does not."""
        qtest = self.boot(memory=32)
        qtest.send_raw(b"read 0x100000 0x100000\n" * 20 + b"endianness\n")
        self.assertEqual(self.vm.status(), "running")
        for _ in range(20):
            self.assertEqual(len(qtest.read_line()), 5 + (2 << 20))
        self.assertEqual(qtest.read_line(), "OK little")

    def test_client_goes_and_another_comes(self):
        path = self.path("q")
        vm = self.ferry("-qtest", f"unix:{path},server=on,wait=off", accel="qtest", serial="null",
                        machine=FULL)
        first = QTest(vm.connect_to(path))
        self.assertEqual(first.cmd("outb", 0x3ff, 0x11), "")
        first.send_raw(b"read 0x100000 0x100000\n" * 20 + b"outb 0x3ff")  # and no more
        first.close()
        second = QTest(vm.connect_to(path))
        self.assertEqual(second.inb(0x3ff), 0x11)
        second.intercept()
        second.outb(0x3f9, 2)
        self.assertEqual(second.take_irqs(), [("raise", 4)])

    def test_log(self):
        qtest = self.boot()
        qtest.outb(0x3ff, 1)
        qtest.cmd("endianness")
        log = self.vm.read_log(".qtestlog")
        self.assertRegex(log, r"\A\[I \d\.\d{6}\] OPENED\n\[R \+\d+\.\d{6}\] outb 0x3ff 0x1\n"
                              r"\[S \+\d+\.\d{6}\] OK\n\[R \+\d+\.\d{6}\] endianness\n"
                              r"\[S \+\d+\.\d{6}\] OK little\n\Z")


class BesideKvm(QTestCase):
    def test_running_guest(self):
        """qtest answers while a guest runs, and both see the same memory."""
        vm = self.ferry(guest="report=200", ram="shm", qtest=True, machine=FULL)
        vm.guest.wait_ready()
        magic = vm.qtest.readq(0x200000)
        self.assertEqual(magic.to_bytes(8, "little"), b"FERRYMB1")
        vm.qtest.writeb(0x9f000, 0x77)
        self.assertEqual(vm.guest.box.memory[0x9f000], 0x77)
        vm.guest.check()
