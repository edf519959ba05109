# SPDX-License-Identifier: GPL-2.0-or-later
"""
The workload guest (tests/guest/README.md), seen from outside: lines on the serial port, and the
mailbox in its memory, which needs ram="shm" or ram="file".
"""

import os
import re
import sys

from .deadline import FACTOR, wait_for
from .machine import source_dir
from .peek import Peek

sys.path.insert(0, os.path.join(source_dir(), "tests", "guest"))

from guest_mailbox import Mailbox, check, check_disk, file_offset  # noqa: E402, F401

# Arguments that make the guest watch the state of its devices. It wants each clock to have ticked
# between two looks, which takes longer where the machine is slow.
DEVSTATE = f"devstate=1 devms={int(200 * FACTOR)}"

# What the guest prints when something is wrong with it or its machine.
COMPLAINTS = re.compile(r"^(BAD |PANIC|DEV bad|ARG bad|UNTOUCHED .*bad=[1-9]).*", re.M)


def numbers(line):
    """{"seq": 3, ...} of a line with seq=3 in it."""
    return {k: int(v) for k, v in re.findall(r"\b(\w+)=(-?\d+)\b", line)}


class Guest:
    def __init__(self, vm):
        self.vm = vm
        self._box = None

    def close(self):
        if self._box is not None:
            self._box.memory.close()
            self._box = None

    @property
    def box(self):
        """The mailbox. Seen through a mapping of the memory's file, or with peek=True of the machine
        in a way that leaves missing pages missing."""
        if self._box is None:
            self._box = (Mailbox(Peek.of(self.vm, self.vm.memory << 20)) if self.vm.peek
                         else Mailbox.open(self.vm.ram_path))
        return self._box

    def header(self, field):
        return self.box.header[field]

    def wait_ready(self, timeout=None):
        """Until all of its memory is initialised; the numbers of its READY line."""
        return numbers(self.vm.serial_line("READY ", timeout=timeout).group(0))

    def wait_ticks(self, count=2, timeout=None):
        """Until it has printed this many more T lines; the numbers of the last."""
        start = len(self.vm.serial())
        line = None
        for _ in range(count):
            line = self.vm.serial_line("T ", start, timeout)
            start = line.end()
        return numbers(line.group(0))

    def wait_alive(self, timeout=None):
        """Until every vCPU has given a sign of life from now on."""
        loops = [c["loops"] for c in self.box.cpus()]

        def look():
            self.vm.check_alive()
            return all(c["loops"] != n for c, n in zip(self.box.cpus(), loops))
        wait_for(f"sign of life of every vCPU of {self.vm.name}", look, timeout)

    def is_alive(self, seconds=0.3):
        """Whether any vCPU gives a sign of life within this time."""
        loops = [c["loops"] for c in self.box.cpus()]
        try:
            wait_for("sign", lambda: [c["loops"] for c in self.box.cpus()] != loops, seconds)
            return True
        except AssertionError:
            return False

    def wait_work(self, timeout=None):
        """Until it has written pages, in every vCPU's slice."""
        writes = [c["writes"] for c in self.box.cpus()]

        def look():
            self.vm.check_alive()
            return all(c["writes"] != n for c, n in zip(self.box.cpus(), writes))
        wait_for(f"writing vCPUs in {self.vm.name}", look, timeout)

    def verify(self, timeout=180.0):
        """Lets the running guest verify all of its pages now; the number of bad words."""
        box = self.box
        want = box.header["verify_req"] + 1
        box.command("v")

        def look():
            self.vm.check_alive()
            return box.header["verify_done"] >= want
        wait_for("verified memory", look, timeout)
        if not box.header["verify_pages"]:
            raise AssertionError("The guest verified no page")
        return box.header["verify_bad"]

    def verify_from_outside(self, step=1):
        """Verifies the pages of a stopped guest without it."""
        checked, complaints = check(self.box, step)
        if not checked or complaints:
            raise AssertionError(f"{checked} pages checked: {complaints}")
        return checked

    def complaints(self):
        return [m.group(0) for m in COMPLAINTS.finditer(self.vm.serial())]

    def check(self, monotonic=True):
        """It runs, nothing it watches was ever wrong, and its clocks never went backwards."""
        self.wait_alive()
        bad = self.verify()
        if bad:
            raise AssertionError(f"{bad} bad words: {self.box.bad()[:4]}")
        if self.complaints():
            raise AssertionError(f"The guest complains: {self.complaints()[:4]}")
        for cpu in self.box.cpus():
            if cpu["bad_words"] or cpu["fpu_bad"]:
                raise AssertionError(f"Bad words or registers: {cpu}")
            if monotonic and (cpu["back"] or cpu["tsc_back"] or cpu["xback"]):
                raise AssertionError(f"Time went backwards: {cpu}")

    def poke(self):
        """Spoils a word of memory, so that check() must fail; for tests of tests."""
        box = self.box
        at = file_offset(box.page_addr(box.header["pages_init"] - 1)) + 8 * 77
        box.memory[at] = box.memory[at] ^ 0x10
