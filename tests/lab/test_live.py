# SPDX-License-Identifier: GPL-2.0-or-later
"""Live moves of a stock Linux between two Ferries: it goes on ticking, its clocks stay right."""

import re

from labcase import LabCase, long, migrate

TICKER = "ticker 50 500 &"
MOVES = 10
RIGHT_MS = 5.0
SAMPLE_MS = 1000  # a host with other work needs many looks for a good one


class Live(LabCase):
    def guest(self, job=TICKER, **options):
        vm = self.machine(job=job, **options).wait_up()
        vm.ticks(2)
        return vm

    def moves_on(self, src, **options):
        """Moves the guest to a new machine, where it must go on with the line that comes next."""
        dst, uri = self.destination(**options)
        done = self.move(src, dst, uri)
        # the last complete line of the source and the first of the destination
        last = int(re.findall(r"^TICK (\d+) ", src.serial(), re.M)[-1])
        self.check_well(dst)
        first = re.search(r"^TICK (\d+) ", dst.serial(), re.M)
        self.assertIn(int(first.group(1)) - last, (1, 2), "Lines were lost or came twice")
        return dst, done

    @long
    def test_one_cpu(self):
        self.moves_on(self.guest())

    def test_two_cpus(self):
        dst, done = self.moves_on(self.guest(smp=2), smp=2)
        self.assertEqual(dst.ticks(1)["cpus"], "2")
        self.assertGreater(done["ram"]["normal"], 1000)

    @long
    def test_without_acpi(self):
        options = {"machine": "rtc=on,acpi=off", "cpu": "qemu64"}  # see test_boot.py
        self.moves_on(self.guest(**options), **options)

    def chain(self, moves, **options):
        """
        Moves it again and again and compares its time of day with the host's each time. What counts
        is how the difference changes: an emulated guest loses some of its first second, before
        kvmclock is its clock source, and a machine with an RTC sets its clock by that, to the second.
        """
        vm = self.guest(shared=True, **options)
        behind, downtimes = [vm.behind_ns(SAMPLE_MS)], []
        for _ in range(moves):
            vm, done = self.moves_on(vm, shared=True, **options)
            downtimes.append(done["downtime"])
            behind.append(vm.behind_ns(SAMPLE_MS))
        off = [round((ns - behind[0]) / 1e6, 3) for ns in behind[1:]]
        note = f"behind after each move, ms: {off}; downtimes, ms: {downtimes}"
        self.note(note)
        self.assertLess(max(abs(ms) for ms in off), RIGHT_MS, note)

    def test_two_moves(self):
        """The guest's clocks never go back, and its time of day stays the host's."""
        self.chain(2)

    @long
    def test_ten_moves(self):
        self.chain(MOVES, smp=2)


class Trouble(LabCase):
    """A move that does not come about leaves the guest where it was; the next one succeeds."""

    def test_cancel_failure_retry(self):
        src = self.machine(job=TICKER).wait_up()
        src.ticks(2)

        with self.subTest("cancelled"):
            dst, uri = self.destination()
            migrate.set_capabilities(src, return_path=True)
            migrate.start(src, uri, max_bandwidth=1 << 20)
            migrate.wait_status(src, "active")
            src.cmd("migrate_cancel")
            migrate.wait_status(src, "cancelled")
            dst.wait(1)
            self.assertEqual(src.status(), "running")
            self.check_well(src)

        with self.subTest("the destination is killed"):
            dst, uri = self.destination()
            migrate.start(src, uri, max_bandwidth=1 << 20)
            migrate.wait_status(src, "active")
            dst.kill()
            info = migrate.wait_status(src, "failed")
            self.assertTrue(info["error-desc"])
            self.assertEqual(src.status(), "running")
            self.check_well(src)

        with self.subTest("the destination is another machine"):
            dst, uri = self.destination(memory=64)
            migrate.start(src, uri)
            info = migrate.wait_status(src, "failed")
            self.assertIn("give both sides the same -m", info["error-desc"])
            # it was asked before anything was sent, and waits on
            self.assertEqual(dst.status(), "inmigrate")
            dst.quit()
            self.check_well(src)

        with self.subTest("retry"):
            dst, uri = self.destination()
            self.move(src, dst, uri)
            self.check_well(dst)


class Save(LabCase):
    """The guest goes into a file and comes back from it."""

    def test_exec(self):
        self.saves(1)

    @long
    def test_exec_twice(self):
        self.saves(2)

    def saves(self, restores):
        src = self.machine(job=TICKER, smp=2).wait_up()
        src.ticks(2)
        src.cmd("stop")
        file = f"{self.folder}/state"
        src.cmd("migrate", uri=f"exec:cat >{file}")
        migrate.wait_status(src, "completed")
        src.quit()
        for _ in range(restores):  # a saved guest can be restored again and again
            dst = self.machine(incoming=f"exec:cat {file}", smp=2)
            # it was stopped when it was saved
            dst.wait_state("paused")
            dst.cmd("cont")
            self.check_well(dst)
            dst.quit()

    @long
    def test_file(self):
        src = self.machine(job=TICKER).wait_up()
        src.ticks(2)
        file = f"{self.folder}/state"
        src.cmd("migrate", uri=f"file:{file}")
        migrate.wait_status(src, "completed")
        src.quit()
        dst = self.machine(incoming=f"file:{file}")
        dst.wait_state("running")
        self.check_well(dst)
