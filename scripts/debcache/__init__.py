# SPDX-License-Identifier: GPL-2.0-or-later
"""
A cache of unpacked Debian packages, for the lab and for the tests against QEMU. Nothing is installed
and apt's own sources stay as they are.

    cache.py      where it is, its lock, running apt and dpkg
    backports.py  QEMU 10 of bookworm-backports
"""
