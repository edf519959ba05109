# SPDX-License-Identifier: GPL-2.0-or-later
"""
The host's end of the agent (agent.c): processes, sockets and files of the outer machine.

One thread reads the port and hands each frame to its channel; a channel's own lock and condition
protect what came. Every wait has a deadline. When the port closes, because the machine ended or was
killed, each channel ends and each wait raises LinkDown.
"""

import select
import socket
import struct
import threading
import time

FRAME = struct.Struct("<IIIIQ")  # length, channel, type, value, time
VERSION = 1
MAX_DATA = 1 << 18

RUN, CONNECT, READ, WRITE, DATA, EOF, SIGNAL, RESIZE = range(1, 9)
HELLO, OPEN, OUT, ERR, END = range(32, 37)

RUN_PTY = 1
END_TIMEOUT = 1000
END_ERROR = 1001

# What an answer of the agent may take when the machine is busy, seconds.
ANSWER = 30.0
# The agent keeps its own deadlines; the host's is later, and only for an agent that is gone.
GRACE = 20.0


class LinkDown(AssertionError):
    """The outer machine does not answer any more."""


class Failed(AssertionError):
    """What was asked of the outer machine did not work."""


class Channel:
    """
    Something in the outer machine: a process, a socket or a file. `out` and `err` are what came of
    it so far; `on_data(type, data, time_ns)` is called from the reader's thread for each piece.
    """

    def __init__(self, link, ident, what, on_data=None):
        self.link, self.ident, self.what = link, ident, what
        self.on_data = on_data
        self.changed = threading.Condition()
        self.out, self.err = bytearray(), bytearray()
        self.opened = False
        self.pid = None
        self.status = None  # of the END frame
        self.reason = ""

    # the reader's thread

    def take(self, kind, value, data, stamp):
        if kind in (OUT, ERR) and self.on_data:
            self.on_data(kind, data, stamp)
        with self.changed:
            if kind == OPEN:
                self.opened, self.pid = True, value
            elif kind == OUT and not self.on_data:
                self.out += data
            elif kind == ERR and not self.on_data:
                self.err += data
            elif kind == END:
                self.status, self.reason = value, data.decode(errors="replace")
            self.changed.notify_all()

    # everybody else

    def wait_for(self, what, look, timeout):
        """Until look() is true; with the channel's lock held while it looks."""
        end = time.monotonic() + timeout
        with self.changed:
            while not look():
                if self.link.down:
                    raise LinkDown(f"{self.what}: {self.link.down}")
                left = end - time.monotonic()
                if left <= 0:
                    raise LinkDown(f"{self.what}: {what} did not come within {timeout:.0f} s")
                self.changed.wait(min(left, 1.0))

    def wait_open(self, timeout=ANSWER):
        self.wait_for("the answer", lambda: self.opened or self.status is not None, timeout)
        if not self.opened:
            raise Failed(f"{self.what}: {self.reason or 'timed out'}")
        return self

    def wait_end(self, timeout=ANSWER):
        self.wait_for("the end", lambda: self.status is not None, timeout)
        return self.status

    @property
    def ended(self):
        return self.status is not None

    def send(self, data):
        for at in range(0, len(data), MAX_DATA):
            self.link.send(DATA, self.ident, 0, data[at:at + MAX_DATA])

    def send_eof(self):
        self.link.send(EOF, self.ident)

    def signal(self, number):
        """To the process group; closes a channel of another kind."""
        if not self.ended:
            self.link.send(SIGNAL, self.ident, number)


class Link:
    def __init__(self, sock):
        self.sock = sock
        self.down = None  # why
        self.channels = {}
        self.lock = threading.Lock()
        self.send_lock = threading.Lock()
        self.number = 0
        self.hello = threading.Event()
        self.reader = threading.Thread(target=self._read, name="lab-link", daemon=True)
        self.reader.start()

    # ---- frames ----

    def send(self, kind, ident, value=0, data=b""):
        with self.send_lock:
            if self.down:
                raise LinkDown(self.down)
            try:
                self.sock.sendall(FRAME.pack(len(data), ident, kind, value, 0) + bytes(data))
            except OSError as error:
                raise LinkDown(f"The port of the outer machine failed: {error}") from None

    def _receive(self, size):
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(min(size - len(data), 1 << 18))
            if not piece:
                raise EOFError("the outer machine ended")
            data += piece
        return bytes(data)

    def _read(self):
        try:
            while True:
                length, ident, kind, value, stamp = FRAME.unpack(self._receive(FRAME.size))
                data = self._receive(length) if length else b""
                if kind == HELLO:
                    if value != VERSION:
                        raise EOFError(f"the agent speaks version {value}, not {VERSION}")
                    self.hello.set()
                    continue
                with self.lock:
                    channel = self.channels.get(ident)
                    if kind == END:
                        self.channels.pop(ident, None)
                if channel:
                    channel.take(kind, value, data, stamp)
        except (OSError, EOFError) as error:
            self.close(str(error))

    def close(self, reason):
        """Ends every wait. The first reason is the one that is told."""
        if not self.down:
            self.down = reason
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        with self.lock:
            channels = list(self.channels.values())
        for channel in channels:
            with channel.changed:
                channel.changed.notify_all()

    def _open(self, kind, value, data, what, on_data=None):
        with self.lock:
            self.number += 1
            channel = Channel(self, self.number, what, on_data)
            self.channels[channel.ident] = channel
        self.send(kind, channel.ident, value, data)
        return channel

    # ---- what one does with it ----

    def spawn(self, argv, deadline, env=None, pty=False, on_data=None):
        """Starts a process, which is killed after `deadline` seconds."""
        if isinstance(argv, str):
            argv = ["sh", "-c", argv]
        settings = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TERM": "linux", **(env or {})}
        strings = list(argv) + [f"{k}={v}" for k, v in settings.items()]
        data = struct.pack("<II", int(deadline * 1000), len(argv)) + b"".join(
            s.encode() + b"\0" for s in strings)
        return self._open(RUN, RUN_PTY if pty else 0, data, " ".join(argv)[:200],
                          on_data).wait_open()

    def run(self, argv, deadline=20.0, check=True, data=b"", env=None):
        """Runs a command to its end; what it wrote on stdout."""
        channel = self.spawn(argv, deadline, env)
        if data:
            channel.send(data)
        channel.send_eof()
        status = channel.wait_end(deadline + GRACE)
        if status == END_TIMEOUT:
            raise Failed(f"'{channel.what}' was killed after {deadline:.0f} s; it said: "
                         f"{self._said(channel)}")
        if check and status:
            raise Failed(f"'{channel.what}' ended with status {status}: {self._said(channel)}")
        return channel.out.decode(errors="replace")

    @staticmethod
    def _said(channel):
        return (channel.out + channel.err).decode(errors="replace").strip()[-1000:]

    def put(self, path, data, mode=0o644, timeout=60.0):
        """Writes a file."""
        channel = self._open(WRITE, mode, path.encode(), f"writing {path}").wait_open()
        channel.send(data)
        channel.send_eof()
        if channel.wait_end(timeout):
            raise Failed(f"{channel.what}: {channel.reason}")

    def get(self, path, timeout=60.0):
        """What is in a file."""
        channel = self._open(READ, 0, path.encode(), f"reading {path}").wait_open()
        if channel.wait_end(timeout):
            raise Failed(f"{channel.what}: {channel.reason}")
        return bytes(channel.out)

    def connect(self, path, deadline=20.0):
        """
        A socket of this process whose other end is a UNIX socket in the outer machine, which may
        appear up to `deadline` seconds later.
        """
        near, far = socket.socketpair()

        def arrived(_kind, data, _stamp):
            try:
                far.sendall(data)
            except OSError:
                pass  # nobody is interested any more

        channel = self._open(CONNECT, int(deadline * 1000), path.encode(), f"socket {path}",
                             arrived)
        try:
            channel.wait_open(deadline + GRACE)
        except AssertionError:
            near.close()
            far.close()
            raise
        threading.Thread(target=self._pump, args=(channel, far), name="lab-socket",
                         daemon=True).start()
        return near

    def _pump(self, channel, far):
        """Takes what is written to the near end to the agent, until one of both ends."""
        try:
            while not channel.ended and not self.down:
                if not select.select([far], [], [], 0.5)[0]:
                    continue
                data = far.recv(1 << 16)
                if not data:
                    break
                channel.send(data)
            channel.signal(0)
        except (OSError, LinkDown):
            pass
        finally:
            try:
                far.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            far.close()
