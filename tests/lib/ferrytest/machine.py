# SPDX-License-Identifier: GPL-2.0-or-later
"""
A VMM process under test: ferry-system-x86_64, or another program with the same command line.

The process connects to sockets on which the test listens, so nothing has to be polled for, and its
death is noticed while waiting for it.
"""

import os
import re
import select
import signal
import socket
import subprocess

from .deadline import Timeout, scaled, wait_for
from .qmp import Qmp, QmpClosed
from .qtest import QTest

QEMU = "/usr/bin/qemu-system-x86_64"


def source_dir():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.environ.get("FERRY_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(here))))


def build_dir():
    return os.environ.get("FERRY_BUILD_DIR", os.path.join(source_dir(), "build"))


def ferry_binary():
    return os.environ.get("FERRY_BINARY", os.path.join(build_dir(), "ferry-system-x86_64"))


def guest_image(name):
    """workload.elf or bootrom.bin, as the build made it."""
    return os.path.join(build_dir(), "tests", "guest", name)


def have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def is_sanitized():
    return os.environ.get("FERRY_SANITIZERS", "none") not in ("", "none")


class Dead(AssertionError):
    """The process ended although it must not."""


class Ferry:
    """
    Starts at once. Options:

      binary    the program [FERRY_BINARY]
      accel     "kvm", "qtest", "kvm,dirty-ring-size=4096"...
      machine   properties behind "microvm"
      memory    MiB
      ram       None: plain; "file", "memfd", "shm": a backend of that kind as the machine's memory
                ("file" and "shm" can be read from outside through ram_path; "shm" lies in memory)
      smp, cpu  CPUs and their model; cpu None: the default of this host
      guest     command line of the workload guest; None: no kernel
      bios      firmware image
      serial    "file", "socket", None, or what -serial takes
      qmp       False: no QMP
      qtest     True: a qtest client in .qtest
      incoming  argument of -incoming
      paused    -S
      extra     further arguments
      env       further environment
      pass_fds  descriptors that the process inherits, besides those of -add-fd
      peek      True: guest.box reads without touching, for post-copy, and with any kind of memory
      wait      False: returns before the process has connected; connect() does the rest
    """

    def __init__(self, case, *extra, binary=None, accel="kvm", machine="", memory=16, ram=None,
                 smp=None, cpu=None, guest=None, bios=None, serial="file", qmp=True, qtest=False,
                 incoming=None, paused=False, no_reboot=True, env=None, pass_fds=(), wait=True,
                 peek=False, name=None):
        self.case = case
        self.peek = peek
        self.memory = memory
        self.binary = binary or ferry_binary()
        self.is_qemu = "qemu" in os.path.basename(self.binary)
        number = len(case.machines)
        self.name = name or f"vm{number}"
        self.base = case.path(f"{number}-{self.name}")
        self.ram_path = None
        self.qmp = self.qtest = None
        self._ended = False
        self._guest = None
        self._serial_socket = None
        self._listeners = []

        argv = [self.binary, "-nodefaults", "-no-user-config", "-display", "none",
                "-M", ",".join(filter(None, ["microvm", machine])), "-accel", accel,
                "-m", str(memory)]
        cpu = cpu or self._default_cpu(accel)
        if cpu:
            argv += ["-cpu", cpu]
        if smp:
            argv += ["-smp", str(smp)]
        argv += self._memory_arguments(ram, memory)
        if guest is not None:
            argv += ["-kernel", guest_image("workload.elf"), "-append", guest]
        if bios:
            argv += ["-bios", bios]
        argv += self._serial_arguments(serial)
        if qmp:
            argv += ["-chardev", f"socket,id=qmp0,path={self._listen('qmp')}",
                     "-mon", "chardev=qmp0,mode=control"]
        if qtest:
            argv += ["-qtest", f"unix:{self._listen('qtest')}", "-qtest-log", self.base + ".qtestlog"]
        if incoming:
            argv += ["-incoming", incoming]
        if paused:
            argv += ["-S"]
        if no_reboot:
            argv += ["-no-reboot"]
        argv += list(extra)
        self.argv = argv

        fds = [*pass_fds]
        fds += [int(a) for i, a in enumerate(argv) if argv[i - 1] == "-add-fd"
                for a in re.findall(r"\bfd=(\d+)", a)]
        with open(self.base + ".stderr", "wb") as err, open(self.base + ".stdout", "wb") as out:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                            pass_fds=fds, env={**os.environ, **(env or {})})
        self._pidfd = os.pidfd_open(self.process.pid)
        case.adopt(self)
        if wait:
            self.connect()

    # ---- command line ----

    def _default_cpu(self, accel):
        if accel.startswith("kvm"):
            # QEMU takes a feature from this kind of KVM that it then cannot set
            return "host,-arch-capabilities" if self.is_qemu else "host"
        return None

    def _memory_arguments(self, ram, memory):
        if ram is None:
            return []
        kind, options = ram, "share=on"
        if ram in ("file", "shm"):
            kind = "file"
            folder = self.case.shm if ram == "shm" else self.case.tmp
            self.ram_path = os.path.join(folder, os.path.basename(self.base) + ".ram")
            options += f",mem-path={self.ram_path}"
        return ["-object", f"memory-backend-{kind},id=ram0,size={memory}M,{options}",
                "-machine", "memory-backend=ram0"]

    def _serial_arguments(self, serial):
        self.serial_path = None
        if serial is None:
            return []
        if serial == "file":
            self.serial_path = self.base + ".serial"
            return ["-chardev", f"file,id=serial0,path={self.serial_path}",
                    "-serial", "chardev:serial0"]
        if serial == "socket":
            self.serial_path = self.base + ".serial"
            return ["-chardev", f"socket,id=serial0,path={self.base}.ser,server=on,wait=off,"
                                f"logfile={self.serial_path}", "-serial", "chardev:serial0"]
        return ["-serial", serial]

    # ---- sockets ----

    def _listen(self, what):
        path = f"{self.base}.{what}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self._listeners.append((what, listener, path))
        return path

    def _accept(self, listener):
        ready = select.select([listener, self._pidfd], [], [], scaled())[0]
        if listener not in ready:
            if ready:
                self.check_alive()
            raise Timeout(f"{self.name} did not connect in time")
        return listener.accept()[0]

    def connect(self):
        """Waits until the process has connected to the test's sockets."""
        for what, listener, path in self._listeners:
            sock = self._accept(listener)
            listener.close()
            os.unlink(path)
            if what == "qmp":
                self._qmp_log = open(self.base + ".qmplog", "w", encoding="utf-8")
                self.qmp = Qmp(sock, self._qmp_log)
                try:
                    self.qmp.negotiate()
                except (OSError, QmpClosed):
                    self.wait(None)  # what it says on stderr is the reason
                    self.check_alive()
                    raise
            else:
                self.qtest = QTest(sock)
        self._listeners = []
        return self

    def connect_to(self, path):
        """Connects to a socket on which the process listens, as soon as it does."""
        def look():
            self.check_alive()
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
                return sock
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                return None
        return wait_for(f"socket {path}", look)

    # ---- what it says ----

    def logs(self):
        return [self.base + suffix for suffix in (".stdout", ".stderr", ".qmplog", ".qtestlog", ".serial")]

    def read_log(self, suffix):
        try:
            with open(self.base + suffix, encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def stderr(self):
        return self.read_log(".stderr")

    def serial(self):
        """What came out of the serial port so far, where serial is "file" or "socket"."""
        with open(self.serial_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def serial_line(self, pattern, start=0, timeout=None):
        """Waits for a complete line that begins like this, from an offset on; the match."""
        expression = re.compile("^" + pattern + ".*\n", re.M)

        def look():
            alive = self.process.poll() is None
            try:
                found = expression.search(self.serial(), start)
            except FileNotFoundError:
                found = None
            if not found and not alive:
                self.check_alive()
            return found
        return wait_for(f"serial line '{pattern}' from {self.name}", look, timeout)

    def serial_send(self, text):
        """Types on the serial port (serial="socket")."""
        if not self._serial_socket:
            self._serial_socket = self.connect_to(self.base + ".ser")
        self._serial_socket.sendall(text.encode())

    @property
    def guest(self):
        """The workload guest in it."""
        if not self._guest:
            from .guest import Guest
            self._guest = Guest(self)
        return self._guest

    # ---- QMP in short ----

    def cmd(self, command, **arguments):
        return self.qmp.cmd(command, **arguments)

    def status(self):
        return self.qmp.cmd("query-status")["status"]

    def wait_state(self, *states, timeout=None):
        def look():
            state = self.status()
            return state if state in states else None
        return wait_for(f"run state {' or '.join(states)} of {self.name}", look, timeout)

    # ---- life and death ----

    def alive(self):
        return self.process.poll() is None

    def check_alive(self):
        # a process whose descriptor says it is gone may still have to be waited for
        if select.select([self._pidfd], [], [], 0)[0]:
            status = self.process.wait()
            self._ended = True
            raise Dead(f"{self.name} ended with status {status}: {self.stderr().strip()[-1000:]}")

    def wait(self, status=0, timeout=None):
        """The process must end by itself, with this status; None: with any."""
        self._ended = True
        try:
            got = self.process.wait(scaled(timeout))
        except subprocess.TimeoutExpired:
            self._ended = False
            raise Timeout(f"{self.name} did not end within {scaled(timeout):.0f} s") from None
        if status is not None and got != status:
            raise Dead(f"{self.name} ended with status {got}, not {status}: "
                       f"{self.stderr().strip()[-1000:]}")
        return got

    def quit(self):
        ident = self.qmp.start("quit")
        try:
            self.qmp.answer(ident, "quit")
        except (QmpClosed, ConnectionError):
            pass
        self.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        """The host has crashed, as it were."""
        self.process.kill()
        self.process.wait(scaled())
        self._ended = True

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        """After the case: the process is gone, or ends when it is told to, with status 0."""
        try:
            if not self._ended:
                if self.process.poll() is None:
                    self.thaw()
                    self.terminate()
                self.wait()
        finally:
            if self.process.poll() is None:
                # a core or a trace of where it hangs is worth more than nothing
                self.process.send_signal(signal.SIGABRT)
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            self._close()

    def _close(self):
        for _, listener, _ in self._listeners:
            listener.close()
        for thing in (self.qmp, self.qtest, self._serial_socket, getattr(self, "_qmp_log", None),
                      self._guest):
            if thing:
                thing.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
