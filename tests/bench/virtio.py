# SPDX-License-Identifier: GPL-2.0-or-later
"""
Disks and networks: what the driver in the workload guest (tests/guest/disk.c, nic.c) gets out of a
program, and what CPU time the program uses for it without the vCPU thread, which the guest keeps busy
as it polls. Both programs have the same file, options and guest, and take turns.
"""

import os
import statistics
import subprocess
import time

from measure import MIB, Failed, work_cpu_s

MEMORY = 64  # MiB
DISK = 64 * MIB
SETTLE_S = 0.1  # after a change
WINDOW_S = 0.5
GUEST = "idle=1 report=0 poll=0 halt=0 mem=1M virtidx=1"
FRAMES = 200_000  # a second that the host sends to the guest

# title, block size, depth, percent of reads, order
DISK_CASES = [
    ("read 4 KiB, depth 1", "4K", 1, 100, "random"),
    ("write 4 KiB, depth 1", "4K", 1, 0, "random"),
    ("read 4 KiB, depth 32", "4K", 32, 100, "random"),
    ("write 4 KiB, depth 32", "4K", 32, 0, "random"),
    ("read 128 KiB in order, depth 16", "128K", 16, 100, "seq"),
    ("write 128 KiB in order, depth 16", "128K", 16, 0, "seq"),
]
# title, guest, whether the host sends
NET_CASES = [
    ("send 60 bytes", "net=send netlen=60", False),
    ("send 1514 bytes", "net=send netlen=1514", False),
    ("receive 60 bytes", "net=recv", 60),
    ("receive 1514 bytes", "net=recv", 1514),
]


def _machine(bench, program, extra, guest):
    vm = bench.start("-global", "virtio-mmio.force-legacy=off", *extra, binary=program, memory=MEMORY,
                     ram="shm", smp=1, guest=f"{GUEST} {guest}",
                     machine="pit=on,pic=on,rtc=on,isa-serial=on")
    vm.vcpu_threads = [cpu["thread-id"] for cpu in vm.cmd("query-cpus-fast")]
    vm.guest.wait_ready()
    return vm


def _end(bench):
    for vm in bench.place.machines:
        bench.place.end(vm)
        if vm.ram_path and os.path.exists(vm.ram_path):
            os.unlink(vm.ram_path)
    bench.place.machines.clear()


def _window(vm, look):
    """How many of something a second, and microseconds of CPU time for each."""
    time.sleep(SETTLE_S)
    count, cpu, begun = look(), work_cpu_s(vm), time.monotonic()
    time.sleep(WINDOW_S)
    count, cpu, took = look() - count, work_cpu_s(vm) - cpu, time.monotonic() - begun
    if not count:
        raise Failed("Nothing was done")
    return count / took, cpu * 1e6 / count


def _disk(bench, program, path, options, size):
    """All cases with this block size in one machine."""
    order = "seq" if size == "128K" else "random"
    vm = _machine(bench, program, ["-drive", f"file={path},format=raw,if=none,id=d0,{options}",
                                   "-device", "virtio-blk-device,drive=d0"],
                  f"blk=1 blkbs={size} blkdepth=32 blkcheck=0 blkpick={order}")
    box, found = vm.guest.box, {}
    end = time.monotonic() + 60
    while box.disk()["state"] != 2:
        if time.monotonic() > end:
            raise Failed("The disk was not written in time")
        time.sleep(0.01)
    for title, bytes_, depth, reads, _ in DISK_CASES:
        if bytes_ == size:
            box.virtio_put("disk", "depth", depth)
            box.virtio_put("disk", "percent", reads)
            found[title] = _window(vm, lambda: box.disk()["completed"])
    disk = box.disk()
    _end(bench)  # and gives its lock on the image back
    if disk["failed"] or disk["bad_sectors"] or disk["unasked"]:
        raise Failed(f"The disk went wrong: {disk}")
    return found


def _rows(bench, one):
    """one(program) gives title -> (per second, CPU us) of one run."""
    programs = {name: path for name, path in bench.programs.items()
                if os.access(path, os.X_OK) and (not bench.args.only or name in bench.args.only)}
    samples = {name: [] for name in programs}
    for run in range(bench.args.n):
        # each begins as often as the other: the later one has the memory that the first has freed
        for name, path in sorted(programs.items(), reverse=run % 2 == 1):
            try:
                samples[name].append(one(path))
            finally:
                _end(bench)
    rows = {}
    for title in next(iter(samples.values()))[0]:
        row = rows[title] = {}
        for index, unit in ((0, "1000/s"), (1, "CPU us")):
            for name, taken in samples.items():
                value = statistics.median(s[title][index] for s in taken)
                row[f"{name} {unit}"] = value / 1000 if index == 0 else value
            if "qemu" in samples and "ferry" in samples:
                row[f"ratio {unit}"] = row[f"ferry {unit}"] / row[f"qemu {unit}"]
    return rows


def _blk(bench, path, options):
    try:
        with open(path, "wb") as f:
            f.truncate(DISK)
        return _rows(bench, lambda program: {
            title: figures for size in ("4K", "128K")
            for title, figures in _disk(bench, program, path, options, size).items()})
    finally:
        os.unlink(path)


def blk(bench):
    """virtio-blk over a file in /dev/shm, cache=writeback, aio=io_uring: requests, CPU for each."""
    return _blk(bench, os.path.join(bench.place.shm, "disk"), "cache=writeback,aio=io_uring")


def blk_threads(bench):
    """The same with aio=threads."""
    return _blk(bench, os.path.join(bench.place.shm, "disk"), "cache=writeback,aio=threads")


def blk_direct(bench):
    """The same over a file in /dev/shm with O_DIRECT: cache=none, aio=io_uring."""
    return _blk(bench, os.path.join(bench.place.shm, "disk"), "cache=none,aio=io_uring")


def net(bench):
    """virtio-net over a tap without vhost: frames, CPU for each; the host offers 200,000 a second."""
    from ferrytest import net as network
    from ferrytest.net import Wire
    why_not = network.own_network()
    if why_not:
        raise Failed(f"skipped: {why_not}")
    sender = os.path.join(bench.args.build_dir, "tests", "bench", "net-send")
    number = [0]

    def one(program):
        found = {}
        for title, guest, host_sends in NET_CASES:
            number[0] += 1
            name = f"bench{number[0]}"
            vm = _machine(bench, program,
                          ["-netdev", f"tap,id=n0,ifname={name},script=no,downscript=no",
                           "-device", "virtio-net-device,netdev=n0"], f"{guest} netdepth=128 netcheck=0")
            wire = Wire(name)
            wire.close()
            box = vm.guest.box
            if host_sends:
                process = subprocess.Popen([sender, name, f"{box.nic()['mac']:012x}", str(host_sends),
                                            str(FRAMES)])
                try:
                    found[title] = _window(vm, lambda: box.nic()["received"])
                finally:
                    process.terminate()
                    process.wait()
            else:
                found[title] = _window(vm, lambda: box.nic()["completed"])
            if box.nic()["bad"] or box.nic()["unasked"]:
                raise Failed(f"The network went wrong: {box.nic()}")
            _end(bench)
        return found
    return _rows(bench, one)
