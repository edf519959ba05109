# SPDX-License-Identifier: GPL-2.0-or-later
"""The link between source and destination: cut at any byte, stalled, slow, delivering in crumbs."""

import random
import time

from ferrytest import Relay, is_sanitized, migrate
from migrationcase import MigrationCase


class Cut(MigrationCase):
    """
    One source, many destinations: each attempt is cut at another place, and the guest runs on at the
    source each time. (A cut after GO would move it; the last bytes have a test of their own.)
    """

    guest = "report=100 rate=2000 data=random mem=4M"

    def attempt(self, src, tcp=False, reset=False, **after):
        self.another_destination(guest=self.guest)
        relay = Relay(self, self.uri[5:], tcp=tcp)
        relay.cut_after(**after)
        migrate.start(src, relay.uri)
        migrate.wait_status(src, "failed")
        self.assertEqual(src.status(), "running")
        if after.get("fwd") == 0:
            # nothing ever came: it waits on, for one that has something to say
            relay.close()
            self.assertEqual(self.dst.status(), "inmigrate")
            self.dst.quit()
            return
        self.dst.wait(1)
        relay.close()

    def prepare(self):
        self.src = src = self.vm(name="source", guest=self.guest)
        migrate.set_capabilities(src, return_path=True)
        src.guest.wait_ready()
        return src

    def test_forward(self):
        src = self.prepare()
        rng = random.Random(11)
        # header, configuration and greeting; the list of blocks; pages; a cut within a page
        offsets = [0, 1, 4, 8, 9, 20, 40, 60, 90, 150, 300, 5000, 300000]
        offsets += [rng.randrange(4 << 20) for _ in range(3 if is_sanitized() else 7)]
        for offset in offsets:
            with self.subTest(offset=offset):
                self.attempt(src, fwd=offset)
        src.guest.check()

    def test_backward(self):
        """The return path: the greeting of the destination, its answers, READY."""
        src = self.prepare()
        for offset in (0, 1, 3, 7, 8, 12, 20):
            with self.subTest(offset=offset):
                self.attempt(src, ret=offset)
        src.guest.check()

    def test_tcp(self):
        src = self.prepare()
        for offset in (0, 30, 200, 1 << 20):
            with self.subTest(offset=offset):
                self.attempt(src, tcp=True, fwd=offset)
        src.guest.check()

    def to_the_stop(self, src):
        """A migration of a stopped guest through a relay, held when all memory has been sent."""
        self.another_destination(guest=self.guest)
        relay = Relay(self, self.uri[5:])
        migrate.hold(src, "device")
        migrate.start(src, relay.uri)
        migrate.wait_held(src, "device")
        # what the source has written may still be on its way through the relay
        written = migrate.info(src)["ram"]["transferred"]
        relay.wait_passed(written)
        self.assertEqual(relay.passed["fwd"], written)
        return relay, written

    def test_every_part_of_the_end(self):
        """Cuts in device state, end of stream and description: the guest stays, as it was."""
        src = self.prepare()
        src.cmd("stop")
        tail, measured = None, 0
        # the length is taken from the second and third attempt: the first one still finds a page
        for share in (0, 0, 0, 0, 0.0005, 0.01, 0.1, 0.3, 0.5, 0.7, 0.95, 0.999, 1):
            with self.subTest(share=share):
                relay, before = self.to_the_stop(src)
                relay.stall("ret")  # no READY: everything but GO passes, whatever the length
                if measured == 3:
                    relay.cut_after(fwd=before + int((tail - 13) * share) - 64 * (share == 1))
                migrate.release(src)
                if measured < 3:
                    # nothing follows the description until READY
                    relay.wait_passed(before + 4000)
                    time.sleep(0.3)
                    length = relay.passed["fwd"] - before + 13
                    tail = length if measured < 2 else min(tail, length)
                    measured += 1
                    relay.cut()
                else:
                    time.sleep(0.5)
                    relay.cut()  # where the stream was shorter than the place of the cut
                info = migrate.wait_status(src, "failed")
                relay.close()
                self.assertTrue(info["error-desc"])
                self.assertEqual(src.status(), "paused")
                self.dst.wait(1)
        src.cmd("cont")
        src.guest.check()

    def test_last_bytes(self):
        """GO is the last thing the source sends, 13 bytes; when it came through whole the guest is
        there, when not it is here."""
        for lost in (1, 8, 12):
            with self.subTest(lost=lost):
                src, dst = self.pair(guest=self.guest)
                relay = Relay(self, self.uri[5:])
                migrate.hold(src, "ready")
                migrate.start(src, relay.uri)
                migrate.wait_held(src, "ready")
                relay.cut_after(fwd=relay.passed["fwd"] + 13 - lost)
                migrate.release(src)
                said = migrate.wait_status(src, "failed")["error-desc"]
                dst.wait(1)
                # it cannot know how much of GO arrived
                self.assertRegex(said, "handed over and is stopped here")
                self.assertEqual(src.status(), "postmigrate")
                self.assertFalse(src.guest.is_alive(0.1))
                src.cmd("cont")
                self.check_source_goes_on(src)

    def test_answer_to_go_is_lost(self):
        """The destination runs the guest, and the source does not."""
        src, dst = self.pair(guest=self.guest)
        relay = Relay(self, self.uri[5:])
        migrate.hold(src, "ready")
        migrate.start(src, relay.uri)
        migrate.wait_held(src, "ready")
        relay.stall("ret")
        migrate.release(src)
        dst.wait_state("running")
        relay.cut()
        said = migrate.wait_status(src, "failed")["error-desc"]
        self.assertRegex(said, "handed over and is stopped here; it probably runs on the destination")
        self.assertEqual(src.status(), "postmigrate")
        dst.guest.check()
        self.assertFalse(src.guest.is_alive(0.2))

    def test_cut_while_paused_before_the_switch(self):
        src, dst = self.pair()
        migrate.set_capabilities(src, pause_before_switchover=True)
        relay = Relay(self, self.uri[5:])
        migrate.start(src, relay.uri)
        migrate.wait_status(src, "pre-switchover")
        relay.cut()
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)
        dst.wait(1)


class Slow(MigrationCase):
    def test_stall_that_ends(self):
        src, dst = self.pair(guest="report=100 rate=2000 data=random", memory=32)
        relay = Relay(self, self.uri[5:])
        relay.throttle(4 << 20)
        migrate.start(src, relay.uri)
        relay.wait_passed(1 << 20)
        relay.stall()
        time.sleep(0.5)
        self.assertEqual((migrate.status(src), src.status()), ("active", "running"))
        src.guest.wait_alive()
        relay.throttle(None)
        relay.resume()
        migrate.finish(src, dst)
        dst.guest.check()

    def test_slow_link(self):
        """More is dirtied than passes, until the guest writes less: the move waits for that."""
        src, dst = self.pair(guest="report=100 rate=4000 pattern=random ws=8M")
        relay = Relay(self, self.uri[5:])
        relay.throttle(8 << 20)
        migrate.start(src, relay.uri, downtime_limit=50)
        relay.wait_passed(20 << 20)
        self.assertEqual(migrate.status(src), "active")
        src.guest.box.put("rate", 100)
        done = migrate.finish(src, dst)
        self.assertGreater(done["ram"]["dirty-sync-count"], 2)
        dst.guest.check()

    def test_crumbs(self):
        """Reads and writes of a few bytes at a time, on both sides, at both ends of the link."""
        for length in (61, 4095):
            with self.subTest(length=length):
                memory = "64K" if length < 100 else "8M"
                src, dst = self.pair(guest=f"report=100 rate=50 data=random mem={memory}",
                                     env={"FERRY_IO_CHOP": str(length)})
                migrate.start(src, self.uri)
                migrate.finish(src, dst)
                dst.guest.check()
                src.quit()

    def test_relay_in_crumbs(self):
        src, dst = self.pair(guest="report=100 rate=50 data=random mem=1M")
        relay = Relay(self, self.uri[5:])
        relay.chop(333)
        migrate.start(src, relay.uri)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_bandwidth_limit(self):
        """max-bandwidth holds, and a change takes effect at once."""
        src, dst = self.pair(guest="report=100 idle=1 data=random", memory=32)
        start = time.monotonic()
        migrate.start(src, self.uri, max_bandwidth=2 << 20)  # 16 s for all of it
        migrate.wait_status(src, "active")
        time.sleep(1.5)
        ram = migrate.info(src)["ram"]
        elapsed = time.monotonic() - start
        self.assertLess(ram["transferred"], 2 * (1 << 20) * elapsed * 1.15 + (512 << 10))
        self.assertGreater(ram["transferred"], 2 * (1 << 20) * elapsed * 0.3)
        changed = time.monotonic()
        migrate.set_parameters(src, max_bandwidth=1 << 30)
        migrate.finish(src, dst)
        self.assertLess(time.monotonic() - changed, 10)
        dst.guest.check()
