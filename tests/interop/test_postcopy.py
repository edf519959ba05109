# SPDX-License-Identifier: GPL-2.0-or-later
"""Post-copy between Ferry and QEMU 7.2 and 10.0: plain, with preempt, and taken up again by hand."""

from ferrytest import migrate
from interopcase import FERRY, PAIRS, InteropCase

MIB = 1 << 20
GUEST = "report=100 rate=5000 pattern=random data=random"


class Postcopy(InteropCase):
    def start(self, source, destination, preempt):
        options = {"guest": GUEST, "memory": 32, "peek": True}
        src = self.machine(source, **options)
        self.uri = self.link()
        dst = self.machine(destination, incoming="defer", **options)
        for vm in (src, dst):
            migrate.set_capabilities(vm, postcopy_ram=True, postcopy_preempt=preempt)
        dst.cmd("migrate-incoming", uri=self.uri)
        src.guest.wait_ready()
        return src, dst

    def leave(self, src, **parameters):
        """The guest leaves early in the first round."""
        migrate.start(src, self.uri, max_bandwidth=8 * MIB, **parameters)
        migrate.wait_status(src, "active")
        src.cmd("migrate-start-postcopy")

    def arrive(self, src, dst):
        done = migrate.wait_status(src, "completed")
        migrate.wait_status(dst, "completed")
        dst.wait_state("running")
        self.check_well(dst)
        return done

    def test_moves(self):
        for preempt in (False, True):
            for source, destination in PAIRS:
                with self.subTest(source=source, destination=destination, preempt=preempt):
                    src, dst = self.start(source, destination, preempt)
                    self.leave(src)
                    done = self.arrive(src, dst)
                    self.assertGreater(done["ram"]["postcopy-bytes"], MIB)
                    src.quit()
                    dst.quit()

    def test_recovery(self):
        """The link is broken at either side, as each of them can."""
        for preempt in (False, True):
            for source, destination in PAIRS:
                with self.subTest(source=source, destination=destination, preempt=preempt):
                    src, dst = self.start(source, destination, preempt)
                    self.leave(src, max_postcopy_bandwidth=2 * MIB)
                    for broken in (src, dst if destination == FERRY else src):
                        for vm in (src, dst):
                            migrate.wait_status(vm, "postcopy-active")
                        dst.guest.wait_alive()
                        broken.cmd("migrate-pause")
                        for vm in (src, dst):
                            migrate.wait_status(vm, "postcopy-paused")
                        uri = self.link()
                        dst.cmd("migrate-recover", uri=uri)
                        src.cmd("migrate", uri=uri, resume=True)
                    migrate.wait_status(src, "postcopy-active", "completed")
                    migrate.set_parameters(src, max_postcopy_bandwidth=0)
                    self.arrive(src, dst)
                    src.quit()
                    dst.quit()
