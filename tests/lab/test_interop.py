# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux moves between Ferry and QEMU, and its CPU state reads the same in both's streams."""

import os
import re
import subprocess
import sys
import time

from labcase import EXTRA, FERRY, HOST_CPU, NEWER_QEMU, QEMU, SOURCE_DIR, LabCase, long, migrate

DECODER = os.path.join(SOURCE_DIR, "scripts", "stream-decode.py")
# What differs between two streams of a stopped guest, and why.
IGNORED = (
    "mc146818rtc *",  # goes on while the guest is stopped
    "timer cpu_ticks_offset",  # the emulator's, of no use with KVM
    # QEMU reads the running host's value when a guest that it has loaded has never run
    "kvmclock clock",
    # QEMU leaves it out where the transmit interrupt is off; then it says nothing
    "serial *thr_ipending*",
    # KVM for AMD keeps 32 bits of these, the emulated CPU 64, and the first reading is the CPU's
    "cpu* env.sysenter_e?p",
)
JOB = "ticker 20 500 & vectors 500 &"


class Interop(LabCase):
    def place(self, program, cpu=None, **options):
        return {"program": program, "cpu": cpu or HOST_CPU[program], "smp": 2, **options}

    def visit(self, *programs, return_path=True, **options):
        """The guest starts in the first one and visits the others."""
        vm = self.machine(*EXTRA[programs[0]], job=JOB, **self.place(programs[0], **options)).wait_up()
        vm.ticks(2)
        for program in programs[1:]:
            uri = self.uri()
            dst = self.machine(*EXTRA[program], incoming="defer", **self.place(program, **options))
            migrate.set_capabilities(dst, return_path=return_path)
            dst.cmd("migrate-incoming", uri=uri)
            self.move(vm, dst, uri, return_path=return_path)
            vm = dst
            # time does not go back, although towards QEMU the pause is not in it
            self.check_well(dst)
            self.check_vectors(dst)

    def test_there_and_back(self):
        self.visit(FERRY, QEMU, FERRY)

    @long
    def test_there_and_back_without_return_path(self):
        self.visit(QEMU, FERRY, QEMU, FERRY, return_path=False)

    @long
    def test_newer(self):
        self.need_newer()
        self.visit(FERRY, NEWER_QEMU, FERRY)


class Streams(LabCase):
    """One stopped guest, saved by one program, loaded and saved by another, and so on."""

    def save(self, vm, name):
        """Saves without memory, which stays in its file; path of the stream on this host."""
        migrate.set_capabilities(vm, x_ignore_shared=True)
        inside = f"{self.folder}/{name}"
        vm.cmd("migrate", uri=f"exec:cat >{inside}")
        migrate.wait_status(vm, "completed")
        path = self.log(f"{name}.stream")
        with open(path, "wb") as f:
            f.write(self.outer.link.get(inside))
        return path

    def differences(self, one, other):
        """["section field: ONE | OTHER"] but for those in IGNORED."""
        ignored = [word for pattern in IGNORED for word in ("--ignore", pattern)]
        done = subprocess.run([sys.executable, DECODER, "--diff", other, *ignored, one],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120)
        lines = done.stdout.splitlines()
        self.assertRegex(done.stdout, r"\b\d+ differences\n$", done.stderr)
        return lines[:-1]

    def pass_on(self, *programs, cpu):
        """Streams of one guest that was stopped in the first one and has not run since."""
        first = self.machine(job=JOB, smp=2, cpu=cpu[programs[0]], program=programs[0],
                             shared=True).wait_up()
        first.line("VECTORS 2 ")
        time.sleep(0.3)  # just after its line it has nothing in its registers
        first.cmd("stop")
        streams = [self.save(first, "stream0")]
        first.quit()
        for number, program in enumerate(programs[1:], 1):
            vm = self.machine(program=program, smp=2, cpu=cpu[program], shared=first.ram_path,
                              incoming="defer", paused=True)
            migrate.set_capabilities(vm, x_ignore_shared=True)
            vm.cmd("migrate-incoming", uri=f"exec:cat {self.folder}/stream{number - 1}")
            vm.wait_state("paused")
            streams.append(self.save(vm, f"stream{number}"))
            vm.quit()
        return streams

    def check_wide(self, path):
        """The guest had something in its wide registers, so that comparing them means something."""
        if not self.outer.emulator.has_avx:
            return
        done = subprocess.run([sys.executable, DECODER, "--fields", "cpu*", path],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120)
        values = re.findall(r"ZMMReg\[[23]\] = (0x[0-9a-f]+)", done.stdout)
        self.assertTrue([v for v in values if int(v, 16)], done.stdout[-2000:])

    def test_host(self):
        streams = self.pass_on(FERRY, QEMU, FERRY, cpu=HOST_CPU)
        self.check_wide(streams[0])
        for path in streams[1:]:
            self.assertEqual(self.differences(streams[0], path), [])

    @long
    def test_max(self):
        cpu = {FERRY: "max", QEMU: "max,-svm"}
        streams = self.pass_on(QEMU, FERRY, QEMU, cpu=cpu)
        self.check_wide(streams[0])
        for path in streams[1:]:
            self.assertEqual(self.differences(streams[0], path), [])

    @long
    def test_ferry_only(self):
        streams = self.pass_on(FERRY, FERRY, cpu=HOST_CPU)
        self.assertEqual(self.differences(*streams), [])
