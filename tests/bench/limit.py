# SPDX-License-Identifier: GPL-2.0-or-later
"""
How well max-bandwidth is kept: what has left between the events `active` and `completed`, over
several limits and both kinds of socket. The guest is idle, so all of it leaves in one round; the
downtime-limit is small, so that next to nothing is left for the pause, which no limit slows down.
"""

import os
import statistics

from cases import Case
from measure import MIB, listen, stamp, start, wait_completed

LIMITS = [32, 128, 512]  # MiB/s
TRANSPORTS = ["unix", "tcp"]
SECONDS = 2  # of one run, about
MEMORY = 32, 1024  # MiB, least and most
DOWNTIME_MS = 10


def _case(transport, limit):
    memory = min(max(limit * SECONDS, MEMORY[0]), MEMORY[1])
    return Case("limit", "", memory=memory, transport=transport, bandwidth=limit * MIB,
                downtime_ms=DOWNTIME_MS)


def _deviation(bench, program, case):
    """Of one run, percent of the limit; below 0: slower than allowed."""
    bench.memory.prepare(case)
    try:
        src = start(bench.start, program, case, bench.memory.src, False)
        src.guest.wait_ready(timeout=120)
        dst = start(bench.start, program, case, bench.memory.dst, True)
        src.cmd("migrate", uri=listen(dst, case))
        wait_completed(src)
        at = {e["data"]["status"]: stamp(e) for e in src.qmp.events if e["event"] == "MIGRATION"}
        sent = src.cmd("query-migrate")["ram"]["transferred"]
        return (sent / (at["completed"] - at["active"]) / case.bandwidth - 1) * 100
    finally:
        for vm in bench.place.machines:
            vm.ram_path = None  # the files are used again
            bench.place.end(vm)
        bench.place.machines.clear()


def limit(bench):
    """How far the rate is from max-bandwidth, percent; idle guest, rounds of about two seconds."""
    programs = {name: path for name, path in bench.programs.items() if os.access(path, os.X_OK)}
    rows = {}
    for transport in TRANSPORTS:
        for mib in LIMITS:
            case = _case(transport, mib)
            taken = {name: [] for name in programs}
            for _ in range(bench.args.n):
                for name, path in programs.items():
                    taken[name].append(_deviation(bench, path, case))
            rows[f"{transport}, {mib} MiB/s"] = {
                key: value for name, all_of_it in taken.items()
                for key, value in ((name, statistics.median(all_of_it)),
                                   (f"{name} worst", max(all_of_it, key=abs)))}
    return rows
