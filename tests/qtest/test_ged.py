# SPDX-License-Identifier: GPL-2.0-or-later
"""The generic event device: power button, sleep and reset registers."""

from sidebyside import QTestCase

EVENTS = 0xfea00000
SLEEP_CONTROL, SLEEP_STATUS, RESET = 0xfea00200, 0xfea00201, 0xfea00202


class Ged(QTestCase):
    def test_power_button(self):
        qtest = self.boot()
        qtest.intercept()
        self.assertEqual(qtest.readl(EVENTS), 0)
        self.vm.cmd("system_powerdown")
        self.vm.qmp.wait_event("POWERDOWN")
        self.assertEqual(qtest.readl(EVENTS), 2)  # and reading clears it
        self.assertEqual(qtest.readl(EVENTS), 0)
        self.assertEqual(qtest.take_irqs(), [("raise", 9), ("lower", 9)])

    def test_power_button_is_kept(self):
        qtest = self.boot()
        for _ in range(3):
            self.vm.cmd("system_powerdown")
            self.vm.qmp.wait_event("POWERDOWN")
        self.assertEqual(qtest.readl(EVENTS), 2)
        self.vm.cmd("system_powerdown")
        self.vm.qmp.wait_event("POWERDOWN")
        self.vm.cmd("system_reset")
        self.vm.qmp.wait_event("RESET")
        self.assertEqual(qtest.readl(EVENTS), 0)

    def test_sleep_ends_the_machine(self):
        qtest = self.boot()
        for harmless in (0x00, 0x14, 0x20, 0x24, 0x3c):
            qtest.writeb(SLEEP_CONTROL, harmless)
        qtest.writeb(SLEEP_STATUS, 0x34)
        self.assertEqual(self.vm.status(), "running")
        qtest.writeb(SLEEP_CONTROL, 0x34)
        event = self.vm.qmp.wait_event("SHUTDOWN")
        self.assertEqual(event["data"], {"guest": True, "reason": "guest-shutdown"})
        self.vm.wait()

    def test_sleep_without_shutdown(self):
        qtest = self.boot("-no-shutdown")
        qtest.writeb(SLEEP_CONTROL, 0x34)
        self.vm.qmp.wait_event("SHUTDOWN")
        self.vm.wait_state("shutdown")

    def test_reset_register(self):
        qtest = self.boot(no_reboot=False)
        qtest.outb(0x3ff, 0x12)
        qtest.writeb(RESET, 0x41)
        self.assertEqual(qtest.inb(0x3ff), 0x12)
        qtest.writeb(RESET, 0x42)
        event = self.vm.qmp.wait_event("RESET")
        self.assertEqual(event["data"], {"guest": True, "reason": "guest-reset"})
        self.assertEqual(qtest.inb(0x3ff), 0)

    def test_reset_register_with_no_reboot(self):
        qtest = self.boot()
        qtest.writeb(RESET, 0x42)
        self.vm.qmp.wait_event("SHUTDOWN", guest=True, reason="guest-reset")
        self.vm.wait()

    def test_as_qemu(self):
        self.compare([f"read{s} {EVENTS + o:#x}" for s in "bw" for o in (0, 1)] + [f"readl {EVENTS:#x}"] +
                     [f"readb {a:#x}" for a in (SLEEP_CONTROL, SLEEP_STATUS, RESET)] +
                     [f"writeb {SLEEP_CONTROL:#x} 0x15", f"readb {SLEEP_CONTROL:#x}",
                      f"writel {EVENTS:#x} 0xff", f"readl {EVENTS:#x}"])

    def test_without_acpi(self):
        """The machine has no power button then; the event is all there is."""
        self.boot(machine="acpi=off")
        self.vm.cmd("system_powerdown")
        self.vm.qmp.wait_event("POWERDOWN")
        self.assertEqual(self.vm.status(), "running")
