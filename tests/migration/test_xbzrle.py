# SPDX-License-Identifier: GPL-2.0-or-later
"""
xbzrle: a guest that rewrites a few words of each page moves as what has changed, whatever the size of
the cache; its memory is looked at by itself, and by a decoder of the stream that is not Ferry's.
"""

import os
import sys
import unittest

from ferrytest import is_sanitized, migrate, wait_for
from migrationcase import MigrationCase

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "scripts"))

from streamdecode import load  # noqa: E402
from streamdecode.memory import reconstruct  # noqa: E402

MIB = 1 << 20

# Four MiB that are written all over many times a second: whatever the rounds, they find them changed.
BUSY = "report=100 mem=4M rate=100000 precheck=0 vrate=2000 data="
PAGES = 1024
# Eight words of a page change with each write.
SPARSE = BUSY + "sparse"


class Xbzrle(MigrationCase):
    def sparse_pair(self, guest=SPARSE, cache=64 * MIB, **options):
        pair = self.pair(guest=guest, smp=1, **options)
        migrate.set_capabilities(self.src, xbzrle=True)
        migrate.set_parameters(self.src, xbzrle_cache_size=cache)
        return pair

    def begin(self, uri=None, bandwidth=8 * MIB):
        """Rounds that do not end by themselves: a pause would seem endless."""
        migrate.start(self.src, uri or self.uri, max_bandwidth=bandwidth, downtime_limit=0,
                      avail_switchover_bandwidth=1)

    def let_end(self):
        migrate.set_parameters(self.src, downtime_limit=2000, max_bandwidth=1 << 30,
                               avail_switchover_bandwidth=0)

    def cache(self):
        return migrate.info(self.src).get("xbzrle-cache", {})

    def rounds(self):
        return migrate.info(self.src).get("ram", {}).get("dirty-sync-count", 0)

    def wait_cache(self, what, holds):
        """Until the statistics are as wanted; the statistics."""
        def look():
            now = self.cache()
            return now if now and holds(now) else None
        return wait_for(f"xbzrle-cache with {what}", look)

    def complete(self):
        """Lets the rounds end, and looks at the guest on the other side."""
        self.let_end()
        done = migrate.finish(self.src, self.dst)
        self.dst.guest.check()
        self.assertFalse(self.src.guest.is_alive(0.1), "The guest runs on the source too")
        self.assertEqual(self.src.guest.complaints(), [])
        return done

    def test_changes_are_sent(self):
        for return_path in (True, False):
            with self.subTest(return_path=return_path):
                self.sparse_pair(return_path=return_path)
                self.begin()
                now = self.wait_cache("pages", lambda c: c["pages"] > 10000)
                self.assertEqual(sorted(now), ["bytes", "cache-miss", "cache-miss-rate", "cache-size",
                                               "encoding-rate", "overflow", "pages"])
                self.assertEqual(now["cache-size"], 64 * MIB)
                self.assertEqual(now["overflow"], 0)
                # 8 words and their two lengths, of the generation that was sent and of this one
                self.assertLess(now["bytes"] / now["pages"], 200)
                self.assertGreater(now["encoding-rate"], 20)
                self.assertLess(now["cache-miss-rate"], 0.5)
                # the cache holds the whole guest: no page is missed twice
                self.assertLess(now["cache-miss"], PAGES + 100)
                done = self.complete()
                # the last round may have caught all that the guest has written
                self.assertGreaterEqual(done["xbzrle-cache"]["pages"], now["pages"])
                self.assertLess(done["ram"]["normal"], 3 * PAGES)

    @unittest.skipIf(is_sanitized(), "the predicted cost of devices and stops is not that of a build "
                     "with sanitizers; the plain build runs this")
    def test_expected_pause(self):
        """What is left is judged by what it takes on the wire, a thirtieth of the pages."""
        self.sparse_pair()
        self.begin()
        self.wait_cache("pages", lambda c: c["pages"] > 3000)
        # so little that what devices and the stop cost, much on a busy host, does not count beside it
        assumed = MIB // 16
        migrate.set_parameters(self.src, avail_switchover_bandwidth=assumed)
        had = len(migrate.info(self.src)["rounds"])

        def look():
            rounds = migrate.info(self.src)["rounds"][had + 1:]
            return [r for r in rounds if r["remaining-pages"] > PAGES / 4]
        last = wait_for("a round that leaves something", look)[0]
        whole_us = last["remaining-pages"] * 4104 * 1e6 / assumed
        self.assertLess(last["expected-downtime"], whole_us / 10)
        self.assertGreater(last["expected-downtime"], whole_us / 60)
        self.complete()

    def test_off(self):
        self.pair(guest=SPARSE)
        done = self.move_and_check(self.src, self.dst)
        self.assertNotIn("xbzrle-cache", done)

    def test_every_kind_of_page(self):
        """Changed all over, to zero and back, not at all."""
        for data in ("mixed", "random", "zero", "text"):
            with self.subTest(data=data):
                self.sparse_pair(BUSY + data + " pattern=random")
                self.begin()
                if data == "zero":
                    wait_for("rounds", lambda: self.rounds() > 9)
                else:
                    self.wait_cache("work", lambda c: c["pages"] + c["overflow"] > 5000)
                done = self.complete()
                if data == "random":
                    self.assertGreater(done["xbzrle-cache"]["overflow"], 0)

    def test_cache_smaller_than_the_working_set(self):
        """Written in order, round after round: what the cache holds goes on to pay."""
        for cache in (MIB, 64 << 10, 4096):
            with self.subTest(cache=cache):
                self.sparse_pair(cache=cache)
                self.begin(bandwidth=16 * MIB)
                before = self.wait_cache("misses", lambda c: c["cache-miss"] > 2 * PAGES)
                now = self.wait_cache("more",
                                      lambda c: c["cache-miss"] > before["cache-miss"] + 4 * PAGES)
                # a round misses all but what the cache holds, and that it hits
                rounds = (now["cache-miss"] - before["cache-miss"]) / PAGES
                if cache > 4096:
                    self.assertGreater(now["pages"] - before["pages"], rounds * cache / 4096 / 2)
                self.complete()

    def test_cache_changes_its_size(self):
        self.sparse_pair(cache=2 * MIB)
        self.begin()
        for size in (64 * MIB, MIB, 4096, 128 * MIB, 8 * MIB):
            had = self.wait_cache("pages", lambda c: c["pages"] > 0)
            migrate.set_parameters(self.src, xbzrle_cache_size=size)
            self.wait_cache("its new size", lambda c: c["cache-size"] == size and
                            c["pages"] > had["pages"])
        self.assertEqual(self.src.cmd("query-migrate-parameters")["xbzrle-cache-size"], 8 * MIB)
        self.refused("Parameter 'xbzrle_cache_size' expects a power of two no less than the target "
                     "page size", self.src, "migrate-set-parameters", xbzrle_cache_size=8 * MIB + 1)
        self.assertEqual(self.cache()["cache-size"], 8 * MIB)
        self.complete()

    def test_the_vmm_itself_writes(self):
        """Devices that write to the guest's memory, and vCPUs, meet in pages."""
        self.sparse_pair(SPARSE + " devstate=1 devms=200")
        self.begin()
        self.wait_cache("pages", lambda c: c["pages"] > 5000)
        self.complete()

    def test_cancelled_and_again(self):
        self.sparse_pair()
        for _ in range(2):
            self.begin()
            self.wait_cache("pages", lambda c: c["pages"] > 2000)
            self.src.cmd("migrate_cancel")
            migrate.wait_status(self.src, "cancelled")
            self.check_source_goes_on(self.src)
            self.dst.wait(status=1)
            self.another_destination(guest=SPARSE, smp=1)
        self.begin()
        self.wait_cache("pages of this run", lambda c: 2000 < c["pages"])
        self.complete()

    def test_paused_guest(self):
        """Nothing changes any more: all of it comes in the first round."""
        self.sparse_pair(SPARSE + " pv=0")
        self.src.cmd("stop")
        migrate.start(self.src, self.uri)
        done = migrate.wait_status(self.src, "completed")
        self.dst.wait_state("paused")
        self.assertEqual(done["xbzrle-cache"]["pages"], 0)
        self.assert_memory_equal(self.src, self.dst)

    def test_decoded_by_others(self):
        """The stream, read by a decoder in Python, is the memory of the stopped guest."""
        path = self.path("stream")
        self.src = self.vm(guest=SPARSE + " pv=0", name="source", smp=1)
        self.src.guest.wait_ready()
        migrate.set_capabilities(self.src, xbzrle=True)
        migrate.set_parameters(self.src, xbzrle_cache_size=2 * MIB)
        self.begin(f"exec:cat > {path}")
        self.wait_cache("pages", lambda c: c["pages"] > 2000 and c["cache-miss"] > 2 * PAGES)
        self.let_end()
        done = migrate.wait_status(self.src, "completed")
        stream = load(path)
        records = [p for p in stream.ram.pages if p.kind == "xbzrle"]
        said = done["xbzrle-cache"]
        self.assertLessEqual(len(records), said["pages"])
        self.assertEqual(sum(p.size + 3 for p in records), said["bytes"])
        largest = max(stream.ram.blocks.values(), key=lambda b: b.length).name
        with open(self.src.ram_path, "rb") as f:
            self.assertTrue(reconstruct(stream).blocks[largest].data[:] == f.read(),
                            "The stream makes another memory")
