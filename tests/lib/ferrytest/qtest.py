# SPDX-License-Identifier: GPL-2.0-or-later
"""A qtest client: drives memory, ports, clock and interrupt lines of a machine."""

import base64
import select
import time

from .deadline import Timeout, scaled


class QTestError(Exception):
    """The server answered FAIL."""


class QTest:
    """On a connected socket. `irqs` collects ("raise", 4) and ("lower", 4) as they come."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.irqs = []

    def close(self):
        self.sock.close()

    def send_raw(self, data):
        self.sock.settimeout(scaled())
        self.sock.sendall(data)

    def read_line(self, timeout=None):
        end = time.monotonic() + scaled(timeout)
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise Timeout("No answer from qtest in time")
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionError("The qtest connection was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace")

    def read_answer(self):
        """The value behind OK, "" when there is none."""
        while True:
            line = self.read_line()
            words = line.split(" ")
            if words[0] == "IRQ":
                self.irqs.append((words[1], int(words[2])))
            elif words[0] == "OK":
                return line[3:]
            else:
                raise QTestError(line)

    def cmd(self, *words):
        text = " ".join(hex(w) if isinstance(w, int) else w for w in words)
        self.send_raw(text.encode() + b"\n")
        return self.read_answer()

    def take_irqs(self):
        irqs, self.irqs = self.irqs, []
        return irqs

    def _value(self, *words):
        return int(self.cmd(*words), 0)

    def inb(self, port):
        return self._value("inb", port)

    def inw(self, port):
        return self._value("inw", port)

    def inl(self, port):
        return self._value("inl", port)

    def outb(self, port, value):
        self.cmd("outb", port, value)

    def outw(self, port, value):
        self.cmd("outw", port, value)

    def outl(self, port, value):
        self.cmd("outl", port, value)

    def readb(self, addr):
        return self._value("readb", addr)

    def readw(self, addr):
        return self._value("readw", addr)

    def readl(self, addr):
        return self._value("readl", addr)

    def readq(self, addr):
        return self._value("readq", addr)

    def writeb(self, addr, value):
        self.cmd("writeb", addr, value)

    def writew(self, addr, value):
        self.cmd("writew", addr, value)

    def writel(self, addr, value):
        self.cmd("writel", addr, value)

    def writeq(self, addr, value):
        self.cmd("writeq", addr, value)

    def read(self, addr, length):
        return bytes.fromhex(self.cmd("read", addr, length)[2:])

    def write(self, addr, data):
        self.cmd("write", addr, len(data), "0x" + data.hex())

    def b64read(self, addr, length):
        return base64.b64decode(self.cmd("b64read", addr, length))

    def b64write(self, addr, data):
        self.cmd("b64write", addr, len(data), base64.b64encode(data).decode())

    def memset(self, addr, length, value):
        self.cmd("memset", addr, length, value)

    def clock_step(self, ns=None):
        return self._value("clock_step") if ns is None else self._value("clock_step", str(ns))

    def clock_set(self, ns):
        return self._value("clock_set", str(ns))

    def intercept(self, device="ioapic"):
        self.cmd("irq_intercept_in", device)
