# SPDX-License-Identifier: GPL-2.0-or-later
"""
A VMM process in the outer machine with a stock Linux in it.

It has the members that ferrytest.migrate uses (cmd, qmp, status, wait_state, check_alive, name), so
moves are written as in tests/migration. The serial port is the process's stdin and stdout; each
complete line that came is in .lines with the outer machine's time of day at which it was read.
"""

import os
import re
import signal
import sys
import threading
import time

from ferrytest import Qmp
from ferrytest.deadline import Timeout, scaled, wait_for
from ferrytest.machine import Dead
from ferrytest.qmp import QmpClosed
from labvm.link import ERR, Failed, LinkDown

FERRY = "/usr/bin/ferry-system-x86_64"
QEMU = "/usr/bin/qemu-system-x86_64"
NEWER_QEMU = "/opt/qemu-system-x86_64"  # where the emulator is that of backports
FIRMWARE = "/usr/share/qemu"
KERNEL = "/lab/vmlinuz"
APPEND = "console=ttyS0 panic=-1 reboot=t quiet"
BOOT = 30.0      # until Linux is in user space, before scaled()
LIFETIME = scaled(200.0)  # a process that is still there is killed
LOG_TAIL = 1000


def fields(line):
    """{"real": "1700000000.1", "cpus": "2"} of a line with real=1700000000.1 cpus=2 in it."""
    return dict(re.findall(r"\b(\w+)=([-\w.]+)", line))


class Machine:
    """
    Starts at once. Options:

      program   FERRY or QEMU
      machine   properties behind "microvm"
      smp, cpu, memory (MiB), accel
      job       what the guest's shell does first
      append    more for the kernel's command line
      initrd    "inner", or "stress" for one with stress-ng; None: no kernel at all
      kernel    another kernel, with append as its whole command line and no initrd
      shared    memory is a file, .ram_path; a path: that of another machine, which is not emptied
      paused    -S
      incoming  argument of -incoming
      devices   Devices (devicecase.py)
      env       environment, {name: value}
      extra     further arguments
    """

    def __init__(self, case, *extra, program=FERRY, name=None, machine="rtc=on", smp=1, cpu="host",
                 memory=128, accel="kvm", job="", append="", initrd="inner", kernel=None,
                 shared=False, incoming=None, paused=False, devices=None,
                 env=None):
        self.case, self.link = case, case.outer.link
        number = len(case.machines)
        self.name = name or f"vm{number}"
        self.program = program
        base = self.base = f"{case.folder}/{number}-{self.name}"
        self.log = case.log(f"{number}-{self.name}")
        self.ram_path = None
        self.mailbox = None  # address of the ticker's page; goes with the guest
        self._ended = False
        self._changed = threading.Condition()
        self._text, self._stamps, self._stderr = "", [], ""
        self._partial = b""
        self._qmp_log = self.qmp = None

        argv = [program, "-L", FIRMWARE, "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-M", ",".join(filter(None, ["microvm", machine])), "-accel", accel,
                "-cpu", cpu, "-smp", str(smp), "-m", str(memory),
                "-chardev", "stdio,id=serial0,signal=off", "-serial", "chardev:serial0",
                "-qmp", f"unix:{base}.qmp,server=on,wait=off"]
        if shared:
            self.ram_path = shared if isinstance(shared, str) else \
                f"/dev/shm/{os.path.basename(case.folder)}-{number}.ram"
            argv += ["-object", f"memory-backend-file,id=ram0,size={memory}M,share=on,"
                                f"mem-path={self.ram_path}", "-machine", "memory-backend=ram0"]
        if kernel:
            argv += ["-kernel", kernel, "-append", append]
        elif initrd:
            quoted = f'JOB="{job}"' if job else ""
            argv += ["-kernel", KERNEL, "-initrd", case.initrd(initrd),
                     "-append", " ".join(filter(None, [APPEND, append, quoted]))]
        if devices:
            argv += devices.arguments(self, base)
        if incoming:
            argv += ["-incoming", incoming]
        if paused:
            argv += ["-S"]
        argv += extra
        self.argv = argv
        self._serial_log = open(self.log + ".serial", "wb")
        case.adopt(self)
        self.channel = self.link.spawn(argv, LIFETIME, env, on_data=self._arrived)
        self._connect(f"{base}.qmp")
        if devices:
            devices.started(self)

    def _connect(self, path):
        try:
            sock = self.link.connect(path, scaled(10))
        except AssertionError:
            self.check_alive()
            raise
        self._qmp_log = open(self.log + ".qmp", "w", encoding="utf-8")
        self.qmp = Qmp(sock, self._qmp_log)
        try:
            self.qmp.negotiate()
        except QmpClosed:
            self.channel.wait_end()
            self.check_alive()
            raise

    # ---- the serial port ----

    def _arrived(self, kind, data, stamp):
        with self._changed:
            if kind == ERR:
                self._stderr += data.decode(errors="replace")
            else:
                if not self._serial_log.closed:
                    self._serial_log.write(data)
                    self._serial_log.flush()
                self._partial += data
                *whole, self._partial = self._partial.split(b"\n")
                for line in whole:
                    self._text += line.decode(errors="replace").replace("\r", "") + "\n"
                    self._stamps.append(stamp)
            self._changed.notify_all()

    def serial(self):
        """All complete lines so far."""
        with self._changed:
            return self._text

    def stderr(self):
        with self._changed:
            return self._stderr

    def lines(self, pattern, start=0):
        """[(time_ns, line)] of the lines that begin like this."""
        with self._changed:
            skipped = self._text.count("\n", 0, start)
            return [(stamp, line) for stamp, line in zip(self._stamps[skipped:],
                                                         self._text[start:].split("\n"))
                    if re.match(pattern, line)]

    def line(self, pattern, start=0, timeout=None):
        """Waits for a complete line that begins like this, from an offset on; the match."""
        expression = re.compile("^" + pattern + ".*\n", re.M)
        limit = scaled(timeout)
        end = time.monotonic() + limit
        while True:
            with self._changed:
                found = expression.search(self._text, start)
                if found:
                    return found
                self._changed.wait(0.2)
            if self.channel.ended or self.link.down:
                self.check_alive()
            if time.monotonic() > end:
                raise Timeout(f"No line '{pattern}' from {self.name} within {limit:.0f} s; the last "
                              f"was: {self.serial()[-300:].strip()}")

    def type(self, command):
        """A command for the guest's shell."""
        self.channel.send(command.encode() + b"\n")

    # ---- the guest ----

    def wait_up(self, timeout=BOOT, again=True):
        """
        Until the guest is in user space. Now and then the emulated host loses a timer while a guest
        boots, and that guest stalls (RCU says so, a minute later): then it is reset, once. Tests of
        booting itself do without (again=False).
        """
        if again:
            try:
                self.line("INNER UP", timeout=timeout / 2)
                return self
            except Timeout as stalled:
                print(f"{self.name}: {stalled}: reset", file=sys.stderr)
                self.cmd("system_reset")
        self.line("INNER UP", timeout=timeout)
        return self

    def ticks(self, count=2, timeout=None):
        """Until the ticker has printed this many more lines; the numbers of the last, as text."""
        start = len(self.serial())
        for _ in range(count):
            match = self.line("TICK ", start, timeout)
            start = match.end()
        return fields(match.group(0))

    def shell_ticks(self, count=2, timeout=None):
        """The same of the shell's own lines, for which it starts a program each."""
        start = len(self.serial())
        for _ in range(count):
            start = self.line("SHELL ", start, timeout).end()

    def complaints(self):
        """What Linux says when it is not well."""
        return re.findall(r"^.*(?:BUG:|Oops|WARNING:|Call Trace|rcu.*stall|soft lockup|hung task|"
                          r"segfault|FAILURE|Kernel panic|Clocksource .* unstable|I/O error|"
                          r"EXT4-fs error|EXT4-fs warning|transmit queue|page allocation).*$",
                          self.serial(), re.M)

    def behind_ns(self, milliseconds=300):
        """By how much its time of day is behind the outer machine's (needs shared and a ticker)."""
        if not self.mailbox:
            self.mailbox = fields(self.line("MAILBOX ").group(0))["gpa"]
        said = self.link.run(["/lab/bin/clockwatch", self.ram_path, self.mailbox, str(milliseconds)],
                             milliseconds / 1000 + 20)
        return int(fields(said)["behind_ns"])

    # ---- QMP in short ----

    def cmd(self, command, **arguments):
        try:
            return self.qmp.cmd(command, **arguments)
        except (QmpClosed, OSError):
            self.check_alive()
            raise

    def status(self):
        return self.cmd("query-status")["status"]

    def wait_state(self, *states, timeout=None):
        def look():
            state = self.status()
            return state if state in states else None
        return wait_for(f"run state {' or '.join(states)} of {self.name}", look, timeout, 0.05)

    # ---- life and death ----

    def check_alive(self):
        if self.channel.ended:
            self._ended = True
            raise Dead(f"{self.name} ended with status {self.channel.status}: "
                       f"{self.stderr().strip()[-1000:]}\n{self.serial()[-1000:]}")
        if self.link.down:
            raise Dead(f"{self.name}: {self.link.down}")

    def wait(self, status=0, timeout=None):
        self._ended = True
        try:
            got = self.channel.wait_end(scaled(timeout))
        except LinkDown:
            self.autopsy()
            raise
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

    def kill(self):
        self.channel.signal(signal.SIGKILL)
        self.wait(None)

    def autopsy(self):
        """It hangs: where its threads are goes to the log, its core file too. Then it is gone."""
        if self.link.down:
            return
        try:
            threads = self.link.run(
                f"for t in /proc/{self.channel.pid}/task/*; do "
                "echo \"== $(cat $t/comm) $(cat $t/syscall)\"; cat $t/stack; done", check=False)
            with open(self.log + ".threads", "w", encoding="utf-8") as f:
                f.write(threads)
            self._stderr += f"\nIt hangs, its threads are at:\n{threads}"
            self.channel.signal(signal.SIGABRT)
            self.channel.wait_end()
            core = self.link.run("ls /tmp/core.* | tail -n 1", check=False).strip()
            if core:
                with open(self.log + ".core", "wb") as f:
                    f.write(self.link.get(core, 120))
                self.link.run(["rm", "-f", core])
        except (Failed, LinkDown) as error:
            self._stderr += f"\nIt hangs, and cannot be looked at: {error}"

    def end(self):
        """After the case: it is gone, or ends when it is told to, with status 0."""
        try:
            if not self._ended and not self.link.down and not self.channel.ended:
                self.channel.signal(signal.SIGCONT)
                self.channel.signal(signal.SIGTERM)
                self.wait()
            elif self.channel.ended and not self._ended:
                self.wait()
        finally:
            if not self.link.down and not self.channel.ended:
                self.channel.signal(signal.SIGKILL)
                self.channel.wait_end()
            self._close()

    def _close(self):
        for thing in (self.qmp, self._qmp_log, self._serial_log):
            if thing:
                thing.close()
        with open(self.log + ".stderr", "w", encoding="utf-8") as f:
            f.write(self.stderr())
        if self.ram_path and not self.link.down:
            self.link.run(["rm", "-f", self.ram_path], check=False)

    def report(self):
        said = []
        for what, text in (("serial", self.serial() + self._partial.decode(errors="replace")),
                           ("stderr", self.stderr())):
            if text.strip():
                said.append(f"---- {self.name} {what}\n{text[-LOG_TAIL:].rstrip()}")
        return "\n".join(said)
