# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of moves between Ferry and QEMU have in common."""

import os
import sys

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tests", "migration"))

from ferrytest import migrate  # noqa: E402
from ferrytest.qemu import BACKPORT, INSTALLED, OLD_DIALECT, Qemu  # noqa: E402
from migrationcase import DEVICES, MigrationCase  # noqa: E402

FERRY = "ferry"
# Every pair with one Ferry in it.
PAIRS = ((FERRY, INSTALLED), (INSTALLED, FERRY), (FERRY, BACKPORT), (BACKPORT, FERRY))
CPU = {FERRY: "host", INSTALLED: "host,-arch-capabilities", BACKPORT: "host,-arch-capabilities"}

# For comparisons of memory: KVM writes the wall clock anew into the guest's memory when the guest's
# CPU state is put in, where the guest has asked for one.
NO_KVM_CLOCK = "report=100 rate=2000 pv=0"


class InteropCase(MigrationCase):
    """Machines are named by who runs them: FERRY, INSTALLED (7.2) or BACKPORT (10.0)."""

    def machine(self, who, *extra, **options):
        options = {"guest": "report=100 rate=2000", "ram": "shm", "machine": DEVICES, "memory": 16,
                   "smp": 2, "cpu": CPU[who], **options}
        if who == FERRY:
            return self.ferry(*extra, **options)
        return Qemu(self, *extra, version=who, **options)

    def destination(self, who, *extra, return_path=False, **options):
        """A machine that waits for a guest at the new self.uri."""
        self.uri = self.link()
        dst = self.machine(who, *extra, incoming="defer", **options)
        migrate.set_capabilities(dst, return_path=return_path)
        dst.cmd("migrate-incoming", uri=self.uri)
        return dst

    def start_pair(self, source, destination, return_path=False, **options):
        """A source whose guest is up, and a destination that waits at self.uri."""
        self.src = self.machine(source, **options)
        self.dst = self.destination(destination, return_path=return_path, **options)
        migrate.set_capabilities(self.src, return_path=return_path)
        if options.get("guest", True) is not None and not options.get("paused"):
            self.src.guest.wait_ready()
        return self.src, self.dst

    def check_well(self, vm):
        """The guest runs and nothing it watches was ever wrong. Where QEMU has stopped and started it,
        one vCPU's clock has been seen some nanoseconds behind another's: guests allow for that."""
        vm.guest.check(monotonic=False)
        for cpu in vm.guest.box.cpus():
            self.assertEqual((cpu["back"], cpu["tsc_back"]), (0, 0), cpu)
            self.assertLess(cpu["xback_max_ns"], 10_000, cpu)

    def check_source_goes_on(self, src):
        self.assertEqual(src.status(), "running")
        self.check_well(src)

    def check_arrived(self, src, dst):
        """The guest runs there, well, and only there."""
        self.check_well(dst)
        self.assertFalse(src.guest.is_alive(0.1), "The guest runs on the source too")
        self.assertEqual(src.guest.complaints(), [])

    def move(self, src, dst, **parameters):
        done = migrate.move(src, dst, self.uri, **parameters)
        self.check_arrived(src, dst)
        return done

    def hop(self, src, who, *extra, return_path=False, **options):
        """Moves the guest to a new machine, which it returns; the old one is gone."""
        dst = self.destination(who, *extra, return_path=return_path, **options)
        migrate.set_capabilities(src, return_path=return_path)
        self.move(src, dst)
        src.quit()
        return dst


__all__ = ["BACKPORT", "CPU", "FERRY", "INSTALLED", "InteropCase", "NO_KVM_CLOCK", "OLD_DIALECT",
           "PAIRS"]
