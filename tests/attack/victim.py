# SPDX-License-Identifier: GPL-2.0-or-later
"""
A destination that is expected to refuse what comes: its process with the least around it, how it
ended, and what it said. It has 2 GiB of address space, so that it dies of a length it believes in.
"""

import os
import resource
import socket
import subprocess

from ferrytest.qmp import QmpClosed
from ferrytest import Qmp, ferry_binary, is_sanitized, migrate, scaled, wait_for

MACHINE = ["-nodefaults", "-display", "none", "-M",
           "microvm,pit=on,pic=on,rtc=on,isa-serial=on", "-accel", "kvm",
           "-cpu", "host", "-m", "16", "-smp", "2", "-serial", "null", "-S"]
MEMORY = ["-object", "memory-backend-ram,id=ram0,size=16M", "-machine", "memory-backend=ram0"]
REFUSED = "ferry-system-x86_64: load of migration failed: "


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))


def good_stream(case):
    """The bytes of a stream as it should be, from a guest that works; `case` is a MigrationCase."""
    src = case.vm(name="source", guest="report=100 rate=100 mem=64K")
    src.guest.wait_ready()
    migrate.start(src, "file:" + case.path("good"))
    migrate.wait_status(src, "completed")
    src.quit()
    with open(case.path("good"), "rb") as f:
        return f.read()


def load(case, data, *machine):
    """What a new one says of these bytes; None: it has taken them, and ended well."""
    path = case.path("stream")
    with open(path, "wb") as f:
        f.write(data)
    victim = Victim(case, f"file:{path}", *machine)
    if victim.wait_decided():
        victim.quit()
        return None
    return victim.reason()


class Victim:
    def __init__(self, case, incoming, *machine):
        self.case = case
        self.qmp = None
        self.status = None  # of its exit, once it has ended
        self._path, self._log = case.path("victim.qmp"), case.path("victim.stderr")
        if os.path.exists(self._path):
            os.unlink(self._path)
        argv = [ferry_binary(), *(machine or MACHINE), *MEMORY, "-incoming", incoming,
                "-qmp", f"unix:{self._path},server=on,wait=off"]
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log,
                                            stdout=subprocess.DEVNULL,
                                            preexec_fn=None if is_sanitized() else limit_memory)
        case.addCleanup(self.end)

    def ended(self):
        if self.status is None:
            self.status = self.process.poll()
        return self.status is not None

    def cmd(self, command, **arguments):
        if not self.qmp:
            sock = socket.socket(socket.AF_UNIX)
            self.case.addCleanup(sock.close)
            sock.connect(self._path)
            self.qmp = Qmp(sock)
            self.qmp.negotiate()
        return self.qmp.cmd(command, **arguments)

    def wait_monitor(self):
        """Its monitor answers: the socket has its name before anybody listens on it."""
        def answers():
            try:
                return self.ended() or self.cmd("query-status")
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        wait_for("monitor", answers)

    def _has_guest(self):
        try:
            return self.cmd("query-status")["status"] != "inmigrate"
        except (OSError, QmpClosed):  # not there yet, or no more
            return False

    def wait_decided(self):
        """True: it has taken the guest."""
        wait_for("end of the load", lambda: self.ended() or self._has_guest())
        return not self.ended()

    def wait_ended(self):
        wait_for("end of the destination", self.ended)

    def said(self):
        with open(self._log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def reason(self):
        """Waits for its end, which must be an orderly one with one sentence; that sentence."""
        self.wait_ended()
        said = self.said()
        self.case.assertEqual(self.status, 1, said)
        self.case.assertTrue(said.startswith(REFUSED), said)
        self.case.assertEqual(said.count("\n"), 1, said)
        return said[len(REFUSED):-1]

    def resident_kib(self, what="VmHWM"):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return int(next(line for line in f if line.startswith(what + ":")).split()[1])

    def quit(self):
        """Ends one that is as well as before."""
        if not self.ended():
            self.process.terminate()
            self.wait_ended()
        self.case.assertEqual(self.status, 0, self.said())

    def end(self):
        if not self.ended():
            self.process.kill()
            self.process.wait()


def connect(path):
    """To a UNIX socket that is about to be listened on."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(scaled())

    def look():
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True
    wait_for(f"listener at {path}", look)
    return sock
