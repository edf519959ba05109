# SPDX-License-Identifier: GPL-2.0-or-later
"""
Devices whose move fails, or whose surroundings do: a section that cannot be saved or loaded, a link cut
under the load of a disk, taps that vanish, a port that nobody reads, a driver that goes mad. The guest
goes on, on one side, with all that it has written.
"""

import os
import random
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import Relay, load, migrate, net
from ferrytest.load import Disk
from ferrytest.virtio import Memory, VirtioMmio, slot
from diskcase import WRITER, DiskDriver, Disks, pattern
from migrationcase import COMMITTED, DESTINATION_POINTS, SOURCE_POINTS
from postcopycase import MIB, PostcopyCase
from serialport import SerialPort

WHY_NOT = net.own_network()
GUEST = "report=100 rate=500 mem=4M blk=1 blkdepth=16 blkflush=20"
RINGS = 0x800000
SECTIONS = ("virtio-blk", "virtio-net", "virtio-balloon", "virtio-rng", "virtio-console", "slirp")


class Failures(Disks, PostcopyCase):
    def setUp(self):
        super().setUp()
        self.image_path = load.make_disk(self.path("disk.img"))
        self.extra = [*load.drive(self.image_path, True, ",cache=none"),
                      "-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0",
                      "-device", "virtio-balloon-device", "-device", "virtio-rng-device",
                      "-device", "virtio-serial-device", "-device", "virtserialport"]

    def vm(self, *extra, **options):
        return super().vm(*self.extra, *extra, **{"guest": GUEST, "smp": 1, **options})

    def source(self, **options):
        self.src = self.vm(name="source", **options)
        migrate.set_capabilities(self.src, return_path=True)
        self.src.guest.wait_ready()
        Disk(self.src.guest).wait_run()

    def goes_on(self):
        """Nobody has noticed."""
        self.assertEqual(self.src.status(), "running")
        self.assertEqual(self.locked(self.image_path), WRITER)
        disk = Disk(self.src.guest)
        disk.wait_requests(20)
        disk.check(self.image_path)
        disk.go()

    def section(self, name):
        names = [n for n in SECTIONS if n != "slirp"]
        return name if name == "slirp" else f"virtio-mmio@{slot(names.index(name)):016x}/{name}"

    def test_sections(self):
        for name in SECTIONS:
            section = self.section(name)
            with self.subTest(section):
                self.source(env={"FERRY_FAIL_SAVE": section})
                self.another_destination()
                migrate.start(self.src, self.uri)
                self.assertIn(section, migrate.wait_status(self.src, "failed")["error-desc"])
                self.dst.wait(1)
                self.goes_on()
                self.another_destination(env={"FERRY_FAIL_LOAD": section})
                migrate.start(self.src, self.uri)
                self.assertRegex(migrate.wait_status(self.src, "failed")["error-desc"],
                                 section + "|Section")
                self.dst.wait(1)
                self.goes_on()
                self.src.quit()

    def test_link(self):
        """Cut after so many bytes, and wherever one can hold it."""
        self.source()
        rng = random.Random(3)
        for offset in (100, 5000, *(rng.randrange(4 * MIB) for _ in range(2))):
            with self.subTest(offset=offset):
                self.another_destination()
                relay = Relay(self, self.uri[5:])
                relay.cut_after(fwd=offset)
                migrate.start(self.src, relay.uri)
                migrate.wait_status(self.src, "failed")
                self.dst.wait(1)
                relay.close()
                self.goes_on()
        for side, points in (("src", SOURCE_POINTS), ("dst", DESTINATION_POINTS)):
            for point in (p for p in points if p not in COMMITTED and p != "setup"):
                with self.subTest(point):
                    self.another_destination()
                    relay = Relay(self, self.uri[5:])
                    vm = getattr(self, side)
                    migrate.hold(vm, point)
                    migrate.start(self.src, relay.uri)
                    migrate.wait_held(vm, point)
                    relay.cut()
                    migrate.release(vm)
                    migrate.wait_status(self.src, "failed")
                    self.src.wait_state("running")
                    relay.close()
                    self.goes_on()
                    self.dst.wait(1)

    def test_second_destination(self):
        """Two wait for the guest on its image; one gets it, the other has nothing to say."""
        self.source()
        first, uri = self.another_destination(), self.uri
        second = self.another_destination()
        migrate.move(self.src, first, uri)
        self.assertEqual(second.status(), "inmigrate")
        second.cmd("cont")  # as with QEMU, it says what shall be once a guest has come
        self.assertEqual(second.status(), "inmigrate")
        self.assertEqual(self.locked(self.image_path), WRITER)
        Disk(first.guest).wait_requests(20)
        Disk(first.guest).check(self.image_path)
        second.quit()


@unittest.skipIf(WHY_NOT, WHY_NOT)
class Taps(PostcopyCase):
    taps = 0

    def machine(self, **options):
        Taps.taps += 1
        name = f"fail{self.taps}"
        vm = self.vm("-netdev", f"tap,id=n0,ifname={name},script=no,downscript=no", "-device",
                     "virtio-net-device,netdev=n0", guest="report=100 rate=500 mem=2M net=send netrate=500",
                     smp=1, **options)
        migrate.set_capabilities(vm, return_path=True)
        net.set_up(name)
        return vm, name

    def test_vanish(self):
        """Both, at any point; the guest arrives, without a network."""
        for side, points in (("src", ("active", "device", "go")),
                             ("dst", ("incoming-active", "incoming-loaded", "incoming-go"))):
            for point in points:
                with self.subTest(point):
                    self.src, here = self.machine(name="source")
                    self.dst, there = self.machine(name="destination", incoming="defer")
                    uri = self.link()
                    self.dst.cmd("migrate-incoming", uri=uri)
                    self.src.guest.wait_ready()
                    vm = getattr(self, side)
                    migrate.hold(vm, point)
                    migrate.start(self.src, uri)
                    migrate.wait_held(vm, point)
                    net.delete(here)
                    net.delete(there)
                    migrate.release(vm)
                    migrate.finish(self.src, self.dst)
                    self.dst.guest.check()
                    self.src.quit()
                    self.dst.quit()


class Drivers(Disks, PostcopyCase):
    """The test is the driver."""

    def two(self, *source, destination=None):
        self.uri = self.link()
        options = {"guest": None, "qtest": True, "smp": 1, "memory": 32}
        self.src = self.vm(*source, name="source", **options)
        self.dst = self.vm(*(destination or source), name="destination", incoming="defer", **options)
        migrate.set_capabilities(self.src, self.dst, return_path=True)
        self.dst.cmd("migrate-incoming", uri=self.uri)

    def test_jumps(self):
        """An index that jumps: the device needs a reset, here, on its way, and there."""
        for point, jump in (("active", 200), ("active", 0x8000), ("device", 200), (None, 200)):
            with self.subTest(point=point, jump=jump):
                path = self.image(name=f"jump{len(self.machines)}.img")
                self.two(*self.disk(path), "-global", "virtio-mmio.force-legacy=off")
                driver = DiskDriver(self, self.src, legacy=False)
                driver.write(0, pattern(512))
                queue = driver.device.queues[0]
                if point:
                    migrate.hold(self.src, point)
                    migrate.start(self.src, self.uri)
                    migrate.wait_held(self.src, point)
                    queue.set_index(queue.index + jump)
                    queue.kick()
                    migrate.release(self.src)
                else:
                    migrate.start(self.src, self.uri)
                migrate.finish(self.src, self.dst)
                driver.moved(self.dst)
                if not point:
                    queue.set_index(queue.index + jump)
                    queue.kick()
                # written to the stopped source after its memory went, it never was
                if point != "device":
                    self.assertTrue(driver.device.is_broken())
                again = DiskDriver(self, self.dst, legacy=False)
                again.content = driver.content
                again.check()
                self.src.quit()
                self.dst.quit()

    def test_port_nobody_reads(self):
        """Its output waits; after a cancelled move, and after one that is not, all of it comes out,
        once."""
        block, times = bytes(range(251)) * 4096, 12  # more than a socket takes
        data = block * times
        for point in ("active", "device", "ready", None):
            with self.subTest(point):
                here, there = SerialPort(self), SerialPort(self)
                self.two(*here.arguments, destination=there.arguments)
                peers = [here.accept(), there.accept()]
                device = VirtioMmio(self.src.qtest, slot(0), True, Memory(RINGS))
                device.start()
                out = device.add_queue(5, 64)
                device.driver_ok()
                at = device.memory.take(len(block), 4096)
                for i in range(0, len(block), 65536):
                    self.src.qtest.b64write(at + i, block[i:i + 65536])
                for _ in range(times):
                    out.add([(at, len(block), False)])
                out.kick()
                time.sleep(0.05)
                if point:
                    migrate.hold(self.src, point)
                    migrate.start(self.src, self.uri)
                    migrate.wait_held(self.src, point)
                    self.src.cmd("migrate_cancel")
                    migrate.release(self.src)
                    migrate.wait_status(self.src, "cancelled")
                    self.src.wait_state("running")
                    self.assertEqual(self.read(peers[0], len(data)), data)
                else:
                    migrate.start(self.src, self.uri)
                    migrate.finish(self.src, self.dst)
                    peers[0].setblocking(False)
                    first = self.read(peers[0], len(data))
                    self.assertLess(len(first), len(data))
                    self.assertEqual(first + self.read(peers[1], len(data) - len(first)), data)
                    out.qtest = self.dst.qtest
                for _ in range(times):
                    out.wait()
                self.src.quit()
                self.dst.wait(1) if point else self.dst.quit()

    @staticmethod
    def read(peer, size):
        data = b""
        try:
            while len(data) < size:
                some = peer.recv(1 << 16)
                if not some:
                    break
                data += some
        except BlockingIOError:
            pass
        return data


if __name__ == "__main__":
    unittest.main()
