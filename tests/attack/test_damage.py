# SPDX-License-Identifier: GPL-2.0-or-later
"""
Damage on the way: a source and a destination with somebody between them who changes, drops, adds or
holds back a byte of the stream. The destination takes what it gets, refuses it with one sentence and
status 1, or says before anything is sent that the guest does not fit; the source's guest runs on
after each.
"""

import os
import random
import select
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import is_sanitized, migrate, scaled
from migrationcase import MigrationCase
from victim import Victim, connect

SAMPLES = 30 if is_sanitized() else 110


class Tamperer:
    """Passes a connection on, but for what happens at one byte of the stream."""

    def __init__(self, case, path, target, at, what):
        self.at, self.what = at, what
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.near = self.far = None
        self.passed = 0
        self.target = target
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        case.addCleanup(self.close)

    def _damage(self, data):
        where = self.at - self.passed
        if self.what == "none" or not 0 <= where < len(data):
            return data
        head, byte, tail = data[:where], data[where], data[where + 1:]
        if self.what == "cut":
            return head
        if self.what == "drop":
            return head + tail
        if self.what == "add":
            return head + bytes([byte, byte]) + tail
        if self.what == "zeroes":
            return head + bytes(1 + len(tail[:16])) + tail[16:]
        return head + bytes([byte ^ 1 << int(self.what)]) + tail

    def _run(self):
        try:
            self.near = self.listener.accept()[0]
            self.far = connect(self.target)
            while True:
                ready = select.select([self.near, self.far], [], [])[0]
                if self.far in ready:
                    data = self.far.recv(1 << 16)
                    if not data:
                        break
                    self.near.sendall(data)
                if self.near in ready:
                    data = self.near.recv(1 << 16)
                    if not data:
                        break
                    changed = self._damage(data)
                    self.passed += len(data)
                    self.far.sendall(changed)
                    if self.what == "cut" and self.passed > self.at:
                        break
        except (OSError, ValueError, AssertionError):
            pass
        for sock in (self.near, self.far):
            if sock:
                sock.close()

    def close(self):
        self.listener.close()
        for sock in (self.near, self.far):
            if sock:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.thread.join()


class Damage(MigrationCase):
    def attempt(self, at, what):
        """One migration; whether the destination has taken it, and how long the stream was."""
        link, target = self.link()[5:], self.link()[5:]
        victim = Victim(self, "unix:" + target)
        tamperer = Tamperer(self, link, target, at, what)
        # between Ferries it is the source that decides, when all has been loaded
        migrate.hold(self.src, "ready")
        migrate.start(self.src, "unix:" + link)
        held = migrate.wait_for("end of the attempt", lambda: (
            migrate.status(self.src) == "failed" or
            self.src.cmd("x-query-migrate-hold")["held"]))
        taken = held and migrate.status(self.src) != "failed"
        if taken:
            self.src.cmd("migrate_cancel")
        info = migrate.wait_status(self.src, "failed", "cancelled")
        passed = tamperer.passed
        tamperer.close()
        if "The destination cannot take the guest" in info.get("error-desc", ""):
            # said before anything was sent: it waits on for a guest that fits
            self.assertEqual(victim.cmd("query-status")["status"], "inmigrate")
            victim.quit()
            return False, passed
        said = victim.reason()
        if not taken:
            self.refusals.add(said.split(",")[0])
        return taken, passed

    def test_sample(self):
        self.src = self.vm(name="source", guest="report=100 rate=50 mem=64K", smp=2)
        migrate.set_capabilities(self.src, return_path=True)
        # a byte less, or a length that became larger, leaves each waiting for the other: the
        # source's patience ends that, and must do so before this test's own
        patience = int(scaled(5) * 1000)
        migrate.set_parameters(self.src, greeting_timeout=patience, ready_timeout=patience,
                               link_timeout=patience)
        self.src.guest.wait_ready()
        self.refusals = set()
        rng = random.Random(11)
        taken, whole = self.attempt(0, "none")
        self.assertTrue(taken)
        results = []
        for n in range(SAMPLES):
            # beginning, where lengths and names are; end, where devices are; anywhere
            # (fractions: the length of the whole is not quite the same each time)
            begin, end = ((0, 600), (whole - 14000, whole - 1), (0, whole))[n % 3]
            at = int(begin + rng.random() * (end - begin))
            what = ("cut", "drop", "add", "zeroes", *map(str, range(8)))[n % 12]
            with self.subTest(at=at, of=whole, what=what):
                results.append(self.attempt(at, what)[0])
                self.assertEqual(self.src.status(), "running")
        self.check_source_goes_on(self.src)
        self.assertGreater(results.count(False), len(results) // 4)
        self.assertGreater(len(self.refusals), 8, self.refusals)
