# SPDX-License-Identifier: GPL-2.0-or-later
"""
Machines with one disk whose driver is the test, for the cases of virtio-blk. A disk is what
`backend` says (-drive or -blockdev with the name d0), else a -drive on an image.
"""

import os
import struct
import unittest

from ferrytest import QEMU, TestCase
from ferrytest.virtio import CONFIG, Memory, VirtioMmio, slot
from sidebyside import have_qemu

IN, OUT, FLUSH, SCSI, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 2, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
RO, CONFIG_WCE, MQ = 5, 11, 12
RING_RESET = 40  # offered by QEMU 7.2 only
MIB = 1 << 20


def pattern(size, seed=0):
    return bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(size))


class Blk(TestCase):
    def image(self, size=MIB, name="disk.img", data=None):
        path = self.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
            if data:
                f.write(data)
        return path

    def start(self, path=None, *extra, drive="", device="", legacy=False, binary=None, queues=1,
              features=0, backend=None, **options):
        if binary:
            options.update(accel="tcg", cpu="qemu64", binary=binary)
        else:
            options.update(accel="qtest")
        if not backend:
            path = path or self.image()
            backend = ("-drive", f"file={path},format=raw,if=none,id=d0{drive}")
        self.vm = self.ferry(*backend, "-device", f"virtio-blk-device,drive=d0{device}",
                             "-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}",
                             *extra, qtest=True, **options)
        return self.drive(legacy, features, queues)

    def drive(self, legacy=False, features=0, queues=1, number=0):
        self.disk = VirtioMmio(self.vm.qtest, slot(number), legacy, Memory(0x200000))
        self.disk.start(features)
        for i in range(queues):
            self.disk.add_queue(i, 64)
        self.disk.driver_ok()
        self.queue = self.disk.queues[0]
        return self.disk

    def offer(self, kind, sector=0, out=b"", in_bytes=0, queue=None, pieces=1, indirect=False):
        """Puts a request into the ring; returns (head, address of what the device writes)."""
        queue = queue or self.queue
        header = self.disk.memory.take(16)
        self.vm.qtest.write(header, struct.pack("<IIQ", kind, 0, sector))
        buffers = [(header, 16, False)]
        if out:
            at = self.disk.memory.take(len(out), 512)
            for start in range(0, len(out), 65536):
                self.vm.qtest.b64write(at + start, out[start:start + 65536])
            step = len(out) // pieces
            buffers += [(at + i * step, step, False) for i in range(pieces)]
        back = self.disk.memory.take(in_bytes + 1, 512)
        self.vm.qtest.writeb(back + in_bytes, 0xFF)
        step = in_bytes // pieces
        if in_bytes:
            buffers += [(back + i * step, step, True) for i in range(pieces)]
        buffers.append((back + in_bytes, 1, True))
        return queue.add(buffers, indirect), back

    def request(self, kind, sector=0, out=b"", in_bytes=0, **more):
        """(status, data, bytes that the device says it wrote)"""
        queue = more.get("queue") or self.queue
        head, back = self.offer(kind, sector, out, in_bytes, **more)
        queue.kick()
        used, written = queue.wait()
        self.assertEqual(used, head)
        data = self.vm.qtest.read(back, in_bytes + 1)
        return data[-1], data[:-1], written

    def read(self, sector, size, **more):
        status, data, _ = self.request(IN, sector, in_bytes=size, **more)
        self.assertEqual(status, OK)
        return data

    def write(self, sector, data, **more):
        self.assertEqual(self.request(OUT, sector, data, **more)[0], OK)

    def open_flags(self, path):
        """How the machine has the file open."""
        folder = f"/proc/{self.vm.process.pid}"
        for fd in os.listdir(folder + "/fd"):
            if os.path.realpath(f"{folder}/fd/{fd}") == os.path.realpath(path):
                with open(f"{folder}/fdinfo/{fd}", encoding="ascii") as f:
                    return int(f.read().split("flags:")[1].split()[0], 8)
        raise AssertionError(f"{path} is not open")

    def config(self):
        return bytes(self.vm.qtest.readb(self.disk.base + CONFIG + i) for i in range(64))

    def both(self, steps, size=MIB, **options):
        """What steps() finds with QEMU and then with Ferry, which must be the same."""
        results = []
        if not have_qemu():
            raise unittest.SkipTest(f"{QEMU} is not there to compare with")
        for binary in (QEMU, None):
            path = self.image(size, f"disk-{'qemu' if binary else 'ferry'}.img",
                              data=pattern(min(size, 65536)))
            self.start(path, binary=binary, **options)
            results.append(steps())
            self.vm.quit()
        self.assertEqual(results[0], results[1])
        return results[1]
