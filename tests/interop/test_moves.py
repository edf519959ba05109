# SPDX-License-Identifier: GPL-2.0-or-later
"""
A running guest moves between Ferry and QEMU, both ways, and checks its memory, its devices and its
clocks all the way.
"""

import os

from ferrytest import DEVSTATE, migrate
from interopcase import BACKPORT, FERRY, INSTALLED, NO_KVM_CLOCK, OLD_DIALECT, PAIRS, InteropCase

# What QEMU does to a guest, by no fault of Ferry: an item of the guest's device checks. It loses the
# last write to port 0x70 under KVM, which the kernel keeps back (tests/guest/README.md).
QEMU_LOSES = "rtc-index"

BUSY = "report=50 rate=20000 pattern=random data=mixed"


class Moves(InteropCase):
    def check_devices(self, vm):
        """Every device is as it was, but for what QEMU is known to lose."""
        vm.guest.wait_ticks(6)
        bad = [line for line in vm.guest.complaints()
               if set(word.split(":")[0] for word in line.split()[3:]) != {QEMU_LOSES}]
        self.assertEqual(bad, [])

    def test_each_way(self):
        """With one and two vCPUs, with and without a return path; the guest is busy and looks at
        its devices."""
        for source, destination in PAIRS:
            for smp in (1, 2):
                for return_path in (False, True):
                    with self.subTest(source=source, destination=destination, smp=smp,
                                      return_path=return_path):
                        src, dst = self.start_pair(source, destination, return_path, smp=smp,
                                                   guest=f"{BUSY} {DEVSTATE}")
                        src.guest.wait_ticks(3)
                        migrate.move(src, dst, self.uri)
                        dst.guest.wait_alive()
                        self.assertEqual(dst.guest.verify(), 0)
                        self.assertFalse(src.guest.is_alive(0.1))
                        self.check_devices(dst)
                        for vm in (src, dst):
                            vm.quit()

    def test_chain(self):
        """From Ferry to QEMU to Ferry to QEMU, and home."""
        self.visit(INSTALLED, FERRY, BACKPORT, FERRY, INSTALLED, FERRY)

    def test_chain_of_qemus(self):
        """Two QEMUs have handed the guest on between them."""
        self.visit(BACKPORT, INSTALLED, FERRY, INSTALLED, BACKPORT, FERRY)

    def visit(self, *stations):
        guest = f"{BUSY} {DEVSTATE}"
        vm = self.machine(FERRY, guest=guest)
        vm.guest.wait_ticks(3)
        seq = 0
        for number, who in enumerate(stations):
            extra = OLD_DIALECT if who == BACKPORT else ()
            dst = self.destination(who, *extra, guest=guest, return_path=number % 2 == 0)
            migrate.set_capabilities(vm, return_path=number % 2 == 0)
            migrate.move(vm, dst, self.uri)
            vm.quit()
            vm = dst
            vm.guest.wait_alive()
            self.assertGreaterEqual(vm.guest.header("seq"), seq)
            seq = vm.guest.header("seq")
        self.check_devices(vm)
        self.assertEqual(vm.guest.verify(), 0)
        for cpu in vm.guest.box.cpus():
            self.assertEqual((cpu["back"], cpu["tsc_back"], cpu["bad_words"]), (0, 0, 0))

    def test_paused(self):
        """A guest that is paused arrives so, byte for byte, and goes on when it is told to."""
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                src, dst = self.start_pair(source, destination, guest=NO_KVM_CLOCK)
                src.cmd("stop")
                src.cmd("migrate", uri=self.uri)
                migrate.wait_status(src, "completed")
                dst.wait_state("paused")
                self.assertFalse(dst.guest.is_alive(0.1))
                self.assert_memory_equal(src, dst)
                dst.guest.verify_from_outside(7)
                dst.cmd("cont")
                self.check_well(dst)
                for vm in (src, dst):
                    vm.quit()

    def test_never_started(self):
        """A machine that has not run yet boots at the destination."""
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                src, dst = self.start_pair(source, destination, paused=True)
                src.cmd("migrate", uri=self.uri)
                migrate.wait_status(src, "completed")
                dst.wait_state("prelaunch")
                self.assertEqual(dst.serial(), "")
                dst.cmd("cont")
                dst.guest.wait_ready()
                self.check_well(dst)

    def test_started_with_S(self):
        """-S of the destination keeps the guest paused there."""
        for source, destination in PAIRS[:2]:
            with self.subTest(source=source, destination=destination):
                src = self.machine(source)
                dst = self.destination(destination, paused=True)
                src.guest.wait_ready()
                src.cmd("migrate", uri=self.uri)
                migrate.wait_status(src, "completed")
                dst.wait_state("paused")
                dst.cmd("cont")
                self.check_arrived(src, dst)

    def test_cpu_models(self):
        for model in ("qemu64", "qemu64,-pni,-cx16", "max"):
            for source, destination in PAIRS:
                with self.subTest(model=model, source=source, destination=destination):
                    cpu = {who: model + ",-arch-capabilities" * (who != FERRY and model == "max")
                           for who in (source, destination)}
                    src = self.machine(source, cpu=cpu[source], smp=1)
                    dst = self.destination(destination, cpu=cpu[destination], smp=1)
                    src.guest.wait_ready()
                    self.move(src, dst)
                    for vm in (src, dst):
                        vm.quit()

    def test_machine_options(self):
        """Other sets of devices; the first one is what microvm has by itself."""
        for machine in ("isa-serial=on", "acpi=off", "ioapic2=off",
                        "pit=off,pic=off,rtc=off,acpi=off", "pit=on,pic=on,rtc=off"):
            for source, destination in PAIRS[:2]:
                with self.subTest(machine=machine, source=source, destination=destination):
                    src, dst = self.start_pair(source, destination, machine=machine, smp=1)
                    self.move(src, dst)
                    for vm in (src, dst):
                        vm.quit()

    def test_plain_memory(self):
        """Without a memory object: the RAM block has the machine's own name."""
        for source, destination in PAIRS[:2]:
            with self.subTest(source=source, destination=destination):
                src, dst = self.start_pair(source, destination, ram=None)
                migrate.move(src, dst, self.uri)
                start = len(dst.serial())
                dst.serial_line("T ", start)
                self.assertEqual(dst.guest.complaints(), [])


    def test_from_an_emulator(self):
        """QEMU without KVM: no kvmclock, another way to keep x87 registers, state of its own."""
        cpu = "qemu64,-pni,-cx16"
        for who in (INSTALLED, BACKPORT):
            with self.subTest(who=who):
                src = self.machine(who, accel="tcg", cpu=cpu, smp=1)
                dst = self.destination(FERRY, cpu=cpu, smp=1)
                src.guest.wait_ready()
                # a running guest's last writes may be missing: QEMU's emulator sends stale pages
                src.cmd("stop")
                src.cmd("migrate", uri=self.uri)
                migrate.wait_status(src, "completed")
                dst.wait_state("paused")
                self.assert_memory_equal(src, dst)
                dst.cmd("cont")
                self.check_well(dst)


class Transports(InteropCase):
    def test_tcp(self):
        for source, destination in PAIRS[:2]:
            with self.subTest(source=source, destination=destination):
                src = self.machine(source)
                dst = self.machine(destination, incoming="defer")
                dst.cmd("migrate-incoming", uri="tcp:127.0.0.1:0")
                address = migrate.info(dst)["socket-address"][0]
                src.guest.wait_ready()
                self.uri = f"tcp:127.0.0.1:{address['port']}"
                self.move(src, dst)


class Capabilities(InteropCase):
    UUID = ("3a3ee9ca-5a5d-4a8f-9f4c-6b5a5a8c1f01", "11111111-2222-3333-4444-555555555555")

    def test_uuid(self):
        for source, destination in PAIRS:
            for uuids in ((0, 0), (0, 1)):
                with self.subTest(source=source, destination=destination, uuids=uuids):
                    src = self.machine(source, "-uuid", self.UUID[uuids[0]], smp=1)
                    self.uri = self.link()
                    dst = self.machine(destination, "-uuid", self.UUID[uuids[1]], smp=1,
                                       incoming="defer")
                    migrate.set_capabilities(src, dst, validate_uuid=True, return_path=True)
                    dst.cmd("migrate-incoming", uri=self.uri)
                    src.guest.wait_ready()
                    if uuids == (0, 0):
                        self.move(src, dst)
                        continue
                    src.cmd("migrate", uri=self.uri)
                    migrate.wait_status(src, "failed")
                    dst.wait(1)
                    self.assertIn("UUID", dst.stderr())
                    self.check_source_goes_on(src)

    def test_ignore_shared(self):
        """The memory is a file that both have; only the rest travels. The destination must not
        load its own firmware's view into it before the source has let go."""
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                path = os.path.join(self.shm, f"{source}-{destination}")
                memory = ["-object", f"memory-backend-file,id=ram0,size=16M,share=on,mem-path={path}",
                          "-machine", "memory-backend=ram0"]
                src = self.machine(source, *memory, ram=None)
                src.ram_path = path
                src.guest.wait_ready()
                self.uri = self.link()
                dst = self.machine(destination, *memory, ram=None, incoming="defer")
                dst.ram_path = path
                migrate.set_capabilities(src, dst, x_ignore_shared=True)
                dst.cmd("migrate-incoming", uri=self.uri)
                migrate.move(src, dst, self.uri)
                self.check_well(dst)
                self.assertLess(migrate.info(src)["ram"]["transferred"], 1 << 20)
                for vm in (src, dst):
                    vm.quit()

    def test_pause_before_switchover(self):
        for source, destination in PAIRS:
            with self.subTest(source=source, destination=destination):
                src, dst = self.start_pair(source, destination, return_path=True, smp=1)
                migrate.set_capabilities(src, pause_before_switchover=True)
                migrate.start(src, self.uri)
                migrate.wait_status(src, "pre-switchover")
                src.cmd("migrate-continue", state="pre-switchover")
                migrate.finish(src, dst)
                self.check_arrived(src, dst)
