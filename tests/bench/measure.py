# SPDX-License-Identifier: GPL-2.0-or-later
"""
One migration, measured from outside: nothing is asked of either program between `migrate` and the
end, both say by events where they are.

  whole    from the command until the source has said `completed` and the destination RESUME
  pause    from the source's STOP to the destination's RESUME, by the time stamps in these events
  claimed  what the source's query-migrate says
  cpu      CPU time of both processes in that time and a little after it, threads that have ended
           included, vCPU threads not
  prepare  CPU time of the destination before it, from its start
  work/s   pages that the guest wrote a second during the move, and in the worst second of it
  ns/page  CPU time of the source for each page that went as what has changed in it (xbzrle), while
           nothing else is sent
"""

import json
import os
import subprocess
import time

from cases import UNLIMITED
from host import OtherLoad
from watch import Asker, Pause, Work

MIB = 1 << 20
CHUNK = 4 * MIB
# After the end: what the programs clean up belongs to the migration.
TRAIL_S = 0.15
# A destination that prepares its memory has done so when it uses no CPU for so long.
QUIET_S = 0.1
QUIET_LIMIT_S = 20.0
MIGRATE_S = 60.0
FIRMWARE_S = 1.0  # finds nothing to boot in this time
# Of the second round, see hold().
HOLD_AFTER_S = 0.15


class Failed(Exception):
    """A run that gave no figures."""


class EndedEarly(Failed):
    """The guest happened to write little for a moment, and rounds that were to go on ended."""


# ---- CPU time ----

def process_cpu_s(pid):
    """Of all its threads, also those that have ended: the process's CPU clock."""
    return time.clock_gettime(~pid << 3 | 2)


def vcpu_cpu_s(vm):
    total = 0
    for cpu in vm.vcpu_threads:
        with open(f"/proc/{vm.process.pid}/task/{cpu}/schedstat", encoding="ascii") as f:
            total += int(f.read().split()[0])
    return total / 1e9


def work_cpu_s(vm):
    return process_cpu_s(vm.process.pid) - vcpu_cpu_s(vm)


def resident_mib(vm):
    """Of the whole process."""
    with open(f"/proc/{vm.process.pid}/status", encoding="ascii", errors="replace") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def wait_quiet(vm):
    end = time.monotonic() + QUIET_LIMIT_S
    before = work_cpu_s(vm)
    while time.monotonic() < end:
        time.sleep(QUIET_S)
        now = work_cpu_s(vm)
        if now - before < QUIET_S / 50:
            return
        before = now
    raise Failed("The destination does not come to rest")


# ---- memory files ----

class Memory:
    """
    Two files in /dev/shm, used again and again: their pages are there, so that the slow and erratic
    first touch of memory on some hosts stays out of the figures. A sparse case wants the opposite.
    """

    def __init__(self, folder):
        self.src = os.path.join(folder, "source.ram")
        self.dst = os.path.join(folder, "destination.ram")

    def prepare(self, case):
        if case.anonymous or case.postcopy and case.kind != "shared":
            return
        for path in (self.src, self.dst):
            new = case.sparse or case.postcopy and path == self.dst
            if new or not os.path.exists(path) or os.path.getsize(path) != case.memory * MIB:
                with open(path, "wb") as f:
                    f.truncate(case.memory * MIB)
        if not case.sparse:
            # the guest writes its own data into the source's; zeroes into the destination's
            if os.stat(self.src).st_blocks * 512 < case.memory * MIB:
                self._fill(self.src, case.memory)
            if not case.postcopy:
                self._fill(self.dst, case.memory)

    @staticmethod
    def _fill(path, mebibytes):
        with open(path, "r+b", buffering=0) as f:
            for _ in range(0, mebibytes * MIB, CHUNK):
                f.write(bytes(min(CHUNK, mebibytes * MIB)))

    def used_mib(self, path):
        return os.stat(path).st_blocks * 512 / MIB


# ---- a run ----

def start(machine, binary, case, ram_path, incoming):
    extra = []
    if case.ask and not incoming:
        ask_path = memory_path_for_ask(ram_path)
        extra = ["-chardev", f"socket,id=ask0,path={ask_path},server=on,wait=off",
                 "-mon", "chardev=ask0,mode=control"]
    memory = ["-object", f"memory-backend-file,id=ram0,size={case.memory}M,mem-path={ram_path},"
              "share=on", "-machine", "memory-backend=ram0"]
    vm = machine(*extra, *([] if case.anonymous else memory), binary=binary,
                 machine="pit=on,pic=on,rtc=on,isa-serial=on", memory=case.memory, smp=1,
                 guest=None if case.anonymous else case.guest,
                 incoming="defer" if incoming else None)
    vm.ram_path = ram_path
    vm.vcpu_threads = [cpu["thread-id"] for cpu in vm.cmd("query-cpus-fast")]
    vm.cmd("migrate-set-capabilities", capabilities=[
        {"capability": "events", "state": True},
        {"capability": "return-path", "state": case.return_path},
        {"capability": "auto-converge", "state": case.converge},
        {"capability": "xbzrle", "state": bool(case.xbzrle)}])
    vm.cmd("migrate-set-parameters", max_bandwidth=case.bandwidth,
           downtime_limit=1 if case.hold else case.downtime_ms)
    if case.xbzrle:
        vm.cmd("migrate-set-parameters", xbzrle_cache_size=case.xbzrle * MIB)
    return vm


def hold(src, case):
    """
    Rounds for a given time; CPU time of the source for each page that went as what has changed in
    it, once nothing else is sent, None without xbzrle. (The second round, of the same pages once
    more as a whole, still goes fast for the most part.)
    """
    def snap():
        info = src.cmd("query-migrate")
        if info["status"] not in ("setup", "active"):
            raise EndedEarly("The rounds came to an end by themselves")
        return work_cpu_s(src), info.get("xbzrle-cache", {}).get("pages", 0)

    def wait_round(number):
        end = time.monotonic() + MIGRATE_S
        while time.monotonic() < end:
            snap()
            try:
                if src.qmp.wait_event("MIGRATION_PASS", timeout=2)["data"]["pass"] >= number:
                    return
            except AssertionError:
                pass  # none in this time
        raise Failed(f"No round {number}")

    # Ferry goes on as long as a pause would be endless; QEMU would stop at once
    endless = "avail-switchover-bandwidth"
    knows = "ferry" in src.cmd("query-version")["package"]
    bandwidth, seconds = case.hold
    wait_round(2)
    time.sleep(HOLD_AFTER_S)
    src.cmd("migrate-set-parameters", max_bandwidth=bandwidth, **({endless: 1} if knows else {}))
    wait_round(4)
    before = snap()
    time.sleep(seconds)
    after = snap()
    src.cmd("migrate-set-parameters", max_bandwidth=UNLIMITED, downtime_limit=case.downtime_ms,
            **({endless: 0} if knows else {}))
    pages = after[1] - before[1]
    return (after[0] - before[0]) * 1e9 / pages if pages else None


def memory_path_for_ask(ram_path):
    return ram_path + ".ask"


def listen(vm, case):
    if case.transport == "unix":
        uri = f"unix:{vm.base}.move"
        vm.cmd("migrate-incoming", uri=uri)
        return uri
    vm.cmd("migrate-incoming", uri="tcp:127.0.0.1:0")
    return f"tcp:127.0.0.1:{vm.cmd('query-migrate')['socket-address'][0]['port']}"


def stamp(event):
    return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6


def wait_completed(src):
    while True:
        status = src.qmp.wait_event("MIGRATION", timeout=MIGRATE_S)["data"]["status"]
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise Failed(f"{status}: {src.cmd('query-migrate').get('error-desc', 'no reason given')}")


def last_event(vm, name):
    found = [e for e in vm.qmp.events if e["event"] == name]
    if not found:
        raise Failed(f"{vm.name} sent no event {name}")
    return found[-1]


def measure(machine, programs, case, memory):
    """
    `machine`: starts one, with the arguments of ferrytest's Ferry; `programs`: of source and
    destination. Returns a dictionary of figures; raises Failed, or what ferrytest raises.
    """
    memory.prepare(case)
    src = start(machine, programs[0], case, memory.src, False)
    if case.anonymous:
        time.sleep(FIRMWARE_S)
    else:
        src.guest.wait_ready(timeout=120)
    dst = start(machine, programs[1], case, memory.dst, True)
    uri = listen(dst, case)
    wait_quiet(dst)
    prepare = work_cpu_s(dst)

    pause_seen = Pause(memory.src, memory.dst) if case.watch else None
    asker = Asker(memory_path_for_ask(memory.src)) if case.ask else None
    work_seen = Work(memory.src, memory.dst) if case.converge else None
    other = OtherLoad()
    before = work_cpu_s(src), work_cpu_s(dst)
    all_before = process_cpu_s(src.process.pid) + process_cpu_s(dst.process.pid)
    begun = time.monotonic()
    src.cmd("migrate", uri=uri)
    changed_ns = hold(src, case) if case.hold else None
    wait_completed(src)
    dst.qmp.wait_event("RESUME")
    whole = time.monotonic() - begun
    worked = work_seen.result() if work_seen else None
    time.sleep(TRAIL_S)
    after = work_cpu_s(src), work_cpu_s(dst)
    watched = pause_seen.result() if pause_seen else None
    asked = asker.result() if asker else None
    own = process_cpu_s(src.process.pid) + process_cpu_s(dst.process.pid) - all_before
    others = other.share(own)

    info = src.cmd("query-migrate")
    pause = stamp(last_event(dst, "RESUME")) - stamp(last_event(src, "STOP"))
    bad = 0 if case.anonymous else dst.guest.verify(timeout=120)
    if bad:
        raise Failed(f"{bad} corrupted words")
    figures = {
        "whole_ms": whole * 1e3,
        "pause_ms": pause * 1e3,
        "claimed_ms": float(info["downtime"]),
        "cpu_ms": sum(after) * 1e3 - sum(before) * 1e3,
        "cpu_source_ms": (after[0] - before[0]) * 1e3,
        "cpu_destination_ms": (after[1] - before[1]) * 1e3,
        "prepare_ms": prepare * 1e3,
        "sent_mib": info["ram"]["transferred"] / MIB,
        "pages": info["ram"]["normal"],
        "rounds": info["ram"]["dirty-sync-count"],
        "used_mib": resident_mib(dst) if case.anonymous else memory.used_mib(memory.dst),
        "others": others,
    }
    if case.watch:
        if watched is None:
            raise Failed("The guest was not seen on both sides")
        figures["seen_ms"] = watched
    if worked:
        figures["work"], figures["worst"] = worked
    if asked:
        figures["asked_p99_ms"] = asked[1]
        figures["asked_max_ms"] = asked[2]
    if info.get("rounds"):
        # at the last round's end, against what it became by the time stamps of the events
        figures["predicted_ms"] = info["rounds"][-1]["expected-downtime"] / 1e3
        figures["predicted"] = figures["predicted_ms"] / figures["pause_ms"]
    if changed_ns:
        figures["changed_ns"] = changed_ns
    return figures


def floor(program, case, memory, pages):
    """The same pages from the same memory; the cheaper of two ways to receive them."""
    best = None
    for way in ("direct", "buffered"):
        done = subprocess.run([program, case.transport, way, memory.src, memory.dst, str(pages)],
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise Failed(done.stderr.strip())
        said = json.loads(done.stdout)
        if best is None or said["ns"] < best["ns"]:
            best = said
    return {"whole_ms": best["ns"] / 1e6, "cpu_ms": best["cpu_ns"] / 1e6,
            "sent_mib": best["bytes"] / MIB}
