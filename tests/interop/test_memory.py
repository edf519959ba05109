# SPDX-License-Identifier: GPL-2.0-or-later
"""
Memory that the guest has never touched, and a destination whose memory holds something else: a file
that somebody has used before. Only where the destination makes sure that its memory is zero may
zero pages be left out, and only a Ferry says so (docs/interop.md).
"""

import os

from ferrytest import migrate
from interopcase import BACKPORT, FERRY, INSTALLED, NO_KVM_CLOCK, PAIRS, InteropCase
from rules import PAGE_SIZE, build

MIB = 16
GUEST = NO_KVM_CLOCK + " mem=2M"


class NeverTouched(InteropCase):
    def dirty_destination(self, who, return_path=False, **options):
        """Its memory is a file full of ones."""
        path = os.path.join(self.shm, f"{who}-{len(self.machines)}")
        with open(path, "wb") as f:
            f.write(b"\xff" * (MIB << 20))
        dst = self.destination(
            who, "-object", f"memory-backend-file,id=ram0,size={MIB}M,share=on,mem-path={path}",
            "-machine", "memory-backend=ram0", return_path=return_path, ram=None, guest=GUEST,
            **options)
        dst.ram_path = path
        return dst

    def move_stopped(self, source, destination, return_path):
        src = self.machine(source, guest=GUEST)
        src.guest.wait_ready()
        migrate.set_capabilities(src, return_path=return_path)
        dst = self.dirty_destination(destination, return_path)
        src.cmd("stop")
        src.cmd("migrate", uri=self.uri)
        migrate.wait_status(src, "completed")
        dst.wait_state("paused")
        return src, dst

    def test_dirty_file(self):
        """Byte for byte the source's memory; and the guest finds its untouched pages zero."""
        for source, destination in (*PAIRS, (FERRY, FERRY)):
            for return_path in (False, True):
                with self.subTest(source=source, destination=destination, return_path=return_path):
                    src, dst = self.move_stopped(source, destination, return_path)
                    self.assert_memory_equal(src, dst)
                    dst.cmd("cont")
                    dst.guest.box.command("u")
                    dst.serial_line("UNTOUCHED pages=[1-9][0-9]* bad=0")
                    self.check_well(dst)
                    for vm in (src, dst):
                        vm.quit()

    def test_dirty_file_live(self):
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                src = self.machine(source, guest=GUEST)
                src.guest.wait_ready()
                dst = self.dirty_destination(destination)
                self.move(src, dst)
                dst.guest.box.command("u")
                dst.serial_line("UNTOUCHED pages=[1-9][0-9]* bad=0")

    def test_every_page_is_named(self):
        """What Ferry saves for whoever may read it. And it is short: nine bytes a zero page."""
        path = self.path("stream")
        src = self.machine(FERRY, guest=GUEST)
        src.guest.wait_ready()
        src.cmd("migrate", uri=f"exec:cat >{path}")
        migrate.wait_status(src, "completed")
        with open(path, "rb") as f:
            ram = build.Edit(f.read()).stream.ram
        named = {(page.block, page.addr) for page in ram.pages}
        self.assertEqual(len(named), ram.total // PAGE_SIZE)
        self.assertLess(os.path.getsize(path), 4 << 20)

    def test_sources_of_qemu_name_every_page(self):
        """So a page that has not come is one that was lost (rules.py: 'one page less')."""
        for who in (INSTALLED, BACKPORT):
            with self.subTest(who=who):
                path = self.path(f"stream-{who}")
                src = self.machine(who, guest=GUEST)
                src.guest.wait_ready()
                src.cmd("migrate", uri=f"exec:cat >{path}")
                migrate.wait_status(src, "completed")
                with open(path, "rb") as f:
                    ram = build.Edit(f.read()).stream.ram
                self.assertEqual(len({(p.block, p.addr) for p in ram.pages}),
                                 ram.total // PAGE_SIZE)
