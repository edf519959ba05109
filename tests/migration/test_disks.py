# SPDX-License-Identifier: GPL-2.0-or-later
"""
Disks in a migration: they are given up after the guest's last request and taken before its next,
come back to the source wherever the migration fails, and what is out at the switchover is done once.
"""

import os
import unittest

from ferrytest import migrate
from ferrytest.loop import Loop
from diskcase import FLUSH, FLUSH_FEATURE, MIB, OUT, READER, WRITER, DiskDriver, Disks, pattern
from migrationcase import COMMITTED, DESTINATION_POINTS, SOURCE_POINTS, MigrationCase


class DiskCase(Disks, MigrationCase):
    def disks(self, *disks, **options):
        """A pair with the same disks on both sides, and the test as the driver."""
        self.pair(ready=False, extra_args=[word for d in disks for word in d], **options)

    def vm(self, *extra, extra_args=(), **options):
        return super().vm(*extra, *extra_args, **{"guest": None, "qtest": True, "ram": "shm",
                                                  "smp": 1, "memory": 32, **options})

    def arrive(self, driver, dst=None):
        done = migrate.finish(self.src, dst or self.dst)
        driver.moved(dst or self.dst)
        return done


    def done_writes(self, *machines):
        """How many writes have been done, on all of them together."""
        return sum(vm.cmd("query-blockstats")[0]["stats"]["wr_operations"] for vm in machines)


class Move(DiskCase):
    def test_there_and_back(self):
        path = self.image()
        for drive in ("", ",cache=none", ",cache=writethrough", ",cache=unsafe,aio=threads"):
            with self.subTest(drive):
                disk = self.disk(path, drive)
                self.disks(disk)
                driver = DiskDriver(self, self.src)
                for hop in range(3):
                    driver.write(hop * 64, pattern(8192, hop))
                    self.assertEqual(self.locked(path), WRITER)
                    migrate.start(self.src, self.uri)
                    done = self.arrive(driver)
                    self.assertEqual(self.locked(path), WRITER)
                    self.assertEqual(self.src.status(), "postmigrate")
                    pause = done["pause"]
                    self.assertGreater(pause["disk-lock-gap"], 0)
                    self.assertLessEqual(pause["disk-lock-gap"], pause["whole"])
                    self.assertGreater(pause["disks"], 0)
                    self.assertNotIn("The guest knows", self.dst.stderr())
                    driver.check()
                    self.src.quit()
                    self.assertEqual(self.locked(path), WRITER)
                    self.src = self.dst
                    self.another_destination(extra_args=disk)
                self.src.quit()
                self.dst.quit()
                self.assert_content(path, driver)

    def test_no_disk_no_gap(self):
        self.pair(guest="report=100 rate=2000")
        done = self.move_and_check(self.src, self.dst)
        self.assertNotIn("disk-lock-gap", done["pause"])
        self.assertEqual(done["pause"]["disks"], 0)

    def test_two_disks(self):
        """One is only read; their paths differ between the sides."""
        first, second = self.image(name="a.img"), self.image(name="b.img")
        with open(second, "r+b") as f:
            f.write(pattern(MIB, 3))
        extra = [*self.disk(first), *self.disk(second, ",readonly=on", name="d1")]
        os.symlink(first, self.path("other-a.img"))
        os.symlink(second, self.path("other-b.img"))
        other = [*self.disk(self.path("other-a.img")),
                 *self.disk(self.path("other-b.img"), ",readonly=on", name="d1")]
        self.pair(ready=False, source={"extra_args": extra}, destination={"extra_args": other})
        one, two = DiskDriver(self, self.src), DiskDriver(self, self.src, number=1)
        one.write(0, pattern(4096))
        self.assertEqual(two.read(7, 512), pattern(MIB, 3)[7 * 512:8 * 512])
        self.assertEqual((self.locked(first), self.locked(second)), (WRITER, READER))
        migrate.start(self.src, self.uri)
        self.arrive(one)
        two.moved(self.dst)
        one.check()
        self.assertEqual(two.read(9, 512), pattern(MIB, 3)[9 * 512:10 * 512])

    def test_requests_under_way(self):
        """Requests are offered and taken all the time while the guest moves; each is done once."""
        path = self.image(8 * MIB)
        disk = self.disk(path, device=",num-queues=2")
        for turn in range(4):
            self.disks(disk)
            driver = DiskDriver(self, self.src, queues=2)
            migrate.hold(self.src, "active")
            migrate.start(self.src, self.uri)
            migrate.wait_held(self.src, "active")
            for i in range(40):
                driver.offer(OUT, turn * 4096 + i * 16, pattern(4096, i), queue=i & 1)
            driver.kick()
            migrate.release(self.src)
            # qtest talks to a stopped machine too: what it finds is the memory of the source
            done = self.arrive(driver)
            self.assertEqual(done["status"], "completed")
            driver.collect()
            self.assertEqual(self.done_writes(self.src, self.dst), 40)
            driver.check()
            self.dst.quit()
            self.src.quit()
            self.assert_content(path, driver)

    def test_ring_of_several_pages(self):
        """Answers in a page of the ring that has nothing else of it that changes."""
        self.disks(self.disk(self.image(), device=",queue-size=1024"))
        driver = DiskDriver(self, self.src, size=1024)
        for _ in range(2):
            for _ in range(270):
                driver.offer(FLUSH, 0)
            driver.kick()
            driver.collect()
        migrate.hold(self.src, "active")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.src, "active")
        for i in range(20):
            driver.offer(OUT, i * 8, pattern(4096, i))
        driver.kick()
        migrate.release(self.src)
        self.arrive(driver)
        driver.collect()
        driver.check()

    def test_offered_but_not_told(self):
        """In the ring and never kicked: the destination looks when it starts."""
        path = self.image()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        driver.offer(OUT, 8, pattern(1024, 8))
        migrate.start(self.src, self.uri)
        self.arrive(driver)
        driver.collect()
        driver.check()

    def test_larger_on_the_other_side(self):
        """The image has grown while the guest was on its way: it is told. So it is of what
        block_resize does there."""
        path = self.image()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.hold(self.src, "active")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.src, "active")
        os.truncate(path, 2 * MIB)
        migrate.release(self.src)
        self.arrive(driver)
        driver.device.wait_interrupt(2)
        self.assertEqual(driver.capacity(), 2 * 2048)
        driver.write(2 * 2048 - 1, pattern(512, 9))
        driver.device.take_interrupt()
        self.dst.cmd("block_resize", device="d0", size=3 * MIB)
        driver.device.wait_interrupt(2)
        self.assertEqual(driver.capacity(), 3 * 2048)
        driver.write(3 * 2048 - 1, pattern(512, 10))


class Stopped(DiskCase):
    """A disk is full, the machine has stopped, and it is moved like that."""

    def test_full_disk_moves(self):
        for queues in (1, 2):
            path = self.small_filesystem() if queues == 1 else self.small + "/disk.img"
            self.disks(self.disk(path, device=f",num-queues={queues}"))
            driver = DiskDriver(self, self.src, queues=queues)
            for i in range(6):
                driver.offer(OUT, i * 256, pattern(131072, i), queue=i % queues)
            driver.kick()
            self.src.wait_state("io-error")
            migrate.start(self.src, self.uri)
            migrate.wait_status(self.src, "completed")
            self.dst.wait_state("io-error")
            self.assertEqual(self.locked(path), WRITER)
            driver.moved(self.dst)
            self.room()
            self.dst.cmd("cont")
            driver.collect()
            self.assertEqual(self.done_writes(self.src, self.dst), 6)
            driver.check()
            self.src.quit()
            self.dst.quit()
            os.truncate(path, 0)
            os.truncate(path, 8 * MIB)
            os.system(f"mount -o remount,size=256k {self.small}")

    def test_full_while_it_moves(self):
        """The error comes between the rounds: the machine stops, and moves as a stopped one."""
        path = self.small_filesystem()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        migrate.hold(self.src, "active")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.src, "active")
        for i in range(6):
            driver.offer(OUT, i * 256, pattern(131072, i))
        driver.kick()
        self.src.wait_state("io-error")
        migrate.release(self.src)
        migrate.wait_status(self.src, "completed")
        self.dst.wait_state("io-error")
        driver.moved(self.dst)
        self.room()
        self.dst.cmd("cont")
        driver.collect()
        driver.check()

    def test_back_to_the_source(self):
        """With requests that wait, and a destination that ends."""
        path = self.small_filesystem()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        for i in range(6):
            driver.offer(OUT, i * 256, pattern(131072, i))
        driver.kick()
        self.src.wait_state("io-error")
        migrate.hold(self.dst, "incoming-loaded")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.dst, "incoming-loaded")
        self.dst.kill()
        migrate.wait_status(self.src, "failed")
        self.assertEqual(self.src.status(), "io-error")
        self.assertEqual(self.locked(path), WRITER)
        self.room()
        self.src.cmd("cont")
        driver.collect()
        driver.check()


class Failure(DiskCase):
    def points(self):
        for point in SOURCE_POINTS:
            if point not in COMMITTED:
                yield "src", point
        for point in DESTINATION_POINTS:
            if point not in COMMITTED:
                yield "dst", point

    def test_source_has_its_disk_back(self):
        """Wherever the destination dies before the commit."""
        path = self.image()
        disk = self.disk(path)
        self.disks(disk)
        driver = DiskDriver(self, self.src)
        for number, (side, point) in enumerate(self.points()):
            with self.subTest(point):
                driver.write(number * 8, pattern(4096, number))
                vm = getattr(self, side)
                migrate.hold(vm, point)
                migrate.start(self.src, self.uri)
                migrate.wait_held(vm, point)
                self.assertEqual(self.locked(path), WRITER)
                self.dst.kill()
                if side == "src":
                    migrate.release(self.src)
                migrate.wait_status(self.src, "failed")
                self.src.wait_state("running")
                self.assertEqual(self.locked(path), WRITER)
                driver.check()
                self.another_destination(extra_args=disk)
        migrate.start(self.src, self.uri)
        self.arrive(driver)
        driver.check()

    def test_destination_cannot_lock(self):
        """A third machine only reads, with share-rw: it may be there, and then forbids nothing. One
        that forbids writers refuses the destination, so the source goes on."""
        path = self.image()
        other = self.path("other.img")
        os.link(path, other)
        self.disks(self.disk(path, ",file.locking=off"), destination={
            "extra_args": self.disk(path)})
        reader = self.vm("-blockdev", f"driver=file,filename={other},node-name=r,read-only=on",
                         "-device", "virtio-blk-device,drive=r", name="reader")
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.start(self.src, self.uri)
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        self.assertIn('Failed to get "write" lock', said)
        self.dst.wait(1)
        self.src.wait_state("running")
        driver.write(1, pattern(512, 1))
        driver.check()
        reader.quit()

    def test_somebody_else_takes_it(self):
        """Between the hand-over and the destination: who has the locks has the disk. The guest runs
        nowhere until it can have them again."""
        path = self.image()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.hold(self.dst, "incoming-go")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.dst, "incoming-go")
        self.assertEqual(self.locked(path), set())
        other = self.vm(*self.disk(path), name="other")
        migrate.release(self.dst)
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        self.assertIn('Failed to get "write" lock', said)
        self.dst.wait(1)
        self.assertNotEqual(self.src.status(), "running")
        self.assertIn("The guest stays stopped here: Disk 'd0': Failed to get", self.src.stderr())
        with self.assertRaisesRegex(Exception, 'Failed to get "write" lock'):
            self.src.cmd("cont")
        other.quit()
        self.src.cmd("cont")
        self.assertEqual(self.locked(path), WRITER)
        driver.check()

    def test_destination_cannot_run(self):
        """It had the disks already, and gives them back."""
        path = self.image()
        self.disks(self.disk(path), destination={"env": {"FERRY_FAIL_RUN": "all"}})
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.start(self.src, self.uri)
        migrate.wait_status(self.src, "failed")
        self.dst.wait(1)
        self.src.wait_state("running")
        self.assertEqual(self.locked(path), WRITER)
        driver.write(8, pattern(512, 8))
        driver.check()

    def fail_at_the_end(self, drive):
        """What was written does not reach the disk: the guest stays where it is."""
        path, fault = self.image(), self.path("fault")
        self.disks(self.disk(path, drive), source={"env": {"FERRY_FAIL_BLOCK": fault}})
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.hold(self.src, "ready")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.src, "ready")
        with open(fault, "w", encoding="ascii") as f:
            f.write("flush")
        migrate.release(self.src)
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        self.assertRegex(said, "The disks cannot be handed over: .*'d0' does not reach .*"
                               "Input/output error")
        self.dst.wait(1)
        self.src.wait_state("running")
        self.assertEqual(self.locked(path), WRITER)
        os.unlink(fault)
        driver.check()
        return path, driver

    def test_disk_fails_at_the_end(self):
        path, driver = self.fail_at_the_end(",cache=none")
        self.another_destination(extra_args=self.disk(path, ",cache=none"))
        migrate.start(self.src, self.uri)
        self.arrive(driver)
        driver.check()

    def test_unsafe_is_flushed_at_the_end(self):
        """What no flush of the guest's has done, the hand-over does."""
        self.fail_at_the_end(",cache=unsafe")

    def test_cancel_at_the_end(self):
        path = self.image()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.hold(self.src, "ready")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.src, "ready")
        self.src.cmd("migrate_cancel")
        migrate.wait_status(self.src, "cancelled")
        self.dst.wait(1)
        self.src.wait_state("running")
        self.assertEqual(self.locked(path), WRITER)
        driver.check()

    def test_cont_takes_the_disk(self):
        """A saved guest: its disk is free, and `cont` here takes it again, if it is."""
        path = self.image()
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.set_capabilities(self.src, return_path=False)
        migrate.start(self.src, "exec:cat > " + self.path("saved"))
        migrate.wait_status(self.src, "completed")
        self.assertEqual(self.locked(path), set())
        with self.assertRaisesRegex(Exception, "another machine's"):
            self.src.cmd("block_resize", device="d0", size=2 * MIB)
        other = self.vm(*self.disk(path), name="other")
        with self.assertRaisesRegex(Exception, 'Failed to get "write" lock'):
            self.src.cmd("cont")
        self.assertEqual(self.src.status(), "postmigrate")
        other.quit()
        self.src.cmd("cont")
        self.assertEqual(self.locked(path), WRITER)
        driver.check()


class Check(DiskCase):
    """What migrate-check says of disks that do not fit; the migration is refused for the same."""

    def look(self, source, destination):
        self.pair(ready=False, source={"extra_args": source},
                  destination={"extra_args": destination})
        found = self.src.cmd("migrate-check", uri=self.uri, peer="ferry")
        disks = [(f["severity"], f["subject"], f["reason"]) for f in found["findings"]
                 if f["kind"] == "disk"]
        return disks, found

    def test_same_image(self):
        disk = self.disk(self.image())
        self.assertEqual(self.look(disk, disk)[0], [])

    def test_another_image(self):
        one, two = self.image(), self.image(name="copy.img")
        disks, _ = self.look(self.disk(one), self.disk(two))
        self.assertEqual([d[:2] for d in disks], [("obstacle", "d0")])
        self.assertIn("another file", disks[0][2])
        migrate.start(self.src, self.uri)
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        self.assertIn("another file", said)
        self.src.wait_state("running")
        self.assertEqual(self.locked(one), WRITER)

    def test_another_size(self):
        one, two = self.image(), self.image(2 * MIB, name="copy.img")
        disks, _ = self.look(self.disk(one, ",readonly=on"), self.disk(two, ",readonly=on"))
        self.assertEqual([d[:2] for d in disks], [("obstacle", "d0")])
        self.assertIn("1048576 bytes on the source and 2097152", disks[0][2])

    def test_resized_since(self):
        """The destination had opened it before."""
        path = self.image()
        self.disks(self.disk(path, ",cache=none"))
        self.src.cmd("block_resize", device="d0", size=2 * MIB)
        found = self.src.cmd("migrate-check", uri=self.uri, peer="ferry")["findings"]
        self.assertEqual([f for f in found if f["kind"] == "disk"], [])
        driver = DiskDriver(self, self.src)
        driver.write(4000, pattern(512))
        migrate.start(self.src, self.uri)
        self.arrive(driver)
        driver.check()
        driver.write(4001, pattern(512, 1))

    def test_copy_to_read(self):
        one, two = self.image(), self.image(name="copy.img")
        disks, _ = self.look(self.disk(one, ",readonly=on"), self.disk(two, ",readonly=on"))
        self.assertEqual(disks, [])

    def test_read_only_there(self):
        path = self.image()
        disks, _ = self.look(self.disk(path), self.disk(path, ",readonly=on"))
        self.assertEqual([d[0] for d in disks], ["obstacle"])

    def test_missing(self):
        found = self.look(self.disk(self.image()), ())[1]
        self.assertIn(("obstacle", "device"), [(f["severity"], f["kind"])
                                               for f in found["findings"]])


class BlockDevice(DiskCase):
    """Both sides have the same block device; what holds of files holds of it."""

    def loop(self, size=MIB, name="disk.img", **options):
        return Loop(self, self.image(size, name), **options)

    def test_there_and_back(self):
        sizes = ",logical_block_size=4096,physical_block_size=4096"
        for drive, device, block in (("", "", 512), (",cache=none", "", 512),
                                     (",cache=none", sizes, 4096)):
            with self.subTest(f"{drive} {block}"):
                loop = self.loop(name=f"{drive}{block}.img", block_size=block)
                blockdev = ("-blockdev", f"driver=host_device,filename={loop.device},node-name=d0"
                            + (",cache.direct=on" if drive else ""),
                            "-device", f"virtio-blk-device,drive=d0{device}")
                disk = self.disk(loop.device, drive, device)
                self.pair(ready=False, source={"extra_args": disk},
                          destination={"extra_args": blockdev})
                driver = DiskDriver(self, self.src)
                for hop in range(2):
                    driver.write(hop * 64, pattern(8192, hop))
                    self.assertEqual(self.locked(loop.device), WRITER)
                    for i in range(8):  # offered, and nobody is told
                        driver.offer(OUT, 512 + hop * 64 + i * 8, pattern(4096, i))
                    migrate.start(self.src, self.uri)
                    done = self.arrive(driver)
                    self.assertGreater(done["pause"]["disk-lock-gap"], 0)
                    self.assertEqual(self.locked(loop.device), WRITER)
                    driver.collect()
                    driver.check()
                    self.src.quit()
                    self.src = self.dst
                    self.another_destination(extra_args=disk)
                self.src.quit()
                self.dst.quit()
                loop.settle()
                self.assert_content(loop.path, driver)

    def test_resized_on_the_way(self):
        """The host has made it larger: the destination finds it so when it takes it."""
        loop = self.loop()
        self.disks(self.disk(loop.device))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        migrate.hold(self.src, "active")
        migrate.start(self.src, self.uri)
        migrate.wait_held(self.src, "active")
        os.truncate(loop.path, 3 * MIB)
        loop.resized()
        self.assertEqual(driver.capacity(), MIB // 512)
        migrate.release(self.src)
        self.arrive(driver)
        driver.device.wait_interrupt(2)
        self.assertEqual(driver.capacity(), 3 * MIB // 512)
        driver.write(3 * 2048 - 1, pattern(512, 9))
        driver.check()

    def test_what_does_not_fit(self):
        """One of another size is an obstacle, another one a warning, since it may be another way to the
        same storage; another name is none."""
        one, two = self.loop(), self.loop(name="copy.img")
        three = self.loop(2 * MIB, name="large.img")
        link = self.path("by-path")
        os.symlink(one.device, link)
        for other, severity, says in (
                (link, None, None),
                (two.device, "warning", "make sure that both lead to the same storage"),
                (three.device, "obstacle", "1048576 bytes on the source and 2097152")):
            with self.subTest(other):
                self.pair(ready=False, source={"extra_args": self.disk(one.device)},
                          destination={"extra_args": self.disk(other)})
                found = [f for f in self.src.cmd("migrate-check", uri=self.uri,
                                                 peer="ferry")["findings"] if f["kind"] == "disk"]
                self.src.quit()
                self.dst.quit()
                self.assertEqual(found[0]["severity"] if found else None, severity)
                if says:
                    self.assertIn(says, found[0]["reason"])

    def test_writable_later(self):
        """Some storage can be written on one host at a time: the destination may be there before,
        and opens it again when the guest comes. Where it still cannot, the guest stays."""
        loop = self.loop()
        disk = self.disk(loop.device)
        for stays in (True, False):
            with self.subTest(stays):
                self.src = self.vm(*disk, name="source")
                driver = DiskDriver(self, self.src)
                driver.write(0, pattern(512))
                loop.set_read_only(True)
                self.another_destination(extra_args=disk)
                migrate.set_capabilities(self.src, return_path=True)
                if not stays:
                    loop.set_read_only(False)
                migrate.start(self.src, self.uri)
                if stays:
                    said = migrate.wait_status(self.src, "failed")["error-desc"]
                    self.assertIn(f"Disk 'd0': Could not open '{loop.device}': Permission denied",
                                  said)
                    self.dst.wait(1)
                    loop.set_read_only(False)
                    self.src.wait_state("running")
                    vm = self.src
                else:
                    self.arrive(driver)
                    vm = self.dst
                self.assertEqual(self.locked(loop.device), WRITER)
                driver.write(8, pattern(512, 8))
                driver.check()
                vm.quit()

    def test_full_below_at_the_end(self):
        """What the guest wrote is in the page cache and finds no room below the device: it cannot
        be handed over, and the guest stays."""
        path = self.small_filesystem()
        loop = Loop(self, path)
        with open(self.small + "/filler", "wb") as f:  # a loop device takes half a write for one
            f.write(bytes(256 << 10))
        disk = self.disk(loop.device)
        self.disks(disk)
        driver = DiskDriver(self, self.src, features=1 << FLUSH_FEATURE)
        for i in range(4):
            driver.write(i * 256, pattern(131072, i))
        migrate.start(self.src, self.uri)
        said = migrate.wait_status(self.src, "failed")["error-desc"]
        self.assertRegex(said, f"The disks cannot be handed over: .*'d0' does not reach "
                               f"'{loop.device}'")
        self.dst.wait(1)
        self.src.wait_state("running")
        self.assertEqual(self.locked(loop.device), WRITER)


class Saved(DiskCase):
    """A guest in a file, where nobody can compare."""

    def test_short_image(self):
        """The image has become shorter: that is said, and what is missing fails."""
        path, short = self.image(2 * MIB), self.image(MIB, "short.img")
        self.disks(self.disk(path))
        driver = DiskDriver(self, self.src)
        driver.write(0, pattern(512))
        driver.write(3000, pattern(512, 3))
        migrate.set_capabilities(self.src, return_path=False)
        migrate.start(self.src, "exec:cat > " + self.path("saved"))
        migrate.wait_status(self.src, "completed")
        vm = self.vm(*self.disk(short), name="short", incoming="exec:cat " + self.path("saved"))
        vm.wait_state("running")
        driver.moved(vm)
        words = (f"The guest knows 4096 sectors of disk 'd0', but '{short}' has only 2048: give "
                 "the destination the image that the source has")
        migrate.wait_for("word of the short image", lambda: words in vm.stderr())
        self.assertEqual(driver.read(0, 512), bytes(512))
        driver.offer(OUT, 3000, pattern(512, 5))
        driver.kick()
        driver.collect(want=1)  # IOERR


class Late(DiskCase):
    def test_stopped_destination(self):
        path = self.image()
        for late in (False, True):
            with self.subTest(late):
                self.disks(self.disk(path), destination={"paused": True})
                migrate.set_capabilities(self.src, self.dst, late_block_activate=late)
                driver = DiskDriver(self, self.src)
                driver.write(0, pattern(512))
                migrate.start(self.src, self.uri)
                migrate.wait_status(self.src, "completed")
                self.dst.wait_state("paused")
                self.assertEqual(self.locked(path), set() if late else WRITER)
                self.src.quit()
                self.dst.cmd("cont")
                self.assertEqual(self.locked(path), WRITER)
                driver.moved(self.dst)
                driver.check()
                self.dst.quit()


class Postcopy(DiskCase):
    def test_requests_out_and_in(self):
        """Post-copy: requests in the ring touch memory that has not come yet."""
        path = self.image(8 * MIB)
        self.disks(self.disk(path, device=",num-queues=2"))
        migrate.set_capabilities(self.src, self.dst, postcopy_ram=True)
        driver = DiskDriver(self, self.src, queues=2)
        migrate.set_parameters(self.src, max_bandwidth=1 << 20)
        self.src.cmd("migrate", uri=self.uri)
        migrate.wait_status(self.src, "active")
        for i in range(20):
            driver.offer(OUT, i * 16, pattern(4096, i), queue=i & 1)
        self.src.cmd("migrate-start-postcopy")
        migrate.set_parameters(self.src, max_bandwidth=1 << 30)
        self.arrive(driver)
        self.assertEqual(self.locked(path), WRITER)
        driver.collect()
        driver.check()


if __name__ == "__main__":
    unittest.main()
