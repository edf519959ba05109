# SPDX-License-Identifier: GPL-2.0-or-later
"""The real-time clock: registers, time, interrupts, its state. On the virtual clock of qtest."""

import calendar
import time

from ferrytest import TestCase

SECOND = 1000000000
IRQ = 8
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
BASE = "base=2020-02-28T23:59:50,clock=vm"


class Rtc(TestCase):
    def clock(self, rtc=BASE, **options):
        self.vm = self.ferry("-rtc", rtc, accel="qtest", qtest=True, **options)
        self.vm.qtest.intercept()
        return self.vm.qtest

    def get(self, reg):
        self.vm.qtest.outb(0x70, reg)
        return self.vm.qtest.inb(0x71)

    def put(self, reg, value):
        self.vm.qtest.outb(0x70, reg)
        self.vm.qtest.outb(0x71, value)

    def time(self):
        return [self.get(r) for r in (0x32, 9, 8, 7, 6, 4, 2, 0)]

    def test_power_on(self):
        self.clock()
        self.assertEqual([self.get(r) for r in (A, B, C, D)], [0x26, 0x02, 0, 0x80])
        self.assertEqual(self.time(), [0x20, 0x20, 0x02, 0x28, 6, 0x23, 0x59, 0x50])
        self.assertEqual(self.get(0x37), 0x20)
        self.assertEqual(self.vm.qtest.inb(0x70), 0xFF)

    def test_leap_day(self):
        qtest = self.clock()
        qtest.clock_step(10 * SECOND)
        self.assertEqual(self.time(), [0x20, 0x20, 0x02, 0x29, 7, 0, 0, 0])
        qtest.clock_step(86400 * SECOND)
        self.assertEqual(self.time(), [0x20, 0x20, 0x03, 0x01, 1, 0, 0, 0])

    def test_formats(self):
        self.clock()
        self.put(B, 0x06)
        self.assertEqual(self.time(), [20, 20, 2, 28, 6, 23, 59, 50])
        self.put(B, 0x04)
        self.assertEqual(self.get(4), 0x8B)
        self.put(B, 0x00)
        self.assertEqual(self.get(4), 0x91)
        self.put(4, 0x12)  # midnight
        self.put(B, 0x02)
        self.assertEqual(self.get(4), 0x00)

    def test_set_time(self):
        qtest = self.clock()
        self.put(B, 0x82)
        for reg, value in ((0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59),
                           (0, 0x58)):
            self.put(reg, value)
        qtest.clock_step(5 * SECOND)  # held
        self.assertEqual(self.get(0), 0x58)
        self.put(B, 0x02)
        self.assertEqual(self.time(), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58])
        qtest.clock_step(2 * SECOND)
        self.assertEqual(self.time(), [0x20, 0, 1, 1, 7, 0, 0, 0])

    def test_wild_time(self):
        qtest = self.clock()
        for b in (0x82, 0x86, 0x80):
            self.put(B, b)
            for reg in (0, 2, 4, 6, 7, 8, 9, 0x32):
                self.put(reg, 0xFF)
            self.put(B, b & 0x7F)
            qtest.clock_step(3 * SECOND)
            self.time()

    def test_update_in_progress(self):
        qtest = self.clock()
        self.assertEqual(self.get(A), 0x26)
        qtest.clock_step(SECOND - 200000)
        self.assertEqual(self.get(A), 0xA6)
        qtest.clock_step(200000)
        self.assertEqual(self.get(A), 0x26)

    def test_update_interrupt(self):
        qtest = self.clock()
        self.put(B, 0x12)
        self.get(C)
        qtest.take_irqs()
        for _ in range(3):
            qtest.clock_step(SECOND)
            self.assertEqual(qtest.take_irqs(), [("raise", IRQ)])
            self.assertEqual(self.get(C), 0x90)
            self.assertEqual(qtest.take_irqs(), [("lower", IRQ)])
            self.assertEqual(self.get(C), 0)

    def test_update_flag_without_interrupt(self):
        qtest = self.clock()
        qtest.clock_step(SECOND // 2)
        self.assertEqual(self.get(C), 0)
        qtest.clock_step(SECOND)
        self.assertEqual(self.get(C) & 0x90, 0x10)
        self.assertEqual(qtest.take_irqs(), [])

    def test_alarm(self):
        qtest = self.clock()
        for reg, value in ((1, 0x53), (3, 0x59), (5, 0x23)):
            self.put(reg, value)
        self.put(B, 0x22)
        qtest.clock_step(2 * SECOND)
        self.assertEqual(self.get(C) & 0xA0, 0)
        qtest.clock_step(SECOND)
        self.assertEqual(qtest.take_irqs()[-1], ("raise", IRQ))
        self.assertEqual(self.get(C) & 0xA0, 0xA0)

    def test_alarm_any(self):
        qtest = self.clock()
        for reg, value in ((1, 0x05), (3, 0xC0), (5, 0xFF)):
            self.put(reg, value)
        self.put(B, 0x22)
        for _ in range(3):  # at second 5 of each minute
            qtest.clock_step(14 * SECOND)
            self.assertEqual(self.get(C) & 0xA0, 0)
            qtest.clock_step(SECOND)
            self.assertEqual(self.get(C) & 0xA0, 0xA0)
            qtest.clock_step(45 * SECOND)
            self.get(C)

    def test_periodic(self):
        qtest = self.clock()
        self.put(A, 0x2A)  # 64 Hz
        self.put(B, 0x42)
        ticks = 0
        for _ in range(128):
            qtest.clock_step(SECOND // 64)
            if self.get(C) & 0x40:
                ticks += 1
        self.assertIn(ticks, (127, 128))
        self.put(B, 0x02)
        qtest.take_irqs()
        qtest.clock_step(SECOND)
        self.assertEqual(self.get(C) & 0x40, 0)
        self.assertEqual(qtest.take_irqs(), [])

    def test_fast_rates(self):
        qtest = self.clock()
        for rate, hz in ((1, 256), (2, 128), (3, 8192), (15, 2)):
            self.put(A, 0x20 | rate)
            self.put(B, 0x42)
            self.get(C)
            period = SECOND // hz
            qtest.clock_step(2 * period + 100000)  # aligned to the time base after this
            self.assertEqual(self.get(C) & 0xC0, 0xC0)
            self.put(B, 0x02)

    def test_lost_ticks_come_later(self):
        qtest = self.clock(BASE + ",driftfix=slew")
        self.put(A, 0x2A)
        self.put(B, 0x42)
        qtest.clock_step(5 * SECOND // 64 + 1000)  # nobody acknowledges
        ticks = 0
        while self.get(C) & 0x40:
            ticks += 1
        self.assertEqual(ticks, 5)

    def test_divider_reset(self):
        qtest = self.clock()
        self.put(A, 0x76)
        qtest.clock_step(10 * SECOND)
        self.assertEqual(self.get(0), 0x50)
        self.put(A, 0x26)
        qtest.clock_step(SECOND // 2 - 1000000)
        self.assertEqual(self.get(0), 0x50)
        qtest.clock_step(1000000)
        self.assertEqual(self.get(0), 0x51)

    def test_memory_size(self):
        for memory, want in ((16, {0x17: 0, 0x18: 0x3C, 0x34: 0, 0x35: 0}),
                             (100, {0x17: 0xFF, 0x18: 0xFF, 0x34: 0x40, 0x35: 0x05}),
                             (5120, {0x30: 0xFF, 0x31: 0xFF, 0x34: 0, 0x35: 0xBF, 0x5B: 0,
                                     0x5C: 0x80, 0x5D: 0})):
            with self.subTest(memory=memory):
                self.clock(memory=memory)
                want.update({0x15: 0x80, 0x16: 0x02})
                self.assertEqual({reg: self.get(reg) for reg in want}, want)

    def test_host_time(self):
        self.clock("base=utc")
        self.put(B, 0x06)
        c, y, mo, d, _, h, mi, s = self.time()
        shown = calendar.timegm((c * 100 + y, mo, d, h, mi, s))
        self.assertLess(abs(shown - time.time()), 3)

    def test_reset_keeps_time(self):
        qtest = self.clock()
        self.put(0, 0x30)
        self.put(0x40, 0x77)
        self.put(B, 0x72)
        self.vm.cmd("system_reset")
        self.vm.cmd("query-status")
        self.assertEqual([self.get(0), self.get(0x40), self.get(B)], [0x30, 0x77, 0x02])
        qtest.clock_step(2 * SECOND)
        self.assertEqual(self.get(C) & 0x80, 0)

    def test_state_moves(self):
        qtest = self.clock()
        for reg, value in ((1, 0x05), (3, 0x00), (5, 0x00), (0x7F, 0x42)):
            self.put(reg, value)
        self.put(A, 0x2F)
        self.put(B, 0x62)
        qtest.clock_step(SECOND // 4)
        stream = self.path("stream")
        self.vm.cmd("migrate", uri=f"exec:cat > {stream}")
        self.vm.wait_state("postmigrate")
        self.vm.quit()

        qtest = self.clock(incoming=f"exec:cat {stream}")
        self.vm.wait_state("running")
        self.assertEqual([self.get(r) for r in (1, 3, 5, 0x7F, A, B)],
                         [0x05, 0, 0, 0x42, 0x2F, 0x62])
        self.assertEqual(self.time(), [0x20, 0x20, 0x02, 0x28, 6, 0x23, 0x59, 0x50])
        qtest.clock_step(SECOND)
        self.assertEqual(self.get(C) & 0xC0, 0xC0)
        qtest.clock_step(15 * SECOND)
        self.assertEqual(self.get(C) & 0x20, 0x20)
        self.assertEqual(self.time(), [0x20, 0x20, 0x02, 0x29, 7, 0, 0, 0x06])
