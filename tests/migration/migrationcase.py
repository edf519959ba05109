# SPDX-License-Identifier: GPL-2.0-or-later
"""What the migration tests have in common: pairs of machines with the workload guest in them."""

import unittest

from ferrytest import TestCase, have_kvm, migrate

# Everything the machine can have, so that all of it has to survive.
DEVICES = "pit=on,pic=on,rtc=on,isa-serial=on"

# Points at which a migration can be held (qapi/ferry.json), in the order in which it gets there.
# Source points with the status and run state that belong to them.
SOURCE_POINTS = {
    "setup": ("setup", "running"),
    "active": ("active", "running"),
    "device": ("device", "finish-migrate"),
    "ready": ("device", "finish-migrate"),
    "go": ("device", "finish-migrate"),
}
DESTINATION_POINTS = ("incoming-setup", "incoming-active", "incoming-loaded", "incoming-ready",
                      "incoming-go")
# From here on the source cannot take the guest back.
COMMITTED = ("go", "incoming-go")


class MigrationCase(TestCase):
    def setUp(self):
        if not have_kvm():
            raise unittest.SkipTest("No /dev/kvm")
        self._links = 0

    def vm(self, *extra, **options):
        """A machine with a guest, as pair() makes them."""
        return self.ferry(*extra, **{"guest": "report=100 rate=2000", "ram": "shm", "machine": DEVICES,
                             "memory": 16, "smp": 2, **options})

    def link(self):
        """A new address for a migration."""
        self._links += 1
        return "unix:" + self.path(f"link{self._links}")

    def pair(self, incoming=None, return_path=True, events=False, source=None, destination=None,
             ready=True, **options):
        """
        A source whose guest is up and a destination that waits at self.uri. `source` and
        `destination` are options of one side only. With return_path both are Ferries to each other
        and know a commit point; without, all the destination gets is the stream.
        """
        self.uri = incoming or self.link()
        self.src = self.vm(**{"name": "source", **options, **(source or {})})
        self.dst = self.vm(**{"name": "destination", "incoming": "defer", **options,
                              **(destination or {})})
        migrate.set_capabilities(self.src, self.dst, return_path=return_path, events=events)
        if not (destination or {}).get("incoming"):
            self.dst.cmd("migrate-incoming", uri=self.uri)
        if ready:
            self.src.guest.wait_ready()
        return self.src, self.dst

    def another_destination(self, **options):
        """A new one, after a migration that did not come about; self.uri is new too."""
        self.uri = self.link()
        self.dst = self.vm(**{"name": "destination", "incoming": "defer", **options})
        on = {c["capability"]: c["state"] for c in self.src.cmd("query-migrate-capabilities")}
        migrate.set_capabilities(self.dst, return_path=on["return-path"])
        self.dst.cmd("migrate-incoming", uri=self.uri)
        return self.dst

    def move_and_check(self, src, dst, uri=None, **parameters):
        """Moves the guest and looks at it on the other side; what query-migrate says."""
        done = migrate.move(src, dst, uri or self.uri, **parameters)
        dst.guest.check()
        self.assertFalse(src.guest.is_alive(0.1), "The guest runs on the source too")
        self.assertEqual(src.guest.complaints(), [])
        return done

    def check_source_goes_on(self, src):
        """After a failed or cancelled migration the guest is where it was, and well."""
        self.assertEqual(src.status(), "running")
        src.guest.check()

    def check_refused_twice(self, src, dst, checked, loaded):
        """
        Two machines that do not fit. Between Ferries the check says so (a pattern) and the
        destination waits on, as if nothing had been; without a return path it finds out when it
        loads the stream, and ends.
        """
        said = migrate.wait_status(src, "failed")["error-desc"]
        self.assertRegex(said, "^The destination cannot take the guest: .*" + checked)
        self.check_source_goes_on(src)
        self.assertEqual(dst.status(), "inmigrate")
        migrate.set_capabilities(src, return_path=False)
        migrate.start(src, self.uri)
        dst.wait(1)
        self.assertRegex(dst.stderr(), loaded)

    def assert_memory_equal(self, a, b):
        """Two stopped machines have the same RAM, byte by byte."""
        with open(a.ram_path, "rb") as fa, open(b.ram_path, "rb") as fb:
            left, right = fa.read(), fb.read()
        self.assertEqual(len(left), len(right))
        if left != right:
            pages = [i for i in range(0, len(left), 4096) if left[i:i + 4096] != right[i:i + 4096]]
            at = next(i for i in range(pages[0], pages[0] + 4096) if left[i] != right[i])
            self.fail(f"{len(pages)} pages differ, the first at {pages[0]:#x}, at {at:#x}: "
                      f"{left[at:at + 32].hex()} and {right[at:at + 32].hex()}")
