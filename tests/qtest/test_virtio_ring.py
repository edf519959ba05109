# SPDX-License-Identifier: GPL-2.0-or-later
"""
Split rings: what a good driver does, and everything a bad one can. A device whose driver broke a
rule needs a reset and works again after it; the machine goes on whatever happens.
"""

import random
import struct

from ferrytest import TestCase, wait_for
from ferrytest.virtio import (
    EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, NO_INTERRUPT, NOTIFY_ON_EMPTY, WRITE, VirtioMmio,
    slot)

MEMORY = 16 << 20
BIOS_ALIAS = 0xF0000  # another map begins here


class RingCase(TestCase):
    legacy = True

    def setUp(self):
        super().setUp()
        self.vm = self.ferry("-device", "virtio-rng-device", "-global",
                             f"virtio-mmio.force-legacy={'on' if self.legacy else 'off'}",
                             accel="qtest", qtest=True)
        self.qtest = self.vm.qtest
        self.device = VirtioMmio(self.qtest, slot(0), self.legacy)

    def up(self, features=1 << INDIRECT_DESC, size=8):
        self.device.start(features)
        self.queue = self.device.add_queue(0, size)
        self.device.driver_ok()
        return self.queue

    def one(self, size=8):
        addr = self.queue.memory.take(size)
        self.queue.add([(addr, size, True)])
        self.queue.kick()
        self.assertEqual(self.queue.wait()[1], size)

    def refused(self, says):
        """The device has noticed: it says so, does nothing more, and a reset mends it."""
        wait_for(says, lambda: says in self.vm.stderr())
        if not self.legacy:
            self.assertTrue(self.device.is_broken())
        used = self.queue.used_index()
        self.queue.kick()
        self.assertEqual(self.queue.used_index(), used)
        self.device.memory.next = 0x200000
        self.up()
        self.one()


class Good(RingCase):
    def test_around_the_ring(self):
        self.up(size=4)
        for _ in range(19):
            self.one()
        self.assertEqual(self.queue.used_index(), 19)

    def test_index_wraps(self):
        """The 16-bit indices pass 65,535."""
        queue = self.up(size=1024)
        addr = queue.memory.take(8)
        for i in range(1024):
            queue.write_desc(i, addr, 1, WRITE)
        self.qtest.write(queue.avail + 4, struct.pack("<1024H", *range(1024)))
        for n in range(1, 66):
            queue.set_index(n * 1024)
            queue.kick()
            wait_for("all of them", lambda: queue.used_index() == n * 1024 & 0xFFFF)
        queue.last_used = queue.used_index()
        queue.free = list(range(1024))
        self.one()

    def test_several_at_once(self):
        queue = self.up(size=8)
        heads = [queue.add([(queue.memory.take(8), 8, True)]) for _ in range(8)]
        queue.kick()
        self.assertEqual([queue.wait() for _ in heads], [(h, 8) for h in heads])

    def test_longest_chain(self):
        """As many descriptors as the ring has."""
        queue = self.up(size=8)
        queue.add([(queue.memory.take(4), 4, True) for _ in range(8)])
        queue.kick()
        self.assertEqual(queue.wait()[1], 32)

    def test_longest_indirect(self):
        queue = self.up(size=8)
        queue.add([(queue.memory.take(1), 1, True) for _ in range(1024)], indirect=True)
        queue.kick()
        self.assertEqual(queue.wait()[1], 1024)

    def test_readable_before_writable(self):
        queue = self.up()
        addr = queue.memory.take(24)
        queue.add([(addr, 8, False), (addr + 8, 16, True)])
        queue.kick()
        self.assertEqual(queue.wait()[1], 16)
        self.assertEqual(self.qtest.read(addr, 8), bytes(8))
        self.assertNotEqual(self.qtest.read(addr + 8, 16), bytes(16))

    def test_indirect_behind_direct(self):
        """Descriptors, and then a table (2.6.5.3.1)."""
        queue = self.up()
        buffers = queue.memory.take(64)
        table = queue.memory.take(32)
        queue.write_desc(0, buffers, 8, NEXT | WRITE, 5)
        queue.write_desc(5, table, 32, INDIRECT)
        queue.write_desc(0, buffers + 8, 8, NEXT | WRITE, 1, table=table)
        queue.write_desc(1, buffers + 16, 16, WRITE, 0, table=table)
        queue.offer(0)
        queue.kick()
        self.assertEqual(queue.wait(), (0, 32))
        self.assertNotIn(bytes(8), [self.qtest.read(buffers + at, 8) for at in (0, 8, 16, 24)])

    def test_across_maps(self):
        """A buffer, and a table, that begin in one map of memory and end in the next."""
        queue = self.up()
        for addr in (BIOS_ALIAS, 0x100000):
            self.qtest.memset(addr - 32, 64, 0)
            queue.add([(addr - 32, 64, True)])
            queue.kick()
            self.assertEqual(queue.wait()[1], 64)
            self.assertNotIn(bytes(16), [self.qtest.read(addr + at, 16) for at in (-32, -16, 0, 16)])
        buffer, table = queue.memory.take(16), BIOS_ALIAS - 16
        queue.write_desc(0, buffer, 8, NEXT | WRITE, 1, table=table)
        queue.write_desc(1, buffer + 8, 8, WRITE, 0, table=table)
        head = queue.free.pop(0)
        queue.write_desc(head, table, 32, INDIRECT)
        queue.offer(head)
        queue.kick()
        self.assertEqual(queue.wait(), (head, 16))

    def test_end_of_memory(self):
        queue = self.up()
        queue.add([(MEMORY - 8, 8, True)])
        queue.kick()
        self.assertEqual(queue.wait()[1], 8)

    def interrupted(self):
        """A request, and whether it interrupted."""
        self.one()
        # by then the interrupt has been made or not: the device answers one access after another
        self.vm.qmp.cmd("query-status")
        return bool(self.device.take_interrupt())

    def test_no_interrupt(self):
        queue = self.up()
        self.assertTrue(self.interrupted())
        queue.set_avail_flags(NO_INTERRUPT)
        self.assertFalse(self.interrupted())
        queue.set_avail_flags(0)
        self.assertTrue(self.interrupted())

    def test_used_event(self):
        """Interrupts come when the used index passes what the driver named."""
        queue = self.up(features=1 << EVENT_IDX)
        self.assertTrue(self.interrupted())
        queue.set_avail_flags(NO_INTERRUPT)  # means nothing now
        queue.set_used_event(3)
        self.assertEqual([self.interrupted() for _ in range(5)],
                         [False, False, True, False, False])
        queue.set_used_event(queue.last_used)
        self.assertTrue(self.interrupted())

    def test_avail_event(self):
        """The device names the next request as the one to be notified of."""
        queue = self.up(features=1 << EVENT_IDX)
        for n in range(1, 6):
            self.one()
            wait_for("its wish", lambda: queue.avail_event() == n)
        self.assertEqual(queue.used_flags(), 0)


class GoodModern(Good):
    legacy = False


class LegacyOnly(RingCase):
    def test_notify_on_empty(self):
        """An empty queue interrupts although the driver wants none."""
        queue = self.up(features=1 << NOTIFY_ON_EMPTY)
        queue.set_avail_flags(NO_INTERRUPT)
        self.one()
        self.assertEqual(self.device.wait_interrupt(), 1)


class Bad(RingCase):
    def offer_desc(self, *descs, table=None):
        """Descriptors (address, length, flags, next) from 0 on; 0 is the head."""
        for i, d in enumerate(descs):
            self.queue.write_desc(i, *d, table=table)
        if table is None:
            self.queue.offer(0)
            self.queue.kick()

    def buffer(self, size=64):
        return self.queue.memory.take(size)

    def test_loops(self):
        for chain in ([(0x300000, 8, NEXT | WRITE, 0)],
                      [(0x300000, 8, NEXT | WRITE, 1), (0x300000, 8, NEXT | WRITE, 0)],
                      [(0x300000, 8, NEXT | WRITE, 1), (0x300000, 8, NEXT | WRITE, 2),
                       (0x300000, 8, NEXT | WRITE, 1)]):
            self.up()
            self.offer_desc(*chain)
            self.refused("has a loop")

    def test_loop_in_table(self):
        self.up()
        table = self.buffer()
        self.offer_desc((0x300000, 8, NEXT | WRITE, 1), (0x300000, 8, NEXT | WRITE, 0), table=table)
        self.offer_desc((table, 32, INDIRECT, 0))
        self.refused("has a loop")

    def test_no_length(self):
        self.up()
        self.offer_desc((self.buffer(), 0, WRITE, 0))
        self.refused("has no length")

    def test_addresses(self):
        for addr, length in ((MEMORY, 8), (MEMORY - 8, 16), (0xFEB00000, 4), (0xFEE00000, 8),
                             (0xFFFFFFFFFFFFFFF8, 8), (0xFFFFFFFFFFFFFFF8, 16), (1 << 63, 8),
                             (0x100000, 0xFFFFFFFF), (0xFFFFFFF8, 16)):
            for flags in (WRITE, 0):
                self.up()
                self.offer_desc((addr, length, flags, 0))
                self.refused("is not in memory")

    def test_next_out_of_range(self):
        for following in (8, 9, 0xFFFF):
            self.up()
            self.offer_desc((self.buffer(), 8, NEXT | WRITE, following))
            self.refused(f"descriptor {following} of 8 is next")

    def test_head_out_of_range(self):
        for head in (8, 0xFFFF):
            self.up()
            self.queue.offer(head)
            self.queue.kick()
            self.refused(f"descriptor {head} is offered")

    def test_index_jumps(self):
        for index in (9, 1000, 0xFFFF):
            self.up()
            self.queue.write_desc(0, self.buffer(), 8, WRITE)
            self.queue.set_index(index)
            self.queue.kick()
            self.refused(f"jumped by {index}")

    def test_index_goes_back(self):
        self.up()
        self.one()
        self.queue.set_index(0)
        self.queue.kick()
        self.refused("jumped by 65535")

    def test_order(self):
        self.up()
        self.offer_desc((self.buffer(), 8, NEXT | WRITE, 1), (self.buffer(), 8, 0, 0))
        self.refused("stands behind")

    def test_too_long(self):
        """4 GiB in all: the same buffer again and again."""
        self.up()
        table = self.buffer(16 * 1024)
        self.qtest.write(table, b"".join(
            struct.pack("<QIHH", 0x100000, 15 << 20, WRITE | (NEXT if i < 1023 else 0), (i + 1) % 1024)
            for i in range(1024)))
        self.offer_desc((table, 16 * 1024, INDIRECT, 0))
        self.refused("4 GiB or more")

    def test_too_many_pieces(self):
        """Descriptors and then a table, more than 1,024 together."""
        self.up()
        table = self.buffer(16 * 1024)
        self.qtest.write(table, b"".join(
            struct.pack("<QIHH", 0x300000, 8, WRITE | (NEXT if i < 1023 else 0), (i + 1) % 1024)
            for i in range(1024)))
        self.offer_desc((0x300000, 8, WRITE | NEXT, 1), (table, 16 * 1024, INDIRECT, 0))
        self.refused("too many pieces")

    def test_bad_tables(self):
        for length, flags in ((0, INDIRECT), (8, INDIRECT), (24, INDIRECT), (16 * 1025, INDIRECT),
                              (16, INDIRECT | NEXT), (0xFFFFFFF0, INDIRECT)):
            self.up()
            table = self.buffer(16 * 1025)
            self.offer_desc((0x300000, 8, WRITE, 0), table=table)
            self.offer_desc((table, length, flags, 1), (0x300000, 8, WRITE, 0))
            self.refused(f"an indirect table of {length} bytes")
        for addr in (MEMORY, 0xFEB00000, 0xFFFFFFFFFFFFFFF0):
            self.up()
            self.offer_desc((addr, 16, INDIRECT, 0))
            self.refused("an indirect table of 16 bytes")
        self.up()
        self.offer_desc((MEMORY - 16, 32, INDIRECT, 0))
        self.refused("an indirect table is not in memory")

    def test_table_in_table(self):
        self.up()
        table = self.buffer()
        self.offer_desc((table, 16, INDIRECT, 0), table=table)
        self.offer_desc((table, 16, INDIRECT, 0))
        self.refused("an indirect table in another")

    def test_table_not_negotiated(self):
        self.up(features=0)
        table = self.buffer()
        self.offer_desc((0x300000, 8, WRITE, 0), table=table)
        self.offer_desc((table, 16, INDIRECT, 0))
        self.refused("an indirect table of 16 bytes")

    def test_next_beyond_table(self):
        self.up()
        table = self.buffer()
        self.offer_desc((0x300000, 8, NEXT | WRITE, 1), table=table)
        self.offer_desc((table, 16, INDIRECT, 0))
        self.refused("descriptor 1 of 1 is next")

    def test_broken_device_survives_a_move_of_its_registers(self):
        """A broken device says nothing wrong about itself, and its log does not grow for ever."""
        for _ in range(30):
            self.up()
            self.queue.set_index(100)
            self.queue.kick()
            self.vm.qmp.cmd("query-status")
            wait_for("the error", lambda: self.device.legacy or self.device.is_broken())
        self.assertLessEqual(self.vm.stderr().count("must reset the device"), 10)
        self.up()
        self.one()

    def test_random_rings(self):
        """Random bytes as descriptors and indices."""
        for seed in range(60):
            rng = random.Random(seed)
            self.up(features=rng.choice((0, 1 << INDIRECT_DESC, 1 << EVENT_IDX)))
            queue = self.queue
            for i in range(8):
                addr = rng.choice((0x300000, queue.desc, queue.desc + 16 * i, MEMORY - 8,
                                   rng.randrange(1 << 64)))
                length = rng.choice((16, 32, 128, 1, 0, rng.randrange(1 << 32)))
                queue.write_desc(i, addr, length, rng.randrange(8), rng.randrange(10))
            self.qtest.write(queue.avail, rng.randbytes(4 + 2 * 8))
            for _ in range(4):
                self.qtest.writew(queue.avail + 4 + 2 * rng.randrange(8), rng.randrange(9))
                queue.set_index(rng.choice((queue.index + 1, rng.randrange(1 << 16))))
                queue.kick()
            self.vm.qmp.cmd("query-status")
        self.up()
        self.one()


class BadModern(Bad):
    legacy = False
