# SPDX-License-Identifier: GPL-2.0-or-later
"""
virtio-net with a tap: frames to and from the kernel, its headers and offloads, several queues,
scripts, an interface that vanishes, announcements. The whole program is in a network of its own.
"""

import os
import struct
import subprocess
import time
import unittest

from ferrytest import QmpError, migrate, wait_for
from ferrytest import net
from ferrytest.deadline import FACTOR
from ferrytest.net import Nic, Wire, frame
from ferrytest.virtio import VirtioMmio, slot
from sidebyside import QTestCase

WHY_NOT = net.own_network()
HOST = bytes.fromhex("020000000001")
VNET = (1 << net.CSUM | 1 << net.GUEST_CSUM | 1 << net.HOST_TSO4 | 1 << net.GUEST_TSO4
        | 1 << net.MRG_RXBUF)


@unittest.skipIf(WHY_NOT, WHY_NOT)
class TapCase(QTestCase):
    number = 0

    def tap_nic(self, options="", device="", legacy=True, extra=(), fds=(), incoming=None, **driver):
        """A driver, its machine's tap as a Wire in self.wire."""
        TapCase.number += 1
        self.ifname = f"ft{TapCase.number}"
        if "fd=" not in options and "fds=" not in options:
            options = f",ifname={self.ifname},script=no,downscript=no" + options
        self.boot("-netdev", f"tap,id=n0{options}",
                  "-device", f"virtio-net-device,netdev=n0,id=net0{device}",
                  "-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}", *extra,
                  pass_fds=fds, incoming=incoming)
        self.wire = Wire(self.ifname)
        self.addCleanup(self.wire.close)
        return Nic(self.vm.qtest, legacy=legacy, **driver)

    def cmd(self, command, /, **arguments):
        return self.vm.qmp.execute(command, arguments)

    def exchange(self, nic, pair=0):
        """One frame each way."""
        data = frame(HOST, net.MAC0, 0x88B5, os.urandom(60))
        nic.send(data, pair)
        self.assertEqual(self.wire.receive(), data)
        data = frame(net.MAC0, HOST, 0x88B5, os.urandom(60))
        self.wire.send(data)
        self.assertEqual(nic.receive(pair), data)


class Frames(TapCase):
    def test_both_ways(self):
        for legacy in (True, False):
            for vnet in ("", ",vnet_hdr=off"):
                for features in (0, 1 << net.MRG_RXBUF):
                    with self.subTest(legacy=legacy, vnet=vnet, features=features):
                        nic = self.tap_nic(vnet, legacy=legacy, features=features)
                        for _ in range(3):
                            self.exchange(nic)

    def test_features_as_qemu(self):
        for legacy in (True, False):
            for options, device in (("", ""), (",vnet_hdr=off", ""), (",queues=3", ",mq=on"),
                                    (",queues=3", "")):
                got = []
                for boot in (self.boot, self.boot_qemu):
                    TapCase.number += 1
                    qtest = boot("-netdev", f"tap,id=n0,ifname=fq{TapCase.number},script=no,"
                                 f"downscript=no{options}",
                                 "-device", f"virtio-net-device,netdev=n0{device}",
                                 "-global",
                                 f"virtio-mmio.force-legacy={'on' if legacy else 'off'}")
                    mmio = VirtioMmio(qtest, slot(0), legacy)
                    got.append((mmio.device_features() & ~(1 << 40),
                                [qtest.readb(mmio.base + 0x100 + i) for i in range(12)]))
                self.assertEqual(*got)

    def test_many_frames(self):
        """Bursts in both directions, in order and whole, while buffers come back late."""
        nic = self.tap_nic(features=VNET, buffers=12)
        for burst in range(20):
            frames = [frame(net.MAC0, HOST, 0x88B5, bytes([burst, i]) * 30) for i in range(40)]
            for f in frames:
                self.wire.send(f)
            for f in frames:
                self.assertEqual(nic.receive(), f)
            for i in range(10):
                f = frame(HOST, net.MAC0, 0x88B5, bytes([burst, i]) * 700)
                nic.send(f)
                self.assertEqual(self.wire.receive(), f)

    def test_rx_without_buffers(self):
        """Frames wait in the kernel and come when there is room."""
        nic = self.tap_nic(features=VNET, buffers=0)
        frames = [frame(net.MAC0, HOST, 0x88B5, bytes([i]) * 50) for i in range(100)]
        for f in frames:
            self.wire.send(f)
        self.assertTrue(nic.nothing_comes(0.1))
        for f in frames:
            nic.post(2048)
            self.assertEqual(nic.receive(repost=False), f)

    def test_checksum_left_to_us(self):
        """A header of the driver reaches the kernel, which does what it says."""
        nic = self.tap_nic(features=VNET)
        packet = net.ipv4("10.1.0.2", "10.1.0.1", 17, struct.pack(">HHHH", 9, 9, 12, 0) + b"abcd")
        # VIRTIO_NET_HDR_F_NEEDS_CSUM: start behind the IPv4 header, field 6 bytes further
        header = struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 6, 0)
        nic.send(frame(HOST, net.MAC0, 0x0800, packet), header=header)
        self.assertEqual(self.wire.receive()[14:34], packet[:20])
        for bad in (struct.pack("<BBHHHHH", 1, 0, 0, 0, 60000, 60000, 0),
                    struct.pack("<BBHHHHH", 1, 1, 65535, 65535, 65535, 65535, 0), b"\xff" * 12):
            nic.send(frame(HOST, net.MAC0, 0x0800, packet), header=bad)
        self.exchange(nic)

    def test_header_of_the_kernel(self):
        nic = self.tap_nic(features=VNET)
        self.wire.send(frame(net.MAC0, HOST, 0x88B5, bytes(50)))
        raw = nic.receive_raw()
        self.assertEqual(struct.unpack("<H", raw[10:12])[0], 1)
        self.assertEqual(len(raw), 12 + 64)

    def test_large_frames(self):
        """A frame of 60,000 bytes takes many buffers of a driver that merges."""
        nic = self.tap_nic(features=VNET, buffers=40, queue_size=64)
        os.system(f"ip link set {self.ifname} mtu 65000")
        data = frame(net.MAC0, HOST, 0x88B5, os.urandom(60000))
        self.wire.send(data)
        self.assertEqual(nic.receive(), data)
        data = frame(HOST, net.MAC0, 0x88B5, os.urandom(60000))
        nic.send(data, pieces=[12, 14, 4096] + [4096] * 10)
        self.assertEqual(self.wire.receive(), data)

    def test_interface_down(self):
        """Frames are lost while the interface is down, and pass when it is up again."""
        nic = self.tap_nic(features=VNET)
        net.set_up(self.ifname, False)
        for _ in range(20):
            nic.send(frame(HOST, net.MAC0, 0x88B5, bytes(60)))
        net.set_up(self.ifname)
        self.wire.close()
        self.wire = Wire(self.ifname)
        self.exchange(nic)

    def test_vanishes(self):
        nic = self.tap_nic(features=VNET | 1 << net.STATUS)
        self.exchange(nic)
        nic.take_interrupt()
        net.delete(self.ifname)
        wait_for("the link to go down", lambda: nic.link_status() == 0)
        self.assertTrue(nic.wait_interrupt(2) & 2)
        for _ in range(20):
            nic.send(frame(HOST, net.MAC0, 0x88B5, bytes(60)))
        self.assertEqual(self.vm.stderr().count("does not work any more"), 1)
        self.cmd("set_link", name="net0", up=False)
        self.cmd("set_link", name="net0", up=True)
        self.assertEqual(nic.link_status(), 0)
        self.cmd("netdev_del", id="n0")

    def slow_road(self):
        """What the guest sends leaves over a bridge and another tap, 10,000 bytes a second."""
        fd = net.multi_queue_fds("out0", 1, vnet_hdr=False)[0]
        self.addCleanup(os.close, fd)
        for command in ("ip link add br0 type bridge", "ip link set out0 master br0",
                        f"ip link set {self.ifname} master br0", "ip link set out0 up",
                        "ip link set br0 up",
                        "tc qdisc add dev out0 root tbf rate 80kbit burst 2000 limit 1000000"):
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                self.skipTest(f"this kernel has no slow road ({command}: {done.stderr.strip()})")
        self.addCleanup(subprocess.run, ["ip", "link", "delete", "br0"], check=False)
        return fd

    def test_kernel_takes_no_more(self):
        """Frames that the kernel has no room for wait in the ring, over a stop too, and go in order;
        without a link they are lost."""
        nic = self.tap_nic(",sndbuf=4000", features=0, queue_size=64)
        out = self.slow_road()
        frames = [frame(HOST, net.MAC0, 0x88B5, struct.pack("<H", i) * 500) for i in range(30)]
        for at, f in zip(range(nic.scratch, nic.scratch + 60000, 2000), frames):
            nic.qtest.write(at, bytes(10) + f)
            nic.tx[0].add([(at, 10 + len(f), False)])
        nic.tx[0].kick()
        time.sleep(0.05)
        self.assertLess(nic.tx[0].used_index(), 20)
        self.cmd("stop")
        time.sleep(0.3)
        used = nic.tx[0].used_index()
        self.assertLess(used, 20)
        self.cmd("cont")
        got = []
        while len(got) < len(frames):
            data = os.read(out, 70000)
            if data[12:14] == b"\x88\xb5":
                got.append(data)
        self.assertEqual(got, frames)
        for _ in frames:
            nic.tx[0].wait()
        for at, f in zip(range(nic.scratch, nic.scratch + 60000, 2000), frames):
            nic.tx[0].add([(at, 10 + len(f), False)])
        nic.tx[0].kick()
        time.sleep(0.05)
        self.cmd("set_link", name="net0", up=False)
        wait_for("all to be lost", lambda: nic.tx[0].used_index() == 60,
                 timeout=2 / FACTOR)  # before they could have gone there


class Queues(TapCase):
    FEATURES = VNET | 1 << net.MQ | 1 << net.CTRL_VQ

    def pairs(self, nic, n):
        return nic.control(4, 0, struct.pack("<H", n))

    def test_pairs(self):
        for legacy in (True, False):
            nic = self.tap_nic(",queues=3", ",mq=on", legacy, features=self.FEATURES, pairs=3)
            self.assertEqual(nic.config(8, 2), 3)
            self.exchange(nic)
            self.assertEqual(self.pairs(nic, 3), net.OK)
            for i in range(3):
                data = frame(HOST, net.MAC0, 0x88B5, bytes([i]) * 60)
                nic.send(data, i)
                self.assertEqual(self.wire.receive(), data)
            # which queue a frame comes in is the kernel's choice
            for i in range(12):
                self.wire.send(frame(net.MAC0, HOST, 0x0800, net.ipv4(
                    "10.1.0.1", "10.1.0.2", 17, struct.pack(">HHHH", 1000 + i, 9, 8, 0))))
            wait_for("frames", lambda: sum((q.used_index() - q.last_used) & 0xFFFF for q in nic.rx) >= 12)
            time.sleep(0.1)
            came = [0, 0, 0]
            for pair in range(3):
                while not nic.nothing_comes(0, pair):
                    nic.receive(pair)
                    came[pair] += 1
            self.assertEqual(sum(came), 12, came)
            self.assertEqual(self.pairs(nic, 1), net.OK)
            self.exchange(nic)

    def test_refused_numbers(self):
        nic = self.tap_nic(",queues=2", ",mq=on", features=self.FEATURES, pairs=2)
        for n in (0, 3, 65535):
            self.assertEqual(self.pairs(nic, n), net.ERR)
        self.assertEqual(nic.control(4, 0, b"\1"), net.ERR)
        self.assertEqual(nic.control(4, 1, b"\1\0"), net.ERR)
        self.exchange(nic)

    def test_driver_without_mq(self):
        """The control queue is the third then."""
        nic = self.tap_nic(",queues=3", ",mq=on", features=VNET | 1 << net.CTRL_VQ
                           | 1 << net.CTRL_RX)
        self.assertEqual(nic.control(0, 1, b"\1"), net.OK)
        self.assertEqual(self.pairs(nic, 2), net.ERR)
        self.exchange(nic)

    def test_back_to_one_at_reset(self):
        nic = self.tap_nic(",queues=2", ",mq=on", features=self.FEATURES, pairs=2)
        self.pairs(nic, 2)
        nic = Nic(self.vm.qtest, features=VNET)
        for _ in range(6):
            self.exchange(nic)

    def test_mind_changed(self):
        """Without the feature there is one pair, and what is saved can be loaded."""
        nic = self.tap_nic(",queues=2", ",mq=on", features=self.FEATURES, pairs=2)
        self.assertEqual(self.pairs(nic, 2), net.OK)
        nic.write_features(VNET)
        self.exchange(nic)
        uri = "file:" + self.path("state")
        migrate.start(self.vm, uri)
        migrate.wait_status(self.vm, "completed")
        self.vm.quit()
        self.wire.close()
        self.tap_nic(",queues=2", ",mq=on", begin=False, incoming=uri)
        self.vm.wait_state("running")

    def test_inherited(self):
        """fds=: a multi-queue tap that somebody else has opened."""
        name = f"ft{TapCase.number + 1}"
        fds = net.multi_queue_fds(name, 2)
        try:
            nic = self.tap_nic(f",fds={fds[0]}:{fds[1]}", ",mq=on", features=self.FEATURES,
                               pairs=2, fds=fds)
        finally:
            for fd in fds:
                os.close(fd)
        self.assertEqual(nic.config(8, 2), 2)
        self.pairs(nic, 2)
        self.assertIn(f"ifname={name},queues=2,vnet_hdr=on",
                      self.vm.cmd("human-monitor-command", command_line="info network"))
        data = frame(HOST, net.MAC0, 0x88B5, bytes(60))
        nic.send(data, 1)
        self.assertEqual(self.wire.receive(), data)

    def test_offloads(self):
        nic = self.tap_nic(features=VNET | 1 << net.CTRL_VQ | 1 << net.CTRL_GUEST_OFFLOADS)
        for value, expect in [(1 << net.GUEST_CSUM, net.OK), (0, net.OK),
                              (1 << net.GUEST_CSUM | 1 << net.GUEST_TSO4, net.OK),
                              (1 << net.GUEST_TSO6, net.ERR), (1 << 63, net.ERR)]:
            self.assertEqual(nic.control(5, 0, struct.pack("<Q", value)), expect, hex(value))
        self.exchange(nic)


class Opening(TapCase):
    def refused(self, netdev, expect):
        vm = self.ferry("-netdev", netdev, accel="qtest", wait=False)
        vm.wait(1)
        self.assertIn(expect, vm.stderr())

    def test_refused(self):
        with open("/dev/null", "rb") as other:
            self.refused("tap,id=a,ifname=fx0,script=/nonexistent", "/nonexistent")
            self.refused("tap,id=a,ifname=fx0,script=/bin/false", "failed with status")
            self.refused("tap,id=a,ifname=lo,script=no", "could not configure /dev/net/tun (lo)")
            self.refused("tap,id=a,fd=63", "'63'")
            vm = self.ferry("-netdev", f"tap,id=a,fd={other.fileno()}", accel="qtest", wait=False,
                            pass_fds=(other.fileno(),))
            vm.wait(1)
            self.assertIn("is not that of a tap", vm.stderr())

    def test_scripts(self):
        log = self.path("log")
        for name in ("up", "down"):
            with open(self.path(name), "w", encoding="ascii") as f:
                f.write(f'#!/bin/sh\necho {name} "$@" >>{log}\n')
            os.chmod(self.path(name), 0o755)
        vm = self.ferry("-netdev", f"tap,id=a,ifname=fs0,script={self.path('up')},"
                                   f"downscript={self.path('down')}", accel="qtest")
        vm.quit()
        with open(log, encoding="ascii") as f:
            self.assertEqual(f.read().split(), ["up", "fs0", "down", "fs0"])

    def test_add_and_remove(self):
        vm = self.ferry(accel="qtest")
        for _ in range(3):
            vm.qmp.execute("netdev_add", {"type": "tap", "id": "a", "ifname": "fa0",
                                          "script": "no", "downscript": "no"})
            self.assertTrue(net.exists("fa0"))
            with self.assertRaises(QmpError) as e:
                vm.qmp.execute("netdev_add", {"type": "tap", "id": "b", "vhost": True})
            self.assertIn("vhost", str(e.exception))
            vm.qmp.execute("netdev_del", {"id": "a"})
            wait_for("the interface to go", lambda: not net.exists("fa0"))


class Announcing(TapCase):
    def rarp(self, mac=net.MAC0):
        return (net.BROADCAST + mac + struct.pack(">HHHBBH", 0x8035, 1, 0x0800, 6, 4, 3)
                + mac + bytes(4) + mac + bytes(4)).ljust(60, b"\0")

    def test_by_hand(self):
        for features in (0, VNET):
            nic = self.tap_nic(features=features)
            self.cmd("announce-self", initial=30, max=50, rounds=4, step=15)
            times = []
            for _ in range(4):
                data, when = self.wire.receive_at()
                self.assertEqual(data, self.rarp())
                times.append(when)
            gaps = [b - a for a, b in zip(times, times[1:])]
            for gap, least in zip(gaps, (0.030, 0.045, 0.050)):
                self.assertGreater(gap, least - 0.002, gaps)
            self.assertTrue(self.wire.nothing_comes(0.1))
            self.exchange(nic)

    def test_which(self):
        self.tap_nic()
        self.cmd("announce-self", initial=0, max=0, rounds=1, step=0, interfaces=["other"])
        self.assertTrue(self.wire.nothing_comes(0.1))
        for name in ("net0", "n0"):
            self.cmd("announce-self", initial=0, max=0, rounds=1, step=0, interfaces=[name])
            self.assertEqual(self.wire.receive(), self.rarp())

    def test_link_down(self):
        self.tap_nic()
        self.cmd("set_link", name="net0", up=False)
        self.cmd("announce-self", initial=0, max=0, rounds=1, step=0)
        self.assertTrue(self.wire.nothing_comes(0.1))
        with self.assertRaises(QmpError):
            self.cmd("announce-self", initial=-1, max=0, rounds=1, step=0)

