# SPDX-License-Identifier: GPL-2.0-or-later
"""What the post-copy tests have in common."""

from ferrytest import migrate
from migrationcase import MigrationCase

MIB = 1 << 20
GUEST = "report=100 rate=5000 pattern=random data=random"


class PostcopyCase(MigrationCase):
    def postcopy_pair(self, preempt=False, capabilities=None, **options):
        """A pair that may switch. The destination is looked into without touching its memory."""
        src, dst = self.pair(**{"guest": GUEST, "peek": True, "events": True, **options})
        self.allow(src, dst, preempt=preempt, **(capabilities or {}))
        return src, dst

    def allow(self, *vms, preempt=False, **more):
        migrate.set_capabilities(*vms, postcopy_ram=True, postcopy_preempt=preempt,
                                 postcopy_blocktime=True, **more)

    def switch(self, src, uri=None, slow=True, **parameters):
        """
        Starts the migration and lets the guest leave in the first round; with `slow` its memory
        follows only where it is asked for, until go_on().
        """
        migrate.start(src, uri or self.uri, **{
            "max_bandwidth": 4 * MIB, "max_postcopy_bandwidth": 4096 if slow else 0, **parameters})
        migrate.wait_status(src, "active")
        src.cmd("migrate-start-postcopy")
        # where all of the memory follows at once it may be over before anybody looks
        migrate.wait_status(src, "postcopy-active", *(() if slow else ("completed",)))

    def go_on(self, src):
        migrate.set_parameters(src, max_postcopy_bandwidth=0)

    def arrive(self, src, dst):
        """The guest has all of its memory, and it is right; what both sides say."""
        done = migrate.wait_status(src, "completed")
        there = migrate.wait_status(dst, "completed")
        dst.wait_state("running")
        dst.guest.check()
        self.assertEqual(src.status(), "postmigrate")
        self.assertEqual(there["postcopy-faults"]["missing-pages"], 0)
        return done, there

    def recover(self, src, dst, uri=None):
        """By hand, as QEMU's managers do it."""
        uri = uri or self.link()
        dst.cmd("migrate-recover", uri=uri)
        src.cmd("migrate", uri=uri, resume=True)

    def wait_paused(self, *vms):
        for vm in vms:
            migrate.wait_status(vm, "postcopy-paused")

    def wait_paused_again(self, src, dst):
        """After a link that came to nothing: the destination has taken it and seen its end, too."""
        self.wait_paused(src)

        def look():
            now = migrate.info(dst)
            return now["status"] == "postcopy-paused" and "socket-address" not in now
        migrate.wait_for("destination that is paused again", look)

    def wait_active(self, *vms):
        for vm in vms:
            migrate.wait_status(vm, "postcopy-active")
