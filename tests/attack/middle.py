# SPDX-License-Identifier: GPL-2.0-or-later
"""
A man in the middle of a post-copy: passes on whole records and whole messages, and puts between two of
them what the test wants to have said. Of the first link everything up to GO goes through unread.

Connections after the first one of a link (postcopy-preempt) go through unread too.
"""

import os
import select
import socket
import struct
import threading

from ferrytest import wait_for

GO = b"\x08\x46\x53\x00\x08"
RECV_BITMAP = 5
PAGE, ZERO, EOS, CONTINUE = 8, 2, 0x10, 0x20


class _Short(Exception):
    """The rest has not come yet."""


class _Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise _Short
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, n):
        return int.from_bytes(self.take(n), "big")


def _message(r):
    kind, length = struct.unpack(">HH", r.take(4))
    r.take(length)
    if kind == RECV_BITMAP:
        r.take(r.number(8) + 8)
    return kind


def _record(r):
    kind = r.number(1)
    if kind == 8:
        r.take(2)
        r.take(r.number(2))
    elif kind in (2, 3):
        r.take(4)
        word = 0
        while not word & EOS:
            word = r.number(8)
            if not word & (CONTINUE | EOS):
                r.take(r.number(1))
            r.take({PAGE: 4096, ZERO: 1, EOS: 0}[word & 0x1a])
        r.take(5)
    elif kind:
        raise AssertionError(f"record type {kind} in post-copy")


class Middle:
    """Listens at `uri` and connects to a unix socket's path for everybody who comes."""

    def __init__(self, case, target, first=True):
        self.target = target
        self.path = case.path(f"middle{id(self):x}")
        self.uri = "unix:" + self.path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.reads = not first  # where the link is in the stream is known
        self.evil = {"fwd": [], "ret": []}
        self.said = {"fwd": 0, "ret": 0}
        self.seen = set()  # kinds of messages that were passed on
        self.connections = 0
        self.closed = False
        self.stalled = False
        case.addCleanup(self.close)
        threading.Thread(target=self._serve, daemon=True).start()

    def say(self, direction, *data):
        """Between the next two records or messages; also when nothing else is said."""
        count = self.said[direction] + len(data)
        self.evil[direction] += data
        wait_for("evil words to be said", lambda: self.said[direction] >= count)

    def close(self):
        self.closed = True
        self.listener.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def _serve(self):
        while not self.closed:
            try:
                if not select.select([self.listener], [], [], 0.05)[0]:
                    continue
                near = self.listener.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.target)
            except (OSError, ValueError):
                continue
            main = not self.connections
            self.connections += 1
            for direction, a, b in (("fwd", near, far), ("ret", far, near)):
                threading.Thread(target=self._pass, args=(direction, a, b, main), daemon=True).start()

    def _pass(self, direction, source, sink, main):
        held = b""
        try:
            while not self.closed:
                ready = select.select([source], [], [], 0.005)[0] and not self.stalled
                data = source.recv(1 << 16) if ready else b""
                if ready and not data:
                    break
                held += data
                if not main:
                    whole = len(held)
                elif direction == "fwd" and not self.reads:
                    whole = self._until_go(held)
                else:
                    whole = self._whole(held, _record if direction == "fwd" else _message)
                sink.sendall(held[:whole])
                held = held[whole:]
                if main and self.reads and self.evil[direction]:
                    self.said[direction] += 1
                    sink.sendall(self.evil[direction].pop(0))
        except (OSError, ValueError):
            pass
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _until_go(self, held):
        at = held.find(GO)
        if at < 0:  # it may have begun
            return len(held) - max(k for k in range(len(GO)) if held.endswith(GO[:k]))
        if len(held) < at + 13:
            return at
        self.reads = True
        return at + 13

    def _whole(self, held, step):
        r = _Reader(held)
        at = 0
        try:
            while r.at < len(held):
                self.seen.add(step(r))
                at = r.at
        except _Short:
            pass
        return at
