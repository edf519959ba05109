# SPDX-License-Identifier: GPL-2.0-or-later
"""xbzrle between Ferry and QEMU, both ways: what either says has changed, the other understands."""

from ferrytest import migrate, wait_for
from interopcase import BACKPORT, FERRY, INSTALLED, PAIRS, InteropCase

MIB = 1 << 20
# Pages that are written all over many times a second; eight words of a page change each time, or
# all kinds of things.
BUSY = "report=100 mem=4M rate=100000 precheck=0 vrate=2000 data="


class Xbzrle(InteropCase):
    def busy_pair(self, source, destination, data, cache=64 * MIB, both=True, **options):
        self.start_pair(source, destination, guest=BUSY + data, smp=1, **options)
        for vm in (self.src, self.dst) if both else (self.src,):
            migrate.set_capabilities(vm, xbzrle=True)
        migrate.set_parameters(self.src, xbzrle_cache_size=cache)

    def run_pair(self):
        """Rounds until many pages went as changes or, as QEMU does, it is over before; then a look
        at the guest."""
        # Ferry goes on as long as a pause would be endless; QEMU does not
        endless = "avail-switchover-bandwidth"
        ours = not hasattr(self.src, "version")
        migrate.start(self.src, self.uri, max_bandwidth=16 * MIB, downtime_limit=1,
                      **({endless: 1} if ours else {}))

        def look():
            now = migrate.info(self.src)
            return now.get("xbzrle-cache", {}).get("pages", 0) > 3000 or now["status"] == "completed"
        wait_for("changed pages", look, 120)
        migrate.set_parameters(self.src, downtime_limit=2000, max_bandwidth=1 << 30,
                               **({endless: 0} if ours else {}))
        done = migrate.finish(self.src, self.dst)
        self.check_arrived(self.src, self.dst)
        self.assertGreater(done["xbzrle-cache"]["pages"], 200)
        for vm in (self.src, self.dst):
            vm.quit()
        return done

    def test_each_way(self):
        for source, destination in PAIRS:
            for data in ("sparse", "mixed pattern=random"):
                with self.subTest(source=source, destination=destination, data=data):
                    self.busy_pair(source, destination, data,
                                   return_path=data == "sparse" and FERRY == source)
                    self.run_pair()

    def test_small_cache(self):
        """Most pages are not in it, and it changes all the time."""
        for source, destination in PAIRS[:2]:
            with self.subTest(source=source, destination=destination):
                self.busy_pair(source, destination, "sparse pattern=hot", cache=MIB)
                done = self.run_pair()
                self.assertGreater(done["xbzrle-cache"]["cache-miss"], 100)

    def test_the_destination_need_not_know(self):
        for destination in (INSTALLED, BACKPORT):
            with self.subTest(destination=destination):
                self.busy_pair(FERRY, destination, "sparse", both=False)
                self.run_pair()
