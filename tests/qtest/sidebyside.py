# SPDX-License-Identifier: GPL-2.0-or-later
"""
Cases that drive devices through qtest, and comparisons with Debian's QEMU.

QEMU's qtest accelerator is not in Debian's binary, so QEMU runs its TCG with the CPUs stopped and
the qtest server beside it; its clock stands and cannot be stepped.
"""

import os
import unittest

from ferrytest import QEMU, QTestError, TestCase

# What this machine has besides its defaults, in QEMU's words: everything.
FULL = "pit=on,pic=on,rtc=on,isa-serial=on"


def have_qemu():
    return os.access(QEMU, os.X_OK)


def read_answer(qtest):
    try:
        value = qtest.read_answer()
    except QTestError as error:
        value = str(error)
    irqs = qtest.take_irqs()
    return (value, irqs) if irqs else value


def answer(qtest, command):
    """What the server answers, and the interrupts that changed on the way."""
    return answers(qtest, [command])[0]


def answers(qtest, commands):
    """The same for many, sent together."""
    out = []
    for at in range(0, len(commands), 64):
        some = commands[at:at + 64]
        qtest.send_raw("".join(c + "\n" for c in some).encode())
        out += [read_answer(qtest) for _ in some]
    return out


class QTestCase(TestCase):
    def boot(self, *extra, machine=FULL, **options):
        """A Ferry that the test drives; returns the qtest client, the machine is in self.vm."""
        options.setdefault("serial", "null")
        self.vm = self.ferry(*extra, accel="qtest", machine=machine, qtest=True, **options)
        return self.vm.qtest

    def boot_qemu(self, *extra, machine=FULL, **options):
        if not have_qemu():
            raise unittest.SkipTest(f"{QEMU} is not there to compare with")
        options.setdefault("serial", "null")
        options.setdefault("cpu", "qemu64")
        return self.ferry(*extra, binary=QEMU, accel="tcg", machine=machine, qtest=True, paused=True,
                          name="qemu", **options).qtest

    def compare(self, commands, *extra, intercept=None, **options):
        """Both must answer every command in the same way; returns the answers."""
        qemu = self.boot_qemu(*extra, **options)
        ferry = self.boot(*extra, **options)
        if intercept:
            qemu.intercept(intercept)
            ferry.intercept(intercept)
        wanted, had = answers(qemu, commands), answers(ferry, commands)
        for number, (want, have) in enumerate(zip(wanted, had)):
            if want != have:
                before = "\n  ".join(commands[max(0, number - 12):number + 1])
                self.fail(f"QEMU answers {want}, Ferry {have} at the end of:\n  {before}")
        return had
