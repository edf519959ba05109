# SPDX-License-Identifier: GPL-2.0-or-later
"""
Moves between Ferry and QEMU that do not come about: cancelled, cut, refused. The guest runs on at
the source, and the next attempt moves it. Each case fails first and then moves for good.
"""

import re

from ferrytest import Relay, migrate
from interopcase import FERRY, PAIRS, InteropCase

SLOW = 2 << 20  # bytes per second: a 16 MiB guest is under way for seconds
TO_QEMU = tuple(p for p in PAIRS if p[0] == FERRY)
FROM_QEMU = tuple(p for p in PAIRS if p[1] == FERRY)


class Failures(InteropCase):
    def begin(self, source, destination, return_path=False, **options):
        """A pair whose memory is on its way, slowly."""
        src, dst = self.start_pair(source, destination, return_path, **options)
        migrate.start(src, self.uri, max_bandwidth=SLOW)
        migrate.wait_status(src, "active")
        return src, dst

    def end_destination(self, dst):
        """One that has lost its source gives up by itself, with a reason."""
        dst.wait(1)
        self.assertRegex(dst.stderr(), "(?m)load of migration failed|Unable to read|broken")

    def retry(self, src, who, return_path=False, **options):
        self.check_source_goes_on(src)
        dst = self.destination(who, return_path=return_path, **options)
        migrate.set_capabilities(src, return_path=return_path)
        self.move(src, dst)
        for vm in (src, dst):
            vm.quit()


class Cancel(Failures):
    def test_at_the_source(self):
        for source, destination in PAIRS:
            for return_path in (False, True):
                with self.subTest(source=source, destination=destination, return_path=return_path):
                    src, dst = self.begin(source, destination, return_path)
                    src.cmd("migrate_cancel")
                    migrate.wait_status(src, "cancelled")
                    self.end_destination(dst)
                    self.retry(src, destination, return_path)

    def test_at_the_destination(self):
        """Its operator ends it."""
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                src, dst = self.begin(source, destination, True)
                dst.terminate()
                dst.wait(None)
                said = migrate.wait_status(src, "failed")
                if source == FERRY:
                    self.assertTrue(said["error-desc"])
                self.retry(src, destination, True)

    def test_before_the_switchover(self):
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                src, dst = self.start_pair(source, destination, True)
                migrate.set_capabilities(src, pause_before_switchover=True)
                migrate.start(src, self.uri)
                migrate.wait_status(src, "pre-switchover")
                src.cmd("migrate_cancel")
                migrate.wait_status(src, "cancelled")
                self.end_destination(dst)
                migrate.set_capabilities(src, pause_before_switchover=False)
                self.retry(src, destination)


class Killed(Failures):
    def test_qemu_destination(self):
        """While its memory comes, and when the guest is stopped already."""
        for source, destination in TO_QEMU:
            for return_path in (False, True):
                for point in ("active", "device"):
                    with self.subTest(destination=destination, return_path=return_path,
                                      point=point):
                        src, dst = self.start_pair(source, destination, return_path)
                        migrate.hold(src, point)
                        migrate.start(src, self.uri)
                        migrate.wait_held(src, point)
                        dst.kill()
                        migrate.release(src)
                        said = migrate.wait_status(src, "failed")["error-desc"]
                        self.assertNotIn("handed over", said)
                        self.retry(src, destination, return_path)

    def test_ferry_destination(self):
        """QEMU 7.2 and 10.0 run the guest on too."""
        for source, destination in FROM_QEMU:
            for point in ("incoming-active", "incoming-loaded"):
                with self.subTest(source=source, point=point):
                    src, dst = self.start_pair(source, destination, True)
                    migrate.hold(dst, point)
                    migrate.start(src, self.uri)
                    migrate.wait_held(dst, point)
                    dst.kill()
                    migrate.wait_status(src, "failed")
                    self.retry(src, destination, True)

    def test_qemu_source(self):
        """A Ferry destination does not run half a guest."""
        for source, destination in FROM_QEMU:
            with self.subTest(source=source):
                src, dst = self.begin(source, destination)
                src.kill()
                self.end_destination(dst)

    def test_cut_link(self):
        for source, destination in PAIRS:
            for return_path in (False, True):
                with self.subTest(source=source, destination=destination, return_path=return_path):
                    src, dst = self.start_pair(source, destination, return_path)
                    relay = Relay(self, self.uri[5:])
                    relay.cut_after(fwd=1 << 20)
                    migrate.start(src, relay.uri)
                    migrate.wait_status(src, "failed")
                    self.end_destination(dst)
                    self.retry(src, destination, return_path)


class Refused(Failures):
    """Each pair of options that do not fit, and what whoever refuses says about it."""

    # destination options, Ferry's reason, QEMU's reason
    WRONG = (
        ({"memory": 32, "ram": None}, "Length mismatch: microvm.ram: 0x1000000 in != 0x2000000",
         "microvm.ram"),
        ({"memory": 32}, "Length mismatch: ram0", "ram0"),
        ({"ram": None}, 'Unknown ramblock "ram0"', 'Unknown ramblock "ram0"'),
        ({"machine": "pit=off,pic=on,rtc=on,isa-serial=on"}, "'i8254' 0", "'i8254' 0"),
        ({"machine": "pit=on,pic=on,rtc=off,isa-serial=on"}, "'mc146818rtc' 0", "'mc146818rtc' 0"),
        ({"machine": "pit=on,pic=on,rtc=on,isa-serial=on,acpi=off"}, "/rom@etc/acpi/tables",
         "/rom@etc/acpi/tables"),
        ({"smp": 1}, "'(cpu|cpu_common|apic)' 1", "'(cpu|cpu_common|apic)' 1"),
    )

    def test_wrong_options(self):
        for source, destination in PAIRS:
            for wrong, ferry_says, qemu_says in self.WRONG:
                with self.subTest(source=source, destination=destination, **wrong):
                    self.attempt(source, destination, wrong,
                                 ferry_says if destination == FERRY else qemu_says)

    def attempt(self, source, destination, wrong, reason):
        right = {"ram": None} if wrong.get("memory") and "ram" in wrong else {}
        src = self.machine(source, **{"ram": "shm", **right})
        dst = self.destination(destination, return_path=True, **wrong)
        migrate.set_capabilities(src, return_path=True)
        src.serial_line("READY ")
        migrate.start(src, self.uri)
        said = migrate.wait_status(src, "failed").get("error-desc", "")
        dst.wait(None)
        self.assertRegex(dst.stderr(), re.compile(reason))
        self.assertEqual(src.status(), "running")
        if source == FERRY:
            # a QEMU tells nobody why, only 10.0 that
            self.assertRegex(migrate.cause(said), "^The destination (closed the connection .*: look at its log "
                                   "for the reason|could not load the guest .*)$")
        src.serial_line("T ", len(src.serial()))
        self.assertEqual(src.guest.complaints(), [])
        src.quit()

    def test_fewer_devices_at_the_source(self):
        """QEMU would leave the device as after reset; a Ferry refuses and names it."""
        for source, destination in FROM_QEMU:
            with self.subTest(source=source):
                src = self.machine(source, machine="pit=on,pic=on,rtc=off,isa-serial=on")
                dst = self.destination(destination, return_path=True)
                migrate.set_capabilities(src, return_path=True)
                src.guest.wait_ready()
                migrate.start(src, self.uri)
                migrate.wait_status(src, "failed")
                dst.wait(1)
                self.assertIn("lacks the state of 'mc146818rtc' instance 0", dst.stderr())
                self.check_source_goes_on(src)
