# SPDX-License-Identifier: GPL-2.0-or-later
"""
One post-copy, measured from outside and by the guest. Nothing is asked of either program between
the switch and the end.

  post     from the command migrate-start-postcopy until both sides have said `completed`
  pause    from the source's STOP to the destination's RESUME, by the time stamps in these events
  seen     the same as a third process sees it: from the guest's last sign of life on the source to
           its first on the destination, which takes the pages that it needs for that
  work     pages that the guest wrote in the second after that first sign
  faults   pages that the destination asked for, as the source counts them
  stall    how long the guest waited for a page it was about to write, by its own TSC: of all touches
           after the switch the slowest, as many as there were faults (what a touch takes without any
           overlaps with the fastest faults); median and 99th percentile

The destination's memory is new, and the host's pages were touched and given back just before, so
that neither program pays for a first touch that the other does not. Source and destination have
shared memory (a file in /dev/shm; for 2 MiB pages memory-backend-memfd), which every program can
post-copy and the bench can look into. It looks with pread(): a mapping would make the missing pages
it reads present, and the guest would get zeroes.
"""

import json
import mmap
import os
import statistics
import subprocess
import time

from cases import RECOVER_BANDWIDTH
from host import OtherLoad
from measure import Failed, MIB, Memory, last_event, process_cpu_s, stamp
from watch import Switch, loops

HUGE = 2 * MIB
HUGE_DIR = "/sys/kernel/mm/hugepages/hugepages-2048kB"
MAP_HUGETLB = 0x40000
MIGRATE_S = 60.0
VERIFY_S = 120.0
RECONNECT_MS = 10
# A guest that gives no sign of life for so long waits for a page.
STILL_S = 0.1
STILL_LIMIT_S = 10.0
LOOK_S = 0.0002


class Missing(Failed):
    """This host lacks what the case needs."""


# ---- memory ----

BACKENDS = {
    "private": "memory-backend-ram",
    "shared": "memory-backend-file,share=on,mem-path={path}",
    "huge": "memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M",
}

def _read(name):
    with open(os.path.join(HUGE_DIR, name), encoding="ascii") as f:
        return int(f.read())


class HugePages:
    """Reserves so many for the time of a case; Missing when the host has no room for them."""

    def __init__(self, mebibytes):
        self.wanted = mebibytes * MIB // HUGE
        self.before = None

    def __enter__(self):
        try:
            self.before = _read("nr_hugepages")
            short = self.wanted - _read("free_hugepages")
            if short > 0:
                self._set(self.before + short)
            if _read("free_hugepages") < self.wanted:
                raise Missing(f"{self.wanted} huge pages of 2 MiB are needed and "
                              f"{_read('free_hugepages')} are free")
        except OSError as wrong:
            raise Missing(f"Huge pages cannot be reserved: {wrong}") from None
        return self

    def __exit__(self, *_):
        if self.before is not None:
            self._set(self.before)

    @staticmethod
    def _set(count):
        with open(os.path.join(HUGE_DIR, "nr_hugepages"), "w", encoding="ascii") as f:
            f.write(str(count))


def warm(mebibytes, huge=False):
    """Touches so much memory and gives it back."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE | (MAP_HUGETLB if huge else 0)
    mmap.mmap(-1, mebibytes * MIB, flags=flags).close()


# ---- a run ----

def start(machine, program, case, path, incoming):
    """`program`: (path, arguments, environment)."""
    binary, arguments, env = program
    backend = BACKENDS[case.kind].format(path=path)
    vm = machine(*arguments, "-object", f"{backend},id=ram0,size={case.memory}M",
                 "-machine", "memory-backend=ram0", binary=binary, env=env,
                 machine="pit=on,pic=on,rtc=on,isa-serial=on", memory=case.memory, smp=1,
                 guest=case.guest, peek=True, incoming="defer" if incoming else None)
    vm.ram_path = path if case.kind == "shared" else None
    vm.cmd("migrate-set-capabilities", capabilities=[
        {"capability": name, "state": True} for name in
        ("events", "return-path", "postcopy-ram") + (("postcopy-preempt",) if case.preempt else ())])
    vm.cmd("migrate-set-parameters", max_bandwidth=case.bandwidth,
           max_postcopy_bandwidth=RECOVER_BANDWIDTH if case.recover else 0,
           downtime_limit=case.downtime_ms)
    return vm


def wait_round(src, number):
    while True:
        event = src.qmp.wait_event("MIGRATION_PASS", timeout=MIGRATE_S)
        if event["data"]["pass"] >= number:
            return


def wait_completed(vm, pauses=False):
    """The event, with its time, and what came before it."""
    seen = []
    while True:
        event = vm.qmp.wait_event("MIGRATION", timeout=MIGRATE_S)
        seen.append(event["data"]["status"])
        if seen[-1] == "completed":
            return event, seen
        if seen[-1] in ("failed", "cancelled") or seen[-1] == "postcopy-paused" and not pauses:
            raise Failed(f"{seen[-1]}: {vm.cmd('query-migrate').get('error-desc', 'no reason given')}")


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def stalls(src, dst, faults):
    """Microseconds, of the slowest touches on the destination."""
    found = []
    for cpu in range(dst.guest.box.header["cpus"]):
        before = src.guest.box.stall_totals(cpu)["count"]
        found += [s["took_ns"] / 1e3 for s in dst.guest.box.stalls(cpu, before)]
    return sorted(found, reverse=True)[:faults]


def measure(machine, programs, case, memory):
    """As measure.measure()."""
    memory.prepare(case)
    if case.recover:
        return recover(machine, programs, case, memory)
    src = start(machine, programs[0], case, memory.src, False)
    src.guest.wait_ready(timeout=120)
    warm(case.memory, case.kind == "huge")
    dst = start(machine, programs[1], case, memory.dst, True)
    uri = f"unix:{dst.base}.move"
    dst.cmd("migrate-incoming", uri=uri)
    if case.kind != "huge":
        warm(2 * case.memory)

    watcher = Switch(src.guest.box.memory, dst.guest.box.memory)
    other = OtherLoad()
    all_before = process_cpu_s(src.process.pid) + process_cpu_s(dst.process.pid)
    src.cmd("migrate", uri=uri)
    wait_round(src, 1 if case.early else 2)
    begun = time.time()
    src.cmd("migrate-start-postcopy")
    here, here_saw = wait_completed(src)
    there, _ = wait_completed(dst)
    if "postcopy-active" not in here_saw:
        raise Failed("The migration ended before it came to the switch")
    post = max(stamp(there), stamp(here)) - begun
    own = process_cpu_s(src.process.pid) + process_cpu_s(dst.process.pid) - all_before
    others = other.share(own)
    seen = watcher.result()
    if not seen:
        raise Failed("The guest was not seen on both sides")
    pause_seen, work = seen

    info = src.cmd("query-migrate")
    faults = info["ram"]["postcopy-requests"]
    waits = stalls(src, dst, faults)
    bad = dst.guest.verify(timeout=VERIFY_S)
    if bad:
        raise Failed(f"{bad} corrupted words")
    figures = {
        "post_ms": post * 1e3,
        "pause_ms": (stamp(last_event(dst, "RESUME")) - stamp(last_event(src, "STOP"))) * 1e3,
        "seen_ms": pause_seen,
        "first_work": work,
        "faults": faults,
        "others": others,
    }
    if waits:
        figures |= {"stall_p50_us": statistics.median(waits), "stall_p99_us": percentile(waits, 0.99),
                    "stall_max_us": max(waits)}
    return figures


def wait_status(vm, status):
    while True:
        have = vm.qmp.wait_event("MIGRATION", timeout=MIGRATE_S)["data"]["status"]
        if have == status:
            return
        if have in ("completed", "failed", "cancelled"):
            raise Failed(f"{have}: {vm.cmd('query-migrate').get('error-desc', 'no reason given')}")


def wait_still(memory):
    """Until the guest waits for a page; what it had counted."""
    end = time.monotonic() + STILL_LIMIT_S
    while time.monotonic() < end:
        count = loops(memory)
        time.sleep(STILL_S)
        if loops(memory) == count:
            return count
    raise Failed("The guest does not come to a page that is missing")


def recover(machine, programs, case, memory):
    """
    back: from the moment in which the link can be connected to again until the guest has moved on.
    The link is a name in the file system that is not there for a while.
    """
    src = start(machine, programs[0], case, memory.src, False)
    src.guest.wait_ready(timeout=120)
    dst = start(machine, programs[1], case, memory.dst, True)
    uri, again, name = (f"{dst.base}.{part}" for part in ("move", "again", "link"))
    src.cmd("migrate-set-parameters", reconnect_addresses=[f"unix:{name}"],
            reconnect_interval=RECONNECT_MS)
    dst.cmd("migrate-set-parameters", reconnect_listen=f"unix:{again}")
    dst.cmd("migrate-incoming", uri=f"unix:{uri}")
    other = OtherLoad()
    all_before = process_cpu_s(src.process.pid) + process_cpu_s(dst.process.pid)
    src.cmd("migrate", uri=f"unix:{uri}")
    wait_round(src, 1)
    src.cmd("migrate-start-postcopy")
    wait_status(dst, "postcopy-active")
    time.sleep(STILL_S)
    dst.cmd("migrate-pause")
    wait_status(src, "postcopy-paused")
    there = dst.guest.box.memory
    count = wait_still(there)
    os.symlink(again, name)
    begun = time.monotonic()
    while loops(there) == count:
        if time.monotonic() > begun + MIGRATE_S:
            raise Failed("The guest does not move on")
        time.sleep(LOOK_S)
    back = time.monotonic() - begun
    src.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    wait_completed(src, pauses=True)
    wait_completed(dst, pauses=True)
    own = process_cpu_s(src.process.pid) + process_cpu_s(dst.process.pid) - all_before
    bad = dst.guest.verify(timeout=VERIFY_S)
    if bad:
        raise Failed(f"{bad} corrupted words")
    return {"back_ms": back * 1e3, "others": other.share(own)}


def floor(program, case):
    """Faults of a process that nothing but a second process with the pages stands behind."""
    done = subprocess.run([program, case.kind, str(case.floor_faults)], capture_output=True, text=True,
                          timeout=60, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip())
    return json.loads(done.stdout)


__all__ = ["Memory", "floor", "measure"]
