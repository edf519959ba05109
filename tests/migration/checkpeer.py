# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends of a check, spoken by the test itself: to say what no Ferry would say."""

import json
import select
import socket
import struct
import threading

from ferrytest import scaled

MAGIC = 0x46525259
SHUT, PONG, HELLO, ERROR, CHECK = 1, 2, 0x4652, 0x4654, 0x4655
CMD_OPEN, CMD_PING, CMD_FEATURES, CMD_CHECK = 1, 2, 0x4652, 0x4654
FEATURE_CHECK = 4
HEADER = b"QEVM\0\0\0\3"


def command(kind, payload=b""):
    return struct.pack(">BHH", 8, kind, len(payload)) + payload


def message(kind, payload=b""):
    return struct.pack(">HH", kind, len(payload)) + payload


def chunks(text, size, last=True):
    """A text as the payloads of a check."""
    parts = [text[i:i + size] for i in range(0, len(text), size)] or [b""]
    return [bytes([last and i == len(parts) - 1]) + part for i, part in enumerate(parts)]


HELLO_FROM_FERRY = (message(PONG, struct.pack(">I", 1))
                    + message(HELLO, struct.pack(">IQ", 1, FEATURE_CHECK) + b"\4fake")
                    + message(PONG, struct.pack(">I", MAGIC)))


class Source:
    """A source that only checks; connects to a destination's UNIX socket."""

    def __init__(self, case, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(scaled())
        self.sock.connect(path)
        case.addCleanup(self.sock.close)

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def greet(self):
        self.send(HEADER, command(CMD_OPEN), command(CMD_PING, struct.pack(">I", 1)),
                  command(CMD_PING, struct.pack(">I", MAGIC)))
        while self.receive() != (PONG, struct.pack(">I", MAGIC)):
            pass
        self.send(command(CMD_FEATURES, struct.pack(">Q", FEATURE_CHECK)))
        return self

    def ask(self, side, size=30000):
        text = side if isinstance(side, bytes) else json.dumps(side).encode()
        self.send(*(command(CMD_CHECK, c) for c in chunks(text, size)))

    def read(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def receive(self):
        kind, length = struct.unpack(">HH", self.read(4))
        return kind, self.read(length)

    def answer(self):
        """The findings, or the text of an error."""
        text = b""
        while True:
            kind, payload = self.receive()
            if kind == ERROR:
                return payload.decode()
            if kind == CHECK:
                text += payload[1:]
                if payload[0]:
                    return json.loads(text)["findings"]

    def check(self, side):
        self.ask(side)
        return self.answer()

    def ended(self):
        """The other side has closed, after whatever it had to say."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


class Destination:
    """
    A destination that greets when it is asked who it is, and answers a check with these bytes; then
    it is silent, or closes. With hello=b"" it does not even greet.
    """

    def __init__(self, case, path, answer, hello=HELLO_FROM_FERRY, close=False):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.hello, self.answer, self.close = hello, answer, close
        self.connections = 0
        self.received = b""
        self.done = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        case.addCleanup(self.end)

    def _run(self):
        while not self.done:
            if not select.select([self.listener], [], [], 0.05)[0]:
                continue
            sock = self.listener.accept()[0]
            self.connections += 1
            try:
                self._serve(sock)
            except OSError:
                pass
            sock.close()

    def _serve(self, sock):
        self.received = b""
        greeted = answered = False
        while not self.done:
            if not select.select([sock], [], [], 0.05)[0]:
                continue
            data = sock.recv(1 << 16)
            if not data:
                return
            self.received += data
            if not greeted and struct.pack(">I", MAGIC) in self.received:
                greeted = True
                sock.sendall(self.hello)
                if self.close and not self.answer:
                    return
            if not answered and self.hello and b"\x08\x46\x54" in self.received:
                answered = True
                sock.sendall(self.answer)
                if self.close:
                    return

    def end(self):
        self.done = True
        self.thread.join()
        self.listener.close()


def answer_of(findings, size=1000, program="fake"):
    text = json.dumps({"program": program, "findings": findings}).encode()
    return b"".join(message(CHECK, c) for c in chunks(text, size))
