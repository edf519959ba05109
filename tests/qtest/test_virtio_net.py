# SPDX-License-Identifier: GPL-2.0-or-later
"""
virtio-net with user networking: what the driver sees as under QEMU, frames both ways, rings and
control requests that break the rules, commands. Taps are in test_virtio_net_tap.py.
"""

import socket
import struct

from ferrytest import QmpError, Timeout, scaled, wait_for
from ferrytest import net
from ferrytest.net import Nic, arp_request, frame, ipv4, tcp
from ferrytest.virtio import (EVENT_IDX, INDIRECT_DESC, NO_INTERRUPT, VirtioMmio, slot)
from sidebyside import QTestCase

USER = ("-netdev", "user,id=n0")
DEVICE = ("-device", "virtio-net-device,netdev=n0,id=net0")
CTRL = (1 << net.CTRL_VQ | 1 << net.CTRL_RX | 1 << net.CTRL_RX_EXTRA | 1 << net.CTRL_VLAN
        | 1 << net.CTRL_MAC_ADDR | 1 << net.STATUS | 1 << net.GUEST_ANNOUNCE)
ROUTER = "10.0.2.2"


def mode(legacy):
    return ("-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}")


class NetCase(QTestCase):
    def nic(self, *extra, legacy=True, netdev=USER, device=DEVICE, **driver):
        self.boot(*netdev, *device, *mode(legacy), *extra)
        return Nic(self.vm.qtest, legacy=legacy, **driver)

    def cmd(self, command, /, **arguments):
        return self.vm.qmp.execute(command, arguments)

    def hmp(self, line):
        return self.vm.cmd("human-monitor-command", **{"command-line": line})

    def ping_router(self, nic, source="10.0.2.15"):
        """Asks for the router's address and checks the answer."""
        nic.send(arp_request(ROUTER, source))
        answer = nic.receive_where(lambda f: f[12:14] == b"\x08\x06")
        self.assertEqual(answer[20:22], b"\0\x02")
        self.assertEqual(answer[28:32], net.ip(ROUTER))
        self.assertEqual(answer[:6], net.MAC0)
        return answer


class Registers(NetCase):
    VARIANTS = [
        ((), ""),
        ((), "mq=on,"),
        ((), "host_mtu=1400,mac=52:54:00:aa:bb:cc,"),
        ((), "csum=off,gso=off,mrg_rxbuf=off,ctrl_rx=off,guest_announce=off,status=off,"),
        ((), "ctrl_vq=off,ctrl_rx=off,ctrl_vlan=off,ctrl_rx_extra=off,ctrl_mac_addr=off,"
             "ctrl_guest_offloads=off,guest_announce=off,"),
    ]

    def look(self, qtest, legacy):
        device = VirtioMmio(qtest, slot(0), legacy)
        features = device.device_features() & ~(1 << 40)  # RING_RESET: not ours
        config = [qtest.readb(device.base + 0x100 + i) for i in range(20)]
        queues = []
        for i in range(8):
            device.write(0x30, i)
            queues.append(bool(device.read(0x34)))
        return features, config, queues, device.read(8), device.status()

    def test_as_qemu(self):
        for legacy in (True, False):
            for extra, options in self.VARIANTS:
                with self.subTest(legacy=legacy, options=options):
                    device = ("-device", f"virtio-net-device,{options}netdev=n0")
                    args = (*USER, *device, *mode(legacy), *extra)
                    ours = self.look(self.boot(*args), legacy)
                    theirs = self.look(self.boot_qemu(*args), legacy)
                    self.assertEqual(ours, theirs)

    def test_default_addresses(self):
        """52:54:00:12:34:56 and upward, passing over what was given."""
        self.boot("-netdev", "user,id=n0", "-netdev", "user,id=n1", "-netdev", "user,id=n2",
                  "-device", "virtio-net-device,netdev=n0,mac=52:54:00:12:34:57",
                  "-device", "virtio-net-device,netdev=n1",
                  "-device", "virtio-net-device,netdev=n2")
        macs = [Nic(self.vm.qtest, slot(i), begin=False).mac()[5] for i in range(3)]
        self.assertEqual(macs, [0x57, 0x56, 0x58])
        lines = self.hmp("info network").split("\r\n")
        self.assertEqual(lines[0], "virtio-net-device.0: index=0,type=nic,model=virtio-net-device,"
                                   "macaddr=52:54:00:12:34:57")
        self.assertEqual(lines[1], " \\ n0: index=0,type=user,net=10.0.2.0,restrict=off")

    def test_bad_properties(self):
        for options, expect in [("netdev=nope", "'nope'"), ("netdev=n0,mac=1:2:3", "'mac'"),
                                ("netdev=n0,mac=53:54:00:12:34:56", "multicast"),
                                ("netdev=n0,mac=52:54:00:12:34:5g", "'mac'"),
                                ("netdev=n0,rx_queue_size=300", "rx_queue_size"),
                                ("netdev=n0,tx_queue_size=512", "tx_queue_size"),
                                ("netdev=n0,tx=timer", "'tx'"), ("netdev=n0,host_mtu=5", "host_mtu"),
                                ("netdev=n0,rss=on", "rss"), ("netdev=n0,failover=on", "failover")]:
            with self.subTest(options=options):
                vm = self.ferry(*USER, "-device", f"virtio-net-device,{options}", accel="qtest",
                                wait=False)
                vm.wait(1)
                self.assertIn(expect, vm.stderr())

    def test_two_devices_one_back_end(self):
        vm = self.ferry(*USER, *DEVICE, "-device", "virtio-net-device,netdev=n0", accel="qtest",
                        wait=False)
        vm.wait(1)
        self.assertIn("'n0' is in use", vm.stderr())

    def test_old_driver_sets_address(self):
        nic = self.nic()
        for i in range(6):
            self.vm.qtest.writeb(nic.base + 0x100 + i, 0x50 + i)
        self.assertEqual(nic.mac(), bytes(range(0x50, 0x56)))
        nic = Nic(self.vm.qtest)
        self.assertEqual(nic.mac(), net.MAC0)
        nic = self.nic(legacy=False)
        self.vm.qtest.writeb(nic.base + 0x100, 0x50)
        self.assertEqual(nic.mac(), net.MAC0)


class Frames(NetCase):
    def test_both_ways(self):
        for legacy in (True, False):
            for features in (0, 1 << net.MRG_RXBUF, 1 << EVENT_IDX | 1 << INDIRECT_DESC):
                with self.subTest(legacy=legacy, features=features):
                    nic = self.nic(legacy=legacy, features=features)
                    self.ping_router(nic)
                    self.assertTrue(nic.wait_interrupt() & 1)

    def test_pieces(self):
        """The header and the frame may lie in any pieces, also in an indirect table."""
        nic = self.nic(features=1 << INDIRECT_DESC)
        for pieces in ([10], [10, 14], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [24], [9, 2, 30]):
            for indirect in (False, True):
                request = arp_request(ROUTER)
                nic.send(request, pieces=pieces, indirect=indirect)
                self.assertEqual(nic.receive()[28:32], net.ip(ROUTER))

    def test_header(self):
        """What arrives over a back end without offloads has an empty header and counts buffers."""
        nic = self.nic(features=1 << net.MRG_RXBUF)
        nic.send(arp_request(ROUTER))
        self.assertEqual(nic.receive_raw()[:12], bytes(10) + b"\x01\x00")

    def test_merged_buffers(self):
        nic = self.nic(features=1 << net.MRG_RXBUF, size=20, buffers=15)
        nic.send(arp_request(ROUTER))
        head = nic.rx[0].wait()
        first = nic.take_buffer(head, repost=False)
        count = struct.unpack("<H", first[10:12])[0]
        self.assertGreater(count, 1)
        for _ in range(count - 1):
            first += nic.take_buffer(nic.rx[0].wait(), repost=False)
        self.assertEqual(first[12:][28:32], net.ip(ROUTER))
        self.assertIsNone(nic.rx[0].poll())

    def test_too_few_buffers(self):
        """A frame that needs more buffers than there are waits for them, none is used up."""
        nic = self.nic(features=1 << net.MRG_RXBUF, size=20, buffers=2)
        nic.send(arp_request(ROUTER))
        self.assertTrue(nic.nothing_comes())
        for _ in range(8):
            nic.post(20)
        self.assertEqual(nic.receive(repost=False)[28:32], net.ip(ROUTER))

    def test_no_buffers(self):
        """Frames wait for buffers, in order; more than 256 are lost, and nothing else happens."""
        nic = self.nic(buffers=0)
        for i in range(300):
            nic.send(arp_request(ROUTER, f"10.0.2.{i % 200 + 20}"))
        self.assertTrue(nic.nothing_comes(0.05))
        for i in range(256):
            nic.post(2048)
            answer = nic.receive(repost=False)
            self.assertEqual(answer[38:42], net.ip(f"10.0.2.{i % 200 + 20}"), i)
        nic.post(2048)
        self.assertTrue(nic.nothing_comes(0.05))
        self.ping_router(nic)

    def test_short_buffer(self):
        """Without merging a frame that is longer than the buffer is lost, the buffer stays."""
        nic = self.nic(buffers=1, size=30)
        nic.send(arp_request(ROUTER))
        self.assertTrue(nic.nothing_comes())
        nic.post(2048)
        self.assertTrue(nic.nothing_comes(0.05))
        self.assertFalse(nic.status() & 0x40)

    def test_silly_frames(self):
        """Frames no network would carry are taken and lost."""
        nic = self.nic()
        for size in (0, 1, 13, 14, 1515, 9000, 65535, 65550):
            nic.send(bytes(size))
        self.ping_router(nic)
        nic.qtest.memset(nic.scratch, 65600, 0)
        nic.tx[0].add([(nic.scratch, 65600, False)] * 8)
        nic.tx[0].kick()
        nic.tx[0].wait()
        self.ping_router(nic)

    def test_interrupts_off(self):
        nic = self.nic()
        nic.take_interrupt()
        nic.tx[0].set_avail_flags(NO_INTERRUPT)
        nic.rx[0].set_avail_flags(NO_INTERRUPT)
        self.ping_router(nic)
        self.assertEqual(nic.take_interrupt(), 0)

    def test_dhcp_and_host_forwarding(self):
        """The guest gets an address, and a client of the host reaches it."""
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        nic = self.nic(netdev=("-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:7,"
                                          "hostname=guest7,dnssearch=a.example,dnssearch=b.example"))
        offer = self.dhcp(nic)
        self.assertIn(b"guest7", offer)
        self.assertIn(b"example", offer)
        client = socket.create_connection(("127.0.0.1", port), 5)
        self.addCleanup(client.close)
        self.serve_tcp(nic, client)

    def dhcp(self, nic):
        def bootp(kind, extra=b""):
            data = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + bytes(16) + net.MAC0
            data = data.ljust(236, b"\0") + b"\x63\x82\x53\x63\x35\x01" + bytes([kind]) + extra
            data += b"\xff"
            udp = struct.pack(">HHHH", 68, 67, 8 + len(data), 0) + data
            return frame(net.BROADCAST, net.MAC0, 0x0800,
                         ipv4("0.0.0.0", "255.255.255.255", 17, udp))
        nic.send(bootp(1))
        offer = nic.receive_where(lambda f: f[23:24] == b"\x11" and f[36:38] == b"\0\x44")
        self.assertEqual(offer[58:62], net.ip("10.0.2.15"))
        nic.send(bootp(3, b"\x32\x04" + net.ip("10.0.2.15")))
        return nic.receive_where(lambda f: f[23:24] == b"\x11" and f[36:38] == b"\0\x44")

    def serve_tcp(self, nic, client):
        """The guest's side of one connection: it takes what comes and answers."""
        def is_tcp(f):
            return f[12:14] == b"\x08\x00" and f[23] == 6

        # who looks for the guest is told
        def arp_or_tcp(f):
            if f[12:14] == b"\x08\x06" and f[38:42] == net.ip("10.0.2.15") and f[20:22] == b"\0\x01":
                reply = frame(f[6:12], net.MAC0, 0x0806, struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2)
                              + net.MAC0 + net.ip("10.0.2.15") + f[22:28] + f[28:32])
                nic.send(reply)
            return is_tcp(f)
        syn = nic.receive_where(arp_or_tcp)
        peer, router = socket.inet_ntoa(syn[26:30]), syn[6:12]
        sport, dport, seq = struct.unpack(">HHI", syn[34:42])
        self.assertEqual(dport, 7)

        def say(seq_, ack, flags, payload=b""):
            nic.send(frame(router, net.MAC0, 0x0800,
                           tcp("10.0.2.15", peer, 7, sport, seq_, ack, flags, payload)))
        say(1000, seq + 1, 0x12)
        client.sendall(b"hello guest")
        got = nic.receive_where(lambda f: is_tcp(f) and len(f) > 14 + 20 + 20 + 10)
        self.assertIn(b"hello guest", got)
        say(1001, seq + 12, 0x18, b"hello host")
        client.settimeout(scaled())
        self.assertEqual(client.recv(100), b"hello host")


class Rules(NetCase):
    """What a driver must not do: the device is broken, goes on after a reset."""

    def broken(self, nic, what):
        self.assertTrue(nic.is_broken(), what)
        again = Nic(self.vm.qtest, legacy=False, features=nic.features)
        self.ping_router(again)

    def test_transmit(self):
        for length in (1, 11):
            nic = self.nic(legacy=False)
            nic.tx[0].add([(nic.scratch, length, False)])
            nic.tx[0].kick()
            self.broken(nic, f"{length} bytes")
        nic = self.nic(legacy=False)
        nic.tx[0].add([(nic.scratch, 100, True)])
        nic.tx[0].kick()
        self.broken(nic, "a buffer to be written")
        nic = self.nic(legacy=False)
        nic.tx[0].add([(0xFFFFFFFF0000, 100, False)])
        nic.tx[0].kick()
        self.broken(nic, "an address that is not memory")

    def test_receive(self):
        for features in (0, 1 << net.MRG_RXBUF):
            for piece in ((None, 8, True), (None, 12, True), (None, 100, False)):
                nic = self.nic(legacy=False, features=features, buffers=0)
                nic.rx[0].add([(nic.scratch, piece[1], piece[2])])
                nic.rx[0].kick()
                nic.send(arp_request(ROUTER), wait=False)
                self.broken(nic, piece)

    def test_control(self):
        for buffers in ([(0, 1, False), (64, 1, True)], [(64, 1, True)], [(0, 8, False)]):
            nic = self.nic(legacy=False, features=CTRL)
            nic.ctrl.add([(nic.scratch + a, n, w) for a, n, w in buffers])
            nic.ctrl.kick()
            self.broken(nic, buffers)

    def test_loop_and_index(self):
        nic = self.nic(legacy=False)
        nic.tx[0].write_desc(0, nic.scratch, 20, 1, 0)
        nic.tx[0].offer(0)
        nic.tx[0].kick()
        self.broken(nic, "a chain that is a loop")
        nic = self.nic(legacy=False)
        nic.tx[0].set_index(1000)
        nic.tx[0].kick()
        self.broken(nic, "an index far ahead")

    def test_not_ready(self):
        """Frames for a driver that does not run wait; kicks before DRIVER_OK do nothing."""
        nic = self.nic()
        nic.write(0x70, 0)
        nic.tx[0].kick()
        nic.ctrl = None
        again = Nic(self.vm.qtest)
        self.ping_router(again)


class Control(NetCase):
    def setUp(self):
        super().setUp()
        self.n = self.nic(features=CTRL)

    def rx_filter(self):
        return self.cmd("query-rx-filter", name="net0")[0]

    def test_modes(self):
        n = self.n
        before = self.rx_filter()
        self.assertEqual((before["promiscuous"], before["broadcast-allowed"]), (True, True))
        for command, check in [(1, ("multicast", "all")), (2, ("unicast", "all")),
                               (3, ("multicast", "none")), (4, ("unicast", "none")),
                               (5, ("broadcast-allowed", False))]:
            self.assertEqual(n.control(0, command, b"\1"), net.OK)
            self.assertEqual(self.rx_filter()[check[0]], check[1])
            n.control(0, command, b"\0")
        self.assertEqual(n.control(0, 0, b"\0"), net.OK)
        self.assertFalse(self.rx_filter()["promiscuous"])
        self.assertEqual(self.rx_filter()["unicast"], "normal")

    def test_filter_at_work(self):
        n = self.n
        n.control(0, 0, b"\0")
        self.ping_router(n)
        n.control(0, 4, b"\1")  # no unicast
        n.send(arp_request(ROUTER))
        self.assertTrue(n.nothing_comes())
        n.control(0, 4, b"\0")
        self.ping_router(n)

    def test_mac_table(self):
        n = self.n

        def table(unicast, multicast):
            return b"".join(struct.pack("<I", len(x)) + b"".join(x) for x in (unicast, multicast))
        uni = [bytes([2, 0, 0, 0, 0, i]) for i in range(3)]
        multi = [bytes([1, 0, 0x5E, 0, 0, i]) for i in range(2)]
        self.assertEqual(n.control(1, 0, table(uni, multi)), net.OK)
        got = self.rx_filter()
        self.assertEqual(got["unicast-table"], [f"02:00:00:00:00:0{i}" for i in range(3)])
        self.assertEqual(got["multicast-table"], [f"01:00:5e:00:00:0{i}" for i in range(2)])
        self.assertEqual((got["unicast-overflow"], got["multicast-overflow"]), (False, False))
        many = [bytes([2, 0, 0, 0, 1, i]) for i in range(65)]
        self.assertEqual(n.control(1, 0, table(many, multi)), net.OK)
        got = self.rx_filter()
        self.assertEqual((got["unicast-table"], len(got["multicast-table"])), ([], 2))
        self.assertEqual((got["unicast-overflow"], got["multicast-overflow"]), (True, False))
        many = [bytes([1, 0, 0, 0, 1, i]) for i in range(63)]
        self.assertEqual(n.control(1, 0, table(uni, many)), net.OK)
        got = self.rx_filter()
        self.assertEqual((len(got["unicast-table"]), got["multicast-overflow"]), (3, True))
        for bad in (b"", b"\1\0\0", struct.pack("<I", 1), struct.pack("<I", 0xFFFFFFFF),
                    struct.pack("<I", 0x2AAAAAAB) + bytes(6), table(uni, multi) + b"x",
                    table(uni, multi)[:-1], struct.pack("<I", 0)):
            self.assertEqual(n.control(1, 0, bad), net.ERR, bad)
        self.assertEqual(self.rx_filter(), got)

    def test_address(self):
        n = self.n
        self.assertEqual(n.control(1, 1, b"\x02abcde"), net.OK)
        self.assertEqual(n.mac(), b"\x02abcde")
        self.assertEqual(self.rx_filter()["main-mac"], "02:61:62:63:64:65")
        for bad in (b"", b"\x02abcd", b"\x02abcdef"):
            self.assertEqual(n.control(1, 1, bad), net.ERR)
        self.assertEqual(n.mac(), b"\x02abcde")

    def test_vlans(self):
        n = self.n
        self.assertEqual(self.rx_filter()["vlan-table"], [])
        for vid in (0, 7, 4095):
            self.assertEqual(n.control(2, 0, struct.pack("<H", vid)), net.OK)
        self.assertEqual(self.rx_filter()["vlan-table"], [4095, 7, 0])
        self.assertEqual(n.control(2, 1, struct.pack("<H", 7)), net.OK)
        self.assertEqual(self.rx_filter()["vlan-table"], [4095, 0])
        self.assertEqual(n.control(2, 0, struct.pack("<H", 4096)), net.ERR)
        self.assertEqual(n.control(2, 2, struct.pack("<H", 1)), net.ERR)
        self.assertEqual(n.control(2, 0, b"\1"), net.ERR)

    def test_refused(self):
        """What does not exist or was not negotiated is refused, and the device goes on."""
        n = self.n
        for kind, command, data in [(0, 6, b"\1"), (0, 0, b""), (1, 2, b""), (3, 0, b""),
                                    (3, 1, b""), (4, 0, b"\1\0"), (5, 0, bytes(8)), (6, 0, b""),
                                    (255, 255, b"x" * 1000)]:
            self.assertEqual(n.control(kind, command, data), net.ERR, (kind, command))
        self.ping_router(n)

    def test_event_once(self):
        n = self.n
        n.control(0, 1, b"\1")
        n.control(0, 1, b"\0")
        n.control(0, 2, b"\0")

        def heard():
            self.vm.qmp.drain_events()
            return [e["data"]["name"] for e in self.vm.qmp.events
                    if e["event"] == "NIC_RX_FILTER_CHANGED"]
        self.rx_filter()
        self.assertEqual(heard(), ["net0"])
        n.control(0, 1, b"\1")
        self.rx_filter()
        self.assertEqual(heard(), ["net0"] * 2)

    def test_announce(self):
        """The driver is asked, and its answer taken once."""
        n = self.n
        n.take_interrupt()
        self.cmd("announce-self", initial=50, max=100, rounds=1, step=10)
        self.assertEqual(n.link_status(), 3)
        self.assertTrue(n.wait_interrupt(2) & 2)
        self.assertEqual(n.control(3, 0), net.OK)
        self.assertEqual(n.link_status(), 1)
        self.assertEqual(n.control(3, 0), net.ERR)

    def test_announce_rounds(self):
        n = self.n
        # far enough apart for a driver on a busy host to answer each
        self.cmd("announce-self", initial=300, max=300, rounds=3, step=0, id="x")
        for _ in range(3):
            wait_for("to be asked", lambda: n.link_status() == 3)
            n.control(3, 0)
        self.cmd("announce-self", initial=100, max=0, rounds=1000, step=0, id="x")
        wait_for("to be asked", lambda: n.link_status() == 3)
        self.cmd("announce-self", initial=100, max=0, rounds=0, step=0, id="x")
        n.control(3, 0)
        self.cmd("announce-self", initial=0, max=0, rounds=1, step=0, interfaces=["other"])
        self.assertEqual(n.link_status(), 1)
        self.cmd("announce-self", initial=0, max=0, rounds=1, step=0, interfaces=["net0"])
        self.assertEqual(n.link_status(), 3)


class Commands(NetCase):
    def test_link(self):
        n = self.nic(features=1 << net.STATUS)
        self.ping_router(n)
        n.take_interrupt()
        self.cmd("set_link", name="net0", up=False)
        self.assertEqual(n.link_status(), 0)
        self.assertTrue(n.wait_interrupt(2) & 2)
        n.send(arp_request(ROUTER))
        self.assertTrue(n.nothing_comes())
        self.assertIn("link=down", self.hmp("info network"))
        self.cmd("set_link", name="n0", up=True)
        self.assertEqual(n.link_status(), 1)
        self.ping_router(n)
        with self.assertRaises(QmpError) as e:
            self.cmd("set_link", name="none", up=True)
        self.assertEqual(e.exception.error_class, "DeviceNotFound")

    def test_back_end_goes(self):
        n = self.nic(features=1 << net.STATUS)
        self.ping_router(n)
        self.cmd("netdev_del", id="n0")
        self.assertEqual(n.link_status(), 0)
        for _ in range(20):
            n.send(arp_request(ROUTER))
        self.assertTrue(n.nothing_comes(0.05))
        self.cmd("netdev_add", type="user", id="n0")
        n.send(arp_request(ROUTER))
        self.assertTrue(n.nothing_comes(0.05))
        with self.assertRaises(QmpError):
            self.cmd("netdev_add", type="user", id="n0")

    def test_no_back_end(self):
        n = self.nic(netdev=(), device=("-device", "virtio-net-device"))
        n.send(arp_request(ROUTER))
        self.assertTrue(n.nothing_comes(0.05))

    def test_host_forwarding(self):
        self.nic()
        self.assertEqual(self.hmp("hostfwd_add tcp:127.0.0.1:0-:22"), "")
        self.assertEqual(self.hmp("hostfwd_add n0 udp:127.0.0.1:0-:22"), "")
        self.assertIn("not found", self.hmp("hostfwd_remove n0 tcp::1"))
        self.assertIn("Bad host port separator", self.hmp("hostfwd_add tcp::1"))
        self.assertIn("unrecognized netdev id 'x'", self.hmp("hostfwd_add x tcp::1-:2"))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            self.assertIn("Could not set up", self.hmp(f"hostfwd_add tcp:127.0.0.1:{port}-:22"))

    def test_stopped_machine(self):
        """Nothing passes while the machine stands; what came then passes afterwards."""
        n = self.nic()
        self.ping_router(n)
        self.cmd("stop")
        n.send(arp_request(ROUTER), wait=False)
        with self.assertRaises(Timeout):
            n.tx[0].wait(0.1)
        self.cmd("cont")
        n.tx[0].wait()
        self.assertEqual(n.receive()[28:32], net.ip(ROUTER))

    def test_system_reset(self):
        n = self.nic(features=CTRL)
        n.control(0, 0, b"\0")
        n.control(1, 1, b"\x02abcde")
        self.cmd("system_reset")
        wait_for("the reset", lambda: n.status() == 0)
        self.assertEqual(n.mac(), net.MAC0)
        again = Nic(self.vm.qtest, features=CTRL)
        self.assertTrue(self.cmd("query-rx-filter")[0]["promiscuous"])
        self.ping_router(again)
