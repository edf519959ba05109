# SPDX-License-Identifier: GPL-2.0-or-later
"""
Two processes on one memory file. Only one of them may run a guest in it, and a stream is not written
into memory that somebody runs a guest in.
"""

import os
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import QmpError, ferry_binary, migrate, scaled, wait_for
import checkpeer
from migrationcase import MigrationCase

IN_USE = "is in use by another process, which may run a guest on it"


class MemoryLease(MigrationCase):
    def one(self, **options):
        """A machine on the file that all of them share."""
        path = os.path.join(self.shm, "shared.ram")
        vm = self.vm("-object", f"memory-backend-file,id=ram0,size=16M,share=on,mem-path={path}",
                     "-machine", "memory-backend=ram0", ram=None, guest="report=100 rate=2000",
                     **options)
        vm.ram_path = path
        return vm

    def source(self):
        src = self.one(name="source")
        src.guest.wait_ready()
        return src

    def destination(self, name="destination", **capabilities):
        dst = self.one(name=name, incoming="defer")
        migrate.set_capabilities(dst, **capabilities)
        self.uri = self.link()
        dst.cmd("migrate-incoming", uri=self.uri)
        return dst

    def test_second_machine(self):
        src = self.source()
        memory = [a for i, a in enumerate(src.argv) if {"-object", "-m"} & {a, src.argv[i - 1]}]
        done = subprocess.run([ferry_binary(), "-nodefaults", "-display", "none", "-M",
                               "microvm,memory-backend=ram0", "-cpu", "host", *memory], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=scaled(), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(IN_USE, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.check_source_goes_on(src)
        src.quit()
        again = self.one(name="again")  # the lock went with the process
        again.guest.wait_ready()

    def test_stream_into_the_guests_own_memory(self):
        for return_path in (True, False):
            with self.subTest(return_path=return_path):
                src = self.source()
                migrate.set_capabilities(src, return_path=return_path)
                dst = self.destination(return_path=return_path)
                migrate.start(src, self.uri)
                info = migrate.wait_status(src, "failed")
                if return_path:
                    self.assertIn(IN_USE, info["error-desc"])
                dst.wait(1)
                self.assertIn(IN_USE, dst.stderr())
                self.check_source_goes_on(src)
                src.quit()

    def test_written_to_after_the_offer(self):
        """The destination says that its memory is zero, so that zero pages may be left out; then
        somebody writes to the file, before the destination has its lock."""
        zeroed = 1
        for write in (False, True):
            with self.subTest(write=write):
                dst = self.vm(name="destination", incoming="defer")
                migrate.set_capabilities(dst, return_path=True)
                uri = self.link()
                dst.cmd("migrate-incoming", uri=uri)
                peer = checkpeer.Source(self, uri[5:])
                peer.send(checkpeer.HEADER, b"\7", struct.pack(">I", 7), b"microvm",
                          checkpeer.command(checkpeer.CMD_OPEN),
                          checkpeer.command(checkpeer.CMD_PING, struct.pack(">I", checkpeer.MAGIC)))
                kind, hello = peer.receive()
                self.assertEqual(kind, checkpeer.HELLO)
                self.assertTrue(struct.unpack(">IQ", hello[:12])[1] & zeroed)
                if write:
                    with open(dst.ram_path, "r+b") as memory:
                        memory.seek(9 << 20)
                        memory.write(b"not zero")
                peer.send(checkpeer.command(checkpeer.CMD_FEATURES, struct.pack(">Q", zeroed)), b"\x99")
                dst.wait(1)
                self.assertIn("Another process has written to this destination's memory" if write
                              else "Unknown savevm section type 153", dst.stderr())

    def test_hand_over_and_back(self):
        """With x-ignore-shared the lock goes with the guest, any number of times."""
        src = self.source()
        on = {"return_path": True, "x_ignore_shared": True}
        migrate.set_capabilities(src, **on)
        for n in range(3):
            dst = self.destination(name=f"next{n}", **on)
            migrate.move(src, dst, self.uri)
            dst.guest.check()
            for command in ("cont", "migrate-take-back"):  # two guests in one memory
                with self.assertRaisesRegex(QmpError, f"{IN_USE}|has confirmed that it runs"):
                    src.cmd(command)
                    src.cmd("cont")
            self.assertEqual(src.status(), "postmigrate")
            src.quit()
            src = dst

    def test_taken_back(self):
        """A destination that ends gives the guest back to whoever asks."""
        src = self.source()
        on = {"return_path": True, "x_ignore_shared": True}
        migrate.set_capabilities(src, **on)
        dst = self.destination(**on)
        migrate.move(src, dst, self.uri)
        dst.cmd("stop")
        dst.quit()
        src.cmd("migrate-take-back")
        if src.status() != "running":
            src.cmd("cont")
        self.assertEqual(src.status(), "running")

    def test_a_destination_that_cannot_run_it(self):
        """It had the lock already, after the commit point."""
        src = self.source()
        on = {"return_path": True, "x_ignore_shared": True}
        migrate.set_capabilities(src, **on)
        dst = self.one(name="destination", incoming="defer", env={"FERRY_FAIL_RUN": "all"})
        migrate.set_capabilities(dst, **on)
        uri = self.link()
        dst.cmd("migrate-incoming", uri=uri)
        migrate.start(src, uri)
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)
        dst.wait(1)

    def test_failed_hand_over(self):
        """Before the commit point the source never lets go."""
        src = self.source()
        on = {"return_path": True, "x_ignore_shared": True}
        migrate.set_capabilities(src, **on)
        dst = self.destination(**on)
        migrate.hold(dst, "incoming-ready")
        migrate.start(src, self.uri)
        migrate.wait_held(dst, "incoming-ready")
        dst.kill()
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)
        wait_for("end of the destination", lambda: dst.process.poll() is not None)
        migrate.set_capabilities(src, x_ignore_shared=False)
        dst = self.destination(name="other", return_path=True)
        migrate.start(src, self.uri)
        self.assertIn(IN_USE, migrate.wait_status(src, "failed")["error-desc"])
        dst.wait(1)
        self.check_source_goes_on(src)
