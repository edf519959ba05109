#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The third process: sees a guest leave one memory file and appear in another.

    watcher.py SOURCE-MEMORY DESTINATION-MEMORY

Polls the workload guest's sign of life (mailbox, `loops` of each vCPU) in both files and notes, by
the host's monotonic clock, when it last changed on the source and when it first changed on the
destination. Copies that migration writes into the destination are no signs: they are never
newer than what the source shows; a guest that runs there is. Says "ready" when it looks, and prints
one JSON object when every vCPU was seen on the destination, or when its standard input ends.
"""

import json
import mmap
import os
import select
import sys
import time

import place  # noqa: F401  the path of guest_mailbox
from guest_mailbox import ADDR, DEFINES, STRUCTS

POLL_S = 0.0002
STDIN_EVERY = 64  # polls between looks at standard input


def field(cpu, name):
    """Index of a vCPU's mailbox field among the 64-bit words of memory."""
    offset = ADDR + DEFINES["MAILBOX_CPU_OFF"] + cpu * DEFINES["MAILBOX_CPU_SIZE"]
    return offset // 8 + STRUCTS["mailbox_cpu"].index(name)


def words(path):
    with open(path, "rb") as f:
        length = ADDR + DEFINES["MAILBOX_SIZE"]
        return memoryview(mmap.mmap(f.fileno(), length, prot=mmap.PROT_READ)).cast("Q")


class Cpu:
    def __init__(self, index, src):
        self.loops_at = field(index, "loops")
        self.clock_at = field(index, "clock_ns")
        self.loops = src[self.loops_at]
        self.last = self.last_clock = None  # on the source
        self.first = self.first_clock = None  # on the destination

    def look(self, src, dst, now):
        # the destination first: between the two looks the source may go on and be copied
        copied = dst[self.loops_at]
        loops = src[self.loops_at]
        if loops != self.loops:
            self.loops = loops
            self.last = now
            self.last_clock = src[self.clock_at]
        elif self.last and copied > loops:
            self.first = now
            self.first_clock = dst[self.clock_at]


def main():
    src, dst = words(sys.argv[1]), words(sys.argv[2])
    cpus = [Cpu(i, src) for i in range(src[ADDR // 8 + STRUCTS["mailbox_header"].index("cpus")])]
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        priority = "real-time"
    except OSError:
        priority = "ordinary"
    print("ready", flush=True)

    polls = 0
    longest = 0
    begun = before = time.monotonic_ns()
    while any(cpu.first is None for cpu in cpus):
        now = time.monotonic_ns()
        for cpu in cpus:
            if cpu.first is None:
                cpu.look(src, dst, now)
        longest = max(longest, now - before)
        before = now
        polls += 1
        if polls % STDIN_EVERY == 0 and select.select([0], [], [], 0)[0] and not os.read(0, 1):
            break
        time.sleep(POLL_S)
    print(json.dumps({
        "cpus": [[c.last, c.first, c.last_clock, c.first_clock] for c in cpus],
        "poll_ns": (time.monotonic_ns() - begun) // max(polls, 1),
        "longest_poll_ns": longest,
        "priority": priority,
    }), flush=True)


if __name__ == "__main__":
    main()
