# SPDX-License-Identifier: GPL-2.0-or-later
"""
The base of the test cases: folders that go away, processes that end, logs that are shown.

A case makes machines with self.ferry(...). When it is over each of them must be gone or end on
SIGTERM with status 0; so every case checks the orderly end too, leaks included in a sanitized
build. When the case has failed, the end of each machine's log files is printed.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import unittest

from .deadline import Timeout
from .machine import Ferry

SHM = "/dev/shm"
LOG_BYTES = 4000  # of each file, shown when a case fails


def _failures(result):
    return len(result.failures) + len(result.errors) if result is not None else 0


class TestCase(unittest.TestCase):
    maxDiff = None

    def run(self, result=None):
        if result is None:
            result = self.defaultTestResult()
        before = _failures(result)
        self._folders = []
        self._tmp = self._shm = None
        self.machines = []
        try:
            return super().run(result)
        finally:
            keep = bool(os.environ.get("FERRY_TEST_KEEP"))
            if _failures(result) > before:
                self._show_logs()
            for folder in self._folders:
                if keep:
                    print(f"kept: {folder}", file=sys.stderr)
                else:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def subTest(self, *args, **params):
        """As unittest's; but when one has waited in vain for something the case ends there. What follows
        would often wait as long, each time, for what the first has left behind."""
        waited = None
        with super().subTest(*args, **params):
            try:
                yield
            except Timeout as error:
                waited = error
                raise
        if waited:
            raise AssertionError("The rest of this case was left out after that") from None

    def receive(self, sock, count):
        """So many bytes of a connection."""
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            self.assertTrue(more, f"The connection ended after {data}")
            data += more
        return data

    def folder(self, parent=None):
        """A new folder that exists until the case is over."""
        path = tempfile.mkdtemp(prefix="ferry-", dir=parent)
        self._folders.append(path)
        return path

    @property
    def tmp(self):
        """A folder for files and sockets of the case."""
        if not self._tmp:
            self._tmp = self.folder()
        return self._tmp

    @property
    def shm(self):
        """A folder in memory, for guests' memory."""
        if not self._shm:
            self._shm = self.folder(SHM if os.path.isdir(SHM) else None)
        return self._shm

    def path(self, name):
        return os.path.join(self.tmp, name)

    def ferry(self, *args, **options):
        """Starts a machine (see Ferry) that ends with the case."""
        vm = Ferry(self, *args, **options)
        return vm

    def adopt(self, vm):
        """Called by a machine as soon as its process exists."""
        self.machines.append(vm)
        self.addCleanup(vm.end)

    def _show_logs(self):
        for vm in self.machines:
            for path in vm.logs():
                try:
                    with open(path, "rb") as f:
                        f.seek(max(0, os.path.getsize(path) - LOG_BYTES))
                        text = f.read().decode(errors="replace")
                except OSError:
                    continue
                if text:
                    print(f"---- {self.id()}: {os.path.basename(path)}\n{text.rstrip()}",
                          file=sys.stderr, flush=True)

    # What many cases check.

    def refused(self, desc, vm, command, error_class="GenericError", **arguments):
        """The QMP command must fail with exactly this text."""
        from .qmp import QmpError
        with self.assertRaises(QmpError) as caught:
            vm.qmp.cmd(command, **arguments)
        self.assertEqual((caught.exception.error_class, caught.exception.desc), (error_class, desc))
