# SPDX-License-Identifier: GPL-2.0-or-later
"""
A shell in the outer machine, on a terminal or on pipes; or one command. Its status is this
program's.
"""

import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty

from .link import END_TIMEOUT, ERR, RESIZE, LinkDown

DAY = 86400.0


def _write(kind, data, _stamp):
    fd = 2 if kind == ERR else 1
    while data:
        data = data[os.write(fd, data):]


def _resize(link, channel):
    size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    rows, columns = struct.unpack("HHHH", size)[:2]
    link.send(RESIZE, channel.ident, rows << 16 | columns)


def _feed(channel, resized):
    """Takes what is typed to the shell until one of both ends."""
    while not channel.ended:
        if resized.is_set():
            resized.clear()
            _resize(channel.link, channel)
        if channel.link.down:
            raise LinkDown(channel.link.down)
        try:
            if not select.select([0], [], [], 0.1)[0]:
                continue
            data = os.read(0, 1 << 16)
        except InterruptedError:
            continue
        if not data:
            channel.send_eof()
            break
        channel.send(data)
    channel.wait_end(DAY)


def execute(outer, argv, env, deadline):
    """Runs one command without input; its output comes as it is written. Exit status."""
    channel = outer.link.spawn(argv, deadline, env, on_data=_write)
    channel.send_eof()
    channel.wait_end(deadline + DAY)
    return _status(channel, deadline)


def _status(channel, deadline):
    if channel.status == END_TIMEOUT:
        print(f"lab: killed after {deadline:.0f} s", file=sys.stderr)
        return 124
    return min(channel.status, 255)


def run(outer, command=None, deadline=DAY):
    """Exit status."""
    link = outer.link
    terminal = command is None and os.isatty(0) and os.isatty(1)
    argv = ["sh", "-c", command] if command else (["sh", "-i"] if terminal else ["sh"])
    env = {"PS1": "lab# "}
    if terminal:
        env["TERM"] = os.environ.get("TERM", "linux")
    channel = link.spawn(argv, deadline, env, pty=terminal, on_data=_write)
    if not terminal:
        _feed(channel, threading.Event())
    else:
        saved = termios.tcgetattr(0)
        resized = threading.Event()
        resized.set()
        signal.signal(signal.SIGWINCH, lambda *_: resized.set())
        tty.setraw(0)
        try:
            _feed(channel, resized)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
    return _status(channel, deadline)
