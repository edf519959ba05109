# SPDX-License-Identifier: GPL-2.0-or-later
"""
Qemu: a QEMU process with the interface of Ferry, to move guests to and fro.

Two versions: "7.2", the one Debian 12 installs, and "10.0", of bookworm-backports, which is fetched
into the cache the lab uses too (scripts/debcache). With FERRY_REQUIRE_PEERS=1, as continuous
integration has it, a case fails where its peer is missing; otherwise it is skipped with the reason.
Only where the archive of backports does not answer at all is it skipped in both.
"""

import os
import sys
import unittest

from .machine import QEMU, Ferry, source_dir

sys.path.insert(0, os.path.join(source_dir(), "scripts"))

from debcache import backports, cache  # noqa: E402

INSTALLED, BACKPORT = "7.2", "10.0"
VERSIONS = (INSTALLED, BACKPORT)

# 10.0 opens the switchover on microvm with a command that no older QEMU knows. Ferry takes it.
OLD_DIALECT = ("-global", "migration.send-switchover-start=off")


def _unavailable(reason, fails=True):
    if fails and os.environ.get("FERRY_REQUIRE_PEERS"):
        raise AssertionError(reason)
    raise unittest.SkipTest(reason)


def _installed():
    have = backports.version(QEMU)
    if not have:
        _unavailable(f"{QEMU} is not there: install the Debian package qemu-system-x86")
    if have != (7, 2):
        _unavailable(f"{QEMU} is version {have[0]}.{have[1]}, and these tests are about "
                     f"{INSTALLED}")
    return QEMU, (), {}


def _backport():
    folder = cache.cache_dir(source_dir())
    try:
        with cache.locked(folder):
            root = backports.get(folder)
    except backports.Unreachable as wrong:
        _unavailable(f"No QEMU {BACKPORT}, the archive cannot be reached: {wrong}", fails=False)
    except cache.Missing as wrong:
        _unavailable(f"No QEMU {BACKPORT}: {wrong}")
    arguments = [a for d in backports.FIRMWARE for a in ("-L", d)]
    return (os.path.join(root, "usr/bin", backports.NAME), arguments,
            {"QEMU_MODULE_DIR": backports.module_dir(root)})


_FIND = {INSTALLED: _installed, BACKPORT: _backport}
_found = {}


def peer(version):
    """(program, arguments, environment) of a version; skips or fails the case without it."""
    if version not in _found:
        _found[version] = _FIND[version]()
    return _found[version]


class Qemu(Ferry):
    """Options as Ferry's, and `version`."""

    def __init__(self, case, *extra, version=INSTALLED, env=None, name=None, **options):
        program, arguments, environment = peer(version)
        self.version = version
        super().__init__(case, *arguments, *extra, binary=program, name=name or f"qemu{version}",
                         env={**environment, **(env or {})}, **options)
