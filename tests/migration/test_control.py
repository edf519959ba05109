# SPDX-License-Identifier: GPL-2.0-or-later
"""
Whatever a migration waits for, it waits for it under a name and not for ever, and a cancel ends it
within a second, also when the peer is deaf.
"""

import os
import resource
import socket
import time

from ferrytest import Relay, migrate
from migrationcase import MigrationCase

# A deadline that ends something, ms: longer than a busy host keeps anybody from running.
SHORT = int(migrate.scaled(1.5) * 1000)
GUEST = "report=100 rate=20000 pattern=random data=random"


class Waits(MigrationCase):
    """Each case brings a migration to a wait that nobody ends."""

    def start(self, timeouts=None, **options):
        src, dst = self.pair(**{"memory": 32, "guest": GUEST, **options})
        self.relay = Relay(self, self.uri[5:])
        if timeouts:
            src.cmd("migrate-set-parameters", **timeouts)
        return src, dst

    def connect(self, **timeouts):
        """To somebody whose queue of connections is full."""
        server = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.addCleanup(server.close)
        port = server.getsockname()[1]
        for _ in range(4):
            sock = socket.socket()
            self.addCleanup(sock.close)
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        src, _ = self.start(timeouts)
        migrate.start(src, f"tcp:127.0.0.1:{port}")
        return src

    def greeting(self, **timeouts):
        src, _ = self.start(timeouts)
        self.relay.stall("ret")
        migrate.start(src, self.relay.uri)
        return src

    def memory(self, **timeouts):
        src, _ = self.start(timeouts)
        migrate.start(src, self.relay.uri, max_bandwidth=8 << 20)
        migrate.wait_status(src, "active")
        self.relay.wait_passed(256 << 10)  # else it is not the one that the destination waits for
        self.relay.stall("fwd")
        return src

    def drain(self, **timeouts):
        src, _ = self.start(timeouts)
        migrate.hold(src, "active")
        migrate.start(src, self.relay.uri)
        migrate.wait_held(src, "active")
        self.relay.stall("ret")
        migrate.release(src)
        return src

    def operator(self, **timeouts):
        src, _ = self.start(timeouts)
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.relay.uri)
        return src

    def ready(self, **timeouts):
        src, dst = self.start(timeouts)
        migrate.hold(dst, "incoming-loaded")
        migrate.start(src, self.relay.uri)
        migrate.wait_held(dst, "incoming-loaded")
        return src

    def deaf(self, **timeouts):
        """The link goes silent in both directions just before the destination would be ready."""
        src, _ = self.start(timeouts)
        migrate.hold(src, "device")
        migrate.start(src, self.relay.uri)
        migrate.wait_held(src, "device")
        self.relay.stall("fwd", "ret")
        migrate.release(src)
        return src

    def settle(self, src, phase):
        migrate.wait_for(f"phase {phase}", lambda: migrate.info(src).get("phase") == phase)

    # the method, the phase it ends in, and the parameter that bounds it
    CASES = (("connect", "connect", "connect-timeout"), ("greeting", "greeting", "greeting-timeout"),
             ("memory", "memory", "link-timeout"), ("drain", "drain", "link-timeout"),
             ("operator", "operator", "pre-switchover-timeout"), ("ready", "ready", "ready-timeout"),
             ("deaf", "ready", "ready-timeout"))

    def test_cancel(self):
        for name, phase, _ in self.CASES:
            with self.subTest(wait=name):
                src = getattr(self, name)()
                self.settle(src, phase)
                time.sleep(0.1)
                begun = time.monotonic()
                src.cmd("migrate_cancel")
                migrate.wait_status(src, "cancelled")
                self.assertLess(time.monotonic() - begun, migrate.scaled(migrate.PROMPT))
                self.check_source_goes_on(src)
                self.dst.kill()

    def test_deadline(self):
        for name, phase, parameter in self.CASES:
            with self.subTest(wait=name):
                src = getattr(self, name)(**{parameter: SHORT})
                begun = time.monotonic()
                said = migrate.wait_status(src, "failed")["error-desc"]
                self.assertLess(time.monotonic() - begun, migrate.scaled(migrate.PROMPT) + SHORT / 1000)
                self.assertRegex(said, f", at the source in phase '{phase}'$")
                self.check_source_goes_on(src)
                self.dst.kill()

    def test_deadline_after_the_go(self):
        """The destination does not confirm: the guest may run there, and stays stopped here."""
        src, dst = self.start({"confirm-timeout": SHORT})
        migrate.hold(dst, "incoming-go")
        migrate.start(src, self.relay.uri)
        said = migrate.wait_status(src, "failed")["error-desc"]
        self.assertIn("at the source in phase 'confirm'. The guest was handed over", said)
        self.assertEqual(src.status(), "postmigrate")
        migrate.release(dst)
        dst.wait_state("running")

    # ---- the destination's ----

    def test_destination_begin(self):
        """Who connects and says nothing is sent away; the one who brings the guest is not kept out."""
        src, dst = self.start()
        dst.cmd("migrate-set-parameters", **{"begin-timeout": SHORT})
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.uri[5:])
            sock.settimeout(migrate.scaled(20))
            self.assertEqual(sock.recv(100), b"")
        dst.cmd("migrate-set-parameters", **{"begin-timeout": 60000})  # a sanitized source is slow
        self.move_and_check(src, dst)

    def test_destination_stream(self):
        src, dst = self.start()
        dst.cmd("migrate-set-parameters", **{"stream-timeout": SHORT})
        migrate.start(src, self.relay.uri, max_bandwidth=8 << 20)
        migrate.wait_status(src, "active")
        self.relay.wait_passed(256 << 10)  # else it is not the one that the destination waits for
        self.relay.stall("fwd")
        dst.wait(1)
        self.assertRegex(dst.stderr(), "at the destination in phase 'stream'")
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)

    def test_destination_go(self):
        src, dst = self.start()
        dst.cmd("migrate-set-parameters", **{"go-timeout": SHORT})
        migrate.hold(src, "ready")
        migrate.start(src, self.relay.uri)
        migrate.wait_held(src, "ready")
        dst.wait(1)
        self.assertRegex(dst.stderr(), "at the destination in phase 'go'")
        migrate.release(src)
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)

    def test_an_operator_may_take_his_time(self):
        """The source lets the destination hear from it meanwhile."""
        src, dst = self.start()
        dst.cmd("migrate-set-parameters", **{"stream-timeout": int(migrate.scaled(7) * 1000)})
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.uri)
        migrate.wait_status(src, "pre-switchover")
        time.sleep(migrate.scaled(8))
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst)

    def test_a_limit_may_be_tiny(self):
        """A page in more than stream-timeout, which both sides know: that is no silence."""
        src, dst = self.start()
        timeout = migrate.scaled(2.5)
        for vm in (src, dst):
            vm.cmd("migrate-set-parameters", **{"stream-timeout": int(timeout * 1000)})
        migrate.start(src, self.uri, max_bandwidth=int(4096 / (3 * timeout)))
        migrate.wait_status(src, "active")
        time.sleep(2 * timeout)
        self.assertEqual(migrate.status(src), "active")
        self.assertTrue(dst.alive())
        migrate.set_parameters(src, max_bandwidth=0)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_no_descriptor_for_a_connection(self):
        """The destination waits until its host has one again, and says so once."""
        src, dst = self.start()
        used = len(os.listdir(f"/proc/{dst.process.pid}/fd"))
        before = resource.prlimit(dst.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(dst.process.pid, resource.RLIMIT_NOFILE, (used, before[1]))
        migrate.start(src, self.uri)
        migrate.wait_for("a warning", lambda: "goes on trying" in dst.stderr())
        time.sleep(0.5)
        dst.check_alive()
        self.assertEqual(dst.stderr().count("goes on trying"), 1)
        resource.prlimit(dst.process.pid, resource.RLIMIT_NOFILE, before)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_refused(self):
        src = self.vm(guest=None)
        for name in ("connect", "greeting", "link", "ready", "confirm", "begin", "go"):
            for value in (0, 3600001):
                self.refused(f"Parameter '{name}-timeout' expects a value between 1 and 3600000 ms", src,
                             "migrate-set-parameters", **{f"{name}-timeout": value})
        for name in ("pre-switchover", "stream"):
            self.refused(f"Parameter '{name}-timeout' expects a value between 0 and 3600000 ms", src,
                         "migrate-set-parameters", **{f"{name}-timeout": 3600001})


class TakeBack(MigrationCase):
    """`cont` where the guest has left."""

    REFUSED = ("The destination has confirmed that it runs the guest, and two copies would write the "
               "same disks: when that one has certainly ended, use migrate-take-back")

    def test_the_destination_runs_it(self):
        src, dst = self.pair()
        migrate.move(src, dst, self.uri)
        for _ in range(2):
            self.refused(self.REFUSED, src, "cont")
        self.assertEqual(src.status(), "postmigrate")
        dst.kill()
        src.cmd("migrate-take-back")
        self.check_source_goes_on(src)
        # and that counts for this time only
        self.move_and_check(src, self.another_destination())
        self.refused(self.REFUSED, src, "cont")

    def test_the_destination_holds_it(self):
        """Loaded with -S, as managers do: it does not run there, and may run here."""
        src, _ = self.pair()
        dst = self.vm("-S", name="third", incoming="defer")
        migrate.set_capabilities(dst, return_path=True)
        uri = self.link()
        dst.cmd("migrate-incoming", uri=uri)
        migrate.start(src, uri)
        migrate.wait_status(src, "completed")
        dst.wait_state("paused")
        src.cmd("cont")
        self.check_source_goes_on(src)

    def test_nothing_to_take_back(self):
        src, dst = self.pair()
        for vm, state in ((src, "running"), (dst, "inmigrate")):
            self.refused(f"No guest has left from here that could be taken back (run state '{state}')",
                         vm, "migrate-take-back")
        self.move_and_check(src, dst)
        self.refused("No guest has left from here that could be taken back (run state 'running')", dst,
                     "migrate-take-back")
