# SPDX-License-Identifier: GPL-2.0-or-later
"""
Post-copy at its worst moments: either side dies at a random one, and each command comes in each state.
Nothing hangs, the guest never runs twice, and whoever is left says what it knows.
"""

import os
import random
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import QmpError, migrate, scaled
from ferrytest.qmp import QmpClosed
from postcopycase import PostcopyCase
from victim import connect

SOAK = os.environ.get("FERRY_SOAK") == "1"
KILLS = 60 if SOAK else 8
ENDS = ("completed", "failed", "postcopy-paused")

# On which side it is held where; None: that state itself.
STATES = (
    ("source", "device"), ("source", "ready"), ("source", "go"),
    ("destination", "incoming-loaded"), ("destination", "incoming-ready"),
    ("destination", "incoming-go"),
    (None, "postcopy-active"), (None, "postcopy-paused"), (None, "postcopy-recover"),
)
# What either side is asked, in this order; a refusal is an answer.
COMMANDS = (
    ("query-migrate", {}), ("query-status", {}), ("migrate-start-postcopy", {}),
    ("migrate", {"uri": "unix:/nowhere"}),
    ("stop", {}), ("cont", {}), ("system_reset", {}), ("query-migrate", {}),
    ("migrate-continue", {"state": "pre-switchover"}),
    ("migrate-take-back", {}), ("migrate-set-capabilities", {"capabilities": [
        {"capability": "postcopy-ram", "state": False}]}),
    ("migrate-incoming", {"uri": "unix:/nowhere"}), ("query-migrate", {}),
)


class PostcopyMoments(PostcopyCase):
    def runs_once(self):
        """Of guests that are said to run, one does."""
        running = [vm for vm in (self.src, self.dst) if self.look(vm) and self.state(vm) == "running"]
        self.assertLess(len(running), 2, "The guest runs on both sides")

    @staticmethod
    def state(vm):
        try:
            return vm.status()
        except (OSError, QmpClosed):
            return None

    # --- death ---

    def kill_at(self, who, delay, preempt):
        src, dst = self.postcopy_pair(preempt, smp=1)
        # whatever the moment is, it is of a move that takes so long
        migrate.hold(src, "active")
        migrate.start(src, self.uri, max_bandwidth=40 << 20, max_postcopy_bandwidth=40 << 20)
        migrate.wait_held(src, "active")
        src.cmd("migrate-start-postcopy")
        migrate.release(src)
        time.sleep(delay)
        if who == "source":
            src.kill()
            ended = ("failed", None)  # it exits with that
            migrate.wait_for("end of the wait", lambda: self.look(dst) in (*ENDS, *ended))
            if self.look(dst) not in ended:
                now = migrate.info(dst)
                self.assertEqual(dst.status(), "running", now)
                self.assertTrue(now["status"] == "completed" or now["error-desc"])
            else:
                dst.wait(1)
                self.assertIn("load of migration failed", dst.stderr())
        else:
            dst.kill()
            now = migrate.wait_for("end of the move", lambda: migrate.status(src) in ENDS and
                                   migrate.info(src))
            if src.status() == "running":
                self.assertEqual(now["status"], "failed")
                src.guest.wait_alive()
            elif now["status"] != "completed":
                self.assertTrue(now["error-desc"])
        for vm in (src, dst):
            self.dismiss(vm)

    def test_death(self):
        rng = random.Random(6)
        for i in range(KILLS):
            who, delay = ("source", "destination")[i % 2], rng.random() * scaled(0.4)
            with self.subTest(who=who, delay=delay):
                self.kill_at(who, delay, preempt=i % 4 > 1)

    def test_request_that_cannot_be_sent(self):
        """A device that is loaded asks for memory, and the source takes no more questions but has not
        closed: the destination ends, with a sentence, and the guest goes on where it was."""
        src, dst = self.postcopy_pair(smp=1, destination={"qtest": True})
        link = connect(self.uri[5:])
        there = self.link()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(there[5:])
        listener.listen(1)
        migrate.hold(dst, "incoming-loaded")
        migrate.start(src, there, max_bandwidth=4 << 20, max_postcopy_bandwidth=4096)
        here = listener.accept()[0]
        self.addCleanup(listener.close)
        self.addCleanup(link.close)
        self.addCleanup(here.close)
        pumps = [threading.Thread(target=self.pump, args=ends, daemon=True)
                 for ends in ((here, link), (link, here))]
        for pump in pumps:
            pump.start()
        migrate.wait_status(src, "active")
        src.cmd("migrate-start-postcopy")
        migrate.wait_held(dst, "incoming-loaded")
        link.shutdown(socket.SHUT_RD)
        try:
            dst.qtest.read(12 << 20, 8)
        except AssertionError:
            pass  # nobody brings it
        migrate.release(dst)
        dst.wait(1)
        self.assertRegex(dst.stderr(), "load of migration failed: .*Broken pipe")
        here.shutdown(socket.SHUT_RDWR)
        migrate.wait_status(src, "failed")
        src.wait_state("running")
        src.guest.check()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass

    # --- commands ---

    def bring(self, side, state):
        src, dst = self.postcopy_pair(smp=1, guest="report=100 rate=100 pattern=random data=random")
        held = {"source": src, "destination": dst, None: None}[side]
        if held:
            migrate.hold(held, state)
            migrate.start(src, self.uri, max_bandwidth=4 << 20, max_postcopy_bandwidth=1 << 20)
            migrate.wait_status(src, "active")
            src.cmd("migrate-start-postcopy")
            migrate.wait_held(held, state)
            return held
        self.switch(src, max_postcopy_bandwidth=256 << 10)
        dst.wait_state("running")
        self.wait_active(dst)
        time.sleep(scaled(0.1))
        if state != "postcopy-active":
            src.cmd("migrate-pause")
            self.wait_paused(src, dst)
        if state == "postcopy-recover":
            there, here = self.link(), self.link()
            dst.cmd("migrate-recover", uri=there)
            self.stranger = connect(there[5:])
            self.addCleanup(self.stranger.close)
            self.silent_listener(here[5:])
            src.cmd("migrate", uri=here, resume=True)
            for vm in (src, dst):
                migrate.wait_status(vm, "postcopy-recover")
        return None

    def silent_listener(self, path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self.addCleanup(listener.close)

    def ask(self, vm, name, arguments):
        began = time.monotonic()
        try:
            vm.cmd(name, **arguments)
        except QmpError as error:
            self.assertRegex(str(error), "[A-Z]")
        self.assertLess(time.monotonic() - began, scaled(migrate.PROMPT), name)

    def settle(self, held):
        """Lets it go on; the guest is somewhere, once."""
        if held and held.alive():
            migrate.release(held)
        for vm in (self.src, self.dst):
            migrate.wait_for("rest", lambda v=vm: self.look(v) in
                             (*ENDS, "cancelled", "postcopy-active", None, "setup"))

    @staticmethod
    def look(vm):
        """Its status; None: it has ended."""
        try:
            return migrate.status(vm) if vm.alive() else None
        except (OSError, QmpClosed):
            return None

    @staticmethod
    def dismiss(vm):
        """Whatever became of it, it ends when it is told to."""
        if vm.alive():
            ident = None
            try:
                ident = vm.qmp.start("quit")
                vm.qmp.answer(ident, "quit")
            except (OSError, QmpClosed):
                pass
        vm.wait(None)

    def test_commands(self):
        for side, state in STATES:
            with self.subTest(state=state):
                held = self.bring(side, state)
                for vm in (self.src, self.dst):
                    for name, arguments in COMMANDS:
                        self.ask(vm, name, arguments)
                        self.runs_once()
                self.settle(held)
                self.runs_once()
                for vm in (self.src, self.dst):
                    self.dismiss(vm)

    def test_reset_waits_for_memory(self):
        """A reset writes to memory: it comes when all of that is there, and with it the guest anew."""
        for cause in ("postcopy-active", "postcopy-paused"):
            with self.subTest(state=cause):
                self.bring(None, cause)
                src, dst = self.src, self.dst
                dst.cmd("system_reset")
                time.sleep(scaled(0.3))
                self.assertNotIn("RESET", [e["event"] for e in dst.qmp.events])
                if cause == "postcopy-paused":
                    self.recover(src, dst)
                    self.wait_active(src)
                self.go_on(src)
                migrate.wait_status(dst, "completed")
                dst.qmp.wait_event("RESET")
                dst.serial_line("READY")
                for vm in (src, dst):
                    self.dismiss(vm)

    def test_address_that_nobody_listens_at(self):
        """Where it is not known whether the guest has run, and no link comes about."""
        self.bring("destination", "incoming-go")
        migrate.wait_status(self.src, "postcopy-active", "postcopy-paused")
        if migrate.status(self.src) == "postcopy-active":
            self.src.cmd("migrate-pause")
        self.wait_paused(self.src)
        for _ in range(3):
            uri = self.link()
            self.src.cmd("migrate", uri=uri, resume=True)
            # paused is what it is until it has begun to look there, too
            migrate.wait_for("word that nobody listens", lambda: uri[5:] in migrate.info(
                self.src)["error-desc"])
            self.wait_paused(self.src)
        migrate.release(self.dst)
        self.wait_paused(self.dst)
        self.recover(self.src, self.dst)
        self.go_on(self.src)
        self.arrive(self.src, self.dst)

    def test_pause_and_recover(self):
        """Each of them twice, on both sides; a link comes about in the end."""
        for side, state in STATES:
            with self.subTest(state=state):
                held = self.bring(side, state)
                for vm in (self.src, self.dst):
                    for name, arguments in (("migrate-pause", {}),
                                            ("migrate-recover", {"uri": self.link()}),
                                            ("migrate-recover", {"uri": self.link()}),
                                            ("migrate", {"uri": self.link(), "resume": True}),
                                            ("migrate", {"uri": self.link(), "resume": True}),
                                            ("migrate-pause", {})):
                        self.ask(vm, name, arguments)
                        self.runs_once()
                self.settle(held)
                self.runs_once()
                for vm in (self.src, self.dst):
                    self.dismiss(vm)

    def test_cancel_and_quit(self):
        for side, state in STATES:
            for first, command in ((0, "migrate_cancel"), (0, "quit"), (1, "quit")):
                with self.subTest(state=state, command=command, first=first):
                    held = self.bring(side, state)
                    vm = (self.src, self.dst)[first]
                    if command == "quit":
                        self.dismiss(vm)
                    else:
                        self.ask(vm, command, {})
                    self.runs_once()
                    self.settle(held)
                    self.runs_once()
                    if side and command == "migrate_cancel" and self.src.status() == "running":
                        self.src.guest.wait_alive()
                    for other in (self.src, self.dst):
                        self.dismiss(other)
