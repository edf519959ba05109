# SPDX-License-Identifier: GPL-2.0-or-later
"""
Stock Linux with its virtio devices moves while it works with all of them: files it writes and reads
back, downloads through user networking and a tap, random numbers, a port and a console, a balloon.
"""

from devicecase import DeviceCase, Devices, Disk, MEMORY
from ferrytest import wait_for
from labcase import EXTRA, FERRY, HOST_CPU, NEWER_QEMU, QEMU, long, migrate
from labmachine import fields

MOVES = 10
MIB = 1 << 20


class Load(DeviceCase):
    """Between two Ferries."""

    def moves(self, legacy, moves=1, **options):
        devices = Devices(Disk(self.image()), legacy=legacy)
        vm = self.working(devices, **options)
        for _ in range(moves):
            vm, _done = self.move_on(vm, devices, **options)
        self.conclude(vm, devices)

    def test_modern(self):
        self.moves(legacy=False)

    @long
    def test_legacy(self):
        self.moves(legacy=True)

    @long
    def test_two_cpus(self):
        self.moves(legacy=False, smp=2)

    @long
    def test_ten_moves(self):
        self.moves(legacy=False, moves=MOVES, smp=2)

    @long
    def test_memory_too(self):
        """memtester and stress-ng work on memory, stress-ng on the disk too."""
        devices = Devices(Disk(self.image(size="64M")))
        options = {"initrd": "stress", "memory": 256, "smp": 2}
        vm = self.working(devices, **options)
        vm.type("MEMTESTER_TEST_MASK=0x3 memtester 4M 1000 >/tmp/mem 2>&1 & "
                "stress-ng --vm 1 --vm-bytes 4M --vm-keep --hdd 1 --hdd-bytes 2M --verify "
                "--temp-path /disk -t 600 >/tmp/stress 2>&1 & while ! grep -q Loop /tmp/mem || "
                "! pidof stress-ng >/dev/null; do sleep 1; done; echo STRESS runs")
        vm.line("STRESS runs", timeout=40)
        vm, _done = self.move_on(vm, devices, parameters={"downtime_limit": 3000}, **options)
        vm.type("killall -INT stress-ng; while pidof stress-ng >/dev/null; do sleep 1; done; "
                "pidof memtester >/dev/null && echo MEMTESTER runs; killall memtester; "
                "grep -aiE 'fail|error' /tmp/stress /tmp/mem | grep -v 'failed: 0'; "
                "echo STRESS done")
        end = vm.line("STRESS done", timeout=40)
        said = vm.serial()[:end.start()]
        self.assertIn("MEMTESTER runs", said)
        self.assertNotRegex(said, r"(?i)(/tmp/stress|/tmp/mem):.*(fail|error)")
        self.conclude(vm, devices)


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


class Balloon(DeviceCase):
    """Memory that the guest has given back stays given back, and comes again when it may."""

    def wait_size(self, vm, mib):
        wait_for(f"the balloon of {vm.name} at {mib} MiB",
                 lambda: vm.cmd("query-balloon")["actual"] == mib * MIB, 30, 0.1)

    @long
    def test_moves(self):
        devices = Devices(Disk(self.image()), user=False, tap=False, console=False, rng=False,
                          balloon=True)
        vm = self.working(devices)
        self.wait_size(vm, MEMORY)
        vm.cmd("balloon", value=(MEMORY - 40) * MIB)
        self.wait_size(vm, MEMORY - 40)
        vm, _done = self.move_on(vm, devices)
        self.wait_size(vm, MEMORY - 40)
        vm.cmd("balloon", value=MEMORY * MIB)
        self.wait_size(vm, MEMORY)
        self.conclude(vm, devices)


class PostCopy(DeviceCase):
    """The guest leaves in the first round; its devices need memory that is still on its way."""

    def switch(self, preempt):
        devices = Devices(Disk(self.image()))
        src = self.working(devices, smp=2)
        capabilities = {"postcopy_ram": True, "postcopy_preempt": preempt}
        dst, uri = self.destination(devices=devices, memory=MEMORY, smp=2,
                                    capabilities=capabilities)
        migrate.set_capabilities(src, return_path=True, **capabilities)
        migrate.start(src, uri, max_bandwidth=8 * MIB, max_postcopy_bandwidth=8 * MIB)
        migrate.wait_status(src, "active")
        src.cmd("migrate-start-postcopy")
        migrate.wait_status(src, "postcopy-active")
        begun = self.latest(src, r"FILES \d+ ")
        vm_said = self.next(dst, r"FILES \d+ ", 1)  # it works while its memory comes
        self.assertGreaterEqual(int(vm_said["written"]), int(begun["written"]))
        migrate.set_parameters(src, max_postcopy_bandwidth=0)
        done = migrate.finish(src, dst)
        self.progress(dst, devices, src)
        src.quit()
        self.check_well(dst)
        self.note(f"{done['total-time']} ms, downtime {done['downtime']} ms, "
                  f"{done['ram']['postcopy-requests']} pages were asked for")
        self.conclude(dst, devices)

    @long
    def test_switch(self):
        self.switch(preempt=False)

    @long
    def test_preempt(self):
        self.switch(preempt=True)


class Interop(DeviceCase):
    """Ferry, QEMU, Ferry: all five devices, under load."""

    def visit(self, *programs, legacy, **options):
        devices = Devices(Disk(self.image()), legacy=legacy)
        vm = self.working(devices, *EXTRA[programs[0]], program=programs[0],
                          cpu=HOST_CPU[programs[0]], **options)
        for program in programs[1:]:
            vm, _done = self.move_on(vm, devices, *EXTRA[program], program=program,
                                     cpu=HOST_CPU[program], **options)
        self.conclude(vm, devices)

    def test_legacy(self):
        self.visit(FERRY, QEMU, FERRY, legacy=True)

    @long
    def test_modern(self):
        self.visit(FERRY, QEMU, FERRY, legacy=False)

    @long
    def test_newer(self):
        if "yes" not in self.sh(f"[ ! -e {NEWER_QEMU} ] || echo yes"):
            self.skipTest(f"There is no newer QEMU than {QEMU}")
        self.visit(FERRY, NEWER_QEMU, FERRY, legacy=False)
