# SPDX-License-Identifier: GPL-2.0-or-later
"""
migrate_cancel in every state, each one reached and seen: the guest runs on at the source, unharmed,
and the next migration works.
"""

import time

from ferrytest import Relay, migrate
from migrationcase import COMMITTED, DESTINATION_POINTS, SOURCE_POINTS, MigrationCase


class Cancel(MigrationCase):
    def cancel_and_go_on(self):
        """Cancels; then the guest is here, and can leave to another destination."""
        start = time.monotonic()
        self.src.cmd("migrate_cancel")
        done = migrate.wait_status(self.src, "cancelled")
        self.assertLess(time.monotonic() - start, migrate.scaled(migrate.PROMPT))
        self.assertNotIn("error-desc", done)
        self.check_source_goes_on(self.src)
        self.dst.wait(1)
        dst = self.another_destination()
        self.move_and_check(self.src, dst)

    def test_source_points(self):
        for point, (status, state) in SOURCE_POINTS.items():
            if point in COMMITTED:
                continue
            with self.subTest(point=point):
                src, dst = self.pair()
                migrate.hold(src, point)
                migrate.start(src, self.uri)
                migrate.wait_held(src, point)
                self.assertEqual((migrate.status(src), src.status()), (status, state))
                if point == "setup":
                    # nobody has connected to this destination, nor will
                    src.cmd("migrate_cancel")
                    migrate.wait_status(src, "cancelled")
                    self.check_source_goes_on(src)
                    self.move_and_check(src, dst)
                else:
                    self.cancel_and_go_on()

    def test_destination_points(self):
        """The source is anywhere, the destination at a known place."""
        for point in DESTINATION_POINTS:
            if point in COMMITTED:
                continue
            with self.subTest(point=point):
                src, dst = self.pair()
                migrate.hold(dst, point)
                migrate.start(src, self.uri)
                migrate.wait_held(dst, point)
                self.assertEqual(dst.status(), "inmigrate")
                # a connection from which nothing ever came leaves the destination as it was
                migrate.wait_for("the first bytes of the source",
                                 lambda: migrate.info(src)["phase"] != "connect")
                src.cmd("migrate_cancel")
                migrate.wait_status(src, "cancelled")
                self.check_source_goes_on(src)
                migrate.release(dst)
                dst.wait(1)
                self.move_and_check(src, self.another_destination())

    def test_points_without_return_path(self):
        """Towards a destination that only takes a stream the end of it is the commit point."""
        for point in ("active", "device"):
            with self.subTest(point=point):
                src, dst = self.pair(return_path=False)
                migrate.hold(src, point)
                migrate.start(src, self.uri)
                migrate.wait_held(src, point)
                self.cancel_and_go_on()

    def test_refused_after_go(self):
        """Then the destination may run the guest: cancel is refused, with the reason."""
        for side, point in (("source", "go"), ("destination", "incoming-go")):
            with self.subTest(point=point):
                src, dst = self.pair()
                held = src if side == "source" else dst
                migrate.hold(held, point)
                migrate.start(src, self.uri)
                migrate.wait_held(held, point)
                self.assertEqual((migrate.status(src), src.status()), ("device", "finish-migrate"))
                self.refused("The migration cannot be cancelled any more: the destination has been "
                             "told to run the guest", src, "migrate_cancel")
                self.assertEqual(migrate.status(src), "device")
                migrate.release(held)
                migrate.finish(src, dst)
                dst.guest.check()

    def test_pre_switchover(self):
        src, dst = self.pair()
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.uri)
        migrate.wait_status(src, "pre-switchover")
        self.assertEqual(src.status(), "finish-migrate")
        self.assertFalse(src.guest.is_alive(0.1))
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        self.check_source_goes_on(src)
        dst.wait(1)
        migrate.set_capabilities(src, pause_before_switchover=False)
        self.move_and_check(src, self.another_destination())

    def test_while_memory_is_sent(self):
        src, dst = self.pair(guest="report=100 rate=20000 pattern=random", memory=32)
        migrate.start(src, self.uri, max_bandwidth=2 << 20)
        migrate.wait_status(src, "active")
        self.cancel_with_memory()

    def cancel_with_memory(self):
        start = time.monotonic()
        self.src.cmd("migrate_cancel")
        migrate.wait_status(self.src, "cancelled")
        self.assertLess(time.monotonic() - start, migrate.scaled(migrate.PROMPT))
        self.check_source_goes_on(self.src)
        self.dst.wait(1)
        self.move_and_check(self.src, self.another_destination(memory=32))

    def test_while_the_link_is_stalled(self):
        """The thread is stuck in a write that will not return by itself."""
        src, dst = self.pair(guest="report=100 rate=1000 data=random", memory=32)
        relay = Relay(self, self.uri[5:])
        relay.stall("fwd")
        migrate.start(src, relay.uri)
        relay.wait_connected()
        time.sleep(0.2)
        self.assertIn(migrate.status(src), ("setup", "active"))
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled", timeout=migrate.PROMPT)
        self.check_source_goes_on(src)
        relay.close()
        # nothing of it reached the destination, which waits on
        self.move_and_check(src, dst)

    def test_while_connecting(self):
        """To somebody who does not answer."""
        import socket
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            port = server.getsockname()[1]
            others = []
            # the queue of connections is full: another one hangs
            for _ in range(4):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
                others.append(sock)
            src = self.vm(name="source")
            src.guest.wait_ready()
            migrate.start(src, f"tcp:127.0.0.1:{port}")
            time.sleep(0.2)
            self.assertEqual(migrate.status(src), "setup")
            src.cmd("migrate_cancel")
            migrate.wait_status(src, "cancelled", timeout=migrate.PROMPT)
            for sock in others:
                sock.close()
        self.check_source_goes_on(src)

    def test_while_the_greeting_is_not_answered(self):
        src, dst = self.pair()
        relay = Relay(self, self.uri[5:])
        relay.stall("ret")
        migrate.start(src, relay.uri)
        relay.wait_connected()
        relay.wait_passed(1)
        time.sleep(0.1)
        self.assertEqual(migrate.status(src), "setup")
        self.cancel_and_go_on()

    def test_exec_that_does_not_read(self):
        src = self.vm(name="source", memory=32, guest="report=100 rate=1000 data=random")
        src.guest.wait_ready()
        migrate.start(src, "exec:sleep 1000")
        migrate.wait_status(src, "active")
        time.sleep(0.1)
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled", timeout=migrate.PROMPT)
        self.check_source_goes_on(src)

    def test_a_hundred_times(self):
        """At whatever moment it comes, in no time, with nothing left behind."""
        src = self.vm(name="source", guest="report=100 rate=20000 pattern=random")
        src.guest.wait_ready()
        path = f"/proc/{src.process.pid}"
        import os
        fds, threads = len(os.listdir(path + "/fd")), len(os.listdir(path + "/task"))
        for i in range(100):
            migrate.start(src, "exec:cat > /dev/null", max_bandwidth=2 << 20)
            time.sleep(i % 10 / 1000)
            src.cmd("migrate_cancel")
            migrate.wait_status(src, "cancelled", "completed")
            if src.status() == "postmigrate":
                self.fail("A migration of 16 MiB at 2 MiB/s was over before its cancel")
        self.check_source_goes_on(src)
        # what it had is closed soon after it is told that it has ended
        migrate.wait_for("nothing left behind", lambda: len(os.listdir(path + "/fd")) <= fds + 2 and
                         len(os.listdir(path + "/task")) <= threads + 1)

    def test_without_a_migration(self):
        src = self.vm(name="source", guest=None)
        src.cmd("migrate_cancel")
        self.assertEqual(migrate.info(src), {})

    def test_twice(self):
        src, dst = self.pair()
        migrate.hold(src, "device")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "device")
        src.cmd("migrate_cancel")
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        src.cmd("migrate_cancel")
        self.assertEqual(migrate.status(src), "cancelled")
        self.check_source_goes_on(src)
        dst.wait(1)

    def test_second_migration_is_refused_meanwhile(self):
        src, dst = self.pair()
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        self.refused("There's a migration process in progress", src, "migrate", uri=self.uri)
        self.refused("There's a migration process in progress", src, "migrate-set-capabilities",
                     capabilities=[{"capability": "events", "state": True}])
        migrate.release(src)
        migrate.finish(src, dst)
        self.refused("Can't migrate the vm that was paused due to previous migration", src, "migrate",
                     uri=self.uri)
