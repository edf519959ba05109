# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of virtio-mmio, both versions, with a virtio-rng behind them."""

import random

from ferrytest import wait_for
from ferrytest.virtio import (
    ACKNOWLEDGE, CONFIG, CONFIG_GENERATION, DEVICE_FEATURES, DEVICE_FEATURES_SEL, DEVICE_ID, DRIVER,
    DRIVER_FEATURES, DRIVER_FEATURES_SEL, DRIVER_OK, EVENT_IDX, FAILED, FEATURES_OK,
    GUEST_PAGE_SIZE, INDIRECT_DESC, INTERRUPT_ACK, INTERRUPT_STATUS, MAGIC, NEEDS_RESET,
    QUEUE_ALIGN, QUEUE_AVAIL, QUEUE_DESC, QUEUE_NOTIFY, QUEUE_NUM, QUEUE_NUM_MAX, QUEUE_PFN,
    QUEUE_READY, QUEUE_SEL, QUEUE_USED, STATUS, VENDOR, VERSION, VERSION_1, VirtioMmio, slot)
from sidebyside import QTestCase

RNG = ("-device", "virtio-rng-device")
MODERN = ("-global", "virtio-mmio.force-legacy=off")
GSI = 12  # of the highest slot without ACPI


class MmioCase(QTestCase):
    legacy = True

    def start(self, *extra, machine="acpi=off", **options):
        self.vm = self.ferry(*RNG, *extra, *(() if self.legacy else MODERN), accel="qtest",
                             qtest=True, machine=machine, **options)
        self.qtest = self.vm.qtest
        self.base = slot(0, 8 if machine == "acpi=off" else 24)
        self.device = VirtioMmio(self.qtest, self.base, self.legacy)
        return self.device

    def one(self, queue, size=8):
        """A request, answered."""
        queue.add([(queue.memory.take(size), size, True)])
        queue.kick()
        self.assertEqual(queue.wait()[1], size)


class Common(MmioCase):
    """What both versions have, on version 1; Modern below runs it on version 2."""

    def test_identity(self):
        d = self.start()
        self.assertEqual([d.read(r) for r in (MAGIC, VERSION, DEVICE_ID, VENDOR)],
                         [0x74726976, 1 if self.legacy else 2, 4, 0x554d4551])

    def test_status(self):
        d = self.start()
        for value in (ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | FAILED, 0x10):
            d.write(STATUS, value)
            self.assertEqual(d.status(), value)
        d.write(STATUS, 0x100)  # eight bits: a reset
        self.assertEqual(d.status(), 0)

    def test_queue_size(self):
        d = self.start()
        for queue, size in ((0, 1024), (1, 0), (1023, 0)):
            d.write(QUEUE_SEL, queue)
            self.assertEqual(d.read(QUEUE_NUM_MAX), size)
        d.write(QUEUE_SEL, 0)
        d.write(QUEUE_SEL, 1024)  # there is none: the old choice stays
        self.assertEqual(d.read(QUEUE_NUM_MAX), 1024)

    def test_narrow_and_unaligned_accesses(self):
        d = self.start()
        d.write(STATUS, ACKNOWLEDGE)
        for offset in (MAGIC, STATUS, STATUS + 1, QUEUE_NUM_MAX + 2):
            self.assertEqual(self.qtest.readb(self.base + offset), 0)
            self.assertEqual(self.qtest.readw(self.base + offset), 0)
        self.assertEqual(self.qtest.readl(self.base + STATUS + 2), 0)
        self.qtest.writeb(self.base + STATUS, 0)
        self.qtest.writew(self.base + STATUS, 0)
        self.qtest.writel(self.base + STATUS + 1, 0)
        self.assertEqual(d.status(), ACKNOWLEDGE)

    def test_eight_bytes(self):
        """Are two registers."""
        d = self.start()
        self.assertEqual(self.qtest.readq(self.base + MAGIC), d.read(VERSION) << 32 | 0x74726976)

    def test_read_only_and_write_only(self):
        d = self.start()
        for register in (MAGIC, VERSION, DEVICE_ID, VENDOR, DEVICE_FEATURES, QUEUE_NUM_MAX,
                         INTERRUPT_STATUS):
            before = d.read(register)
            d.write(register, 0xFFFFFFFF)
            self.assertEqual(d.read(register), before)
        for register in (DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL, QUEUE_SEL,
                         QUEUE_NUM, QUEUE_NOTIFY, INTERRUPT_ACK, GUEST_PAGE_SIZE, QUEUE_ALIGN,
                         QUEUE_DESC, QUEUE_AVAIL, QUEUE_USED):
            self.assertEqual(d.read(register), 0)

    def test_no_configuration_space(self):
        d = self.start()
        for offset in (0, 4, 0xFC):
            self.assertEqual(d.read(CONFIG + offset), 0xFFFFFFFF)
        self.assertEqual(self.qtest.readb(self.base + CONFIG), 0xFF)
        self.assertEqual(self.qtest.readw(self.base + CONFIG + 2), 0xFFFF)
        d.write(CONFIG, 1)
        self.assertEqual(d.read(CONFIG), 0xFFFFFFFF)

    def test_interrupt(self):
        d = self.start()
        self.qtest.intercept()
        d.start()
        queue = d.add_queue(0)
        d.driver_ok()
        self.qtest.take_irqs()
        self.one(queue)
        self.assertEqual(d.wait_interrupt(), 1)
        self.assertEqual(self.qtest.take_irqs(), [("raise", GSI), ("lower", GSI)])
        # two answers, one interrupt; an acknowledge of nothing does nothing
        self.one(queue)
        self.one(queue)
        d.write(INTERRUPT_ACK, 0)
        self.assertEqual(d.read(INTERRUPT_STATUS), 1)
        d.write(INTERRUPT_ACK, 0xFFFFFFFF)
        d.write(INTERRUPT_ACK, 1)
        self.assertEqual(d.read(INTERRUPT_STATUS), 0)
        irqs = self.qtest.take_irqs()
        self.assertEqual((irqs[0], irqs[-1]), (("raise", GSI), ("lower", GSI)))
        self.assertEqual(irqs.count(("raise", GSI)), 1)

    def test_second_ioapic(self):
        """With ACPI the interrupt is one of the second IOAPIC's."""
        d = self.start(machine="")
        d.start()
        self.one_queue = d.add_queue(0)
        d.driver_ok()
        self.one(self.one_queue)
        self.assertEqual(d.wait_interrupt(), 1)

    def test_notification_of_no_queue(self):
        d = self.start()
        d.start()
        queue = d.add_queue(0)
        d.driver_ok()
        queue.add([(queue.memory.take(8), 8, True)])
        for number in (1, 0xFFFF, 0xFFFFFFFF):
            d.write(QUEUE_NOTIFY, number)
        self.assertIsNone(queue.poll())
        queue.kick()
        queue.wait()

    def test_reset(self):
        d = self.start()
        d.start(1 << EVENT_IDX)
        queue = d.add_queue(0)
        d.driver_ok()
        self.one(queue)
        d.write(STATUS, 0)
        self.assertEqual([d.read(r) for r in (STATUS, INTERRUPT_STATUS, QUEUE_PFN, QUEUE_READY)],
                         [0] * 4)
        # what is offered now is not looked at
        queue.add([(queue.memory.take(8), 8, True)])
        queue.kick()
        self.assertIsNone(queue.poll())
        d.start()
        self.one(d.add_queue(0)) if self.legacy else None
        d.driver_ok()
        if not self.legacy:
            self.one(d.add_queue(0))

    def test_machine_reset(self):
        d = self.start(qmp=True)
        d.start()
        queue = d.add_queue(0)
        d.driver_ok()
        self.one(queue)
        self.vm.qmp.cmd("system_reset")
        wait_for("the reset", lambda: d.status() == 0)
        self.assertEqual(d.read(INTERRUPT_STATUS), 0)

    def test_bad_queue_size(self):
        for size in (0, 3, 2048, 0x80000000, 0x10008):
            d = self.start()
            d.start()
            d.write(QUEUE_SEL, 0)
            d.write(QUEUE_NUM, size)
            wait_for("the complaint", lambda: f"cannot have {size} entries" in self.vm.stderr())
            if not self.legacy:
                self.assertTrue(d.is_broken())
                self.assertEqual(d.status() & NEEDS_RESET, NEEDS_RESET)
            d.start()
            queue = d.add_queue(0)
            d.driver_ok()
            self.one(queue)

    def test_any_queue_size(self):
        d = self.start()
        for size in (1, 2, 512, 1024):
            d.start()
            queue = d.add_queue(0, size)
            d.driver_ok()
            self.one(queue)
            self.one(queue)

    def test_random_accesses(self):
        """Nothing that a guest writes here does harm."""
        d = self.start()
        for seed in range(5):
            rng = random.Random(seed)
            for _ in range(400):
                offset = rng.choice((rng.randrange(0, 0x200), rng.randrange(0, 0x30) * 4, STATUS,
                                     QUEUE_SEL, QUEUE_NUM, QUEUE_PFN, QUEUE_READY, QUEUE_NOTIFY))
                value = rng.choice((0, 1, 2, 4, 8, 0x100, 0x1000, rng.randrange(1 << 32)))
                rng.choice((self.qtest.writeb, self.qtest.writew, self.qtest.writel,
                            self.qtest.writeq))(self.base + offset, value)
                self.qtest.readl(self.base + (offset & ~3))
        d.start()
        queue = d.add_queue(0)
        d.driver_ok()
        self.one(queue)


class Legacy(MmioCase):
    def test_features(self):
        d = self.start()
        self.assertEqual(d.device_features(), 0x39000000)
        d.write(DRIVER_FEATURES_SEL, 0)
        d.write(DRIVER_FEATURES, 0xFFFFFFFF)  # what was not offered is not taken
        d.write(DRIVER_FEATURES_SEL, 1)
        d.write(DRIVER_FEATURES, 0xFFFFFFFF)
        self.assertEqual(d.device_features(), 0x39000000)

    def test_page_size(self):
        d = self.start()
        for size, pfn in ((4096, 0x200), (0x10000, 0x20), (1, 0x200000), (0x3000, 0x200)):
            d.start()
            d.write(GUEST_PAGE_SIZE, size)
            d.write(QUEUE_SEL, 0)
            d.write(QUEUE_NUM, 8)
            d.write(QUEUE_PFN, pfn)
            self.assertEqual(d.read(QUEUE_PFN), pfn)

    def test_set_twice(self):
        """A ring stays where it is until a reset."""
        d = self.start()
        d.start()
        queue = d.add_queue(0)
        d.write(QUEUE_PFN, 0x900)
        d.write(QUEUE_NUM, 256)
        d.write(QUEUE_ALIGN, 8)
        self.assertEqual(d.read(QUEUE_PFN), queue.desc // 4096)
        d.driver_ok()
        self.one(queue)

    def test_pfn_zero(self):
        """Lets the device go: a reset."""
        d = self.start()
        d.start()
        d.add_queue(0)
        d.driver_ok()
        d.write(QUEUE_PFN, 0)
        self.assertEqual((d.status(), d.read(QUEUE_PFN)), (0, 0))

    def test_early_driver(self):
        """Legacy drivers may use queues before DRIVER_OK."""
        d = self.start()
        d.start()
        self.one(d.add_queue(0))

    def test_ring_not_in_memory(self):
        for pfn in (0xFEB00, 0x1000 - 1, 0xFFFFFFFF, 0xA0000):
            d = self.start()
            d.start()
            d.write(QUEUE_SEL, 0)
            d.write(QUEUE_NUM, 1024)
            d.write(QUEUE_PFN, pfn)
            wait_for("the complaint", lambda: "is not in memory" in self.vm.stderr())

    def test_alignment(self):
        for align in (0, 3, 4097):
            d = self.start()
            d.start()
            d.write(QUEUE_SEL, 0)
            d.write(QUEUE_ALIGN, align)
            wait_for("the complaint", lambda: f"aligned to {align} bytes" in self.vm.stderr())
        d.start()
        d.write(QUEUE_SEL, 0)
        d.write(QUEUE_NUM, 8)
        d.write(QUEUE_ALIGN, 2)  # the used ring needs four
        d.write(QUEUE_PFN, 0x100)
        wait_for("the complaint", lambda: "is not aligned" in self.vm.stderr())

    def test_as_qemu(self):
        """Every register, before and after a driver came."""
        commands = []
        base = slot(0)
        read = [f"readl {base + r:#x}" for r in range(0, 0x120, 4)]
        read += [f"read{s} {base + r:#x}" for s in "bw" for r in (0, 2, STATUS, 0xFC, 0x100)]
        for register, value in ((STATUS, 1), (STATUS, 3), (DRIVER_FEATURES_SEL, 0),
                                (DRIVER_FEATURES, 0xFFFFFFFF), (GUEST_PAGE_SIZE, 4096),
                                (QUEUE_SEL, 1), (QUEUE_SEL, 0), (QUEUE_NUM, 64),
                                (QUEUE_ALIGN, 4096), (QUEUE_PFN, 0x100), (STATUS, 7),
                                (DEVICE_FEATURES_SEL, 1), (DEVICE_FEATURES_SEL, 5),
                                (INTERRUPT_ACK, 1), (QUEUE_READY, 1), (QUEUE_DESC, 0x1000),
                                (STATUS, 0)):
            commands += read + [f"writel {base + register:#x} {value:#x}"]
        self.compare(commands + read, *RNG)


class Modern(Common):
    legacy = False

    def test_features(self):
        d = self.start()
        self.assertEqual(d.device_features(), 1 << VERSION_1 | 1 << INDIRECT_DESC | 1 << EVENT_IDX)

    def accepted(self, features):
        d = self.device
        d.write(STATUS, 0)
        d.write(STATUS, ACKNOWLEDGE | DRIVER)
        d.write_features(features)
        d.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return bool(d.status() & FEATURES_OK)

    def test_negotiation(self):
        self.start()
        self.assertTrue(self.accepted(1 << VERSION_1))
        self.assertTrue(self.accepted(1 << VERSION_1 | 1 << EVENT_IDX))
        self.assertFalse(self.accepted(0))
        self.assertFalse(self.accepted(1 << EVENT_IDX))
        self.assertFalse(self.accepted(1 << VERSION_1 | 1 << 5))
        self.assertFalse(self.accepted(1 << VERSION_1 | 1 << 63))

    def test_features_are_final(self):
        d = self.start()
        d.start(1 << INDIRECT_DESC)
        d.write_features(1 << VERSION_1)
        queue = d.add_queue(0)
        d.driver_ok()
        queue.add([(queue.memory.take(8), 8, True)], indirect=True)
        queue.kick()
        queue.wait()

    def test_before_driver_ok(self):
        """Nothing is done; what waits is then looked at."""
        d = self.start()
        d.start()
        queue = d.add_queue(0)
        queue.add([(queue.memory.take(8), 8, True)])
        queue.kick()
        self.assertIsNone(queue.poll())
        d.write(STATUS, d.status() | DRIVER_OK)
        queue.wait()

    def test_queue_ready(self):
        d = self.start()
        d.start()
        queue = d.add_queue(0)
        self.assertEqual(d.read(QUEUE_READY), 1)
        d.driver_ok()
        self.one(queue)
        d.write(QUEUE_READY, 0)
        self.assertEqual(d.read(QUEUE_READY), 0)
        queue.add([(queue.memory.take(8), 8, True)])
        queue.kick()
        self.assertIsNone(queue.poll())
        # begins anew, elsewhere
        self.one(d.add_queue(0, 16))
        d.write(QUEUE_SEL, 7)
        self.assertEqual(d.read(QUEUE_READY), 0)
        d.write(QUEUE_READY, 1)
        self.assertEqual(d.read(QUEUE_READY), 0)

    def test_set_twice(self):
        d = self.start()
        d.start()
        queue = d.add_queue(0)
        d.write(QUEUE_NUM, 256)
        d.write(QUEUE_DESC, 0x900000)
        d.write(QUEUE_READY, 1)
        d.driver_ok()
        self.one(queue)

    def test_bad_rings(self):
        good = {QUEUE_DESC: 0x200000, QUEUE_AVAIL: 0x201000, QUEUE_USED: 0x202000}
        for register, addr, says in ((QUEUE_DESC, 0x200008, "not aligned"),
                                     (QUEUE_AVAIL, 0x201001, "not aligned"),
                                     (QUEUE_USED, 0x202002, "not aligned"),
                                     (QUEUE_DESC, 0x1000000 - 64, "not in memory"),
                                     (QUEUE_AVAIL, 0xFEB00000, "not in memory"),
                                     (QUEUE_USED, 0xFFFFFFF0, "not in memory"),
                                     (QUEUE_DESC, 0xFFFFFFFFFFFFFFF0, "not in memory")):
            d = self.start()
            d.start()
            d.write(QUEUE_SEL, 0)
            d.write(QUEUE_NUM, 8)
            for r, a in {**good, register: addr}.items():
                d.write(r, a & 0xFFFFFFFF)
                d.write(r + 4, a >> 32)
            d.write(QUEUE_READY, 1)
            self.assertEqual(d.read(QUEUE_READY), 0)
            self.assertTrue(d.is_broken())
            self.assertIn(says, self.vm.stderr())

    def test_needs_reset(self):
        """The driver is told by a configuration interrupt, and the status stays until a reset."""
        d = self.start()
        self.qtest.intercept()
        d.start()
        queue = d.add_queue(0)
        d.driver_ok()
        generation = d.read(CONFIG_GENERATION)
        queue.set_index(100)
        queue.kick()
        self.assertTrue(d.is_broken())
        self.assertEqual(d.take_interrupt(), 2)
        self.assertNotEqual(d.read(CONFIG_GENERATION), generation)
        d.write(STATUS, DRIVER_OK)
        self.assertEqual(d.status(), DRIVER_OK | NEEDS_RESET)
        d.start()
        self.assertEqual(d.status() & NEEDS_RESET, 0)
        queue = d.add_queue(0)
        d.driver_ok()
        self.one(queue)

    def test_as_qemu(self):
        """Every register; features and status are only written as a good driver does."""
        commands = []
        base = slot(0)
        read = [f"readl {base + r:#x}" for r in range(0, 0x120, 4) if r != DEVICE_FEATURES]
        for register, value in ((STATUS, 1), (STATUS, 3), (DRIVER_FEATURES_SEL, 1),
                                (DRIVER_FEATURES, 1), (DRIVER_FEATURES_SEL, 0),
                                (DRIVER_FEATURES, 0x30000000), (STATUS, 11), (QUEUE_SEL, 0),
                                (QUEUE_NUM, 64), (QUEUE_DESC, 0x100000), (QUEUE_AVAIL, 0x101000),
                                (QUEUE_USED, 0x102000), (QUEUE_READY, 1), (QUEUE_PFN, 1),
                                (GUEST_PAGE_SIZE, 4096), (STATUS, 15), (INTERRUPT_ACK, 3),
                                (STATUS, 0)):
            commands += read + [f"writel {base + register:#x} {value:#x}"]
        self.compare(commands + read, *RNG, *MODERN)
