# SPDX-License-Identifier: GPL-2.0-or-later
"""
The outer machine: an emulated AMD host with nested paging, whose kernel's KVM is complete.

It has one CPU: with two, QEMU's emulation of nested paging (7.2 and 10.0) now and then uses a
translation that another CPU has taken away, and a guest, or the outer kernel, finds its memory
corrupted, whichever VMM runs the guest. Inner guests may have several; their vCPUs take turns.

It boots once and is driven through the agent. It dies with this process, whatever happens to it, and
at its deadline; whoever waits for something inside then gets LinkDown. Its logs stay in the run's
folder: outer.serial (kernel and init), outer.stderr (the emulator).
"""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time

from .image import PORT
from .link import Link, LinkDown

BOOT = 180.0  # seconds for the boot on a host with much other work; alone it takes less than 10
TAIL = 3000  # bytes of a log that are shown
PR_SET_PDEATHSIG = 1

# The emulated clock is the host's time stamp counter and steady, so tsc=reliable, and KVM inside has
# its master clock. Mitigations cost an emulated CPU much and protect nobody here.
APPEND = ("console=ttyS0 panic=-1 tsc=reliable mitigations=off nokaslr no_timer_check "
          "random.trust_cpu=on rcupdate.rcu_expedited=1 8250.nr_uarts=1 loglevel=4")

TRACING = "/sys/kernel/tracing"
TRACE_EVENTS = ("kvm_exit", "kvm_page_fault", "kvm_inj_exception", "kvm_inj_virq")
TRACE_ON = (f"mount -t tracefs none {TRACING}; echo 2048 >{TRACING}/buffer_size_kb; for event in "
            f"{' '.join(TRACE_EVENTS)}; do echo 1 >{TRACING}/events/kvm/$event/enable; done")


def tail(path, size=TAIL):
    """The end of a log file, as text."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) - size))
            return f.read().decode(errors="replace").replace("\r", "").rstrip()
    except OSError:
        return ""


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Outer:
    """Starts at once; boot() waits until the agent is there."""

    def __init__(self, emulator, kernel, initrd, run_dir, smp=1, memory=3072, append=""):
        self.emulator, self.run_dir, self.initrd = emulator, run_dir, initrd
        self.started = time.monotonic()
        self.boot_seconds = None
        self.timer = None
        self._cpu_seconds = 0.0
        listener = socket.socket(socket.AF_UNIX)
        # the path of a socket is short, that of a build folder may not be
        path = f"\0ferry-lab-{os.getpid()}-{id(self)}"
        listener.bind(path)
        listener.listen(1)
        abstract = path[1:]
        with open(self.log("outer.stderr"), "wb") as err:
            self.process = subprocess.Popen(
                [emulator.path, *emulator.arguments, "-nodefaults", "-no-user-config",
                 "-display", "none", "-no-reboot",
                 "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt",
                 "-smp", str(smp), "-m", str(memory), "-kernel", kernel, "-initrd", initrd,
                 "-append", f"{APPEND} {append}".strip(),
                 "-serial", f"file:{self.log('outer.serial')}", "-device", "virtio-serial-pci",
                 "-chardev", f"socket,id=agent,abstract=on,tight=on,path={abstract}",
                 "-device", f"virtserialport,chardev=agent,name={PORT}"],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, preexec_fn=_die_with_parent,
                env={**os.environ, **emulator.env})
        listener.settimeout(20)
        try:
            sock = listener.accept()[0]
        except OSError:
            self.process.kill()
            self.process.wait()
            said = tail(self.log("outer.stderr")) or "it neither connected nor said anything in 20 s"
            raise LinkDown(f"The emulator did not start: {said}") from None
        finally:
            listener.close()
        self.link = Link(sock)

    def log(self, name):
        return os.path.join(self.run_dir, name)

    def boot(self, timeout=BOOT):
        end = time.monotonic() + timeout
        while not self.link.hello.wait(0.1):
            if self.link.down or time.monotonic() > end:
                why = self.link.down or f"it was not up within {timeout:.0f} s"
                self.kill(f"The outer machine did not boot: {why}")
                raise LinkDown(f"{self.link.down}\n{self.report()}")
        os.unlink(self.initrd)  # it is in the machine's memory now
        self.boot_seconds = time.monotonic() - self.started
        self.link.run("[ -c /dev/kvm ]", 10)
        self.link.run(TRACE_ON, 20)
        return self

    def trace(self):
        """What KVM did last: a guest that has died cannot tell why, but its exits can."""
        return self.link.run(f"echo 0 >{TRACING}/tracing_on; tail -n 20000 {TRACING}/trace; "
                             f"echo >{TRACING}/trace; echo 1 >{TRACING}/tracing_on", 60)

    def cpu_seconds(self):
        """What the emulator has computed so far: unlike the clock, other work does not count in it."""
        try:
            with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as f:
                user, system = f.read().rpartition(")")[2].split()[11:13]
        except OSError:  # it has ended
            return self._cpu_seconds
        self._cpu_seconds = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return self._cpu_seconds

    def deadline(self, seconds, reason):
        """Kills the machine in so many seconds, unless there is another deadline by then; None: no
        deadline."""
        if self.timer:
            self.timer.cancel()
        self.timer = None
        if seconds is not None:
            self.timer = threading.Timer(seconds, self.kill, [reason])
            self.timer.daemon = True
            self.timer.start()

    @property
    def alive(self):
        return not self.link.down and self.process.poll() is None

    def kill(self, reason="the outer machine was switched off"):
        self.link.close(reason)
        if self.process.poll() is None:
            self.process.kill()

    def end(self):
        self.deadline(None, "")
        self.kill()
        self.process.wait()
        if self.boot_seconds is None:
            os.unlink(self.initrd)

    def report(self):
        """The ends of its logs."""
        return "\n".join(f"---- {name}\n{text}" for name in ("outer.serial", "outer.stderr")
                         if (text := tail(self.log(name))))
