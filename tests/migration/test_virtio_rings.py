# SPDX-License-Identifier: GPL-2.0-or-later
"""
Rings while a guest moves. What devices write is sent again; and where memory comes after the guest
(post-copy), the I/O thread fetches it and nobody else waits.
"""

import time

from ferrytest import migrate, scaled, wait_for
from ferrytest.virtio import Memory, VirtioMmio, slot
from migrationcase import MigrationCase
from postcopycase import MIB, PostcopyCase
from serialport import SerialPort

RINGS = 40 * MIB


class VirtioPrecopy(MigrationCase):
    def test_what_devices_write_is_sent_again(self):
        """Buffers and the ring, after their pages have been sent."""
        options = {"guest": None, "qtest": True, "memory": 64, "accel": "qtest"}
        uri = self.link()
        src = self.ferry("-device", "virtio-rng-device", **options)
        dst = self.ferry("-device", "virtio-rng-device", incoming=uri, **options)
        for start in range(16, 64, 16):
            src.qtest.memset(start * MIB, 16 * MIB, 0x5A)
        device = VirtioMmio(src.qtest, slot(0), True, Memory(17 * MIB))
        device.start()
        queue = device.add_queue(0, 64)
        device.driver_ok()
        addrs = [device.memory.take(4096, 4096) for _ in range(40)]
        for addr in addrs:
            queue.add([(addr + 8, 4000, True)])
        migrate.start(src, uri, max_bandwidth=8 * MIB)
        # the first round is where nothing is any more that the test has written
        wait_for("the first 24 MiB", lambda: migrate.info(src).get("ram", {}).get("transferred", 0)
                 > 12 * MIB)
        queue.kick()
        for _ in addrs:
            self.assertEqual(queue.wait()[1], 4000)
        migrate.set_parameters(src, max_bandwidth=0)
        migrate.wait_status(src, "completed")
        dst.wait_state("running")
        for addr in (*addrs, queue.used):
            self.assertEqual(src.qtest.read(addr, 4096), dst.qtest.read(addr, 4096))
        self.assertNotEqual(dst.qtest.read(addrs[39] + 8, 4000), bytes([0x5A]) * 4000)


class VirtioPostcopy(PostcopyCase):
    def machine_with_port(self, **options):
        port = SerialPort(self)
        vm = self.ferry(*port.arguments, guest=None, qtest=True, memory=64, accel="qtest", **options)
        return vm, port.accept()

    def test_output_of_a_guest_that_has_come(self):
        for pieces in (1, 40):
            with self.subTest(pieces=pieces):
                self.output(pieces)

    def output(self, pieces):
        """Each piece is on a page of its own, and so are the parts of the ring."""
        uri = self.link()
        src, _ = self.machine_with_port()
        dst, peer = self.machine_with_port(incoming="defer")
        migrate.set_capabilities(src, dst, return_path=True, events=True)
        self.allow(src, dst)
        dst.cmd("migrate-incoming", uri=uri)
        for start in range(16, 64, 16):
            src.qtest.memset(start * MIB, 16 * MIB, 0x5A)
        device = VirtioMmio(src.qtest, slot(0), True, Memory(RINGS))
        device.start()
        out = device.add_queue(5, 64)
        device.driver_ok()
        buffers = []
        for i in range(pieces):
            addr = device.memory.take(8, 4096)
            src.qtest.write(addr, b"piece%02d\n" % i)
            buffers.append((addr, 8, False))
        src.cmd("stop")
        out.add(buffers)
        out.kick()  # into a machine that stands still
        self.switch(src, uri)
        slowest, wanted, data = 0, b"".join(b"piece%02d\n" % i for i in range(pieces)), b""
        dst.wait_state("paused")
        dst.cmd("cont")
        peer.setblocking(False)
        end = time.monotonic() + scaled(20)
        while len(data) < len(wanted) and time.monotonic() < end:
            began = time.monotonic()
            dst.cmd("query-status")
            slowest = max(slowest, time.monotonic() - began)
            try:
                data += peer.recv(4096)
            except BlockingIOError:
                time.sleep(0.005)
        self.assertEqual(data, wanted)
        self.assertEqual(migrate.status(dst), "postcopy-active")
        self.assertLess(slowest, scaled(5))
        self.go_on(src)
        migrate.wait_status(src, "completed")
        migrate.wait_status(dst, "completed")
        device.qtest = out.qtest = dst.qtest
        self.assertEqual(out.wait(), (0, 0))
        src.quit()
        dst.quit()
