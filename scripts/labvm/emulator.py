# SPDX-License-Identifier: GPL-2.0-or-later
"""
Which qemu-system-x86_64 emulates the outer machine.

Version 10 is wanted: it boots faster than Debian 12's 7.2, and 7.2 does not intercept XSETBV for KVM,
so that guests inside find no usable XSAVE and AVX. Where the installed one is older, that of
bookworm-backports is fetched into the cache and run from there, with lists of its own that leave apt's
sources alone. Without it the installed one serves, and the tests that need AVX are skipped.

The same program is the second peer inside (image.py).
"""

import os
import shutil

from debcache import backports
from debcache.backports import FIRMWARE, NAME, version

from .packages import Missing, say

WANTED = 10


class Emulator:
    def __init__(self, path, root=None):
        self.path = path
        self.version = version(path)
        if not self.version:
            raise Missing(f"{path} does not run: install the Debian package qemu-system-x86")
        self.arguments, self.env = [], {}
        for folder in FIRMWARE:
            self.arguments += ["-L", folder]
        if root:
            self.env["QEMU_MODULE_DIR"] = backports.module_dir(root)

    @property
    def has_avx(self):
        """Whether guests inside have it."""
        return self.version[0] >= WANTED


def backport(cache):
    """The one from backports, or None. The cache is locked."""
    try:
        root = backports.get(cache)
    except Missing as wrong:
        say(f"{wrong}; the installed {NAME} serves, without AVX inside")
        return None
    return Emulator(os.path.join(root, "usr/bin", NAME), root)


def installed():
    program = shutil.which(NAME)
    if not program:
        raise Missing(f"The lab needs {NAME} (Debian package qemu-system-x86)")
    return Emulator(program)


def choose(cache):
    """$FERRY_LAB_EMULATOR, the installed one if it is new enough, that of backports, the installed
    one; in this order. The cache is locked."""
    given = os.environ.get("FERRY_LAB_EMULATOR")
    if given:
        return Emulator(given)
    have = installed()
    return have if have.version[0] >= WANTED else backport(cache) or have
