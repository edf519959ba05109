# SPDX-License-Identifier: GPL-2.0-or-later
"""Capabilities that change what is sent or when: x-ignore-shared, validate-uuid,
pause-before-switchover."""

import os
import time

from ferrytest import migrate
from migrationcase import MigrationCase

UUID = "11111111-2222-3333-4444-555555555555"
OTHER = "11111111-2222-3333-4444-555555555556"


class IgnoreShared(MigrationCase):
    """Both machines have the same file as memory: only devices move."""

    def shared_pair(self, destination_incoming="defer", capability=True, **options):
        memory = options.pop("memory", 32)
        guest = options.pop("guest", "report=100 rate=5000 data=random")
        path = os.path.join(self.shm, "shared.ram")
        backend = ("-object", f"memory-backend-file,id=ram0,size={memory}M,share=on,mem-path={path}",
                   "-machine", "memory-backend=ram0")
        self.uri = self.link()
        src = self.vm(*backend, name="source", ram=None, guest=guest, memory=memory, **options)
        src.ram_path = path
        migrate.set_capabilities(src, return_path=True, x_ignore_shared=capability)
        src.guest.wait_ready()
        incoming = self.uri if destination_incoming == "uri" else "defer"
        dst = self.vm(*backend, name="destination", ram=None, incoming=incoming, guest=guest,
                      memory=memory, **options)
        dst.ram_path = path
        migrate.set_capabilities(dst, return_path=True, x_ignore_shared=capability)
        if incoming == "defer":
            dst.cmd("migrate-incoming", uri=self.uri)
        return src, dst

    def test_memory_is_not_sent(self):
        src, dst = self.shared_pair()
        done = migrate.move(src, dst, self.uri)
        self.assertLess(done["ram"]["transferred"], 1 << 20)
        dst.guest.check()
        self.assertEqual(src.guest.complaints(), [])

    def test_starting_a_destination_leaves_the_memory_alone(self):
        """Also before the capability is set and before anything has come."""
        for incoming in ("defer", "uri"):
            with self.subTest(incoming=incoming):
                src, dst = self.shared_pair(destination_incoming=incoming)
                src.guest.check()
                dst.terminate()
                dst.wait()
                src.guest.check()
                src.quit()

    def test_cancel(self):
        """The destination has had the memory in its hands, and must not have changed it."""
        src, dst = self.shared_pair()
        migrate.hold(dst, "incoming-ready")
        migrate.start(src, self.uri)
        migrate.wait_held(dst, "incoming-ready")
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        migrate.release(dst)
        dst.wait(1)
        self.check_source_goes_on(src)

    def test_private_memory_is_sent(self):
        """Without share=on there is nothing to ignore."""
        src, dst = self.pair()
        src.quit()
        dst.quit()
        src, dst = self.pair(ram="file", ready=False,
                             source={"guest": "report=100 rate=1000 data=random"})
        src.guest.wait_ready()
        # the machines of pair() share nothing with each other, each has a file of its own; so the
        # capability would leave the destination without memory, and is refused there
        migrate.set_capabilities(src, x_ignore_shared=True)
        migrate.start(src, self.uri)
        self.check_refused_twice(src, dst, "'x-ignore-shared' is on on the source",
                                 "x-ignore-shared")

    def test_one_side_only(self):
        for side in ("source", "destination"):
            with self.subTest(side=side):
                src, dst = self.pair()
                on = src if side == "source" else dst
                if on is dst:
                    dst.quit()
                    self.uri = self.link()
                    dst = self.vm(name="destination", incoming="defer")
                    migrate.set_capabilities(dst, return_path=True, x_ignore_shared=True)
                    dst.cmd("migrate-incoming", uri=self.uri)
                else:
                    migrate.set_capabilities(src, x_ignore_shared=True)
                migrate.start(src, self.uri)
                ours, theirs = ("on", "off") if side == "destination" else ("off", "on")
                self.check_refused_twice(
                    src, dst, f"'x-ignore-shared' is {theirs} on the source and {ours}",
                    f"Capability x-ignore-shared is {ours}, but received capability is {theirs}")


class ValidateUuid(MigrationCase):
    def uuids(self, source, destination, capability=True):
        src = self.vm("-uuid", source, name="source")
        dst = self.vm("-uuid", destination, name="destination", incoming="defer")
        self.uri = self.link()
        migrate.set_capabilities(src, dst, return_path=True, validate_uuid=capability)
        dst.cmd("migrate-incoming", uri=self.uri)
        src.guest.wait_ready()
        migrate.start(src, self.uri)
        return src, dst

    def test_same(self):
        src, dst = self.uuids(UUID, UUID)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_different(self):
        src, dst = self.uuids(UUID, OTHER)
        self.check_refused_twice(src, dst, f"the UUID {UUID} and the destination's {OTHER}",
                                 "The source's machine has another UUID than this one")

    def test_different_and_not_asked(self):
        src, dst = self.uuids(UUID, OTHER, capability=False)
        migrate.finish(src, dst)
        dst.guest.check()


class PauseBeforeSwitchover(MigrationCase):
    def to_the_pause(self, **options):
        src, dst = self.pair(**options)
        migrate.set_capabilities(src, pause_before_switchover=True)
        migrate.start(src, self.uri)
        migrate.wait_status(src, "pre-switchover")
        return src, dst

    def test_continue(self):
        src, dst = self.to_the_pause()
        self.assertEqual(src.status(), "finish-migrate")
        self.assertEqual(dst.status(), "inmigrate")
        self.assertFalse(src.guest.is_alive(0.2))
        self.assertEqual(migrate.status(src), "pre-switchover")
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst)
        dst.guest.check()

    def test_a_long_pause(self):
        """The link lives through it, and the guest's clocks count it."""
        src, dst = self.to_the_pause()
        start = time.monotonic()
        time.sleep(6)
        src.cmd("migrate-continue", state="pre-switchover")
        done = migrate.finish(src, dst)
        self.assertGreater(done["downtime"], 6000)
        self.assertLess(done["downtime"], (time.monotonic() - start) * 1000 + 500)
        dst.guest.check()
        gap = max(c["gap_max_ns"] for c in dst.guest.box.cpus())
        self.assertGreater(gap, 5.9e9)

    def test_without_return_path(self):
        src, dst = self.to_the_pause(return_path=False)
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst)
        dst.guest.check()

    def test_cont_is_refused_meanwhile(self):
        """The state of the guest is being saved; nothing but the migration may start it."""
        src, dst = self.to_the_pause()
        with self.assertRaises(Exception):
            src.cmd("cont")
        self.assertFalse(src.guest.is_alive(0.1))
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst)

    def test_wrong_state(self):
        src, dst = self.to_the_pause()
        self.refused("Migration not in expected state: pre-switchover", src, "migrate-continue",
                     state="device")
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst)
        self.refused("Migration not in expected state: completed", src, "migrate-continue",
                     state="pre-switchover")

    def test_reset_in_the_pause(self):
        """A reset that was asked for waits until the guest is somewhere again."""
        src, dst = self.to_the_pause()
        src.cmd("system_reset")
        time.sleep(0.1)
        self.assertEqual(src.status(), "finish-migrate")
        src.cmd("migrate-continue", state="pre-switchover")
        migrate.finish(src, dst)
        dst.guest.check()
