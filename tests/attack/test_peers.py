# SPDX-License-Identifier: GPL-2.0-or-later
"""
Destinations that lie, babble or fall silent. Before the commit point the guest goes on at the
source; after it only a destination that certainly does not run the guest gives it back.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from fakepeer import (ERROR, HELLO, HELLO_MESSAGE, MAGIC, PONG, READY, REQ_PAGES, SHUT,
                      SWITCHOVER_ACK, FakePeer, be32, message)
from ferrytest import migrate
from migrationcase import MigrationCase

GARBAGE = message(0x777)
HANDED_OVER = "handed over and is stopped here"


class Peers(MigrationCase):
    def prepare(self):
        self.src = self.vm(name="source", guest="report=100 rate=100", smp=1)
        migrate.set_capabilities(self.src, return_path=True)
        self.src.guest.wait_ready()
        return self.src

    def attempt(self, greeting, **options):
        """A migration to a fake, held when all memory but the last has been sent."""
        uri = self.link()
        peer = FakePeer(self, uri[5:], greeting, **options)
        migrate.hold(self.src, "device")
        migrate.start(self.src, uri)
        return peer

    def outcome(self, back):
        """What query-migrate says; the guest came back, or it did not and an operator has to."""
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        if back:
            self.assertNotIn(HANDED_OVER, said)
            self.assertEqual(self.src.status(), "running")
            self.src.guest.wait_alive()
        else:
            self.assertIn(HANDED_OVER, said)
            self.assertEqual(self.src.status(), "postmigrate")
            self.assertFalse(self.src.guest.is_alive(0.1))
            self.src.cmd("cont")
            return said
        return migrate.cause(said)

    def after_the_end(self, greeting, answers, back):
        """Says `answers` after the whole stream (and for a Ferry: GO) has come; None: closes."""
        peer = self.attempt(greeting)
        migrate.wait_held(self.src, "device")
        migrate.release(self.src)
        if greeting == "ferry":
            peer.wait_phase(self.src, "ready")
            peer.say(message(READY))
        peer.wait_phase(self.src, "confirm")
        if greeting == "ferry":
            self.assertEqual(peer.last[-13:-8], b"\x08\x46\x53\x00\x08")
        if answers is None:
            peer.close()
        else:
            peer.say(*answers)
        said = self.outcome(back)
        peer.close()
        return said

    def test_qemu_after_the_end(self):
        self.prepare()
        for answers, back in ((None, True), ([message(SHUT, be32(1))], True), ([GARBAGE], False),
                              ([message(REQ_PAGES, bytes(12))], False)):
            with self.subTest(answers=answers):
                self.after_the_end("qemu", answers, back)
        self.src.guest.check()

    def test_ferry_after_go(self):
        """Closing says nothing: it may have run the guest and died. Words of its own do."""
        self.prepare()
        for answers, back in ((None, False), ([message(SHUT, be32(1))], True), ([GARBAGE], False),
                              ([message(ERROR, b"no"), message(SHUT, be32(1))], True)):
            with self.subTest(answers=answers):
                said = self.after_the_end("ferry", answers, back)
                if answers and len(answers) == 2:
                    self.assertEqual(said, "The destination refused the guest: no")
        self.src.guest.check()

    def test_before_ready(self):
        self.prepare()
        for answers in (None, [message(SHUT, be32(7))], [GARBAGE], [message(PONG)],
                        [message(HELLO, b"abc")], [message(SHUT, bytes(5))],
                        [message(ERROR, bytes(1025))]):
            with self.subTest(answers=answers):
                peer = self.attempt("ferry")
                migrate.wait_held(self.src, "device")
                if answers is None:
                    peer.close()
                else:
                    peer.say(*answers)
                migrate.release(self.src)
                self.assertTrue(self.outcome(True))
                peer.close()
        self.src.guest.check()

    def test_not_asked(self):
        """Answers that nothing asked for, before the guest was given away."""
        self.prepare()
        loaded, runs = "has loaded the guest", "runs the guest"
        for greeting, answer, words in (
                ("ferry", message(READY), loaded), ("ferry", message(SHUT, be32(0)), runs),
                ("ferry", HELLO_MESSAGE, "hello"), ("ferry", message(PONG, be32(1)), "ping 0x1 "),
                ("ferry", message(PONG, be32(MAGIC)), "ping 0x46525259"),
                ("qemu", message(READY), loaded), ("qemu", message(SHUT, be32(0)), runs),
                ("qemu", HELLO_MESSAGE, "hello"), ("qemu", message(PONG, be32(7)), "ping 0x7 ")):
            with self.subTest(greeting=greeting, words=words):
                peer = self.attempt(greeting)
                migrate.wait_held(self.src, "device")
                peer.say(answer)
                # the source reads it on a thread of its own, perhaps after it has gone on
                peer.wait_heard()
                time.sleep(migrate.scaled(0.2))
                migrate.release(self.src)
                self.assertIn(words, self.outcome(True))
                peer.close()
        self.src.guest.check()

    def test_wrong_greetings(self):
        self.prepare()
        for words in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b"\xff" * 5000,
                      message(SHUT, be32(0))[:5]):
            with self.subTest(words=words[:10]):
                peer = self.attempt("none")
                migrate.wait_status(self.src, "setup")
                migrate.wait_for("connection", lambda: peer.sock)
                peer.say(words)
                peer.close()
                self.outcome(True)
                migrate.release(self.src)
        self.src.guest.check()

    def test_babble(self):
        """Answers without end cost the guest nothing."""
        src = self.prepare()
        peer = self.attempt("qemu")
        for _ in range(200):
            peer.say(*[message(SWITCHOVER_ACK)] * 1000)
        migrate.wait_held(src, "device")
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        self.check_source_goes_on(src)

    def test_cancel_of_one_that_does_not_read(self):
        self.prepare()
        migrate.set_parameters(self.src, link_timeout=3600000)
        peer = self.attempt("qemu", reads=False)
        migrate.wait_for("connection", lambda: peer.sock)
        migrate.wait_status(self.src, "active")
        self.src.cmd("migrate_cancel")
        migrate.wait_status(self.src, "cancelled")
        self.check_source_goes_on(self.src)
