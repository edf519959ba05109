# SPDX-License-Identifier: GPL-2.0-or-later
"""
Commands at the worst moment: stop, cont, cancel and reset while the guest is being stopped for its
switchover, or while something waits for that. Moments are random, with a fixed seed.
"""

import os
import random
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import QmpError, is_sanitized, migrate
from migrationcase import MigrationCase

TIMES = 20 if is_sanitized() else 60


class Moments(MigrationCase):
    def prepare(self, **options):
        self.src = src = self.vm(**{"name": "source", "guest": "report=100 rate=20", **options})
        src.guest.wait_ready()
        return src

    def test_stop_and_cont_at_the_switchover(self):
        """A stop that comes while the guest is being stopped anyway must not make it a guest that
        cont runs, while it leaves."""
        src = self.prepare(smp=4)
        for _ in range(TIMES):
            migrate.hold(src, "device")
            src.cmd("migrate", uri="exec:cat >/dev/null")
            for _ in range(40):
                src.cmd("stop")
                try:
                    src.cmd("cont")
                except QmpError:
                    break  # finish-migrate
            migrate.wait_held(src, "device")
            self.assertEqual(src.status(), "finish-migrate")
            src.cmd("migrate_cancel")
            migrate.wait_status(src, "cancelled")
            src.cmd("cont")
        self.check_source_goes_on(src)

    def test_stop_of_one_that_stands_still(self):
        """It has been told to stop: wherever it is after its switchover, it does not run by itself."""
        src, dst = self.pair()
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.uri)
        migrate.wait_status(src, "pre-switchover")
        src.cmd("stop")
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        self.assertEqual(src.status(), "paused")
        dst.wait(1)
        src.cmd("cont")
        self.check_source_goes_on(src)
        dst = self.another_destination()
        migrate.start(src, self.uri)
        migrate.wait_status(src, "pre-switchover")
        src.cmd("stop")
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst, running=False)
        self.assertEqual(dst.status(), "paused")
        dst.cmd("cont")
        dst.guest.check()

    def test_cancel_at_any_moment(self):
        for pause in (False, True):
            with self.subTest(pause=pause):
                src = self.prepare(smp=4)
                migrate.set_capabilities(src, pause_before_switchover=pause, events=True)
                rng = random.Random(5)
                for _ in range(TIMES):
                    migrate.hold(src, "none" if pause else "device")
                    src.cmd("migrate", uri="exec:cat >/dev/null")
                    time.sleep(rng.random() * 0.03)
                    src.cmd("migrate_cancel")
                    migrate.wait_status(src, "cancelled")
                self.check_source_goes_on(src)

    def test_cancel_against_a_failure(self):
        src = self.prepare()
        rng = random.Random(6)
        for _ in range(TIMES):
            src.cmd("migrate", uri=f"exec:sleep {rng.random() * 0.03:.3f}; exit 1")
            time.sleep(rng.random() * 0.05)
            src.cmd("migrate_cancel")
            migrate.wait_status(src, "cancelled", "failed")
        self.check_source_goes_on(src)

    def test_reset_that_waited(self):
        """A reset asked for in pre-switchover happens as soon as the guest is back, with no other
        event to wake anybody up."""
        src = self.prepare(no_reboot=False)
        migrate.set_capabilities(src, pause_before_switchover=True)
        src.cmd("migrate", uri="exec:cat >/dev/null")
        migrate.wait_status(src, "pre-switchover")
        src.cmd("system_reset")
        self.assertEqual(src.status(), "finish-migrate")
        before = len(src.serial())
        src.cmd("migrate_cancel")
        src.serial_line("INIT ", before)
        src.serial_line("READY ", before)
        self.check_source_goes_on(src)

    def test_reset_of_one_that_has_left(self):
        """It was meant for the guest, and the memory here may be the destination's."""
        src, dst = self.pair(no_reboot=False)
        migrate.hold(src, "device")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "device")
        src.cmd("system_reset")
        migrate.release(src)
        migrate.finish(src, dst)
        src.cmd("query-status")
        src.quit()
        self.assertNotIn("RESET", [e["event"] for e in src.qmp.events])
        dst.guest.check()

    def test_reset_of_one_that_has_not_arrived(self):
        """Wherever it is on its way: a reset would throw away what has been loaded of it."""
        for point in ("incoming-setup", "incoming-active", "incoming-loaded", "incoming-ready",
                      "incoming-go"):
            with self.subTest(point=point):
                src, dst = self.pair()
                migrate.hold(dst, point)
                migrate.start(src, self.uri)
                migrate.wait_held(dst, point)
                with self.assertRaisesRegex(QmpError, "not arrived yet"):
                    dst.cmd("system_reset")
                migrate.release(dst)
                migrate.finish(src, dst)
                dst.guest.check()
                self.assertNotIn("RESET", [e["event"] for e in dst.qmp.events])

    def test_limit_of_a_byte(self):
        """A new limit counts at once, not after the sleep of the old one."""
        src, dst = self.pair()
        migrate.start(src, self.uri, max_bandwidth=1)
        migrate.wait_status(src, "active")
        time.sleep(0.2)
        migrate.set_parameters(src, max_bandwidth=0)
        migrate.wait_status(src, "completed", timeout=migrate.PROMPT)
        dst.guest.check()

    def test_second_source(self):
        """It must not give its guest to a destination that has one."""
        for return_path in (True, False):
            with self.subTest(return_path=return_path):
                src, dst = self.pair(return_path=return_path)
                migrate.start(src, self.uri)
                migrate.finish(src, dst)
                second = self.prepare()
                migrate.set_capabilities(second, return_path=return_path)
                migrate.start(second, self.uri)
                migrate.wait_status(second, "failed", timeout=migrate.PROMPT)
                self.check_source_goes_on(second)

    def test_full_disk(self):
        """At any part of the stream: the guest runs on."""
        src = self.prepare(guest="report=100 rate=20 mem=64K")
        folder = self.path("small")
        os.mkdir(folder)
        src.cmd("migrate", uri="file:" + self.path("whole"))
        migrate.wait_status(src, "completed")
        src.cmd("cont")
        pages = os.path.getsize(self.path("whole")) // 4096
        for size in (1, pages // 2, *range(pages - 8, pages + 2)):
            mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * size}k", "tmpfs", folder]
            if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
                raise unittest.SkipTest("Cannot mount a small file system")
            try:
                src.cmd("migrate", uri=f"file:{folder}/stream")
                info = migrate.wait_status(src, "completed", "failed")
            finally:
                # how it ended is told before the file is closed: the guest comes first
                migrate.wait_for("a file that is closed", lambda: not subprocess.run(
                    ["umount", folder], stderr=subprocess.DEVNULL, check=False).returncode)
            if info["status"] == "failed":
                self.assertIn("No space left on device", info["error-desc"])
                self.assertNotIn("handed over", info["error-desc"])
                self.assertEqual(src.status(), "running")
            else:
                src.cmd("cont")
        self.check_source_goes_on(src)
