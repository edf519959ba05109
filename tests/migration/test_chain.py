# SPDX-License-Identifier: GPL-2.0-or-later
"""Ten moves in a row: memory, devices, and the guest's idea of time."""

import time

from ferrytest import DEVSTATE, is_sanitized, migrate, scaled
from migrationcase import MigrationCase

MOVES = 10


def wall_offset_ns(vm):
    """By how much the guest's time of day is behind the host's. The guest shows its clock once per
    turn of its loop, so what is seen is too old by some chance amount: the smallest one counts. On a
    busy host it may take a while until it has just shown it when it is looked at."""
    best = None
    end = time.monotonic() + 0.3
    late = time.monotonic() + scaled(10)
    while time.monotonic() < end or (best > 1e6 and time.monotonic() < late):
        shown = vm.guest.header("wall_ns")
        behind = time.time_ns() - shown  # the host's clock second: a delay between makes it larger
        best = behind if best is None else min(best, behind)
    return best


class Chain(MigrationCase):
    def chain(self, guest, **options):
        """Moves it, each time to a new machine; yields each one."""
        vm = self.vm(name="vm0", guest=guest, **options)
        migrate.set_capabilities(vm, return_path=True)
        vm.guest.wait_ready()
        yield vm
        for number in range(1, MOVES + 1):
            self.uri = self.link()
            following = self.vm(name=f"vm{number}", guest=guest, incoming="defer", **options)
            migrate.set_capabilities(following, return_path=True)
            following.cmd("migrate-incoming", uri=self.uri)
            migrate.move(vm, following, self.uri)
            vm.quit()
            vm = following
            vm.guest.wait_alive()
            yield vm

    def test_ten_moves(self):
        seq = 0
        for vm in self.chain(f"report=50 rate=20000 pattern=random data=mixed {DEVSTATE}",
                             memory=24):
            self.assertGreaterEqual(vm.guest.header("seq"), seq)
            seq = vm.guest.header("seq")
            self.assertEqual(vm.guest.complaints(), [])
        vm.guest.check()  # clocks never went backwards, on any of the machines
        vm.guest.wait_ticks(2)
        self.assertEqual(vm.guest.header("dev_bad"), 0)

    def test_time_of_day(self):
        """The pauses do not add up: at the end the guest's time is the host's, within 5 ms."""
        first = last = None
        for vm in self.chain("report=50 rate=1000 halt=0", smp=1):
            last = wall_offset_ns(vm)
            first = last if first is None else first
        self.assertLess(abs(last - first), 20e6 if is_sanitized() else 5e6)
        vm.guest.check()

    def test_there_and_back(self):
        """A machine that has received a guest can send it; one that has sent its guest cannot."""
        src, dst = self.pair()
        self.move_and_check(src, dst)
        self.refused("Can't migrate the vm that was paused due to previous migration", src, "migrate",
                     uri=self.uri)
        back = self.another_destination()
        migrate.set_capabilities(dst, return_path=True)
        self.move_and_check(dst, back)
