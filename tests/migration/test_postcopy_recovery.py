# SPDX-License-Identifier: GPL-2.0-or-later
"""
Post-copy whose link breaks or stalls: nothing is lost, whatever byte it broke at, by hand and by
itself. With FERRY_SOAK=1 (make soak) at every point, else at sampled ones.
"""

import os
import time

from ferrytest import Relay, migrate
from postcopycase import MIB, PostcopyCase

STEP = 256 << 10
POINTS = 64  # of STEP bytes: 16 MiB
SOAK = os.environ.get("FERRY_SOAK") == "1"


class Recovery(PostcopyCase):
    def relayed(self, preempt=False, **options):
        src, dst = self.postcopy_pair(preempt, **options)
        return src, dst, Relay(self, self.uri[5:])

    # ---- broken anywhere ----

    def cut_at(self, point, connection, preempt, by_itself):
        """
        The link breaks after so many bytes since the switch: of its main connection (0), of the
        urgent one (1), or of both together (None).
        """
        src, dst, relay = self.relayed(preempt, smp=2)
        if by_itself:
            uri = self.link()
            migrate.set_parameters(dst, reconnect_listen=uri)
            migrate.set_parameters(src, reconnect_addresses=[uri])
        self.switch(src, relay.uri)
        dst.wait_state("running")
        relay.cut_after(fwd=relay.passed_by("fwd", connection) + point, connection=connection)
        self.go_on(src)
        cut = migrate.wait_for("the end or a cut", lambda: relay.cuts or
                               migrate.status(src) == "completed")
        if cut and not by_itself and migrate.status(src) != "completed":
            self.wait_paused(src)
            # the destination may have had all of it, and has not been able to say so
            migrate.wait_status(dst, "postcopy-paused", "completed")
            self.recover(src, dst)
        self.arrive(src, dst)
        src.quit()
        dst.quit()
        relay.close()
        return relay.cuts

    def points(self, sampled):
        return range(POINTS) if SOAK else sampled

    def check_cuts(self, connection, preempt, sampled, least):
        cuts = 0
        for i, point in enumerate(self.points(sampled)):
            with self.subTest(point=point):
                cuts += bool(self.cut_at(point * STEP + 777 * i, connection, preempt, i % 2 == 0))
        self.assertGreaterEqual(cuts, least)

    def test_cut_without_preempt(self):
        self.check_cuts(0, False, (0, 5, 29, 54), 3)

    def test_cut_main(self):
        self.check_cuts(0, True, (0, 13, 38, 58), 3)

    def test_cut_both(self):
        self.check_cuts(None, True, (1, 44), 1)

    def test_cut_urgent(self):
        """It carries what is asked for: pages of two vCPUs, as long as nothing else comes."""
        for i, point in enumerate((0, 30_000)):
            with self.subTest(point=point):
                src, dst, relay = self.relayed(True)
                self.switch(src, relay.uri)
                dst.wait_state("running")
                relay.cut_after(fwd=relay.passed_by("fwd", 1) + point, connection=1)
                migrate.wait_for("cut", lambda: relay.cuts)
                self.wait_paused(src, dst)
                self.recover(src, dst)
                self.wait_active(src, dst)
                self.go_on(src)
                self.arrive(src, dst)

    # ---- other ways to lose it ----

    def test_again_and_again(self):
        for preempt in (False, True):
            with self.subTest(preempt=preempt):
                src, dst = self.postcopy_pair(preempt, memory=32)
                self.switch(src)
                for i in range(6):
                    dst.guest.wait_alive()
                    (src, dst)[i % 2].cmd("migrate-pause")
                    self.wait_paused(src, dst)
                    self.assertEqual(migrate.info((src, dst)[i % 2])["error-desc"],
                                     "Paused by migrate-pause")
                    self.recover(src, dst)
                    self.wait_active(src, dst)
                self.go_on(src)
                self.arrive(src, dst)

    def test_stalled(self):
        """Nothing breaks, and nothing comes: link-timeout says when that is a lost link."""
        # a guest that asks for some pages all the time, and in the time below not for all of them
        src, dst, relay = self.relayed(True, guest="report=100 rate=50 vrate=50 pattern=random")
        for vm in (src, dst):
            migrate.set_parameters(vm, link_timeout=int(migrate.scaled(2) * 1000))
        self.switch(src, relay.uri)
        dst.wait_state("running")
        time.sleep(migrate.scaled(3))  # a slow source is not a silent one
        self.assertEqual(migrate.status(dst), "postcopy-active")
        relay.stall()
        self.go_on(src)
        self.wait_paused(dst)
        relay.cut()
        self.wait_paused(src)
        self.recover(src, dst)
        self.arrive(src, dst)

    def test_guest_runs_on_where_it_can(self):
        """A vCPU that needs no missing page runs on without a link, and waits for one else."""
        src, dst = self.postcopy_pair(guest="report=100 rate=0 precheck=0 vrate=0")
        self.switch(src)
        dst.guest.wait_alive()
        src.cmd("migrate-pause")
        self.wait_paused(src, dst)
        self.assertTrue(dst.guest.is_alive(migrate.scaled(3)))
        self.recover(src, dst)
        self.go_on(src)
        self.arrive(src, dst)

    def test_handshake_breaks(self):
        """The new link breaks too, in each step of its beginning."""
        src, dst = self.postcopy_pair(True)
        self.switch(src)
        dst.wait_state("running")
        src.cmd("migrate-pause")
        self.wait_paused(src, dst)
        for limits in ({"fwd": 3}, {"fwd": 20}, {"ret": 1}, {"ret": 30}, {"fwd": 60}, {"ret": 700},
                       {"ret": 3000}, {"fwd": 110}):
            with self.subTest(**limits):
                uri = self.link()
                dst.cmd("migrate-recover", uri=uri)
                relay = Relay(self, uri[5:])
                relay.cut_after(**limits, connection=0)
                src.cmd("migrate", uri=relay.uri, resume=True)
                migrate.wait_for("cut", lambda: relay.cuts)
                self.wait_paused_again(src, dst)
                relay.close()
        self.recover(src, dst)
        self.go_on(src)
        self.arrive(src, dst)

    def test_wrong_address(self):
        src, dst = self.postcopy_pair()
        self.switch(src)
        src.cmd("migrate-pause")
        self.wait_paused(src, dst)
        src.cmd("migrate", uri="unix:" + self.path("nobody"), resume=True)
        migrate.wait_for("reason", lambda: "Failed to connect" in migrate.info(src)["error-desc"])
        self.wait_paused(src)
        uri = self.link()
        dst.cmd("migrate-recover", uri=uri)
        self.refused("Migrate recovery is triggered already", dst, "migrate-recover",
                     uri=self.link())
        src.cmd("migrate", uri=uri, resume=True)
        self.go_on(src)
        self.arrive(src, dst)

    # ---- by itself ----

    def test_reconnect(self):
        """Set while it is paused, found within moments; the address of the migration will do."""
        src, dst = self.postcopy_pair(True)
        self.switch(src)
        dst.wait_state("running")
        for _ in range(3):
            src.cmd("migrate-pause")
            migrate.set_parameters(src, reconnect_addresses=["unix:/nowhere", self.uri])
            migrate.set_parameters(dst, reconnect_listen=self.uri)
            migrate.wait_for("both on a new link", lambda: migrate.status(src) == "postcopy-active"
                             and migrate.status(dst) == "postcopy-active")
            dst.guest.wait_alive()
        self.go_on(src)
        self.arrive(src, dst)

    def test_reconnect_gives_up(self):
        src, dst = self.postcopy_pair()
        uri = self.link()
        migrate.set_parameters(src, reconnect_addresses=["unix:" + self.path("nobody")],
                               reconnect_timeout=200)
        migrate.set_parameters(dst, reconnect_listen=uri, reconnect_timeout=200)
        self.switch(src)
        src.cmd("migrate-pause")
        self.wait_paused(src, dst)
        migrate.wait_for("nobody listens", lambda: not os.path.exists(uri[5:]))
        self.recover(src, dst)  # by hand it goes on being possible
        self.go_on(src)
        self.arrive(src, dst)
