# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings whose memory comes after the guest: the I/O thread fetches it, and nobody else waits."""

import time

from ferrytest import migrate, scaled
from ferrytest.virtio import Memory, VirtioMmio, slot
from postcopycase import MIB, PostcopyCase
from serialport import SerialPort

RINGS = 40 * MIB


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
        self.assertLess(slowest, scaled(0.5))
        self.go_on(src)
        migrate.wait_status(src, "completed")
        migrate.wait_status(dst, "completed")
        device.qtest = out.qtest = dst.qtest
        self.assertEqual(out.wait(), (0, 0))
        src.quit()
        dst.quit()
