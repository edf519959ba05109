# SPDX-License-Identifier: GPL-2.0-or-later
"""
Timer and interrupt controllers of the PC. Under KVM they are in the kernel and no test reaches their
registers but the guest's own (its devstate=1 reads them back); under qtest they have a state for the
stream and no registers. What is left to see from here: that the options make them or leave them out.
"""

from ferrytest import DEVSTATE, TestCase
from sidebyside import QTestCase


class Stream(QTestCase):
    def sections(self, machine, **options):
        """Names of the device sections in a stream of this machine."""
        self.boot(machine=machine, **options)
        path = self.path(f"stream-{len(self.machines)}")
        self.vm.cmd("migrate", uri=f"exec:cat > {path}")
        self.vm.wait_state("postmigrate")
        self.vm.quit()
        with open(path, "rb") as f:
            data = f.read()
        # the description at the end is JSON with all of them
        at = data.rindex(b'{"')
        while not data[at:].startswith((b'{"page_size', b'{"configuration', b'{"devices')):
            at = data.rindex(b'{"', 0, at)
        text = data[at:]
        return [name for name in ("i8259", "i8254", "ioapic", "mc146818rtc", "serial", "acpi-ged")
                if b'"' + name.encode() + b'"' in text]

    def test_options(self):
        self.assertEqual(self.sections("pit=on,pic=on,rtc=on"),
                         ["i8259", "i8254", "ioapic", "mc146818rtc", "serial", "acpi-ged"])
        self.assertEqual(self.sections("pit=off,pic=on,rtc=off,acpi=off"),
                         ["i8259", "ioapic", "serial"])
        self.assertEqual(self.sections("pit=on,pic=off,rtc=off", serial=None),
                         ["i8254", "ioapic", "acpi-ged"])

    def test_no_registers_under_qtest(self):
        qtest = self.boot()
        self.assertEqual([qtest.inb(p) for p in (0x20, 0x21, 0x40, 0x43, 0xa0, 0xa1)], [0xff] * 6)

    def test_interrupt_lines(self):
        """Lines reach the inputs of both controllers, as the names of their inputs say."""
        qtest = self.boot()
        masters = self.vm.cmd("qom-list", path="/machine/unattached")
        self.assertTrue(masters)
        qtest.intercept("ioapic")
        for line in (0, 3, 15, 16, 23):
            qtest.cmd("set_irq_in", "ioapic", "unnamed-gpio-in", str(line), "1")
            qtest.cmd("set_irq_in", "ioapic", "unnamed-gpio-in", str(line), "0")
            self.assertEqual(qtest.take_irqs(), [("raise", line), ("lower", line)])


class Guest(TestCase):
    """The registers, as a guest reads and writes them."""

    def test_guest_reads_back(self):
        vm = self.ferry(guest=f"report=200 {DEVSTATE}", ram="shm", memory=16, smp=2,
                        machine="pit=on,pic=on,rtc=on,isa-serial=on")
        vm.guest.wait_ready()
        items = vm.serial_line("DEV items=").group(0)
        for item in ("pic", "pit", "ioapic"):
            self.assertIn(item, items)
        vm.serial_line("DEV ok")
        vm.guest.wait_ticks(3)
        vm.guest.check()
        self.assertGreater(vm.guest.header("dev_checks"), 3)
        self.assertEqual(vm.guest.header("dev_bad"), 0)
