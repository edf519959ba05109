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
        self.memory_too(2)

    @long
    def test_memory_too_one_cpu(self):
        self.memory_too(1)

    def memory_too(self, smp):
        """memtester and stress-ng work on memory, stress-ng on the disk too."""
        devices = Devices(Disk(self.image(size="64M")))
        options = {"initrd": "stress", "memory": 256, "smp": smp}
        vm = self.working(devices, **options)
        vm.type("MEMTESTER_TEST_MASK=0x3 memtester 4M 1000 >/tmp/mem 2>&1 & "
                "stress-ng --vm 1 --vm-bytes 4M --vm-keep --hdd 1 --hdd-bytes 2M --verify "
                "--temp-path /disk -t 600 >/tmp/stress 2>&1 & while ! grep -q Loop /tmp/mem || "
                "! pidof stress-ng >/dev/null; do sleep 1; done; echo STRESS runs")
        vm.line("STRESS runs", timeout=40)
        self.mark("stress")
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


class Queues(DeviceCase):
    """A tap with a queue for each CPU: a connection of each goes on, and all queues carry frames."""

    def count(self, vm):
        vm.type("virtio queues")
        line = vm.line("QUEUES ", len(vm.serial())).group(0)
        return {k: int(v) for k, v in fields(line).items()}

    def wait_all(self, vm):
        """Each queue has carried something from now on."""
        before = self.count(vm)
        self.assertEqual(set(before), {"rx0", "rx1", "tx0", "tx1"})
        wait_for(f"frames in each queue of {vm.name}; before {before}",
                 lambda: all(n > before[queue] for queue, n in self.count(vm).items()), 20, 0.5)

    def visit(self, *programs, legacy=False):
        devices = Devices(Disk(self.image()), user=False, console=False, balloon=False, queues=2,
                          legacy=legacy)
        vm = self.working(devices, *EXTRA[programs[0]], program=programs[0],
                          cpu=HOST_CPU[programs[0]], smp=2)
        self.wait_all(vm)
        for program in programs[1:]:
            vm, _done = self.move_on(vm, devices, *EXTRA[program], program=program,
                                     cpu=HOST_CPU[program], smp=2)
            self.wait_all(vm)
        self.note(f"{self.count(vm)}")
        self.conclude(vm, devices)

    @long
    def test_two_queues(self):
        self.visit(FERRY, FERRY)

    @long
    def test_two_queues_legacy(self):
        self.visit(FERRY, FERRY, legacy=True)

    @long
    def test_two_queues_qemu(self):
        self.visit(FERRY, QEMU, FERRY)


class PostCopy(DeviceCase):
    """The guest leaves in the first round; its devices need memory that is still on its way."""

    def switch(self, *programs, preempt=False, legacy=False):
        devices = Devices(Disk(self.image()), legacy=legacy)
        vm = self.working(devices, *EXTRA[programs[0]], program=programs[0],
                          cpu=HOST_CPU[programs[0]], smp=2)
        for program in programs[1:]:
            vm = self.switch_to(vm, program, devices, preempt)
        self.conclude(vm, devices)

    def switch_to(self, src, program, devices, preempt):
        capabilities = {"postcopy_ram": True, "postcopy_preempt": preempt}
        dst, uri = self.destination(*EXTRA[program], program=program, cpu=HOST_CPU[program],
                                    devices=devices, memory=MEMORY, smp=2, capabilities=capabilities)
        self.mark("destination")
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
        self.mark("switch")
        self.progress(dst, devices, src)
        src.quit()
        self.check_well(dst)
        self.note(f"{src.name} -> {dst.name}: {done['total-time']} ms, downtime {done['downtime']} ms, "
                  f"{done['ram']['postcopy-requests']} pages were asked for")
        self.mark("goes on")
        return dst

    @long
    def test_switch(self):
        self.switch(FERRY, FERRY)

    @long
    def test_switch_legacy(self):
        self.switch(FERRY, FERRY, legacy=True)

    @long
    def test_preempt(self):
        self.switch(FERRY, FERRY, preempt=True)

    @long
    def test_qemu(self):
        self.switch(FERRY, QEMU, FERRY)

    @long
    def test_newer(self):
        self.need_newer()
        self.switch(FERRY, NEWER_QEMU, FERRY)

    @long
    def test_newer_preempt(self):
        self.need_newer()
        self.switch(FERRY, NEWER_QEMU, FERRY, preempt=True)


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
        self.need_newer()
        self.visit(FERRY, NEWER_QEMU, FERRY, legacy=False)
