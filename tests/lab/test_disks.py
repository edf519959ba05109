# SPDX-License-Identifier: GPL-2.0-or-later
"""
Disks of a stock Linux across a move: two with other paths on the other host, an image behind the
page cache, one that changes its size, one that is full or broken for a while.
"""

import re

from devicecase import DeviceCase, Devices, Disk, MEMORY
from ferrytest import wait_for
from labcase import EXTRA, FERRY, HOST_CPU, NEWER_QEMU, QEMU, long, migrate
from labmachine import fields

MIB = 1 << 20
SECTOR = 512
FILLER = "/disk/filler"
BIG_MIB, BIGS = 2, 10


class Disks(DeviceCase):
    @long
    def test_two_with_other_paths(self):
        """One is read-only, and the destination has other paths for both."""
        self.sh("mkdir -p /disk2; grep -q ' /disk2 ' /proc/mounts || mount --bind /disk /disk2")
        tree = f"{self.folder}/tree"
        self.sh(f"mkdir -p {tree}; head -c 3000000 /dev/urandom >{tree}/file")
        data, extra = self.image(), self.image("extra", "16M", tree=tree)
        total = self.sh(f"md5sum <{tree}/file").split()[0]
        here = Devices(Disk(data), Disk(extra, "extra", readonly=True), console=False, balloon=False)
        others = [disk.at(disk.path.replace("/disk/", "/disk2/")) for disk in here.disks]
        there = Devices(*others, console=False, balloon=False)
        vm = self.working(here)
        self.check_extra(vm, total)
        vm, _done = self.move_on(vm, there)
        self.check_extra(vm, total)
        vm, _done = self.move_on(vm, here)
        self.check_extra(vm, total)
        vm.type("umount /extra")
        self.conclude(vm, here)

    def check_extra(self, vm, total):
        """Read from the disk, not from the cache; it cannot be written."""
        vm.type("echo 3 >/proc/sys/vm/drop_caches; echo EXTRA $(md5sum </extra/file) "
                "ro=$(cat /sys/block/$(basename $(virtio disk extra))/ro); "
                "touch /extra/x || echo NOT")
        line = vm.line("EXTRA ", len(vm.serial()), timeout=30)
        self.assertIn(f" {total} ", line.group(0))
        self.assertIn("ro=1", line.group(0))
        vm.line("NOT", line.end())

    @long
    def test_page_cache(self):
        """An image behind the host's page cache, where both sides have the same; discards too."""
        devices = Devices(Disk(self.image(), options="cache=writeback,discard=unmap"), console=False,
                          balloon=False, user=False)
        vm = self.working(devices)
        vm.type("fstrim -v /disk; echo TRIM status=$?")
        self.assertEqual(fields(vm.line("TRIM ").group(0))["status"], "0")
        vm, _done = self.move_on(vm, devices)
        vm.type("fstrim -v /disk; echo TRIM status=$?")
        self.assertEqual(fields(vm.line("TRIM ").group(0))["status"], "0")
        self.conclude(vm, devices)


class Resize(DeviceCase):
    """Linux sees how large its disk is, also when that changes, on either side of a move."""

    def mib(self, vm):
        """As Linux has it."""
        vm.type("echo SIZE sectors=$(cat /sys/block/$(basename $(virtio disk data))/size)")
        line = vm.line("SIZE ", len(vm.serial())).group(0)
        return int(fields(line)["sectors"]) * SECTOR / MIB

    def resize(self, vm, mib):
        vm.cmd("block_resize", device="data", size=mib * MIB)
        wait_for(f"a disk of {mib} MiB in {vm.name}", lambda: self.mib(vm) == mib, 20, 0.2)

    def visit(self, *programs):
        devices = Devices(Disk(self.image(size="40M")), console=False, balloon=False, user=False)
        vm = self.working(devices, *EXTRA[programs[0]], program=programs[0],
                          cpu=HOST_CPU[programs[0]])
        self.assertEqual(self.mib(vm), 40)
        size = 48
        self.resize(vm, size)
        for program in programs[1:]:
            dst, uri = self.destination(*EXTRA[program], program=program, cpu=HOST_CPU[program],
                                        devices=devices, memory=MEMORY)
            size += 8
            self.resize(vm, size)  # the destination has opened the image with another size
            self.move_to(vm, dst, uri, devices)
            vm = dst
            self.assertEqual(self.mib(vm), size)
            size += 8
            self.resize(vm, size)
            self.progress(vm, devices)
        end = self.sh(f"stat -c %s {devices.disks[0].path}")
        self.assertEqual(int(end), size * MIB)
        self.conclude(vm, devices)

    @long
    def test_grows(self):
        self.visit(FERRY, FERRY)

    @long
    def test_grows_qemu(self):
        self.visit(FERRY, QEMU, FERRY)


class Errors(DeviceCase):
    """
    werror=stop: what the guest writes fails for a while. It stands still meanwhile and loses nothing,
    also when it moves with the request that failed.
    """

    def setUp(self):
        super().setUp()
        self.images.append(FILLER)

    def fill(self):
        """No place is left in the host's file system."""
        self.sh(f"avail=$(df -Pk /disk | awk 'NR == 2 {{ print $4 }}'); "
                f"fallocate -l $((avail * 1024)) {FILLER}; "
                f"dd if=/dev/zero of={FILLER}.more bs=1M 2>/dev/null; "
                f"dd if=/dev/zero of={FILLER}.rest bs=4k 2>/dev/null; sync; df -k /disk", 60)

    def free(self):
        self.sh(f"rm -f {FILLER} {FILLER}.more {FILLER}.rest", 60)

    def stopped(self, vm, enospc):
        """Until the disk has stopped the guest; what it says of that."""
        event = vm.qmp.wait_event("BLOCK_IO_ERROR", 30)["data"]
        self.assertEqual((event["operation"], event["action"], event["nospace"]),
                         ("write", "stop", enospc), event)
        vm.wait_state("io-error")

    def write(self, devices, *extra, **options):
        """
        A working guest that has begun to write files of known content, BIG_MIB each, to places that
        were never written. It needs no input for that: what a source has not read stays behind.
        """
        vm = self.working(devices, *extra, **options)
        vm.type(f"head -c {BIG_MIB * MIB} /dev/urandom >/tmp/big; echo BIG ready; "
                f"for i in $(seq {BIGS}); do sleep 1; "
                "dd if=/tmp/big of=/disk/big$i bs=256k conv=fsync 2>/dev/null || echo BIG status=$?; "
                "done; echo 3 >/proc/sys/vm/drop_caches; "
                "for i in /disk/big*; do cmp /tmp/big $i && echo BIG same $i; done; echo BIG done")
        vm.line("BIG ready", timeout=30)
        return vm

    def written(self, *vms):
        """It has been written after all, and is what was to be written."""
        vms[-1].line("BIG done", timeout=60)
        said = "".join(vm.serial() for vm in vms)
        self.assertEqual(len(set(re.findall(r"(?m)^BIG same .*", said))), BIGS, said[-500:])
        self.assertNotIn("BIG status", said)
        self.mark("written")

    def full(self, *programs):
        devices = Devices(Disk(self.image(), options="cache=none,werror=stop,rerror=stop"),
                          user=False, balloon=False)
        self.addCleanup(lambda: self.outer.alive and self.free())
        vm = self.write(devices, *EXTRA[programs[0]], program=programs[0],
                        cpu=HOST_CPU[programs[0]])
        self.fill()
        self.stopped(vm, True)
        self.assertEqual(self.io_status(vm), "nospace")
        vm.cmd("cont")  # tries again, and fails again
        self.stopped(vm, True)
        for program in programs[1:]:
            dst, uri = self.destination(*EXTRA[program], program=program, cpu=HOST_CPU[program],
                                        devices=devices, memory=MEMORY)
            migrate.set_capabilities(vm, return_path=True)
            migrate.start(vm, uri)
            migrate.wait_status(vm, "completed")
            dst.wait_state("io-error")
            vm.quit()
            before, vm = vm, dst
            dst.cmd("cont")
            self.stopped(dst, True)
        self.mark("full")
        self.free()
        vm.cmd("cont")
        self.written(before, vm)
        self.progress(vm, devices, before)
        self.check_well(vm)
        self.conclude(vm, devices)

    def io_status(self, vm):
        return vm.cmd("query-block")[0]["io-status"]

    @long
    def test_full(self):
        self.full(FERRY, FERRY)

    @long
    def test_full_qemu(self):
        self.full(FERRY, QEMU, FERRY)

    @long
    def test_full_newer(self):
        self.need_newer()
        self.full(FERRY, NEWER_QEMU, FERRY)

    @long
    def test_broken(self):
        """The disk fails, `cont` tries again, and once it works the guest goes on and moves."""
        devices = Devices(Disk(self.image(), options="cache=none,werror=stop,rerror=stop"),
                          user=False, balloon=False)
        switch = f"{self.folder}/fail"
        vm = self.write(devices, env={"FERRY_FAIL_BLOCK": switch})
        self.sh(f"echo write >{switch}")
        for _ in range(3):
            self.stopped(vm, False)
            self.assertEqual(self.io_status(vm), "failed")
            vm.cmd("cont")
        self.stopped(vm, False)
        self.sh(["rm", switch])
        vm.cmd("cont")
        self.written(vm)
        self.progress(vm, devices)
        vm, _done = self.move_on(vm, devices)
        self.conclude(vm, devices)
