# SPDX-License-Identifier: GPL-2.0-or-later
"""
QEMU 10 of bookworm-backports, run from the cache without being installed. It is fetched by apt-get
with lists and a source of its own. A fetch that failed is remembered for an hour, with its reason.
"""

import glob
import os
import re
import shutil
import time

from .cache import Missing, attempt, run, say

NAME = "qemu-system-x86_64"
SUITE = "bookworm-backports"
PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios")
RETRY = 3600
# What apt says when it does not get as far as an answer of the archive.
NO_ANSWER = re.compile(r"Could not (resolve|connect)|Temporary failure|Unable to connect|"
                       r"Connection (failed|timed out|refused)|Network is unreachable|timed out")


class Unreachable(Missing):
    """The archive does not answer: no network, or a mirror that is down."""


def version(program):
    """(10, 0), or None when it does not run."""
    found = re.search(r"version (\d+)\.(\d+)", run(program, "--version") or "")
    return (int(found.group(1)), int(found.group(2))) if found else None


def module_dir(root):
    """For QEMU_MODULE_DIR: it would look for modules where those of the installed version are."""
    return os.path.join(root, "usr/lib/x86_64-linux-gnu/qemu")


def _missing(what, reason):
    kind = Unreachable if NO_ANSWER.search(reason) else Missing
    return kind(f"{what}: {reason.splitlines()[-1] if reason else 'no reason given'}")


def _fetch(folder):
    """Unpacks the packages into `folder`."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Missing(f"{NAME} of {SUITE} needs apt-get and dpkg to be fetched and unpacked")
    work = f"{folder}.{os.getpid()}.new"
    shutil.rmtree(work, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial", "debs", "root"):
        os.makedirs(os.path.join(work, part))
    sources = os.path.join(work, "sources.list")
    with open(sources, "w", encoding="ascii") as f:
        f.write(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={sources}",
           "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={work}/lists",
           "-o", f"Dir::Cache={work}/cache", "-o", "Acquire::Retries=3",
           # without this an update that reached nothing counts as done
           "-o", "APT::Update::Error-Mode=any"]
    debs, root = os.path.join(work, "debs"), os.path.join(work, "root")
    try:
        say(f"fetching {NAME} of {SUITE}")
        for command, folder_of in ((["update"], work), (["download", *PACKAGES], debs)):
            wrong = attempt(*apt, *command, timeout=600, cwd=folder_of)[1]
            if wrong is not None:
                raise _missing(f"'apt-get {command[0]}' of {SUITE} at {MIRROR} fails", wrong)
        for deb in glob.glob(os.path.join(debs, "*.deb")):
            wrong = attempt("dpkg", "-x", deb, root, timeout=300)[1]
            if wrong is not None:
                raise Missing(f"Cannot unpack {os.path.basename(deb)}: {wrong}")
        if not version(os.path.join(root, "usr/bin", NAME)):
            raise Missing(f"{NAME} of {SUITE} does not run here: "
                          f"{attempt(os.path.join(root, 'usr/bin', NAME), '--version')[1]}")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(root, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remembered(note):
    """Raises again what was wrong not long ago."""
    if os.path.exists(note) and time.time() - os.path.getmtime(note) < RETRY:
        with open(note, encoding="utf-8") as f:
            kind, _, text = f.read().partition(" ")
        raise (Unreachable if kind == "Unreachable" else Missing)(text)


def get(cache):
    """Folder of the unpacked packages; Missing or Unreachable. The caller holds the cache's lock."""
    root = os.path.join(cache, "packages", "backports")
    if os.path.exists(os.path.join(root, "usr/bin", NAME)):
        return root
    note = os.path.join(cache, "backports-failed")
    _remembered(note)
    os.makedirs(os.path.dirname(root), exist_ok=True)
    try:
        _fetch(root)
    except Missing as wrong:
        with open(note, "w", encoding="utf-8") as f:
            f.write(f"{type(wrong).__name__} {wrong}")
        raise
    return root
