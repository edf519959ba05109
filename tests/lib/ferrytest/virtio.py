# SPDX-License-Identifier: GPL-2.0-or-later
"""
A virtio driver in the test: registers of virtio-mmio and split rings over qtest, legacy and modern.

    device = VirtioMmio(vm.qtest, slot(0), legacy=True)
    device.start(features=1 << EVENT_IDX)
    queue = device.add_queue(0, size=8)
    device.driver_ok()
    buffer = queue.memory.take(64)
    queue.add([(buffer, 64, True)])
    queue.kick()
    head, written = queue.wait()

Each step can also be done wrong: raw descriptors, indices and registers are the test's to write.
"""

import struct
import time

from .deadline import Timeout, scaled

# registers
MAGIC, VERSION, DEVICE_ID, VENDOR = 0x000, 0x004, 0x008, 0x00C
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x010, 0x014
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x020, 0x024
GUEST_PAGE_SIZE = 0x028
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_ALIGN, QUEUE_PFN = 0x030, 0x034, 0x038, 0x03C, 0x040
QUEUE_READY, QUEUE_NOTIFY = 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC, QUEUE_AVAIL, QUEUE_USED = 0x080, 0x090, 0x0A0
CONFIG_GENERATION, CONFIG = 0x0FC, 0x100

# status
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80

# features
NOTIFY_ON_EMPTY, ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, VERSION_1 = 24, 27, 28, 29, 32

# descriptors and rings
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT, NO_NOTIFY = 1, 1

BASE = 0xFEB00000


def slot(number, slots=24):
    """Address of the slot that the number-th -device gets."""
    return BASE + 0x200 * (slots - 1 - number)


def slot_gsi(number, slots=24):
    """Its interrupt, on the default machine."""
    return 24 + slots - 1 - number


class Memory:
    """Gives out guest memory, upwards."""

    def __init__(self, start=0x100000):
        self.next = start

    def take(self, size, align=16):
        at = (self.next + align - 1) & ~(align - 1)
        self.next = at + size
        return at


class Queue:
    """
    A ring. last_used: what of the used ring was seen; index: of the available ring, as the driver
    has it.
    """

    def __init__(self, device, index, size, addr=None):
        self.device, self.qtest, self.memory = device, device.qtest, device.memory
        self.number, self.size = index, size
        self.index = self.last_used = 0
        self.free = list(range(size))
        self.chains = {}
        self.desc = addr or self.memory.take(self.bytes(), 4096)
        self.avail = self.desc + 16 * size
        self.used = (self.avail + 6 + 2 * size + 4095) & ~4095

    def bytes(self):
        return ((16 * self.size + 6 + 2 * self.size + 4095) & ~4095) + 6 + 8 * self.size

    def clear(self):
        self.qtest.memset(self.desc, self.used + 6 + 8 * self.size - self.desc, 0)

    def write_desc(self, i, addr, length, flags=0, following=0, table=None):
        self.qtest.write((self.desc if table is None else table) + 16 * i,
                         struct.pack("<QIHH", addr, length, flags, following))

    def write_chain(self, buffers, indirect=False):
        """Descriptors of [(address, length, device writes)]; returns the head."""
        if indirect:
            table = self.memory.take(16 * len(buffers))
            for i, (addr, length, write) in enumerate(buffers):
                last = i == len(buffers) - 1
                self.write_desc(i, addr, length, (0 if last else NEXT) | (WRITE if write else 0),
                                0 if last else i + 1, table=table)
            head = self.free.pop(0)
            self.write_desc(head, table, 16 * len(buffers), INDIRECT)
            self.chains[head] = [head]
            return head
        mine = [self.free.pop(0) for _ in buffers]
        for i, (addr, length, write) in enumerate(buffers):
            last = i == len(buffers) - 1
            self.write_desc(mine[i], addr, length, (0 if last else NEXT) | (WRITE if write else 0),
                            0 if last else mine[i + 1])
        self.chains[mine[0]] = mine
        return mine[0]

    def offer(self, head):
        """Puts a head into the available ring and shows it."""
        self.qtest.writew(self.avail + 4 + 2 * (self.index % self.size), head)
        self.set_index(self.index + 1)

    def set_index(self, index):
        self.index = index & 0xFFFF
        self.qtest.writew(self.avail + 2, self.index)

    def add(self, buffers, indirect=False):
        head = self.write_chain(buffers, indirect)
        self.offer(head)
        return head

    def kick(self):
        self.device.write(QUEUE_NOTIFY, self.number)

    def used_index(self):
        return self.qtest.readw(self.used + 2)

    def used_flags(self):
        return self.qtest.readw(self.used)

    def avail_event(self):
        return self.qtest.readw(self.used + 4 + 8 * self.size)

    def set_used_event(self, index):
        self.qtest.writew(self.avail + 4 + 2 * self.size, index & 0xFFFF)

    def set_avail_flags(self, flags):
        self.qtest.writew(self.avail, flags)

    def poll(self):
        """The next (head, written), or None."""
        if self.used_index() == self.last_used:
            return None
        entry = self.qtest.read(self.used + 4 + 8 * (self.last_used % self.size), 8)
        self.last_used = (self.last_used + 1) & 0xFFFF
        head, written = struct.unpack("<II", entry)
        self.free += self.chains.pop(head, [])
        return head, written

    def wait(self, timeout=None):
        """The next (head, written)."""
        end = time.monotonic() + scaled(timeout)
        while True:
            used = self.poll()
            if used:
                return used
            if time.monotonic() > end:
                raise Timeout(f"Queue {self.number}: nothing was used in time")
            time.sleep(0.001)


class VirtioMmio:
    def __init__(self, qtest, base, legacy, memory=None):
        self.qtest, self.base, self.legacy = qtest, base, legacy
        self.memory = memory or Memory()
        self.queues = {}

    def read(self, reg):
        return self.qtest.readl(self.base + reg)

    def write(self, reg, value):
        self.qtest.writel(self.base + reg, value)

    def status(self):
        return self.read(STATUS)

    def device_features(self):
        self.write(DEVICE_FEATURES_SEL, 0)
        low = self.read(DEVICE_FEATURES)
        self.write(DEVICE_FEATURES_SEL, 1)
        return self.read(DEVICE_FEATURES) << 32 | low

    def write_features(self, features):
        for half in (1, 0):
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, features >> (32 * half) & 0xFFFFFFFF)

    def start(self, features=0):
        """Reset, acknowledge, features; VERSION_1 is added where it must."""
        self.write(STATUS, 0)
        self.write(STATUS, ACKNOWLEDGE)
        self.write(STATUS, ACKNOWLEDGE | DRIVER)
        if self.legacy:
            self.write_features(features)
            self.write(GUEST_PAGE_SIZE, 4096)
        else:
            self.write_features(features | 1 << VERSION_1)
            self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        self.queues = {}

    def add_queue(self, number, size=8, addr=None):
        queue = Queue(self, number, size, addr)
        queue.clear()
        self.queues[number] = queue
        self.set_up(queue)
        return queue

    def set_up(self, queue):
        """Tells the device where a queue is."""
        self.write(QUEUE_SEL, queue.number)
        self.write(QUEUE_NUM, queue.size)
        if self.legacy:
            self.write(QUEUE_ALIGN, 4096)
            self.write(QUEUE_PFN, queue.desc // 4096)
        else:
            for reg, addr in ((QUEUE_DESC, queue.desc), (QUEUE_AVAIL, queue.avail),
                              (QUEUE_USED, queue.used)):
                self.write(reg, addr & 0xFFFFFFFF)
                self.write(reg + 4, addr >> 32)
            self.write(QUEUE_READY, 1)

    def driver_ok(self):
        self.write(STATUS, self.status() | DRIVER_OK)

    def is_broken(self, timeout=None):
        """Waits until the (modern) device says that it needs a reset."""
        end = time.monotonic() + scaled(timeout)
        while not self.status() & NEEDS_RESET:
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def take_interrupt(self):
        """What the interrupt status was; acknowledged."""
        isr = self.read(INTERRUPT_STATUS)
        self.write(INTERRUPT_ACK, isr)
        return isr

    def wait_interrupt(self, bits=1, timeout=None):
        end = time.monotonic() + scaled(timeout)
        while not self.read(INTERRUPT_STATUS) & bits:
            if time.monotonic() > end:
                raise Timeout("The device did not interrupt in time")
            time.sleep(0.001)
        return self.take_interrupt()
