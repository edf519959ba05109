# SPDX-License-Identifier: GPL-2.0-or-later
"""
A destination that is none: it takes the bytes of a stream, and says on the return path what the
test tells it to.
"""

import fcntl
import select
import socket
import struct
import termios
import threading
import time

from ferrytest import migrate, scaled, wait_for

MAGIC = 0x46525259
SHUT, PONG, REQ_PAGES, SWITCHOVER_ACK, HELLO, READY, ERROR = 1, 2, 4, 7, 0x4652, 0x4653, 0x4654


def message(kind, payload=b""):
    return struct.pack(">HH", kind, len(payload)) + payload


def be32(value):
    return struct.pack(">I", value)


# features: zeroed memory and the commit handshake
HELLO_MESSAGE = message(HELLO, be32(1) + struct.pack(">Q", 3) + b"\4fake")
GREETINGS = {
    "qemu": message(PONG, be32(1)) + message(PONG, be32(MAGIC)),
    "ferry": message(PONG, be32(1)) + HELLO_MESSAGE + message(PONG, be32(MAGIC)),
    "none": b"",
}


class FakePeer:
    """Listens at `path`; reads what comes until told otherwise."""

    def __init__(self, case, path, greeting, reads=True):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.greeting = GREETINGS[greeting]
        self.reads = reads
        self.sock = None
        self.received = 0
        self.last = b""
        self.closed = False
        case.addCleanup(self.close)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.sock = self.listener.accept()[0]
            if self.greeting:
                select.select([self.sock], [], [], scaled())  # nobody answers before he was asked
                self.sock.sendall(self.greeting)
            while self.reads and not self.closed:
                if select.select([self.sock], [], [], 0.05)[0]:
                    data = self.sock.recv(1 << 16)
                    if not data:
                        return
                    self.received += len(data)
                    self.last = (self.last + data)[-64:]
                    self._answer_ping()
        except OSError:
            pass

    def _answer_ping(self):
        """A source that ends a round asks whether all was read, and sends nothing until it knows."""
        command, value = self.last[-9:-4], self.last[-4:]
        if (self.greeting and command == b"\x08\0\2\0\4" and value >= be32(0x10000) and
                value != be32(MAGIC)):  # that one is part of the greeting
            self.sock.sendall(message(PONG, value))

    def wait_phase(self, src, phase):
        """Until the source waits for an answer in this phase, and all that it has said is here."""
        wait_for(f"phase '{phase}'", lambda: migrate.info(src).get("phase") == phase)
        seen = []

        def look():
            time.sleep(0.1)
            seen.append(self.received)
            return seen[-3:] == [self.received] * 3
        wait_for("end of the stream", look)

    def say(self, *messages):
        wait_for("connection of the source", lambda: self.sock)
        self.sock.sendall(b"".join(messages))

    def wait_heard(self):
        """Until the source has read all that was said to it."""
        wait_for("a source that reads", lambda: not struct.unpack(
            "i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0])

    def close(self):
        self.closed = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # nobody may have come
        except OSError:
            pass
        self.thread.join()
        self.listener.close()
        if self.sock:
            self.sock.close()
