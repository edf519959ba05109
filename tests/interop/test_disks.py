# SPDX-License-Identifier: GPL-2.0-or-later
"""
A disk moves between Ferry and QEMU: requests in the rings, a full disk with requests that wait,
locks that each side takes and gives up, and what comes back after a failure.
"""

import os

from ferrytest import migrate, wait_for
from ferrytest.loop import Loop
from interopcase import BACKPORT, FERRY, INSTALLED, InteropCase
from diskcase import MIB, OUT, WRITER, DiskDriver, Disks, pattern  # (interopcase says where)

ROUTE = (FERRY, INSTALLED, FERRY, BACKPORT, FERRY)


class Interop(Disks, InteropCase):
    def start(self, who, disks, legacy, incoming=False, **options):
        extra = [word for d in disks for word in d]
        extra += ["-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}"]
        options = {"guest": None, "qtest": True, "smp": 1, "ram": None, "memory": 32, **options}
        return self.destination(who, *extra, **options) if incoming else \
            self.machine(who, *extra, **options)

    def go_on(self, vm, who, disks, legacy, driver, state="running"):
        dst = self.start(who, disks, legacy, incoming=True)
        migrate.start(vm, self.uri)
        migrate.wait_status(vm, "completed")
        wait_for("the guest is there", lambda: dst.status() == state)
        driver.moved(dst)
        vm.quit()
        return dst

    def travel(self, legacy, queues=1, drive="", device=False):
        path = self.image(4 * MIB)
        if device:
            path = Loop(self, path).device
        disks = [self.disk(path, drive, f",num-queues={queues},serial=abc")]
        vm = self.start(ROUTE[0], disks, legacy)
        driver = DiskDriver(self, vm, legacy=legacy, queues=queues)
        for number, who in enumerate(ROUTE[1:]):
            driver.write(number * 64, pattern(16384, number))
            for i in range(8):  # offered, and nobody is told
                driver.offer(OUT, 2048 + number * 64 + i * 8, pattern(4096, i), queue=i % queues)
            vm = self.go_on(vm, who, disks, legacy, driver)
            wait_for("the locks", lambda: self.locked(path) == WRITER)
            driver.collect()
            driver.check()
        vm.quit()
        self.assert_content(path, driver)

    def test_legacy(self):
        self.travel(legacy=True)

    def test_modern(self):
        self.travel(legacy=False, drive=",cache=none")

    def test_block_device(self):
        self.travel(legacy=False, queues=2, drive=",cache=none", device=True)

    def test_queues(self):
        self.travel(legacy=False, queues=3)

    def test_two_disks_one_read_only(self):
        first, second = self.image(name="a.img"), self.image(name="b.img")
        with open(second, "r+b") as f:
            f.write(pattern(MIB, 3))
        disks = [self.disk(first), self.disk(second, ",readonly=on", name="d1")]
        vm = self.start(FERRY, disks, True)
        one, two = DiskDriver(self, vm), DiskDriver(self, vm, number=1)
        for who in (INSTALLED, FERRY):
            one.write(0, pattern(4096, len(who)))
            vm = self.go_on(vm, who, disks, True, one)
            two.moved(vm)
            one.check()
            self.assertEqual(two.read(9, 512), pattern(MIB, 3)[9 * 512:10 * 512])

    def test_full_disk(self):
        """Requests in flight on the wire, both ways."""
        for queues, legacy in ((1, True), (2, False)):
            path = self.small_filesystem() if queues == 1 else self.small + "/disk.img"
            disks = [self.disk(path, ",werror=stop", f",num-queues={queues}")]
            for route in ((INSTALLED, FERRY), (FERRY, INSTALLED), (INSTALLED, FERRY, INSTALLED)):
                with self.subTest(f"{route} {queues}"):
                    vm = self.start(route[0], disks, legacy)
                    driver = DiskDriver(self, vm, legacy=legacy, queues=queues)
                    for i in range(6):
                        driver.offer(OUT, i * 256, pattern(131072, i), queue=i % queues)
                    driver.kick()
                    wait_for("the disk is full", lambda: vm.status() == "io-error")
                    for who in route[1:]:
                        vm = self.go_on(vm, who, disks, legacy, driver, "io-error")
                    self.room()
                    vm.cmd("cont")
                    driver.collect()
                    driver.check()
                    vm.quit()
                    os.truncate(path, 0)
                    os.truncate(path, 8 * MIB)
                    os.system(f"mount -o remount,size=256k {self.small}")

    def test_write_cache(self):
        """What the guest has switched off stays off between Ferries, and may be slow from QEMU."""
        path = self.image()
        disks = [self.disk(path)]
        vm = self.start(FERRY, disks, False)
        driver = DiskDriver(self, vm, legacy=False)
        self.assertEqual(driver.qtest.readb(driver.device.base + 0x100 + 32), 0)
        driver.device.start(1 << 11 | 1 << 9)
        driver.device.add_queue(0, 64)
        driver.device.driver_ok()
        for wce in (0, 1):
            driver.qtest.writeb(driver.device.base + 0x100 + 32, wce)
            vm = self.go_on(vm, FERRY, disks, False, driver)
            self.assertEqual(driver.qtest.readb(driver.device.base + 0x100 + 32), wce)

    def test_back_from_qemu(self):
        """A QEMU that dies before the end: the disk comes back."""
        for who in (INSTALLED, BACKPORT):
            path = self.image(name=f"{who}.img")
            disks = [self.disk(path)]
            vm = self.start(FERRY, disks, True)
            driver = DiskDriver(self, vm)
            driver.write(0, pattern(4096))
            dst = self.start(who, disks, True, incoming=True, return_path=True)
            migrate.set_capabilities(vm, return_path=True)
            migrate.hold(vm, "device")
            migrate.start(vm, self.uri)
            migrate.wait_held(vm, "device")
            dst.kill()
            migrate.release(vm)
            migrate.wait_status(vm, "failed")
            vm.wait_state("running")
            self.assertEqual(self.locked(path), WRITER)
            driver.check()
            vm.quit()

    def test_qemu_cannot_lock(self):
        """A QEMU that does not get the disk has the guest all the same, stopped, and says that all
        went well; its `cont` takes the disk when that is free."""
        path = self.image()
        vm = self.start(FERRY, [self.disk(path, ",file.locking=off")], True)
        driver = DiskDriver(self, vm)
        driver.write(0, pattern(4096))
        dst = self.start(INSTALLED, [self.disk(path)], True, incoming=True, return_path=True)
        other = self.start(FERRY, [self.disk(path)], True, name="other")
        migrate.set_capabilities(vm, return_path=True)
        migrate.start(vm, self.uri)
        migrate.wait_status(vm, "completed")
        wait_for("QEMU has the guest", lambda: dst.status() == "paused")
        self.assertEqual(vm.status(), "postmigrate")
        other.quit()
        dst.cmd("cont")
        driver.moved(dst)
        driver.check()

    def test_config_is_kept(self):
        path = self.image()
        disks = [self.disk(path)]
        vm = self.start(FERRY, disks, True)
        driver = DiskDriver(self, vm)
        vm = self.go_on(vm, INSTALLED, disks, True, driver)
        self.assertEqual(driver.capacity(), MIB // 512)
