# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-serial: control messages, ports in both directions, slow readers, its part of a stream."""

import socket
import struct
import time

from ferrytest import TestCase, migrate, scaled, wait_for
from ferrytest.virtio import EVENT_IDX, VirtioMmio, slot

MULTIPORT, EMERG_WRITE = 1, 2
(DEVICE_READY, DEVICE_ADD, DEVICE_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN,
 PORT_NAME) = range(8)
SERIAL = ("-device", "virtio-serial-device")
CONTROL_IN, CONTROL_OUT = 2, 3


def port_queues(nr):
    """(into the guest, out of it)"""
    return (0, 1) if not nr else (2 * nr + 2, 2 * nr + 3)


class SerialCase(TestCase):
    legacy = True

    def listen(self, name):
        """A socket that a chardev connects to: its -chardev, and accept() of the other end."""
        path = self.path(name)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(1)
        sock.settimeout(scaled(10))
        self.addCleanup(sock.close)

        def accept():
            peer = sock.accept()[0]
            peer.settimeout(scaled(10))
            self.addCleanup(peer.close)
            return peer
        return ("-chardev", f"socket,id={name},path={path}"), accept

    def boot(self, *extra, serial=SERIAL, **options):
        """A driver that has reset the device and not looked further."""
        self.vm = self.ferry(*serial, *extra, "-global",
                             f"virtio-mmio.force-legacy={'on' if self.legacy else 'off'}",
                             accel="qtest", qtest=True, **options)
        self.bind_driver(VirtioMmio(self.vm.qtest, slot(0), self.legacy))

    def bind_driver(self, device):
        self.device = device
        self.buffers = {}

    def negotiate(self, ports, features=1 << MULTIPORT, size=8):
        d = self.device
        d.start(features)
        self.rx = {nr: d.add_queue(port_queues(nr)[0], size) for nr in ports}
        self.tx = {nr: d.add_queue(port_queues(nr)[1], size) for nr in ports}
        if features & 1 << MULTIPORT:
            self.control_in = d.add_queue(CONTROL_IN, 32)
            self.control_out = d.add_queue(CONTROL_OUT, 32)
        d.driver_ok()
        if features & 1 << MULTIPORT:
            self.refill()

    def refill(self, count=32, size=32):
        for _ in range(min(count, len(self.control_in.free))):
            addr = self.device.memory.take(size)
            self.buffers[self.control_in.add([(addr, size, True)])] = addr
        self.control_in.kick()

    def control(self, timeout=None):
        """The next message: (port, event, value, text)"""
        head, written = self.control_in.wait(timeout)
        data = self.vm.qtest.read(self.buffers.pop(head), written)
        return (*struct.unpack("<IHH", data[:8]), data[8:])

    def send(self, port, event, value=1):
        addr = self.device.memory.take(8)
        self.vm.qtest.write(addr, struct.pack("<IHH", port, event, value))
        self.control_out.add([(addr, 8, False)])
        self.control_out.kick()
        self.control_out.wait()

    def open(self, port):
        self.send(port, PORT_OPEN)

    def write(self, port, *pieces):
        """Offers a request; does not wait."""
        buffers = []
        for data in pieces:
            addr = self.device.memory.take(len(data))
            self.vm.qtest.b64write(addr, data)
            buffers.append((addr, len(data), False))
        self.tx[port].add(buffers)
        self.tx[port].kick()

    def offer(self, port, *sizes):
        addrs = [self.device.memory.take(n) for n in sizes]
        self.rx[port].add([(a, n, True) for a, n in zip(addrs, sizes)])
        self.rx[port].kick()
        return addrs


class Control(SerialCase):
    def test_configuration(self):
        self.boot()
        self.assertEqual(self.device.device_features() & 7, 1 << MULTIPORT | 1 << EMERG_WRITE)
        self.assertEqual(struct.unpack("<HHII", self.vm.qtest.read(slot(0) + 0x100, 12)),
                         (0, 0, 31, 0))
        self.boot(serial=("-device", "virtio-serial-device,max_ports=1,emergency-write=off"))
        self.assertEqual(self.device.device_features() & 7, 0)
        for queue, there in ((0, 1024), (3, 1024), (4, 0)):
            self.device.write(0x30, queue)
            self.assertEqual(self.device.read(0x34), there)

    def test_conversation(self):
        """What a driver learns, in the order it does from QEMU."""
        chardev, accept = self.listen("c0")
        self.boot(*chardev, "-device", "virtconsole,chardev=c0", "-device",
                  "virtserialport,nr=3,name=org.example.port", "-device", "virtserialport")
        accept()
        self.negotiate((0, 1, 3))
        self.send(0xFFFFFFFF, DEVICE_READY)
        self.assertEqual([self.control()[:3] for _ in range(3)],
                         [(0, DEVICE_ADD, 1), (3, DEVICE_ADD, 1), (1, DEVICE_ADD, 1)])
        for port in (0, 3, 1):
            self.send(port, PORT_READY)
        self.assertEqual([self.control() for _ in range(3)],
                         [(0, CONSOLE_PORT, 1, b""), (0, PORT_OPEN, 1, b""),
                          (3, PORT_NAME, 1, b"org.example.port\0")])
        self.assertIsNone(self.control_in.poll())

    def test_messages_wait_for_buffers(self):
        self.boot(*[a for _ in range(9) for a in ("-device", "virtserialport")])
        self.device.start(1 << MULTIPORT)
        self.control_in = self.device.add_queue(CONTROL_IN, 4)
        self.control_out = self.device.add_queue(CONTROL_OUT, 4)
        self.device.driver_ok()
        self.send(0, DEVICE_READY)
        seen = []
        while len(seen) < 9:
            self.refill(2)
            seen += [self.control()[0] for _ in range(min(2, 9 - len(seen)))]
        self.assertEqual(seen, list(range(1, 10)))

    def test_nonsense(self):
        """Ports that are not there, events that are none, messages cut short, buffers too small."""
        self.boot("-device", "virtserialport,name=a-long-name")
        self.negotiate((1,))
        for port in (1, 2, 30, 31, 0xFFFFFFFF):
            for event in (*range(1, 10), 0xFFFF):
                self.send(port, event, 0)
                self.send(port, event, 0xFFFF)
        for data in (b"\x01", bytes(7), bytes(100)):
            addr = self.device.memory.take(128)
            self.vm.qtest.write(addr, data)
            self.control_out.add([(addr, len(data), False)])
            self.control_out.kick()
            self.control_out.wait()
        self.boot("-device", "virtserialport,name=a-long-name")
        self.negotiate((1,))
        self.send(1, DEVICE_READY)
        self.assertEqual(self.control()[1], DEVICE_ADD)

    def test_name_is_cut(self):
        """To the buffer that the driver gave."""
        self.boot("-device", "virtserialport,name=a-long-name")
        self.device.start(1 << MULTIPORT)
        self.control_in = self.device.add_queue(CONTROL_IN, 4)
        self.control_out = self.device.add_queue(CONTROL_OUT, 4)
        self.device.driver_ok()
        self.refill(1, size=12)
        self.send(1, PORT_READY)
        self.assertEqual(self.control(), (1, PORT_NAME, 1, b"a-lo"))

    def test_events(self):
        self.boot("-device", "virtserialport,id=p1", "-device", "virtserialport", qmp=True)
        self.negotiate((1, 2))
        self.open(1)
        self.open(2)  # has no id
        event = self.vm.qmp.wait_event("VSERPORT_CHANGE")
        self.assertEqual(event["data"], {"id": "p1", "open": True})
        # too soon: told a second after the first, once
        for value in (0, 1, 0):
            self.send(1, PORT_OPEN, value)
        first = event["timestamp"]
        event = self.vm.qmp.wait_event("VSERPORT_CHANGE")
        self.assertEqual(event["data"], {"id": "p1", "open": False})
        second = event["timestamp"]
        self.assertGreater(second["seconds"] - first["seconds"] +
                           (second["microseconds"] - first["microseconds"]) / 1e6, 0.9)


class Data(SerialCase):
    def start(self, device="virtserialport", nr=1, features=1 << MULTIPORT, **options):
        chardev, accept = self.listen("c0")
        self.boot(*chardev, "-device", f"{device},chardev=c0,nr={nr}", **options)
        self.negotiate((nr,), features)
        self.nr = nr
        return accept()

    def test_output(self):
        peer = self.start()
        self.write(1, b"hello ", b"world")
        self.assertEqual(self.tx[1].wait(), (0, 0))
        self.assertEqual(self.receive(peer, 11), b"hello world")
        self.assertEqual(self.device.take_interrupt(), 1)

    def test_input(self):
        """Into one buffer after the other, as much as each takes."""
        peer = self.start()
        self.open(1)
        a, b = self.offer(1, 3, 4)
        c, = self.offer(1, 10)
        peer.sendall(b"0123456789")
        self.assertEqual(self.rx[1].wait(), (0, 7))
        self.assertEqual(self.rx[1].wait(), (2, 3))
        read = self.vm.qtest.read
        self.assertEqual((read(a, 3), read(b, 4), read(c, 3)), (b"012", b"3456", b"789"))

    def test_query_chardev(self):
        """Managers see there whether somebody in the guest listens."""
        self.start()
        def is_open():
            return {c["label"]: c["frontend-open"] for c in self.vm.qmp.cmd("query-chardev")}["c0"]
        self.assertFalse(is_open())
        self.open(1)
        self.assertTrue(is_open())
        self.send(1, PORT_OPEN, 0)
        self.assertFalse(is_open())

    def test_input_waits(self):
        """For somebody who has the port open, and then for a buffer."""
        peer = self.start()
        a, = self.offer(1, 8)
        peer.sendall(b"early")
        self.vm.qmp.cmd("query-status")
        self.assertIsNone(self.rx[1].poll())
        self.open(1)
        self.assertEqual(self.rx[1].wait(), (0, 5))
        peer.sendall(b"later")
        self.vm.qmp.cmd("query-status")
        b, = self.offer(1, 8)
        self.assertEqual(self.rx[1].wait(), (1, 5))
        self.assertEqual((self.vm.qtest.read(a, 5), self.vm.qtest.read(b, 5)), (b"early", b"later"))

    def test_buffer_without_room(self):
        peer = self.start()
        self.open(1)
        self.rx[1].add([(self.device.memory.take(4), 4, False)])
        a, = self.offer(1, 4)
        peer.sendall(b"data")
        self.assertEqual(self.rx[1].wait(), (0, 0))
        self.assertEqual(self.rx[1].wait(), (1, 4))
        self.assertEqual(self.vm.qtest.read(a, 4), b"data")

    def test_console_without_multiport(self):
        """Port 0 needs no control messages."""
        peer = self.start("virtconsole", 0, features=0)
        self.write(0, b"out")
        self.tx[0].wait()
        self.assertEqual(self.receive(peer, 3), b"out")
        a, = self.offer(0, 8)
        peer.sendall(b"in")
        self.assertEqual(self.rx[0].wait(), (0, 2))
        self.assertEqual(self.vm.qtest.read(a, 2), b"in")

    def test_event_index(self):
        peer = self.start(features=1 << MULTIPORT | 1 << EVENT_IDX)
        for i in range(20):
            self.write(1, b"%03d" % i)
            self.tx[1].wait()
        self.assertEqual(self.receive(peer, 60), b"".join(b"%03d" % i for i in range(20)))

    def test_nobody_listens(self):
        """Output of a port without a chardev, without a port, or whose client has gone, is lost."""
        self.boot("-device", "virtserialport")
        self.negotiate((0, 1, 5))
        for port in (0, 1, 5):
            self.write(port, b"lost")
            self.tx[port].wait()
        peer = self.start()
        peer.close()
        self.assertEqual(self.control(), (1, PORT_OPEN, 0, b""))
        self.write(1, b"lost")
        self.tx[1].wait()

    def stuff(self, peer):
        """Fills the link: how much has been written."""
        block, written = bytes(range(256)) * 4096, 0
        for _ in range(64):
            self.device.memory.next = 0x300000
            self.write(1, block)
            written += len(block)
            end = time.monotonic() + 2
            while not (used := self.tx[1].poll()) and time.monotonic() < end:
                pass
            if not used:
                return written
        self.fail("The link takes everything")

    @staticmethod
    def drain(peer):
        """What is there."""
        data = b""
        peer.settimeout(scaled(0.5))
        try:
            while more := peer.recv(1 << 20):
                data += more
        except TimeoutError:
            pass
        peer.settimeout(scaled(10))
        return data

    def check_pattern(self, data):
        self.assertEqual(data, (bytes(range(256)) * (len(data) // 256 + 1))[:len(data)])

    def test_slow_reader(self):
        """The guest waits, nothing is lost, and it goes on when there is room."""
        peer = self.start()
        count = self.stuff(peer)
        self.check_pattern(self.receive(peer, count))
        self.tx[1].wait()
        self.write(1, b"after")
        self.tx[1].wait()
        self.assertEqual(self.receive(peer, 5), b"after")

    def test_reader_goes_away(self):
        """Who waits for it does not wait for ever."""
        peer = self.start()
        self.stuff(peer)
        peer.close()
        self.tx[1].wait()

    def test_stopped_machine(self):
        """A machine that stands still takes nothing in."""
        peer = self.start()
        self.open(1)
        a, = self.offer(1, 8)
        peer.sendall(b"x")
        self.rx[1].wait()
        b, = self.offer(1, 8)
        self.vm.qmp.cmd("query-status")
        self.vm.qmp.cmd("stop")
        peer.sendall(b"later")
        self.vm.qmp.cmd("query-status")
        self.assertIsNone(self.rx[1].poll())
        self.vm.qmp.cmd("cont")
        self.assertEqual(self.rx[1].wait(), (1, 5))

    def test_reset_in_the_middle(self):
        peer = self.start()
        self.stuff(peer)
        self.negotiate((1,))
        self.drain(peer)
        self.write(1, b"again")
        self.tx[1].wait()
        self.assertEqual(self.receive(peer, 5), b"again")

    def test_emergency(self):
        peer = self.start("virtconsole", 0)
        for c in b"help":
            self.vm.qtest.writel(slot(0) + 0x108, c)
        self.assertEqual(self.receive(peer, 4), b"help")

    def move(self):
        """To another machine with the same port; its link."""
        chardev, accept = self.listen("c1")
        old, device, uri = self.vm, self.device, f"unix:{self.path('link')}"
        self.boot(*chardev, "-device", "virtserialport,chardev=c1,nr=1", incoming=uri)
        peer = accept()
        migrate.move(old, self.vm, uri)
        self.device = device
        device.qtest = self.vm.qtest
        for queue in device.queues.values():
            queue.qtest = self.vm.qtest
        return peer

    def test_half_written_output_moves(self):
        """What the old link has taken is not written again, what it has not is not lost."""
        peer = self.start()
        count = self.stuff(peer)
        new = self.move()
        data = self.drain(peer)
        self.assertLess(len(data), count)
        self.check_pattern(data + self.receive(new, count - len(data)))
        self.tx[1].wait()

    def test_moves_open(self):
        peer = self.start()
        self.open(1)
        self.offer(1, 16)
        peer.sendall(b"one")
        self.assertEqual(self.rx[1].wait()[1], 3)
        self.offer(1, 16)
        new = self.move()
        new.sendall(b"three")
        self.assertEqual(self.rx[1].wait(), (1, 5))


class ModernData(Data):
    legacy = False


class Options(SerialCase):
    def refused(self, *devices):
        vm = self.ferry(*[a for d in devices for a in ("-device", d)], accel="qtest", wait=False)
        vm.wait(1)
        return vm.stderr()

    def test_refused(self):
        serial = "virtio-serial-device"
        for devices, says in (
                (["virtserialport"], "No 'virtio-serial-bus' bus found"),
                ([serial, "virtserialport,nr=0"], "reserved for virtconsole"),
                ([serial, "virtserialport,nr=31"], "max. allowed: 30"),
                ([serial, "virtserialport,nr=3", "virtserialport,nr=3"], "already exists at id 3"),
                ([serial, "virtserialport,name=a", "virtserialport,name=a"], "by name a"),
                ([serial, "virtconsole,chardev=x"], "can't find value 'x'"),
                ([serial, "virtserialport,bus=x.0"], "Bus 'x.0' not found"),
                ([serial + ",max_ports=600"], "max_ports"),
                ([serial + ",max_ports=0"], "max_ports"),
                ([serial + ",max_ports=2", "virtserialport", "virtserialport"], "max. allowed: 1"),
                ([serial], None)):
            if says:
                self.assertIn(says, self.refused(*devices), devices)

    def test_chardev_in_use(self):
        vm = self.ferry("-chardev", "null,id=c", *SERIAL, "-device", "virtconsole,chardev=c",
                        "-device", "virtconsole,chardev=c", accel="qtest", wait=False)
        vm.wait(1)
        self.assertIn("'c'", vm.stderr())

    def test_two_buses(self):
        self.boot("-device", "virtio-serial-device,id=second", "-device",
                  "virtserialport,bus=second.0,nr=7,id=p")
        self.assertEqual(self.vm.qmp.cmd("qom-get", path="/machine/peripheral/p", property="nr"), 7)
        self.bind_driver(VirtioMmio(self.vm.qtest, slot(1), self.legacy))
        self.negotiate((7,))
        self.send(0, DEVICE_READY)
        self.assertEqual(self.control(), (7, DEVICE_ADD, 1, b""))
