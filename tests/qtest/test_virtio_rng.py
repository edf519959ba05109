# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-rng: buffers come back full of random bytes; its source, its limit, its options."""

import os

from ferrytest import TestCase, wait_for
from ferrytest.virtio import EVENT_IDX, INDIRECT_DESC, VirtioMmio, slot


class Rng(TestCase):
    def device(self, *extra, options="", legacy=True, features=0, **machine):
        self.vm = self.ferry("-device", "virtio-rng-device" + options, *extra,
                             "-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}",
                             accel="qtest", qtest=True, **machine)
        self.device_ = VirtioMmio(self.vm.qtest, slot(0), legacy)
        self.device_.start(features)
        self.queue = self.device_.add_queue(0)
        self.device_.driver_ok()
        return self.queue

    def fill(self, sizes):
        """Offers a buffer of these pieces; the bytes that came, and how many were to come."""
        pieces = [(self.device_.memory.take(n), n, True) for n in sizes]
        self.queue.add(pieces)
        self.queue.kick()
        _, written = self.queue.wait()
        data = b"".join(self.vm.qtest.read(addr, n) for addr, n, _ in pieces)
        return data, written

    def test_fills_buffers(self):
        for legacy in (True, False):
            self.device(legacy=legacy)
            data, written = self.fill([64])
            self.assertEqual(written, 64)
            self.assertGreater(len(set(data)), 8)
            again, _ = self.fill([1, 63])
            self.assertNotEqual(data, again)
            self.assertEqual(self.device_.take_interrupt(), 1)

    def test_features(self):
        self.device()
        self.assertEqual(self.device_.device_features(), 0x39000000)
        self.device(legacy=False)
        self.assertEqual(self.device_.device_features(), 0x130000000)
        self.device(options=",indirect_desc=off,event_idx=off,notify_on_empty=off,any_layout=off")
        self.assertEqual(self.device_.device_features(), 0)

    def test_large_request(self):
        """At most a portion is drawn for one request, and only what was drawn is written."""
        self.device()
        data, written = self.fill([16384])
        self.assertEqual(written, 4096)
        self.assertEqual(data[4096:], bytes(16384 - 4096))

    def test_no_room(self):
        """A request without a buffer to write comes back empty."""
        self.device()
        self.queue.add([(self.device_.memory.take(16), 16, False)])
        self.queue.kick()
        self.assertEqual(self.queue.wait(), (0, 0))

    def test_from_file(self):
        path = self.path("source")
        with open(path, "wb") as f:
            f.write(b"not quite random")
        self.device("-object", f"rng-random,id=r0,filename={path}", options=",rng=r0")
        data, written = self.fill([32])
        self.assertEqual((written, data), (16, b"not quite random" + bytes(16)))
        # the file has ended: the request waits
        self.queue.add([(self.device_.memory.take(16), 16, True)])
        self.queue.kick()
        wait_for("the warning", lambda: "it has ended" in self.vm.stderr())
        self.assertIsNone(self.queue.poll())

    def test_waits_for_its_source(self):
        path = self.path("fifo")
        os.mkfifo(path)
        writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, writer)
        self.device("-object", f"rng-random,id=r0,filename={path}", options=",rng=r0")
        addr = self.device_.memory.take(8)
        self.queue.add([(addr, 8, True)])
        self.queue.kick()
        self.assertIsNone(self.queue.poll())
        os.write(writer, b"at last!")
        self.assertEqual(self.queue.wait(), (0, 8))
        self.assertEqual(self.vm.qtest.read(addr, 8), b"at last!")

    def test_limit(self):
        """max-bytes in a period of the virtual clock."""
        self.device(options=",max-bytes=24,period=1000")
        self.assertEqual(self.fill([16])[1], 16)
        self.assertEqual(self.fill([16])[1], 8)
        self.queue.add([(self.device_.memory.take(16), 16, True)])
        self.queue.kick()
        self.vm.qtest.clock_step(999 * 1000 * 1000)
        self.assertIsNone(self.queue.poll())
        self.vm.qtest.clock_step(1000 * 1000)
        self.assertEqual(self.queue.wait()[1], 16)

    def test_acknowledged_interrupt(self):
        self.device()
        self.fill([8])
        self.assertEqual(self.device_.wait_interrupt(), 1)
        self.assertEqual(self.device_.take_interrupt(), 0)

    def test_indirect_and_event_index(self):
        self.device(features=1 << INDIRECT_DESC | 1 << EVENT_IDX)
        pieces = [(self.device_.memory.take(8), 8, True) for _ in range(12)]
        self.queue.add(pieces, indirect=True)
        self.queue.kick()
        self.assertEqual(self.queue.wait(), (0, 96))
        self.assertEqual(self.queue.avail_event(), 1)

    def test_stopped_machine(self):
        self.device(qmp=True)
        self.vm.qmp.cmd("stop")
        self.queue.add([(self.device_.memory.take(16), 16, True)])
        self.queue.kick()
        self.vm.qmp.cmd("query-status")
        self.assertIsNone(self.queue.poll())
        self.vm.qmp.cmd("cont")
        self.assertEqual(self.queue.wait(), (0, 16))

    def test_listed(self):
        self.device("-device", '{"driver": "virtio-rng-device", "id": "r1", "max-bytes": 100}',
                    "-device", "virtio-rng-device")
        names = {e["name"]: e["type"]
                 for e in self.vm.qmp.cmd("qom-list", path="/machine/peripheral-anon")}
        self.assertEqual(names["device[0]"], "child<virtio-rng-device>")
        self.assertEqual(names["device[1]"], "child<virtio-rng-device>")
        self.assertEqual(self.vm.qmp.cmd("qom-get", path="/machine/peripheral/r1",
                                         property="max-bytes"), 100)
        # from the highest slot down
        for i in range(3):
            self.assertEqual(self.vm.qtest.readl(slot(i) + 8), 4)
        self.assertEqual(self.vm.qtest.readl(slot(3) + 8), 0)
