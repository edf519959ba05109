# SPDX-License-Identifier: GPL-2.0-or-later
"""
Which qemu-system-x86_64 emulates the outer machine.

Version 10 is wanted: it boots faster than Debian 12's 7.2, and 7.2 does not intercept XSETBV for KVM,
so that guests inside find no usable XSAVE and AVX. Where the installed one is older, that of
bookworm-backports is fetched into the cache and run from there, with lists of its own that leave apt's
sources alone. Without it the installed one serves, and the tests that need AVX are skipped.

The same program is the second peer inside (image.py).
"""

import glob
import os
import re
import shutil
import time

from .packages import Missing, run, say

NAME = "qemu-system-x86_64"
WANTED = 10
SUITE = "bookworm-backports"
PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios")
RETRY = 24 * 3600  # seconds after which a fetch that failed is tried again


def version(program):
    """(10, 0), or None when it does not run."""
    found = re.search(r"version (\d+)\.(\d+)", run(program, "--version") or "")
    return (int(found.group(1)), int(found.group(2))) if found else None


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
            # it would look for modules where those of the installed version are
            self.env["QEMU_MODULE_DIR"] = os.path.join(root, "usr/lib/x86_64-linux-gnu/qemu")

    @property
    def has_avx(self):
        """Whether guests inside have it."""
        return self.version[0] >= WANTED


def _fetch(folder):
    """Unpacks the packages into `folder`; False when that cannot be."""
    work = f"{folder}.{os.getpid()}.new"
    shutil.rmtree(work, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial", "debs", "root"):
        os.makedirs(os.path.join(work, part))
    sources = os.path.join(work, "sources.list")
    with open(sources, "w", encoding="ascii") as f:
        f.write(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={sources}",
           "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={work}/lists",
           "-o", f"Dir::Cache={work}/cache", "-o", "Acquire::Retries=3"]
    debs = os.path.join(work, "debs")
    try:
        say(f"fetching {NAME} of {SUITE}")
        if run(*apt, "update", timeout=300) is None or \
                run(*apt, "download", *PACKAGES, timeout=600, cwd=debs) is None:
            return False
        for deb in glob.glob(os.path.join(debs, "*.deb")):
            if run("dpkg", "-x", deb, os.path.join(work, "root"), timeout=300) is None:
                return False
        if not version(os.path.join(work, "root", "usr/bin", NAME)):
            return False  # this host has not the libraries it needs
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(os.path.join(work, "root"), folder)
        return True
    finally:
        shutil.rmtree(work, ignore_errors=True)


def backport(cache):
    """The one from backports, or None. The cache is locked."""
    root = os.path.join(cache, "packages", "backports")
    program = os.path.join(root, "usr/bin", NAME)
    if os.path.exists(program):
        return Emulator(program, root)
    note = os.path.join(cache, "backports-failed")
    if os.path.exists(note) and time.time() - os.path.getmtime(note) < RETRY:
        return None
    os.makedirs(os.path.dirname(root), exist_ok=True)
    if shutil.which("apt-get") and _fetch(root):
        return Emulator(program, root)
    say(f"no {NAME} of {SUITE} to be had; the installed one serves, without AVX inside")
    with open(note, "w", encoding="ascii"):
        pass
    return None


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
