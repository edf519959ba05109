# SPDX-License-Identifier: GPL-2.0-or-later
"""
The I/O APICs in user space: the only ones under qtest, and the second one always. What they send
shows in their redirection entries: an edge that waits, and "remote IRR" of a level that was sent.
"""

from sidebyside import QTestCase

FIRST, SECOND = 0xfec00000, 0xfec10000
PINS = 24
LEVEL, MASKED, REMOTE_IRR = 1 << 15, 1 << 16, 1 << 14


class IoApic(QTestCase):
    base = FIRST

    def setUp(self):
        self.boot()
        self.device = "ioapic"
        if self.base == SECOND:
            # its own path: it has no name on this machine
            self.device = self.second_path()

    def second_path(self):
        for child in self.vm.cmd("qom-list", path="/machine/unattached"):
            if child["type"] == "child<ioapic>":
                path = "/machine/unattached/" + child["name"]
                last = path
        return last

    def get(self, index):
        self.vm.qtest.writel(self.base, index)
        return self.vm.qtest.readl(self.base + 0x10)

    def put(self, index, value):
        self.vm.qtest.writel(self.base, index)
        self.vm.qtest.writel(self.base + 0x10, value)

    def entry(self, pin):
        return self.get(0x10 + 2 * pin) | self.get(0x11 + 2 * pin) << 32

    def program(self, pin, low, high=0):
        self.put(0x11 + 2 * pin, high)
        self.put(0x10 + 2 * pin, low)

    def line(self, pin, level):
        self.vm.qtest.cmd("set_irq_in", self.device, "unnamed-gpio-in", str(pin), str(level))

    def test_registers(self):
        self.assertEqual(self.get(0), 0)
        self.assertEqual(self.get(1), 0x170020)
        self.put(0, 0x5fffffff)
        self.assertEqual(self.get(0), 0xf000000)
        self.put(1, 0)
        self.assertEqual(self.get(1), 0x170020)
        self.assertEqual([self.entry(pin) for pin in range(PINS)], [MASKED] * PINS)
        self.assertEqual(self.get(0x40), 0)

    def test_read_only_bits(self):
        self.program(3, 0xffffffff, 0xffffffff)
        self.assertEqual(self.entry(3) & (REMOTE_IRR | 1 << 12), 0)

    def test_level(self):
        self.program(5, 0x35 | LEVEL)
        self.line(5, 1)
        self.assertEqual(self.entry(5), 0x35 | LEVEL | REMOTE_IRR)
        self.line(5, 0)
        self.assertEqual(self.entry(5), 0x35 | LEVEL)

    def test_level_masked(self):
        self.program(5, 0x35 | LEVEL | MASKED)
        self.line(5, 1)
        self.assertEqual(self.entry(5), 0x35 | LEVEL | MASKED)
        self.program(5, 0x35 | LEVEL)  # still high
        self.assertEqual(self.entry(5), 0x35 | LEVEL | REMOTE_IRR)
        self.program(5, 0x35 | LEVEL | MASKED)
        self.line(5, 0)
        self.program(5, 0x35 | LEVEL)
        self.assertEqual(self.entry(5), 0x35 | LEVEL)

    def test_eoi_register(self):
        self.program(5, 0x35 | LEVEL)
        self.program(6, 0x36 | LEVEL)
        self.line(5, 1)
        self.line(6, 1)
        self.program(5, 0x35 | LEVEL | MASKED)
        self.vm.qtest.writel(self.base + 0x40, 0x35)
        self.assertEqual(self.entry(5), 0x35 | LEVEL | MASKED)
        self.assertEqual(self.entry(6), 0x36 | LEVEL | REMOTE_IRR)
        # a line that is still high interrupts anew
        self.vm.qtest.writel(self.base + 0x40, 0x36)
        self.assertEqual(self.entry(6), 0x36 | LEVEL | REMOTE_IRR)

    def test_edge_has_no_remote_irr(self):
        self.program(7, 0x37)
        self.line(7, 1)
        self.assertEqual(self.entry(7), 0x37)
        self.line(7, 0)

    def test_every_pin(self):
        for pin in range(PINS):
            self.program(pin, 0x30 + pin | LEVEL, pin << 24)
        for pin in range(PINS):
            # ISA interrupt 0 comes in at pin 2 of the first one
            expect = 2 if pin == 0 and self.base == FIRST else pin
            self.line(pin, 1)
            self.assertTrue(self.entry(expect) & REMOTE_IRR, pin)
            self.line(pin, 0)
            self.assertFalse(self.entry(expect) & REMOTE_IRR, pin)

    def test_reset(self):
        self.put(0, 0x3000000)
        self.program(5, 0x35 | LEVEL)
        self.line(5, 1)
        self.vm.cmd("system_reset")
        self.vm.qmp.wait_event("RESET")
        self.assertEqual(self.entry(5), MASKED)
        self.assertEqual(self.get(0), 0)

    def test_state_moves(self):
        """Entries, a masked edge and a level go along."""
        self.put(0, 0x3000000)
        self.program(4, 0x34 | MASKED, 1 << 24)
        self.program(5, 0x35 | LEVEL)
        self.program(6, 0x36 | LEVEL | MASKED)
        self.line(4, 1)
        self.line(5, 1)
        self.line(6, 1)
        before = [self.entry(pin) for pin in range(PINS)]
        stream = self.path("stream")
        self.vm.cmd("migrate", uri=f"exec:cat > {stream}")
        self.vm.wait_state("postmigrate")
        self.boot(incoming=f"exec:cat {stream}")
        self.vm.wait_state("running")
        self.assertEqual([self.entry(pin) for pin in range(PINS)], before)
        self.assertEqual(self.get(0), 0x3000000)
        # the level that was high when its entry was masked
        self.program(6, 0x36 | LEVEL)
        self.assertEqual(self.entry(6), 0x36 | LEVEL | REMOTE_IRR)


class Second(IoApic):
    """All of it again for the second one, whose lines are 24 to 47 of the machine."""

    base = SECOND

    def test_first_is_left_alone(self):
        self.vm.qtest.writel(FIRST, 0x10 + 2 * 5)
        self.vm.qtest.writel(FIRST + 0x10, 0x35 | LEVEL)
        self.line(5, 1)
        self.assertEqual(self.vm.qtest.readl(FIRST + 0x10), 0x35 | LEVEL)

    def test_intercepted(self):
        self.vm.qtest.intercept(self.device)
        self.line(5, 1)
        self.line(5, 0)
        self.assertEqual(self.vm.qtest.take_irqs(), [("raise", 5), ("lower", 5)])
        self.vm.qtest.cmd("set_irq_in", "ioapic", "unnamed-gpio-in", "5", "1")
        self.assertEqual(self.vm.qtest.take_irqs(), [])
