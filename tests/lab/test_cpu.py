# SPDX-License-Identifier: GPL-2.0-or-later
"""
State of the CPU that bare test guests do not have: vector registers hold what they held, model-
specific registers are the same after a move, as the guest itself reads them, and the section `cpu`
of a stock Linux's stream has the subsections that cpusubsections.py says.
"""

import re
import sys

from cpusubsections import LIVE, REFUSED, WIRE, names
from labcase import LabCase, long, migrate

sys.dont_write_bytecode = True
import streamdecode  # noqa: E402

JOB = "insmod /lib/msr.ko allow_writes=on; msrs set; ticker 50 500 & vectors 500 &"
# Linux would put the TSC adjustment back; it does not where it does not trust the TSC anyway.
APPEND = "tsc=unstable"
# Written by `msrs set`, to be found in the guest: index -> value.
WRITTEN = {"3b": 0x12345, "20e": 0x40000006, "4b564d05": 0}
# KVM for AMD keeps 32 bits of these, the emulated CPU 64, and the first reading is the CPU's.
HALF = ("175", "176")
CPUS = 2


class Cpu(LabCase):
    def guest(self, **options):
        vm = self.machine(job=JOB, append=APPEND, smp=CPUS, shared=True, **options).wait_up()
        vm.line("MSRS done")
        vm.line("VECTORS 1 ")
        return vm

    def registers(self, vm):
        """{(cpu, hexadecimal index): value} as the guest reads them."""
        start = end = len(vm.serial())
        for _ in range(2):  # other programs write too, and a line may be torn
            vm.type("msrs show")
            end = vm.line("MSRS done", end).end()
        return {(cpu, index): int(value, 16) & (0xffffffff if index in HALF else ~0)
                for cpu, index, value in re.findall(
                    r"^MSR cpu=(\d+) index=(\w+) value=(\w+)$", vm.serial()[start:end], re.M)}

    def subsections(self, vm, name):
        """[names without "cpu/"] of each vCPU of a guest that is stopped for it."""
        vm.cmd("stop")
        migrate.set_capabilities(vm, x_ignore_shared=True, return_path=False)
        inside = f"{self.folder}/{name}"
        vm.cmd("migrate", uri=f"exec:cat >{inside}")
        migrate.wait_status(vm, "completed")
        path = self.log(f"{name}.stream")
        with open(path, "wb") as f:
            f.write(self.outer.link.get(inside))
        stream = streamdecode.load(path)
        self.assertIsNone(stream.error)
        return [[one.name[len("cpu/"):] for one in stream.section(section).subsections]
                for section in ("cpu", "cpu#1")]

    def check_subsections(self, found):
        for cpu, have in enumerate(found):
            self.note(f"cpu {cpu}: {' '.join(have)}")
        seen = set().union(*found)
        self.assertEqual([name for name in names(LIVE) if name not in seen], [],
                         "Said to be live, but not seen")
        self.assertEqual([name for name in names(WIRE, REFUSED) if name in seen], [],
                         "Seen here, so it is live")

    def moves(self, **options):
        src = self.guest(**options)
        before = self.registers(src)
        for cpu in map(str, range(CPUS)):
            self.assertEqual({index: before.get((cpu, index)) for index in WRITTEN}, WRITTEN)
            # what Linux itself has set up: system call, clocks, stolen time, asynchronous faults
            for index in ("c0000082", "4b564d01", "4b564d03", "4b564d02"):
                self.assertNotEqual(before[cpu, index], 0, index)
        dst, uri = self.destination(smp=CPUS, shared=True, **options)
        self.move(src, dst, uri)
        self.check_well(dst)
        self.check_vectors(dst, CPUS)
        self.assertEqual(self.registers(dst), before)
        self.note(f"{len(before)} registers are the same after the move")
        return self.subsections(dst, "after")

    def test_host(self):
        self.check_subsections(self.moves(cpu="host"))

    @long
    def test_max(self):
        self.check_subsections(self.moves(cpu="max"))
