# SPDX-License-Identifier: GPL-2.0-or-later
"""The serial port: registers, FIFOs, interrupts, a chardev that does not read, its state."""

import socket
import time

from ferrytest import TestCase, scaled, wait_for

BASE = 0x3F8
DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
IRQ = 4


class Serial(TestCase):
    def port(self, serial="null", **options):
        self.vm = self.ferry(accel="qtest", qtest=True, serial=serial, **options)
        self.vm.qtest.intercept()
        return self.vm.qtest

    def get(self, reg):
        return self.vm.qtest.inb(BASE + reg)

    def put(self, reg, value):
        self.vm.qtest.outb(BASE + reg, value)

    def loopback(self, fcr=0):
        self.put(MCR, 0x10)
        self.put(FCR, fcr)

    def test_power_on(self):
        self.port()
        self.assertEqual([self.get(r) for r in (IER, IIR, LCR, MCR, LSR, MSR, SCR)],
                         [0, 0x01, 0, 0x08, 0x60, 0xB0, 0])
        self.put(LCR, 0x80)
        self.assertEqual([self.get(0), self.get(1)], [12, 0])

    def test_divider_and_scratch(self):
        self.port()
        self.put(LCR, 0x83)
        self.put(0, 0x34)
        self.put(1, 0x12)
        self.assertEqual([self.get(0), self.get(1)], [0x34, 0x12])
        self.put(LCR, 0x03)
        self.put(SCR, 0xA5)
        self.assertEqual([self.get(IER), self.get(LCR), self.get(SCR)], [0, 0x03, 0xA5])

    def test_output(self):
        self.port(serial="file")
        for byte in b"hello\n":
            self.put(DATA, byte)
        wait_for("output", lambda: self.vm.serial() == "hello\n")

    def test_transmit_interrupt(self):
        qtest = self.port()
        self.put(IER, 0x02)
        self.assertEqual(qtest.take_irqs(), [("raise", IRQ)])
        self.assertEqual(self.get(IIR), 0x02)  # reading it acknowledges
        self.assertEqual(qtest.take_irqs(), [("lower", IRQ)])
        self.assertEqual(self.get(IIR), 0x01)
        self.put(DATA, 0x41)
        self.assertIn(("raise", IRQ), qtest.take_irqs())
        self.assertEqual(self.get(IIR), 0x02)

    def test_loopback(self):
        self.port()
        self.loopback()
        self.put(DATA, 0x55)
        self.assertEqual(self.get(LSR), 0x61)
        self.put(DATA, 0x66)
        self.assertEqual(self.get(LSR), 0x63)  # overrun, once
        self.assertEqual(self.get(LSR), 0x61)
        self.assertEqual(self.get(DATA), 0x66)
        self.assertEqual(self.get(LSR), 0x60)

    def test_loopback_modem_lines(self):
        self.port()
        for mcr, msr in ((0x10, 0), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80),
                         (0x1F, 0xF0), (0x0F, 0xB0)):
            self.put(MCR, mcr)
            self.assertEqual(self.get(MSR), msr)

    def test_fifo_order_and_overrun(self):
        self.port()
        self.loopback(0x01)
        self.assertEqual(self.get(IIR), 0xC1)
        for i in range(18):
            self.put(DATA, i)
        self.assertEqual(self.get(LSR), 0x63)
        self.assertEqual([self.get(DATA) for _ in range(17)], list(range(16)) + [0])
        self.assertEqual(self.get(LSR), 0x60)

    def test_fifo_trigger(self):
        for bits, level in ((0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)):
            with self.subTest(level=level):
                self.port()
                self.loopback(bits | 0x01)
                self.put(IER, 0x01)
                for i in range(level):
                    self.assertEqual(self.get(IIR), 0xC1)
                    self.put(DATA, i)
                self.assertEqual(self.get(IIR), 0xC4)
                self.get(DATA)
                self.assertEqual(self.get(IIR), 0xC1)

    def test_fifo_timeout(self):
        qtest = self.port()
        self.loopback(0xC1)
        self.put(LCR, 0x03)  # 8N1: 10 bits a character, 9600 baud
        self.put(IER, 0x01)
        self.put(DATA, 0x31)
        four_characters = 4 * 10 * 12 * 1000000000 // 115200
        qtest.clock_step(four_characters - 1000)
        self.assertEqual(self.get(IIR), 0xC1)
        qtest.clock_step(1000)
        self.assertEqual(self.get(IIR), 0xCC)
        self.assertEqual(qtest.take_irqs()[-1], ("raise", IRQ))
        self.assertEqual(self.get(DATA), 0x31)
        self.assertEqual(self.get(IIR), 0xC1)
        self.assertEqual(qtest.take_irqs()[-1], ("lower", IRQ))

    def test_fifo_clear(self):
        self.port()
        self.loopback(0x01)
        self.put(DATA, 1)
        self.put(FCR, 0x03)
        self.assertEqual(self.get(LSR), 0x60)
        self.put(DATA, 2)
        self.put(FCR, 0x00)  # leaving FIFO mode clears too
        self.assertEqual(self.get(LSR), 0x60)
        self.assertEqual(self.get(IIR), 0x01)

    def test_line_status_interrupt(self):
        self.port()
        self.loopback()
        self.put(IER, 0x05)
        self.put(DATA, 1)
        self.assertEqual(self.get(IIR), 0x04)
        self.put(DATA, 2)
        self.assertEqual(self.get(IIR), 0x06)
        self.get(LSR)
        self.assertEqual(self.get(IIR), 0x04)

    def test_input(self):
        qtest = self.port(serial="socket")
        qtest.clock_step(1)
        self.put(IER, 0x01)
        self.put(FCR, 0x01)
        self.vm.serial_send("abc")
        wait_for("input", lambda: self.get(LSR) & 1)
        wait_for("irq", lambda: qtest.take_irqs()[-1:] == [("raise", IRQ)] or self.get(IIR) == 0xC4)
        got = ""
        while len(got) < 3:
            wait_for("input", lambda: self.get(LSR) & 1)
            got += chr(self.get(DATA))
        self.assertEqual(got, "abc")

    def test_input_waits_for_room(self):
        """More bytes than the FIFO holds: none is lost."""
        self.port(serial="socket")
        self.put(FCR, 0x01)
        text = "".join(chr(97 + i % 26) for i in range(200))
        self.vm.serial_send(text)
        got = ""
        while len(got) < len(text):
            wait_for("input", lambda: self.get(LSR) & 1)
            got += chr(self.get(DATA))
        self.assertEqual(got, text)
        self.assertEqual(self.get(LSR), 0x60)

    def fill(self, limit=2000000):
        """Writes like a driver until the port says it has no room; what was written."""
        sent = 0
        full_since, looks = None, 0
        while sent < limit:
            if self.get(LSR) & 0x20:
                for _ in range(16):
                    self.put(DATA, 32 + sent % 90)
                    sent += 1
                full_since = None
            elif full_since is None:
                full_since, looks = time.monotonic(), 0
            else:
                looks += 1  # neither a host that lets nobody run for a while
                if looks > 100 and time.monotonic() - full_since > 1:
                    return sent
        self.fail("The chardev never filled up")

    def slow_port(self, name="slow", **options):
        """A port into a socket whose other end does not read, with small buffers."""
        path = self.path(name)
        listener = socket.socket(socket.AF_UNIX)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(path)
        listener.listen(1)
        self.addCleanup(listener.close)
        listener.settimeout(scaled())
        self.port(serial=f"unix:{path}", **options)
        sock, _ = listener.accept()
        self.addCleanup(sock.close)
        self.put(FCR, 0x01)
        return sock

    def drain(self, sock, count):
        got = b""
        sock.settimeout(scaled())
        while len(got) < count:
            # nothing happens in the port without the clock: it waits for a running machine
            data = sock.recv(1 << 20)
            self.assertTrue(data)
            got += data
        return got

    def test_slow_chardev_loses_nothing(self):
        sock = self.slow_port()
        sent = self.fill()
        self.assertEqual(self.get(LSR) & 0x60, 0)
        got = self.drain(sock, sent)
        self.assertEqual(got, bytes(32 + i % 90 for i in range(sent)))
        wait_for("empty transmitter", lambda: self.get(LSR) & 0x60 == 0x60)

    def test_state_moves(self):
        """Registers, both FIFOs and a byte that waits reach the destination."""
        sock = self.slow_port()
        sent = self.fill()
        self.put(SCR, 0x5A)
        self.put(LCR, 0x1B)
        self.put(IER, 0x03)
        stream = self.path("stream")
        source = self.vm
        source.cmd("migrate", uri=f"exec:cat > {stream}")
        source.wait_state("postmigrate")

        path = self.path("second")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self.addCleanup(listener.close)
        listener.settimeout(scaled())
        self.port(serial=f"unix:{path}", incoming=f"exec:cat {stream}")
        second, _ = listener.accept()
        self.addCleanup(second.close)
        self.vm.wait_state("running")
        self.vm.qtest.clock_step(1)
        self.assertEqual([self.get(SCR), self.get(LCR), self.get(IER)], [0x5A, 0x1B, 0x03])
        wait_for("empty transmitter", lambda: self.get(LSR) & 0x60 == 0x60)
        source.quit()
        first = b""
        sock.settimeout(scaled())
        while data := sock.recv(1 << 20):
            first += data
        second.settimeout(scaled())
        rest = sent - len(first)
        self.assertGreater(rest, 0)
        self.assertLessEqual(rest, 17)
        got = first + self.drain(second, rest)
        self.assertEqual(got, bytes(32 + i % 90 for i in range(sent)))

    def test_received_bytes_move(self):
        self.port()
        self.loopback(0xC1)
        self.put(IER, 0x01)
        for byte in b"xyz":
            self.put(DATA, byte)
        stream = self.path("stream")
        self.vm.cmd("migrate", uri=f"exec:cat > {stream}")
        self.vm.wait_state("postmigrate")
        self.vm.quit()
        qtest = self.port(incoming=f"exec:cat {stream}")
        self.vm.wait_state("running")
        self.assertEqual([self.get(LSR), self.get(IIR), self.get(MCR)], [0x61, 0xC1, 0x10])
        qtest.clock_step(1000000000)  # the timeout was on its way
        self.assertEqual(self.get(IIR), 0xCC)
        self.assertEqual(bytes(self.get(DATA) for _ in range(3)), b"xyz")
