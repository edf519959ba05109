# SPDX-License-Identifier: GPL-2.0-or-later
"""
A link that can fail: connections to the relay are passed on to a target, byte for byte, until the
test says otherwise.

Directions: "fwd" from who connected to the target (the migration stream), "ret" back.

    relay = Relay(case, target)         target: a unix socket's path, or (host, port)
    relay.uri                           where to connect instead of the target
    relay.cut()                         both ends see the connection close, now
    relay.cut_after(fwd=1000)           the same once so many bytes have been passed on; with
                                        connection=N by the N-th connection alone
    relay.passed_by("fwd", 0)           bytes that the first connection has passed on
    relay.cuts                          how often it was cut
    relay.stall("fwd") / relay.resume() nothing is passed on, the connections stay
    relay.throttle(1 << 20)             bytes a second in each direction
    relay.chop(7)                       at most so many bytes at a time
"""

import os
import select
import socket
import struct
import threading
import time

from .deadline import wait_for

CHUNK = 1 << 16
DIRECTIONS = ("fwd", "ret")


class _Pipe(threading.Thread):
    """One direction of one connection."""

    def __init__(self, relay, direction, number, source, sink):
        super().__init__(daemon=True, name=f"relay-{direction}")
        self.relay = relay
        self.number = number
        self.direction = direction
        self.source = source
        self.sink = sink

    def run(self):
        try:
            while self._step():
                pass
        except (OSError, ValueError):
            pass
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _step(self):
        relay = self.relay
        if not relay._flow(self.direction):
            return not relay.closed
        ready = select.select([self.source], [], [], 0.05)[0]
        if not ready or not relay._flow(self.direction):
            return not relay.closed
        allowed = relay._allowance(self.direction, self.number)
        if allowed == 0:
            relay.cut()
            return False
        data = self.source.recv(min(allowed, relay.chunk))
        if not data:
            return False
        start = time.monotonic()
        # counted first: an answer must not be seen before the bytes that it answers
        reached = relay._passed(self.direction, self.number, len(data))
        self.sink.sendall(data)
        if reached:
            relay.cut()
            return False
        if relay.rate:
            time.sleep(max(0, len(data) / relay.rate - (time.monotonic() - start)))
        return True


class Relay:
    def __init__(self, case, target, tcp=False):
        self.target = target
        self.closed = False
        self.chunk = CHUNK
        self.rate = None
        self.reset = False
        self.passed = {d: 0 for d in DIRECTIONS}
        self.connections = 0
        self.cuts = 0
        self._by = {}  # (direction, connection): bytes
        self._limited = None  # the connection that the limits are for; None: all together
        self._limits = {d: None for d in DIRECTIONS}
        self._stalled = set()
        self._lock = threading.Lock()
        self._sockets = []
        if tcp:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        else:
            path = case.path(f"relay{id(self):x}")
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            self.uri = f"unix:{path}"
        self.listener.listen(32)
        threading.Thread(target=self._serve, daemon=True, name="relay").start()
        case.addCleanup(self.close)

    # ---- faults ----

    def cut(self, reset=False):
        """Closes every connection; with reset TCP ends see that, and bytes under way are lost."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
            self.cuts += bool(sockets)
        for sock in sockets:
            try:
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            # what is shut down only would go on taking bytes until its buffer is full
            sock.close()

    def cut_after(self, fwd=None, ret=None, connection=None):
        with self._lock:
            self._limits = {"fwd": fwd, "ret": ret}
            self._limited = connection

    def passed_by(self, direction, connection=None):
        if connection is None:
            return self.passed[direction]
        return self._by.get((direction, connection), 0)

    def stall(self, *directions):
        self._stalled |= set(directions or DIRECTIONS)

    def resume(self):
        self._stalled = set()

    def throttle(self, rate):
        self.rate = rate
        self.chunk = max(1, min(CHUNK, rate // 50)) if rate else CHUNK

    def chop(self, length):
        self.chunk = length

    def wait_passed(self, count, direction="fwd", timeout=None):
        wait_for(f"{count} bytes through the relay", lambda: self.passed[direction] >= count, timeout)

    def wait_connected(self, timeout=None):
        wait_for("connection through the relay", lambda: self.connections > 0, timeout)

    def close(self):
        self.closed = True
        self.listener.close()
        self.cut()
        if self.uri.startswith("unix:"):
            try:
                os.unlink(self.uri[5:])
            except FileNotFoundError:
                pass

    # ---- for the threads ----

    def _flow(self, direction):
        if direction in self._stalled:
            time.sleep(0.005)
            return False
        return not self.closed

    def _left(self, direction, number):
        """Bytes until a cut, with the lock held; None: no limit."""
        limit = self._limits[direction]
        if limit is None or self._limited not in (None, number):
            return None
        return max(0, limit - self.passed_by(direction, self._limited))

    def _allowance(self, direction, number):
        with self._lock:
            left = self._left(direction, number)
        return CHUNK if left is None else left

    def _passed(self, direction, number, count):
        """Whether the link is to be cut behind them."""
        with self._lock:
            self.passed[direction] += count
            self._by[direction, number] = self._by.get((direction, number), 0) + count
            return self._left(direction, number) == 0

    def _serve(self):
        while not self.closed:
            try:
                if not select.select([self.listener], [], [], 0.1)[0]:
                    continue
                near = self.listener.accept()[0]
                far = self._connect()
            except (OSError, ValueError):
                if self.closed:
                    return
                continue
            for sock in (near, far):
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [near, far]
                number = self.connections
                self.connections += 1
            _Pipe(self, "fwd", number, near, far).start()
            _Pipe(self, "ret", number, far, near).start()

    def _connect(self):
        if isinstance(self.target, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.target)
            return sock
        return socket.create_connection(self.target)
