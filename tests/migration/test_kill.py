# SPDX-License-Identifier: GPL-2.0-or-later
"""
Either side dies, as with its host, in every state there is. Before the commit point the guest runs
on at the source. After it the guest runs on at most one side, and whoever is left says what to do.
"""

import contextlib

from ferrytest import QmpError, migrate
from migrationcase import COMMITTED, DESTINATION_POINTS, SOURCE_POINTS, MigrationCase


class KillDestination(MigrationCase):
    def check_source_survives(self, held, point):
        src, dst = self.src, self.dst
        migrate.hold(held, point)
        migrate.start(src, self.uri)
        migrate.wait_held(held, point)
        dst.kill()
        migrate.release(src)
        info = migrate.wait_status(src, "failed")
        self.assertTrue(info["error-desc"])
        self.check_source_goes_on(src)
        self.move_and_check(src, self.another_destination())

    def test_source_held(self):
        for point in SOURCE_POINTS:
            if point in COMMITTED or point == "setup":
                continue
            with self.subTest(point=point):
                src, _ = self.pair()
                self.check_source_survives(src, point)

    def test_before_it_is_connected_to(self):
        src, _ = self.pair()
        self.check_source_survives(src, "setup")

    def test_destination_held(self):
        for point in DESTINATION_POINTS:
            if point in COMMITTED:
                continue
            with self.subTest(point=point):
                _, dst = self.pair()
                self.check_source_survives(dst, point)

    def test_destination_held_without_return_path(self):
        """As long as the end of the stream has not been sent. A little of the stream fits into the
        socket; the source learns of the death when it writes on."""
        for point in ("incoming-setup", "incoming-active"):
            with self.subTest(point=point):
                _, dst = self.pair(return_path=False, guest="report=100 rate=1000 data=random")
                self.check_source_survives(dst, point)

    def test_pre_switchover(self):
        src, dst = self.pair()
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.uri)
        migrate.wait_status(src, "pre-switchover")
        dst.kill()
        # found out at the latest when it goes on
        with contextlib.suppress(QmpError):
            src.cmd("migrate-continue", state="pre-switchover")
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)

    def wait_last_word(self):
        """Until the destination has said on the link that it runs the guest, and closed it."""
        def look():
            with open("/proc/net/unix", encoding="ascii", errors="replace") as f:
                return self.uri[5:] not in f.read()
        migrate.wait_for("the last word of the destination", look)

    def test_after_go(self):
        """The destination had been told to run the guest: it stays stopped here, and an operator
        who knows that it does not run there may use cont."""
        for side, point in (("source", "go"), ("destination", "incoming-go")):
            with self.subTest(point=point):
                src, dst = self.pair()
                held = src if side == "source" else dst
                migrate.hold(held, point)
                migrate.start(src, self.uri)
                migrate.wait_held(held, point)
                if side == "source":
                    dst.wait_state("running")
                    dst.guest.wait_alive()
                    self.wait_last_word()
                dst.kill()
                migrate.release(src)
                if side == "source":
                    # it had said SHUT 0 before it died: the move was complete
                    migrate.wait_status(src, "completed")
                else:
                    said = migrate.wait_status(src, "failed")["error-desc"]
                    self.assertRegex(said, "handed over and is stopped here.*cont")
                self.assertEqual(src.status(), "postmigrate")
                self.assertFalse(src.guest.is_alive(0.2))
                if side == "source":
                    self.refused("The destination has confirmed that it runs the guest, and two copies "
                                 "would write the same disks: when that one has certainly ended, use "
                                 "migrate-take-back", src, "cont")
                    self.assertFalse(src.guest.is_alive(0.1))
                    src.cmd("migrate-take-back")
                else:
                    src.cmd("cont")
                self.check_source_goes_on(src)


class KillSource(MigrationCase):
    def test_before_go(self):
        """The destination cannot have the whole guest, or must not run it: it ends."""
        for side, points in (("source", SOURCE_POINTS), ("destination", DESTINATION_POINTS)):
            for point in points:
                if point in COMMITTED or point == "setup":
                    continue
                with self.subTest(point=point):
                    src, dst = self.pair()
                    held = src if side == "source" else dst
                    migrate.hold(held, point)
                    migrate.start(src, self.uri)
                    migrate.wait_held(held, point)
                    src.kill()
                    if held is dst:
                        migrate.release(dst)
                    dst.wait(1)
                    self.assertRegex(dst.stderr(), "load of migration failed: ")

    def test_after_go(self):
        """GO is out: the destination runs the guest, and nobody else can."""
        for side, point in (("source", "go"), ("destination", "incoming-go")):
            with self.subTest(point=point):
                src, dst = self.pair()
                held = src if side == "source" else dst
                migrate.hold(held, point)
                migrate.start(src, self.uri)
                migrate.wait_held(held, point)
                src.kill()
                if held is dst:
                    self.assertEqual(dst.status(), "inmigrate")
                    migrate.release(dst)
                dst.wait_state("running")
                migrate.wait_status(dst, "completed")
                dst.guest.check()

    def test_stream_complete_without_return_path(self):
        """All of the stream has been sent: the destination has what it needs."""
        src, dst = self.pair(return_path=False)
        migrate.hold(dst, "incoming-loaded")
        migrate.start(src, self.uri)
        migrate.wait_held(dst, "incoming-loaded")
        src.kill()
        migrate.release(dst)
        dst.wait_state("running")
        dst.guest.check()
