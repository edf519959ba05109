# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of 1 to 16 vCPUs move with the state of every CPU and device that they watch."""

from ferrytest import DEVSTATE
from migrationcase import MigrationCase


class Smp(MigrationCase):
    def check(self, smp, arguments="", **options):
        src, dst = self.pair(guest=f"report=100 rate=5000 {DEVSTATE} {arguments}", smp=smp,
                             memory=32, **options)
        src.serial_line("DEV ok")
        self.assertEqual(src.guest.header("cpus"), smp)
        self.move_and_check(src, dst)
        checks = dst.guest.header("dev_checks")
        start = len(dst.serial())
        for _ in range(3):
            start = dst.serial_line("DEV ok", start).end()
        self.assertGreater(dst.guest.header("dev_checks"), checks)
        self.assertEqual((dst.guest.header("dev_bad"), dst.guest.complaints()), (0, []))
        # interrupts of every vCPU's own timer go on
        before = [c["ticks"] for c in dst.guest.box.cpus()]
        dst.guest.wait_ticks(3)
        self.assertTrue(all(c["ticks"] > n for c, n in zip(dst.guest.box.cpus(), before)))

    def test_1(self):
        self.check(1)

    def test_2(self):
        self.check(2)

    def test_4(self):
        self.check(4)

    def test_16(self):
        self.check(16)

    def test_timers(self):
        """
        Each way in which the local APIC's timer can run, and the PIT as the guest's only clock, so
        fast that an interrupt is nearly always on its way when the guest is stopped.
        """
        for timer in ("periodic", "oneshot", "tsc", "pit"):
            with self.subTest(timer=timer):
                src, dst = self.pair(guest=f"report=100 rate=1000 hz=2000 timer={timer}", smp=2)
                self.move_and_check(src, dst)
                dst.guest.wait_ticks(2)

    def test_x2apic(self):
        self.check(2, "x2apic=1")

    def test_without_kvm_clock(self):
        src, dst = self.pair(guest="report=100 rate=1000 pv=0", smp=2)
        self.move_and_check(src, dst)
