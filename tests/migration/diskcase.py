# SPDX-License-Identifier: GPL-2.0-or-later
"""
Machines with a disk whose driver is the test: requests over qtest into rings in the guest's memory,
which move with it. The test remembers what each sector must hold and which requests are out, so
that nothing can be lost, done twice or done in two places.
"""

import os
import struct
import subprocess
import unittest

from ferrytest.virtio import CONFIG, Memory, VirtioMmio, slot

IN, OUT, FLUSH = 0, 1, 4
FLUSH_FEATURE = 9
MIB = 1 << 20
RINGS = 0x800000  # nobody else in the guest uses memory there


def pattern(size, seed=0):
    return bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(size))


class DiskDriver:
    """The driver of one disk, wherever its machine is. Without 1 << FLUSH_FEATURE among its features
    each write is on the disk before it is done."""

    def __init__(self, case, vm, number=0, legacy=True, queues=1, features=0, size=64):
        self.case, self.content = case, {}
        self.device = VirtioMmio(vm.qtest, slot(number), legacy,
                                 Memory(RINGS + number * 0x200000))
        self.device.start(features)
        for i in range(queues):
            self.device.add_queue(i, size)
        self.device.driver_ok()
        self.out = {}  # (queue, head): (kind, sector, address, length)

    def moved(self, vm):
        self.device.qtest = vm.qtest
        for queue in self.device.queues.values():
            queue.qtest = vm.qtest

    @property
    def qtest(self):
        return self.device.qtest

    def offer(self, kind, sector, data=b"", size=0, queue=0):
        memory, ring = self.device.memory, self.device.queues[queue]
        header = memory.take(16)
        self.qtest.write(header, struct.pack("<IIQ", kind, 0, sector))
        buffers = [(header, 16, False)]
        if data:
            at = memory.take(len(data), 512)
            for start in range(0, len(data), 65536):
                self.qtest.b64write(at + start, data[start:start + 65536])
            buffers.append((at, len(data), False))
            self.content[sector] = data
        back = memory.take(size + 1, 512)
        self.qtest.writeb(back + size, 0xFF)
        if size:
            buffers.append((back, size, True))
        buffers.append((back + size, 1, True))
        head = ring.add(buffers)
        self.out[queue, head] = (kind, sector, back, size)
        return head

    def kick(self):
        for queue in self.device.queues.values():
            queue.kick()

    def collect(self, want=0):
        """Takes all answers; each must belong to a request that is out, and be good."""
        for number, queue in self.device.queues.items():
            while any(q == number for q, _ in self.out):
                head, _ = queue.wait()
                kind, sector, back, size = self.out.pop((number, head))
                self.case.assertEqual(self.qtest.readb(back + size), want,
                                      f"{kind} at {sector}")
            self.case.assertIsNone(queue.poll(), "An answer to no request")

    def write(self, sector, data):
        self.offer(OUT, sector, data)
        self.kick()
        self.collect()

    def read(self, sector, size):
        self.offer(IN, sector, size=size)
        (_, _, back, _), = self.out.values()
        self.kick()
        self.collect()
        return b"".join(self.qtest.read(back + i, min(4096, size - i))
                        for i in range(0, size, 4096))

    def capacity(self):
        """In sectors, as the device says it."""
        return struct.unpack("<Q", bytes(self.qtest.readb(self.device.base + CONFIG + i)
                                         for i in range(8)))[0]

    def check(self):
        """The disk, as the guest sees it, holds all that was written."""
        for sector, data in self.content.items():
            self.case.assertEqual(self.read(sector, len(data)), data, f"sector {sector}")


class Disks:
    """For a test case with machines."""

    def image(self, size=MIB, name="disk.img"):
        path = self.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def disk(self, path, drive="", device="", name="d0"):
        return ("-drive", f"file={path},format=raw,if=none,id={name}{drive}",
                "-device", f"virtio-blk-device,drive={name}{device}")

    def small_filesystem(self, size="256k"):
        """A filesystem that is full soon; room() makes room."""
        self.small = self.path("small")
        os.mkdir(self.small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.small],
                          capture_output=True, check=False).returncode:
            raise unittest.SkipTest("Mounting a small filesystem is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.small], check=False)
        path = os.path.join(self.small, "disk.img")
        with open(path, "wb") as f:
            f.truncate(8 * MIB)
        return path

    def room(self):
        subprocess.run(["mount", "-o", "remount,size=16m", self.small], check=True)

    def locked(self, path):
        """The bytes of an image that are locked."""
        inode = os.stat(path).st_ino
        bytes_ = set()
        with open("/proc/locks", encoding="ascii") as f:
            for line in f:
                words = line.split()
                if words[1] == "OFDLCK" and words[5].endswith(f":{inode}"):
                    bytes_ |= set(range(int(words[6]), int(words[7]) + 1))
        return bytes_

    def assert_content(self, path, driver):
        with open(path, "rb") as f:
            for sector, data in driver.content.items():
                f.seek(sector * 512)
                self.assertEqual(f.read(len(data)), data, f"sector {sector}")


WRITER = {100, 101, 201}
READER = {100, 201}
