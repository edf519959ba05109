# SPDX-License-Identifier: GPL-2.0-or-later
"""
Sections of virtio devices and of user networking that no good source sends: one field, one
subsection or one request in flight is wrong, and it is said which. (tests/unit/test-virtio-wire.c and
test-net-state.c damage every byte; here are the mistakes with a name, against a whole destination.)
"""

import os
import struct
import sys
import unittest

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tests", "migration"))
sys.path.insert(0, os.path.join(SOURCE, "scripts"))

from ferrytest import migrate
from ferrytest.virtio import Memory, VirtioMmio, slot
from migrationcase import MigrationCase
from streamdecode.build import Edit, be, subsection
from victim import MACHINE, Victim, load

RINGS = 0x800000
TOP = 1 << 31
# Name, its arguments, how many queues its driver uses; the first has the highest slot.
DEVICES = (
    ("blk", ("-device", "virtio-blk-device,drive=d0,num-queues=2"), 2),
    ("net", ("-device", "virtio-net-device,netdev=n0"), 3),
    ("console", ("-device", "virtio-serial-device,max_ports=4", "-device", "virtserialport,nr=1"), 6),
    ("balloon", ("-device", "virtio-balloon-device"), 3),
    ("rng", ("-device", "virtio-rng-device"), 1),
)


def section(name):
    number = [d[0] for d in DEVICES].index(name)
    return f"virtio-mmio@{slot(number):016x}/virtio-{name}"


# Device, field (behind "virtio."), value, what is said.
FIELDS = (
    ("rng", "guest_page_shift", 32, "page shift 32"),
    ("rng", "queue_sel", 1024, "queue 1024 selected"),
    ("rng", "config_len", TOP, "a configuration space of 2147483648 bytes"),
    ("rng", "queues", 2, "2 queues where this one has 1"),
    ("rng", "queues", TOP, "2147483648 queues where"),
    ("rng", "queue[0].num", 3, "queue 0 of 3 entries"),
    ("rng", "queue[0].num", 1 << 16, "queue 0 of 65536 entries"),
    ("rng", "queue[0].align", 0, "queue 0 aligned to 0"),
    ("rng", "queue[0].desc", 0xFFFFFFFFFFFFF000, "a part of it is not in memory"),
    ("rng", "queue[0].desc", 0x1001, "queue 0 that cannot be"),
    ("rng", "queue[0].desc", (16 << 20) - 4096, "a part of it is not in memory"),
    ("blk", "queue[1].num", 0, "queue 1 of 0 entries"),
    ("blk", "queue[1].desc", 1 << 62, "queue 1 that cannot be"),
    ("blk", "queues", 3, "3 queues where this one has 2"),
    ("blk", "request_follows", 2, "requests in flight"),
    ("blk", "guest_features", 1 << 9, "features 0x200 in one place and 0x0 in another"),
    ("net", "net_status", 4, "virtio-net/status = 4"),
    ("net", "tx_waiting", 2, "virtio-net/tx_waiting = 2"),
    ("net", "mergeable_rx_bufs", 1, "virtio-net/mergeable_rx_bufs = 1"),
    ("net", "promisc", 2, "virtio-net/promisc = 2"),
    ("net", "nobcast", 255, "virtio-net/nobcast = 255"),
    ("net", "mac_table.in_use", 65, "virtio-net/mac_table.in_use = 65"),
    ("net", "mac_table.in_use", TOP, "virtio-net/mac_table.in_use = 2147483648"),
    ("net", "has_vnet_hdr", 1, "saved image requires vnet_hdr=on"),
    ("net", "has_ufo", 1, "saved image requires TUN_F_UFO"),
    ("net", "queues", 5, "5 queues where this one has 3"),
    ("console", "max_nr_ports", 3, "max_ports=3 where this one has 4"),
    ("console", "max_nr_ports", TOP, "max_ports=2147483648"),
    ("console", "ports_map[0]", 3, "other ports than this one has"),
    ("console", "active_ports", 2, "2 ports where this one has 1"),
    ("console", "active_ports", TOP, "2147483648 ports where"),
    ("console", "port[0].id", 2, "port 2, which is not here"),
    ("console", "port[0].guest_connected", 2, "port 1 in state 2"),
    ("console", "port[0].elem_popped", 7, "in state 0, 0, 7|in state 0, 1, 7"),
    ("balloon", "queues", 4, "4 queues where this one has 3"),
)

# Device, subsections to add, what is said.
ADDED = (
    ("rng", subsection("virtio/nosuch"), "unknown subsection 'virtio/nosuch'"),
    ("rng", subsection("virtio/broken", b"\2"), "broken = 2"),
    ("rng", subsection("virtio/broken", b"\1") * 2, "'virtio/broken' twice"),
    ("rng", subsection("virtio/broken", b"\1", version=2), "version 2 of 'virtio/broken'"),
    ("rng", subsection("virtio/ringsize", be(8, 4) * 1024), "'virtio/ringsize' twice"),
    ("rng", subsection("virtio/extra_state"), "registers of version 2"),
    ("rng", subsection("virtio/virtqueues", bytes(16 * 1024)), "registers of another version"),
    ("rng", subsection("virtio/64bit_features", be(1 << 63, 8)), "64bit_features' twice"),
    ("net", subsection("virtio/virtqueues", b"x"), "ended early|footer|virtio"),
)


def request(head=0, out=1, inn=1, length=512, at=RINGS, queue=0):
    """One that is in flight, as a disk saves it: all it says may be wrong."""
    raw = struct.pack("<IIII", head, out, inn, 0)
    raw += struct.pack("<Q", at) + bytes(8 * 1023)
    raw += struct.pack("<Q", at) + bytes(8 * 1023)
    raw += struct.pack("<QQ", 0, length) + bytes(16 * 1023)
    raw += struct.pack("<QQ", 0, length) + bytes(16 * 1023)
    return be(queue, 4) + raw


REQUESTS = (
    ("descriptor", request(head=1024), "request of descriptor 1024"),
    ("behind its ring", request(head=16), "request of descriptor 16 for queue 0"),
    ("pieces", request(out=1025), "with 1025 + 1 pieces"),
    ("pieces of 2^32 - 1", request(out=(1 << 32) - 1, inn=2), "with 4294967295 + 2 pieces"),
    ("pieces together", request(out=1000, inn=25), "with 1000 + 25 pieces"),
    ("no piece", request(out=0, inn=0), "with 0 + 0 pieces"),
    ("empty piece", request(length=0), "a piece of 0 bytes"),
    ("4 GiB", request(length=1 << 32), "a piece of 4294967296 bytes"),
    ("outside", request(at=(16 << 20) - 256), "which is not in memory"),
    ("at the end of all", request(at=(1 << 64) - 256), "which is not in memory"),
    ("queue", request(queue=2), "queue 2"),
    ("queue of -1", request(queue=(1 << 32) - 1), "queue 4294967295"),
)


class VirtioStream(MigrationCase):
    @classmethod
    def setUpClass(cls):
        cls.edit = None

    def setUp(self):
        super().setUp()
        with open(self.path("disk.img"), "wb") as f:
            f.truncate(1 << 20)
        if not VirtioStream.edit:
            VirtioStream.edit = self.good()

    def devices(self):
        return ["-drive", f"file={self.path('disk.img')},format=raw,if=none,id=d0",
                "-netdev", "user,id=n0", *(word for d in DEVICES for word in d[1])]

    def good(self):
        """With drivers that have begun, and no guest."""
        src = self.vm(*self.devices(), guest=None, qtest=True, name="source")
        for number, (_, _, queues) in enumerate(DEVICES):
            driver = VirtioMmio(src.qtest, slot(number), True, Memory(RINGS + number * 0x40000))
            driver.start()
            for i in range(queues):
                driver.add_queue(i, 16)
            driver.driver_ok()
        migrate.start(src, "file:" + self.path("good"))
        migrate.wait_status(src, "completed")
        src.quit()
        with open(self.path("good"), "rb") as f:
            return Edit(f.read())

    def load(self, edit):
        return load(self, edit.bytes(), *MACHINE, *self.devices())

    def refused(self, edit, says):
        said = self.load(edit)
        self.assertIsNotNone(said, "It was taken")
        self.assertTrue(any(s in said for s in says.split("|")), said)

    def test_good(self):
        self.assertIsNone(self.load(self.edit))

    def test_fields(self):
        for device, field, value, says in FIELDS:
            with self.subTest(device=device, field=field, value=value):
                self.refused(self.edit.copy().set_field(section(device), "virtio." + field, value),
                             says)

    def test_subsections(self):
        for device, raw, says in ADDED:
            with self.subTest(device=device, says=says):
                edit = self.edit.copy()
                edit.find(section(device)).payload += raw
                self.refused(edit, says)

    def in_flight(self, *requests):
        edit = self.edit.copy()
        piece = edit.find(section("blk"))
        field = next(f for f in piece.section.fields if f.path == "virtio.request_follows")
        where = piece.place(field.offset, 1)
        piece.payload[where:where] = b"".join(b"\1" + r for r in requests)
        return edit

    def test_requests(self):
        self.assertIsNone(self.load(self.in_flight(request(), request(head=1, queue=1))))
        for label, raw, says in REQUESTS:
            with self.subTest(label):
                self.refused(self.in_flight(request(), raw), says)

    def test_taken(self):
        """What a guest could have brought about is taken: a descriptor that is in flight twice, as
        many requests as the largest ring holds, a request that never was in the ring."""
        many = [request(head=i % 16, queue=i & 1) for i in range(600)]
        for label, requests in (("twice", [request()] * 2), ("many", many)):
            with self.subTest(label):
                path = self.path("stream")
                with open(path, "wb") as f:
                    f.write(self.in_flight(*requests).bytes())
                victim = Victim(self, f"file:{path}", *MACHINE, *self.devices())
                self.assertTrue(victim.wait_decided(), label)
                victim.cmd("cont")
                for _ in range(20):
                    self.assertIn(victim.cmd("query-status")["status"], ("running", "io-error"))
                victim.quit()


if __name__ == "__main__":
    unittest.main()
