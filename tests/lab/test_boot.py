# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's cloud kernel boots and works, with ACPI and without."""

from labcase import LabCase, long

TICKER = "ticker 50 500 &"


class Boot(LabCase):
    def boots(self, **options):
        vm = self.machine(job=TICKER, **options).wait_up()
        tick = self.check_well(vm)
        self.assertEqual(int(tick["cpus"]), options.get("smp", 1))
        vm.type("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
        vm.line("kvm-clock")
        return vm

    def test_one_cpu(self):
        vm = self.boots()
        vm.quit()

    @long
    def test_two_cpus(self):
        self.boots(smp=2)

    def test_without_acpi(self):
        # With the features of an emulated host, Linux without ACPI gets no timer interrupt through an
        # in-kernel PIC of the emulator's version 10, QEMU's kernel-irqchip=on included.
        self.boots(machine="rtc=on,acpi=off", cpu="qemu64")
