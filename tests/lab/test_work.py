# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux works while it moves: tested memory, dirtied memory, registers of every kind."""

import re

from labcase import LabCase, long, migrate
from labmachine import fields

MEMORY = 224  # MiB; half of it must hold the unpacked initrd, stress-ng is the largest


class Work(LabCase):
    def test_memtester(self):
        """memtester writes and verifies memory without a pause, on both sides of the move."""
        job = "MEMTESTER_TEST_MASK=0x3 memtester 12M 100 >/tmp/log 2>&1 & ticker 20 500 &"
        src = self.machine(job=job, memory=MEMORY).wait_up()
        src.ticks(2)
        src.type("while ! grep -q '^Loop 2' /tmp/log; do sleep 1; done; echo MEMTESTER runs")
        src.line("MEMTESTER runs", timeout=40)
        dst, uri = self.destination(memory=MEMORY)
        # it dirties 12 MiB all the time: the guest stops with about that much to send
        self.move(src, dst, uri, downtime_limit=2000)
        self.check_well(dst)
        dst.type("echo LOOPS $(tr '\\b' '\\n' </tmp/log | grep -c ^Loop)")
        before = int(re.search(r"LOOPS (\d+)", dst.line("LOOPS ").group(0)).group(1))
        dst.type(f"while [ $(tr '\\b' '\\n' </tmp/log | grep -c ^Loop) -lt {before + 2} ]; do sleep 1; "
                 "done; grep -aic failure /tmp/log; pidof memtester && echo VERIFIED")
        after = dst.line("VERIFIED", timeout=60)
        self.assertIn("\n0\n", dst.serial()[:after.start()])
        self.check_well(dst)

    def test_stress(self):
        """stress-ng dirties memory from several processes and verifies it."""
        job = ("ticker 20 500 & stress-ng --vm 2 --vm-bytes 8M --vm-keep --verify --fork 1 --timer 1 "
               "--timer-freq 100 -t 600 --metrics >/tmp/log 2>&1 &")
        src = self.machine(job=job, memory=MEMORY, smp=2, initrd="stress").wait_up()
        src.ticks(2)
        src.type("while ! pidof stress-ng >/dev/null; do sleep 1; done; sleep 1; echo STRESS runs")
        src.line("STRESS runs", timeout=40)
        dst, uri = self.destination(memory=MEMORY, smp=2)
        done = self.move(src, dst, uri, downtime_limit=2000)
        self.check_well(dst)
        self.note(f"{done['ram']['dirty-sync-count']} rounds, {done['ram']['normal']} pages, "
                  f"{done['total-time']} ms, downtime {done['downtime']} ms")
        dst.ticks(4)
        dst.type("killall -INT stress-ng; while pidof stress-ng >/dev/null; do sleep 1; done; "
                 "grep -aiE 'fail|error|unsuccess' /tmp/log | grep -v 'unsuccess.*0' ; echo STRESS done")
        end = dst.line("STRESS done", timeout=40)
        said = dst.serial()[:end.start()]
        self.assertNotRegex(said, r"stress-ng: (fail|error)")
        self.check_well(dst)

    def moves_with_registers(self, **options):
        src = self.machine(job="ticker 20 500 & vectors 500 &", smp=2, **options).wait_up()
        avx = fields(src.line("VECTORS ").group(0))["avx"]
        dst, uri = self.destination(smp=2, **options)
        self.move(src, dst, uri)
        self.check_well(dst)
        self.check_vectors(dst)
        return avx

    @long
    def test_registers_host(self):
        avx = self.moves_with_registers(cpu="host")
        self.assertEqual(avx, "1" if self.outer.emulator.has_avx else "0")

    @long
    def test_registers_max_without_avx(self):
        self.assertEqual(self.moves_with_registers(cpu="max,-avx"), "0")
