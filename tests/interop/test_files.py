# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest saved by one and restored by the other: exec: everywhere, file: where QEMU has it."""

from ferrytest import migrate
from interopcase import BACKPORT, FERRY, INSTALLED, NO_KVM_CLOCK, PAIRS, InteropCase

WRITE, READ = "exec:cat >{}", "exec:cat {}"
OFFSET = 0x3000


class Files(InteropCase):
    def save(self, who, uri, stopped=False):
        self.src = src = self.machine(who, guest=NO_KVM_CLOCK)
        src.guest.wait_ready()
        if stopped:
            src.cmd("stop")
        src.cmd("migrate", uri=uri)
        migrate.wait_status(src, "completed")
        return src

    def restore(self, who, uri, stopped=False):
        dst = self.machine(who, incoming=uri)
        dst.wait_state("paused" if stopped else "running")
        self.assert_rest(dst, stopped)
        return dst

    def assert_rest(self, dst, stopped):
        if stopped:
            self.assert_memory_equal(self.src, dst)
            dst.cmd("cont")
        self.check_arrived(self.src, dst)

    def test_exec(self):
        for source, destination in PAIRS:
            for stopped in (False, True):
                with self.subTest(source=source, destination=destination, stopped=stopped):
                    path = self.path(f"{source}-{destination}-{stopped}")
                    self.save(source, WRITE.format(path), stopped)
                    self.restore(destination, READ.format(path), stopped)

    def test_file(self):
        """With 10.0; 7.2 reads with exec: what Ferry has written with file:, and the reverse."""
        uris = {FERRY: ("file:{}", "file:{}"), BACKPORT: ("file:{}", "file:{}"),
                INSTALLED: (WRITE, READ)}
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                path = self.path(f"{source}-{destination}")
                self.save(source, uris[source][0].format(path))
                self.restore(destination, uris[destination][1].format(path))

    def test_offset(self):
        """A manager's own header comes before the stream, and stays."""
        for source, destination in ((FERRY, BACKPORT), (BACKPORT, FERRY)):
            with self.subTest(source=source, destination=destination):
                path = self.path(f"{source}-{destination}")
                with open(path, "wb") as f:
                    f.write(b"H" * OFFSET)
                uri = f"file:{path},offset={OFFSET:#x}"
                self.save(source, uri)
                with open(path, "rb") as f:
                    self.assertEqual(f.read(OFFSET + 4), b"H" * OFFSET + b"QEVM")
                self.restore(destination, uri)

    def test_restored_twice(self):
        """A file is a guest that can be started as often as one likes."""
        path = self.path("stream")
        self.save(INSTALLED, WRITE.format(path))
        for who in (FERRY, INSTALLED, FERRY):
            self.restore(who, READ.format(path)).quit()
