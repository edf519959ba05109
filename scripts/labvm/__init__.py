# SPDX-License-Identifier: GPL-2.0-or-later
"""
The lab: a host with a complete KVM, emulated, made of Debian packages (docs/lab.md).

    packages.py   Debian packages, fetched and unpacked into a cache
    emulator.py   which program emulates the outer machine
    programs.py   programs with the libraries they need
    cpio.py       initramfs archives
    image.py      the outer machine's and the inner guest's file systems
    tree.py       this source tree and Python inside the outer machine
    agent.c       runs inside the outer machine, does what link.py says
    tsckhz.c      how fast this host's time stamp counter counts, for the outer machine's kernel
    link.py       processes, sockets and files inside, seen from here
    outer.py      the outer machine: boot, deadlines, logs, end
    session.py    the one outer machine that all tests of a run share
    runner.py     `scripts/lab run`
    shell.py      `scripts/lab shell`

Python's standard library only; the tests themselves are in tests/lab.
"""
