# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that are no rows of programs: a start, an idle machine's memory, a huge guest's bitmaps, limits."""

import json
import os
import statistics
import subprocess
import time

from limit import limit
from measure import Failed
from virtio import blk, blk_direct, blk_threads, net

START_S = 30.0
IDLE_S = 1.0
MEMORY = 64  # MiB
BITMAPS = [("1 % dirty in runs of 64 pages", 64), ("1 % dirty, pages at random", 1)]


def _resident_kib(vm, ram_path):
    """Resident memory of the process, and of that the guest's."""
    total = guest = 0
    mine = False
    with open(f"/proc/{vm.process.pid}/smaps", encoding="utf-8", errors="replace") as f:
        for line in f:
            if "-" in line.split(" ", 1)[0]:
                mine = line.rstrip("\n").endswith(ram_path)
            elif line.startswith("Rss:"):
                kib = int(line.split()[1])
                total += kib
                guest += kib if mine else 0
    return total, guest


def _start(bench, program):
    """One start: ms from just before the exec to the first KVM_RUN, then what lies in memory."""
    stamp = bench.place.path("first-run")
    library = os.path.join(bench.args.build_dir, "tests", "bench", "libfirst-run.so")
    if os.path.exists(stamp):
        os.unlink(stamp)
    begun = time.monotonic_ns()
    vm = bench.start(binary=program, memory=MEMORY, ram="shm", smp=1, guest="idle=1",
                     machine="pit=on,pic=on,rtc=on,isa-serial=on", wait=False,
                     env={"LD_PRELOAD": os.path.abspath(library), "FIRST_RUN": stamp})
    try:
        begun = max(begun, getattr(vm, "started_ns", 0))
        vm.connect()
        end = time.monotonic() + START_S
        while not os.path.exists(stamp) or not os.path.getsize(stamp):
            if time.monotonic() > end:
                raise Failed(f"{program} has not run a vCPU within {START_S:.0f} s")
            time.sleep(0.005)
        with open(stamp, encoding="ascii") as f:
            first_ms = (int(f.read()) - begun) / 1e6
        time.sleep(IDLE_S)
        total, guest = _resident_kib(vm, vm.ram_path)
        return {"first_run_ms": first_ms, "rss_mib": (total - guest) / 1024}
    finally:
        bench.place.end(vm)
        bench.place.machines.clear()


def start(bench):
    """From exec to the first KVM_RUN with the same firmware; memory of an idle VMM beyond the guest's."""
    programs = {name: path for name, path in bench.programs.items() if os.access(path, os.X_OK)}
    samples = {name: [] for name in programs}
    for _ in range(bench.args.n):
        for name, path in programs.items():
            samples[name].append(_start(bench, path))
    rows = {name: {key: statistics.median(s[key] for s in taken) for key in taken[0]}
            for name, taken in samples.items()}
    if "qemu" in rows:
        rows["Ferry/QEMU"] = {key: rows["ferry"][key] / rows["qemu"][key] for key in rows["ferry"]}
    return rows


def bitmaps(bench):
    """A round of a simulated guest of 512 GiB in bitmaps alone, without the ioctls (ms)."""
    rows = {}
    for title, run in BITMAPS:
        said = subprocess.run([os.path.join(bench.args.build_dir, "tests", "bench", "bitmap"), "512",
                               "10", str(run), str(max(9, bench.args.n))], capture_output=True,
                              text=True, timeout=300, check=True).stdout
        figures = json.loads(said)
        rows[title] = {key: figures[key] for key in ("merge_ms", "walk_ms", "round_ms")}
    return rows


VIRTIO = {"blk": blk, "blk-threads": blk_threads, "blk-direct": blk_direct, "net": net}
FIGURES = {"start": start, "bitmaps": bitmaps, "limit": limit, **VIRTIO}


def lines(name, rows):
    """For people."""
    heads = list(next(iter(rows.values())))
    yield f"\n{name}: {FIGURES[name].__doc__}"
    yield f"  {'':<32}" + "".join(f"{head:>14}" for head in heads)
    for title, row in rows.items():
        yield f"  {title:<32}" + "".join(f"{row[head]:>14.2f}" for head in heads)


def markdown(name, rows):
    """For docs/performance.md."""
    heads = list(next(iter(rows.values())))
    text = [f"**{name}**: {FIGURES[name].__doc__}", "", "| | " + " | ".join(heads) + " |",
            "|---|" + "--:|" * len(heads)]
    text += [f"| {title} | " + " | ".join(f"{row[h]:.2f}" for h in heads) + " |"
             for title, row in rows.items()]
    return "\n".join(text) + "\n"
