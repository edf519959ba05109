# SPDX-License-Identifier: GPL-2.0-or-later
"""Each device in turn cannot be saved, or cannot be loaded: the guest stays, and can leave later."""

from ferrytest import migrate
from migrationcase import MigrationCase

# Sections of the machine with everything switched on.
SECTIONS = ("timer", "fw_cfg", "cpu_common", "cpu", "kvm-tpr-opt", "apic", "ioapic", "kvmclock",
            "acpi-ged", "i8259", "i8254", "mc146818rtc", "serial", "globalstate")


class Save(MigrationCase):
    def test_each(self):
        """It fails once (FERRY_FAIL_SAVE); the second attempt moves the guest."""
        for section in SECTIONS:
            with self.subTest(section=section):
                src, dst = self.pair(source={"env": {"FERRY_FAIL_SAVE": section}})
                migrate.start(src, self.uri)
                said = migrate.wait_status(src, "failed")["error-desc"]
                self.assertRegex(said, ", at the source in phase 'switchover'$")
                self.assertEqual(migrate.cause(said),
                                 f"Device '{section}' cannot be saved: "
                                 "A failure was injected by the environment")
                dst.wait(1)
                self.check_source_goes_on(src)
                self.move_and_check(src, self.another_destination())

    def test_to_a_file(self):
        """What is left of the stream is not one that anybody could load."""
        path = self.path("stream")
        src = self.vm(name="source", env={"FERRY_FAIL_SAVE": "serial"})
        src.guest.wait_ready()
        migrate.start(src, f"file:{path}")
        migrate.wait_status(src, "failed")
        self.check_source_goes_on(src)
        dst = self.vm(name="destination", incoming=f"file:{path}", wait=False)
        dst.wait(1)
        self.assertIn("load of migration failed: ", dst.stderr())


class Load(MigrationCase):
    def test_each(self):
        """One source goes through all of its destinations' failures."""
        self.src = src = self.vm(name="source")
        migrate.set_capabilities(src, return_path=True)
        src.guest.wait_ready()
        for section in SECTIONS:
            with self.subTest(section=section):
                dst = self.another_destination(env={"FERRY_FAIL_LOAD": section})
                migrate.start(src, self.uri)
                said = migrate.wait_status(src, "failed")["error-desc"]
                self.assertRegex(said, ", at the destination in phase 'load'$")
                self.assertEqual(migrate.cause(said),
                                 f"The destination refused the guest: Device '{section}' cannot "
                                 "be loaded: A failure was injected by the environment")
                dst.wait(1)
                self.assertIn(f"load of migration failed: Device '{section}'", dst.stderr())
                self.assertEqual(src.status(), "running")
                src.guest.wait_alive()
        src.guest.check()
        self.move_and_check(src, self.another_destination())

    def test_without_return_path(self):
        """Nobody hears of it: the guest is gone from the source, which at best sees the connection
        break too late. Its memory and state are still there, for an operator's cont."""
        src, dst = self.pair(return_path=False, destination={"env": {"FERRY_FAIL_LOAD": "serial"}})
        migrate.start(src, self.uri)
        info = migrate.wait_status(src, "completed", "failed")
        if info["status"] == "failed":
            self.assertIn("The guest was handed over and is stopped here", info["error-desc"])
        dst.wait(1)
        self.assertEqual(src.status(), "postmigrate")
        src.cmd("cont")
        self.check_source_goes_on(src)


class Run(MigrationCase):
    REFUSED = "This host's KVM cannot enter the guest: "

    def test_no_vcpu_can_enter(self):
        """Not one instruction was executed over there: the guest comes back, also after GO."""
        self.src = src = self.vm(name="source", smp=2)
        migrate.set_capabilities(src, return_path=True)
        src.guest.wait_ready()
        for _ in range(2):
            dst = self.another_destination(smp=2, env={"FERRY_FAIL_RUN": "all"})
            migrate.start(src, self.uri)
            said = migrate.wait_status(src, "failed")["error-desc"]
            self.assertIn("The destination refused the guest: " + self.REFUSED, said)
            dst.wait(1)
            self.assertIn("load of migration failed: " + self.REFUSED, dst.stderr())
            self.check_source_goes_on(src)
        self.move_and_check(src, self.another_destination(smp=2))

    def test_one_of_two_cannot(self):
        """The other one may have done anything: the guest is the destination's, which stops it."""
        for _ in range(20):
            src, dst = self.pair(smp=2, destination={"env": {"FERRY_FAIL_RUN": "1"}})
            migrate.start(src, self.uri)
            if migrate.wait_status(src, "completed", "failed")["status"] == "completed":
                break
            # stopped before the other one had come to try: it goes back
            self.check_source_goes_on(src)
            dst.wait(1)
            src.quit()
        dst.wait_state("internal-error")
        self.assertEqual(src.status(), "postmigrate")
        self.assertEqual(migrate.status(dst), "completed")
