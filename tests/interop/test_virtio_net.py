# SPDX-License-Identifier: GPL-2.0-or-later
"""
virtio-net moves between Ferry and QEMU while the test drives its rings: over user networking and,
in a network of its own, over a tap; with one pair of queues and with several; what the driver has
chosen is kept.
"""

import os
import struct
import unittest

from ferrytest import migrate, net, wait_for
from ferrytest.net import Memory, Nic, Wire, arp_request, frame
from ferrytest.qemu import peer
from ferrytest.virtio import EVENT_IDX
from interopcase import BACKPORT, FERRY, INSTALLED, InteropCase

ROUTE, MISSING = (FERRY, INSTALLED, FERRY, BACKPORT, FERRY), None
try:
    peer(BACKPORT)  # it may have to be fetched, while there still is a network
except (unittest.SkipTest, AssertionError) as why:
    ROUTE, MISSING = (FERRY, INSTALLED, FERRY), why
WHY_NOT = net.own_network()
ROUTER = "10.0.2.2"
HOST = bytes.fromhex("020000000001")
RINGS = 0x800000
CTRL = (1 << net.CTRL_VQ | 1 << net.CTRL_RX | 1 << net.CTRL_RX_EXTRA | 1 << net.CTRL_VLAN
        | 1 << net.CTRL_MAC_ADDR | 1 << net.STATUS | 1 << net.MRG_RXBUF)


class NetMove(InteropCase):
    taps = 0

    def start(self, who, netdev, legacy, device="", incoming=False):
        extra = ["-netdev", netdev, "-device", f"virtio-net-device,netdev=n0,id=net0{device}",
                 "-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}"]
        options = {"guest": None, "qtest": True, "smp": 1, "ram": None}
        return self.destination(who, *extra, **options) if incoming else \
            self.machine(who, *extra, **options)

    def move_on(self, vm, who, nic, netdev, legacy, device=""):
        dst = self.start(who, netdev, legacy, device, incoming=True)
        migrate.move(vm, dst, self.uri)
        wait_for("the guest runs", lambda: dst.status() == "running")
        nic.qtest = dst.qtest
        for queue in nic.queues.values():
            queue.qtest = dst.qtest
        vm.quit()
        return dst


class Peers(NetMove):
    def test_newer_qemu_is_there(self):
        """The routes of these cases pass by QEMU 10.0 where it can be had."""
        if MISSING:
            raise MISSING


class User(NetMove):
    netdev = "user,id=n0"

    def ping(self, nic):
        nic.send(arp_request(ROUTER))
        answer = nic.receive_where(lambda f: f[12:14] == b"\x08\x06")
        self.assertEqual(answer[28:32], net.ip(ROUTER))

    def travel(self, legacy, features=0):
        vm = self.start(ROUTE[0], self.netdev, legacy)
        nic = Nic(vm.qtest, legacy=legacy, features=features, memory=Memory(RINGS))
        for _ in range(5):
            self.ping(nic)
        status = nic.status()
        for who in ROUTE[1:]:
            vm = self.move_on(vm, who, nic, self.netdev, legacy)
            self.assertEqual(nic.status(), status, who)
            for _ in range(3):
                self.ping(nic)
        vm.quit()

    def test_legacy(self):
        self.travel(True)

    def test_modern(self):
        self.travel(False, CTRL)

    def test_lease(self):
        """What DHCP has given out is known on the other side."""
        def bootp(mac, kind, extra=b""):
            data = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + bytes(16) + mac
            data = data.ljust(236, b"\0") + b"\x63\x82\x53\x63\x35\x01" + bytes([kind]) + extra
            udp = struct.pack(">HHHH", 68, 67, 9 + len(data), 0) + data + b"\xff"
            return frame(net.BROADCAST, mac, 0x0800,
                         net.ipv4("0.0.0.0", "255.255.255.255", 17, udp))

        def lease(nic, mac):
            nic.send(bootp(mac, 1))
            offer = nic.receive_where(lambda f: f[23:24] == b"\x11" and f[36:38] == b"\0\x44")
            nic.send(bootp(mac, 3, b"\x32\x04" + offer[58:62]))
            nic.receive_where(lambda f: f[23:24] == b"\x11" and f[36:38] == b"\0\x44")
            return offer[58:62]
        vm = self.start(FERRY, self.netdev, True)
        nic = Nic(vm.qtest, memory=Memory(RINGS))
        other = net.MAC0[:5] + b"\x99"
        self.assertEqual(lease(nic, other), net.ip("10.0.2.15"))
        self.assertEqual(lease(nic, net.MAC0), net.ip("10.0.2.16"))
        for who in (INSTALLED, FERRY, FERRY):
            vm = self.move_on(vm, who, nic, self.netdev, True)
            self.assertEqual(lease(nic, net.MAC0), net.ip("10.0.2.16"), who)
            self.assertEqual(lease(nic, other), net.ip("10.0.2.15"), who)


@unittest.skipIf(WHY_NOT, WHY_NOT)
class Tap(NetMove):
    def tap(self, options=""):
        NetMove.taps += 1
        self.ifname = f"mt{NetMove.taps}"
        return f"tap,id=n0,ifname={self.ifname},script=no,downscript=no{options}"

    def exchange(self, nic, wire, pair=0, receive=True):
        data = frame(HOST, nic.mac(), 0x88B5, os.urandom(60))
        nic.send(data, pair)
        while True:
            got = wire.receive()
            if got[12:14] == b"\x88\xb5":
                break
        self.assertEqual(got, data)
        if receive:
            data = frame(nic.mac(), HOST, 0x88B5, os.urandom(60))
            wire.send(data)
            self.assertEqual(nic.receive(pair), data)

    def travel(self, legacy, features, options="", device="", pairs=1, prepare=None, check=None,
               route=ROUTE):
        netdev = self.tap(options)
        vm = self.start(route[0], netdev, legacy, device)
        wire = Wire(self.ifname)
        nic = Nic(vm.qtest, legacy=legacy, features=features, pairs=pairs, memory=Memory(RINGS))
        if prepare:
            prepare(nic)
        self.exchange(nic, wire, receive=pairs == 1)
        for who in route[1:]:
            wire.close()
            netdev = self.tap(options)
            vm = self.move_on(vm, who, nic, netdev, legacy, device)
            wire = Wire(self.ifname)
            for pair in range(pairs):
                self.exchange(nic, wire, pair, receive=pairs == 1)
            if check:
                check(nic, vm, who)
        wire.close()
        vm.quit()

    def test_plain(self):
        for legacy in (True, False):
            self.travel(legacy, 0, route=(FERRY, INSTALLED, FERRY))

    def test_offloads(self):
        self.travel(False, 1 << net.CSUM | 1 << net.GUEST_CSUM | 1 << net.GUEST_TSO4
                    | 1 << net.HOST_TSO4 | 1 << net.MRG_RXBUF | 1 << net.CTRL_GUEST_OFFLOADS
                    | 1 << net.CTRL_VQ | 1 << EVENT_IDX)

    def test_filter(self):
        """Modes, address tables and VLANs of the driver."""
        table = struct.pack("<I", 1) + b"\x02abcde" + struct.pack("<I", 1) + b"\x01\0\x5e\0\0\7"

        def prepare(nic):
            for kind, command, data in [(0, 0, b"\0"), (0, 5, b"\1"), (1, 0, table),
                                        (1, 1, b"\x02fghij"), (2, 0, b"\7\0"), (2, 0, b"\xff\x0f")]:
                self.assertEqual(nic.control(kind, command, data), net.OK)

        def check(nic, vm, who):
            got = vm.cmd("query-rx-filter")[0]
            self.assertEqual((got["promiscuous"], got["unicast-table"], got["multicast-table"],
                              got["main-mac"]),
                             (False, ["02:61:62:63:64:65"], ["01:00:5e:00:00:07"],
                              "02:66:67:68:69:6a"), who)
            if who == FERRY:
                self.assertEqual(got["broadcast-allowed"], False)
            self.vlans = sorted(got["vlan-table"])
        self.travel(False, CTRL, prepare=prepare, check=check)
        # QEMU 7.2 forgets VLANs when it loads them, so this only says something of Ferry
        self.travel(False, CTRL, prepare=prepare, check=check, route=(FERRY, FERRY, FERRY))
        self.assertEqual(self.vlans, [7, 4095])

    def section(self, who, legacy, features, options, device, pairs, prepare):
        """The bytes of the device's section in what `who` saves, its configuration space left
        out."""
        path = self.path("saved")
        vm = self.start(who, self.tap(options), legacy, device)
        nic = Nic(vm.qtest, legacy=legacy, features=features, pairs=pairs, memory=Memory(RINGS))
        prepare(nic)
        nic.take_interrupt()
        vm.cmd("stop")
        migrate.start(vm, f"exec:cat >{path}")
        migrate.wait_status(vm, "completed")
        vm.quit()
        with open(path, "rb") as f:
            data = f.read()
        at = data.index(b"/virtio-net") + len(b"/virtio-net") + 8
        section_id = data[data.rindex(b"\x04\0\0\0", 0, at) + 1:][:4]
        data = data[at:data.index(b"\x7e" + section_id, at)]
        length = struct.unpack(">I", data[20:24])[0]
        return data[:24].hex(), data[24 + length:].hex()

    def test_section_as_qemu(self):
        """After the same steps of a driver both save the same bytes."""
        table = struct.pack("<I", 2) + b"\x02abcde\x02abcdf" + struct.pack("<I", 1) + b"\x01\0\x5e\0\0\7"

        def steps(nic):
            nic.post(2048)
            for kind, command, data in [(0, 0, b"\0"), (0, 1, b"\1"), (0, 5, b"\1"), (1, 0, table),
                                        (1, 1, b"\x02fghij"), (2, 0, b"\7\0"), (2, 0, b"\xff\x0f")]:
                self.assertEqual(nic.control(kind, command, data), net.OK)

        def more_pairs(nic):
            self.assertEqual(nic.control(4, 0, b"\2\0"), net.OK)
        for legacy in (True, False):
            for features, options, device, pairs, prepare in [
                    (0, "", "", 1, lambda nic: None),
                    (CTRL, "", "", 1, steps),
                    (CTRL | 1 << net.CTRL_GUEST_OFFLOADS | 1 << net.GUEST_CSUM, "", "", 1, steps),
                    (CTRL | 1 << net.MQ, ",queues=3", ",mq=on", 3, more_pairs),
                    (CTRL, ",queues=3", ",mq=on", 1, steps),
                    (0, ",queues=3", ",mq=on", 1, lambda nic: None),
                    (CTRL, ",queues=3", "", 1, steps),
                    (CTRL, ",vnet_hdr=off", "", 1, steps)]:
                with self.subTest(legacy=legacy, options=options, features=hex(features)):
                    got = [self.section(who, legacy, features, options, device, pairs, prepare)
                           for who in (FERRY, INSTALLED)]
                    self.assertEqual(*got)

    def test_queues(self):
        """Three pairs, all in use; and three that the driver does not ask for."""
        def prepare(nic):
            self.assertEqual(nic.control(4, 0, b"\3\0"), net.OK)
        for legacy in (True, False):
            self.travel(legacy, CTRL | 1 << net.MQ, ",queues=3", ",mq=on", pairs=3,
                        prepare=prepare)
            self.travel(legacy, CTRL, ",queues=3", ",mq=on")
            self.travel(legacy, CTRL, ",queues=3")

    def test_refused(self):
        """A guest that was promised offloads or queues does not go where they are not."""
        for there, expect in ((",vnet_hdr=off", "vnet_hdr=on"), (",queues=2", "max_queue_pairs")):
            src = self.start(INSTALLED, self.tap(), False)
            Nic(src.qtest, legacy=False, features=1 << net.MRG_RXBUF, memory=Memory(RINGS))
            dst = self.start(FERRY, self.tap(there), False, incoming=True)
            migrate.start(src, self.uri)
            dst.wait(1)
            self.assertIn(expect, dst.stderr())
