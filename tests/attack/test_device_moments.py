# SPDX-License-Identifier: GPL-2.0-or-later
"""
Devices at the worst moments of a move: what an operator asks of them in each of its states, resets by
the driver in the middle of the switchover, either side dying at a random moment under load. The guest
is on one side in the end, its disk holds what it wrote, once, and no two machines have the image.
"""

import os
import random
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import QmpError, load, migrate, scaled
from ferrytest.load import Disk
from ferrytest.qmp import QmpClosed
from ferrytest.virtio import STATUS, Memory, VirtioMmio, slot
from diskcase import WRITER, Disks
from migrationcase import COMMITTED, DESTINATION_POINTS, SOURCE_POINTS
from postcopycase import MIB, PostcopyCase

SOAK = os.environ.get("FERRY_SOAK") == "1"
KILLS = 60 if SOAK else 8
GUEST = "report=100 rate=500 blk=1 blkdepth=16 blkflush=20"
ENDS = ("completed", "failed", "cancelled")

STATES = (*[("source", p) for p in SOURCE_POINTS], *[("destination", p) for p in DESTINATION_POINTS],
          (None, "postcopy-active"), (None, "completed"))

# What either side is asked in each of them, in this order; a refusal is an answer.
COMMANDS = (
    ("set_link", {"name": "net0", "up": False}),
    ("announce-self", {"initial": 1, "max": 2, "rounds": 3, "step": 1}),
    ("balloon", {"value": 12 * MIB}),
    ("block_resize", {"device": "d0", "size": 4 * MIB}),
    ("block_resize", {"device": "d0", "size": 5 * MIB}),
    ("qom-set", {"path": "/machine/peripheral/b0", "property": "guest-stats-polling-interval",
                 "value": 1}),
    ("netdev_add", {"type": "user", "id": "late"}),
    ("netdev_del", {"id": "late"}),
    ("blockdev-add", {"driver": "file", "filename": "/dev/null", "node-name": "late"}),
    ("blockdev-del", {"node-name": "late"}),
    ("blockdev-del", {"node-name": "d0"}),
    ("device_del", {"id": "net0"}),
    ("query-block", {}), ("query-blockstats", {}), ("query-named-block-nodes", {}),
    ("query-balloon", {}), ("query-rx-filter", {}), ("query-chardev", {}),
    ("human-monitor-command", {"command-line": "info network"}),
    ("set_link", {"name": "n0", "up": False}), ("set_link", {"name": "net0", "up": True}),
    ("set_link", {"name": "n0", "up": True}),
)


class DeviceMoments(Disks, PostcopyCase):
    def devices(self, drive=""):
        return [*load.drive(self.image_path, True, drive),
                "-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0,id=net0",
                "-device", "virtio-balloon-device,id=b0,free-page-reporting=on",
                "-device", "virtio-rng-device", "-device", "virtio-serial-device",
                "-chardev", "null,id=c0", "-device", "virtserialport,chardev=c0,id=port0"]

    def vm(self, *extra, **options):
        return super().vm(*self.extra, *extra, **options)

    def begin(self, drive="", **options):
        self.image_path = load.make_disk(self.path(f"disk{len(self.machines)}.img"))
        self.extra = self.devices(drive)
        self.postcopy_pair(**{"guest": GUEST, "smp": 1, **options})
        Disk(self.src.guest).wait_run()

    def bring(self, side, state):
        """To the state; the machine that is held there."""
        self.begin()
        held = {"source": self.src, "destination": self.dst, None: None}[side]
        if held:
            migrate.hold(held, state)
            migrate.start(self.src, self.uri)
            migrate.wait_held(held, state)
        elif state == "completed":
            migrate.move(self.src, self.dst, self.uri)
        else:
            self.switch(self.src, max_postcopy_bandwidth=1 << 20)
            self.dst.wait_state("running")
        return held

    def ask(self, vm, name, arguments):
        began = time.monotonic()
        try:
            vm.qmp.execute(name, arguments)
        except QmpError as error:
            self.assertRegex(str(error), "[A-Z]")
        self.assertLess(time.monotonic() - began, scaled(3), name)

    def settle(self, held):
        if held:
            migrate.release(held)
        self.go_on(self.src)
        migrate.finish(self.src, self.dst)
        return self.dst

    def check(self, vm):
        """The guest is well, and so is its disk; then both machines end."""
        disk = Disk(vm.guest)
        disk.wait_requests(50)
        disk.check(self.image_path)
        vm.guest.check()
        self.assertEqual(self.locked(self.image_path), WRITER)
        for other in (self.src, self.dst):
            if other.alive():
                other.quit()

    def test_commands(self):
        for side, state in STATES:
            with self.subTest(state=state):
                held = self.bring(side, state)
                for vm in (self.src, self.dst):
                    for name, arguments in COMMANDS:
                        self.ask(vm, name, arguments)
                self.check(self.settle(held))

    def test_cancelled_after_them(self):
        """And the guest stays where it was."""
        for side, state in STATES:
            if not side or state in COMMITTED:
                continue
            with self.subTest(state=state):
                held = self.bring(side, state)
                for name, arguments in COMMANDS:
                    self.ask(self.src, name, arguments)
                self.src.cmd("migrate_cancel")
                migrate.release(held)
                migrate.wait_status(self.src, "cancelled")
                self.src.wait_state("running")
                if state != "setup":  # of which the destination has not heard
                    self.dst.wait(1)
                self.check(self.src)

    # --- death ---

    def kill_at(self, who, delay, drive, postcopy):
        self.begin(drive)
        migrate.start(self.src, self.uri, max_bandwidth=30 * MIB, max_postcopy_bandwidth=30 * MIB)
        # before that the destination has heard of nobody, and would wait on
        migrate.wait_status(self.src, "active", "device", "completed")
        if postcopy:
            try:
                self.src.cmd("migrate-start-postcopy")
            except QmpError:
                pass
        time.sleep(delay)
        dead, left = (self.src, self.dst) if who == "source" else (self.dst, self.src)
        dead.kill()
        self.survivor(left, who)

    def survivor(self, vm, who):
        def look():
            try:
                status, now = migrate.status(vm), vm.status()
            except (OSError, QmpClosed):
                return "ended"
            return (now if now in ("running", "postmigrate") else
                    status if status in (*ENDS, "postcopy-paused") else None)
        state = migrate.wait_for("rest", look, timeout=30)
        locks = self.locked(self.image_path)
        if state == "running" and migrate.status(vm) not in ("postcopy-paused", "postcopy-active"):
            self.assertEqual(locks, WRITER)
            Disk(vm.guest).wait_requests(50)
            Disk(vm.guest).check(self.image_path)
            vm.guest.check()
            vm.quit()
        elif state == "ended":
            self.assertEqual(who, "source")  # the guest was still there
            vm.wait(1)
            self.assertEqual(locks, set())
        else:
            # it left, or half of its memory did; nobody else has its disk
            self.assertIn(locks, (set(), WRITER))
            vm.kill()

    def test_death(self):
        rng = random.Random(7)
        for i in range(KILLS):
            who = ("source", "destination")[i % 2]
            drive, delay = (",cache=none", "")[i // 2 % 2], rng.random() * scaled(0.8)
            with self.subTest(who=who, delay=delay, drive=drive):
                self.kill_at(who, delay, drive, postcopy=i % 8 >= 6)


class Resets(Disks, PostcopyCase):
    """The driver, which is the test, resets its devices while the guest is between the sides: that
    is what a vCPU's last instruction may be, or its first."""

    def driver(self, vm, number, queues):
        device = VirtioMmio(vm.qtest, slot(number), True, Memory(0x800000 + number * 0x40000))
        device.start()
        for i in range(queues):
            device.add_queue(i, 16)
        device.driver_ok()
        return device

    def test_resets(self):
        path = self.image()
        extra = [*self.disk(path), "-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0",
                 "-device", "virtio-serial-device", "-device", "virtio-balloon-device",
                 "-device", "virtio-rng-device"]
        for side, points in (("src", SOURCE_POINTS), ("dst", DESTINATION_POINTS)):
            for point in points:
                with self.subTest(point):
                    self.two(extra)
                    devices = [self.driver(self.src, i, n) for i, n in enumerate((1, 2, 4, 3, 1))]
                    vm = getattr(self, side)
                    migrate.hold(vm, point)
                    migrate.start(self.src, self.uri)
                    migrate.wait_held(vm, point)
                    for where in (self.src, self.dst):
                        for device in devices:
                            where.qtest.writel(device.base + STATUS, 0)
                            where.qtest.writel(device.base + STATUS, 1)
                    migrate.release(vm)
                    migrate.finish(self.src, self.dst)
                    for device in devices:
                        device.qtest = self.dst.qtest
                        device.start()
                        self.assertEqual(device.status(), 3)
                    self.src.quit()
                    self.dst.quit()

    def two(self, extra):
        self.uri = self.link()
        options = {"guest": None, "qtest": True, "smp": 1}
        self.src = self.vm(*extra, name="source", **options)
        self.dst = self.vm(*extra, name="destination", incoming="defer", **options)
        migrate.set_capabilities(self.src, self.dst, return_path=True)
        self.dst.cmd("migrate-incoming", uri=self.uri)


if __name__ == "__main__":
    unittest.main()
