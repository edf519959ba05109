# SPDX-License-Identifier: GPL-2.0-or-later
"""
The workload guest's virtio devices under load (tests/guest/disk.c and nic.c), seen from outside, and
the other end of its network.

    disk = Disk(vm.guest); disk.wait_run(); ...; disk.check(path)
    with Peer() as peer: peer.add(Wire("t0")); ...; peer.check(vm.guest)
    class Moves(Travels, TestCase): ...; self.carry_disk(("ferry", "ferry"), "blk=1", legacy=True)
"""

import select
import socket
import struct
import threading
import time

from .deadline import wait_for
from .guest import check_disk, file_offset
from .net import Wire

RUN = 2  # MAILBOX_DISK_RUN
ETHERTYPE = 0x88B5
MAGIC = 0x6672727966726D65
# what the driver asks for: event index, indirect descriptors, interrupts
DRIVERS = ("", "virtidx=1 virtind=1 virtirq=1")


def drive(path, legacy, options="", device=""):
    """Arguments of a machine with one disk."""
    return ["-drive", f"file={path},format=raw,if=none,id=d0{options}",
            "-device", f"virtio-blk-device,drive=d0{device}", *transport(legacy)]


def transport(legacy):
    return ["-global", f"virtio-mmio.force-legacy={'on' if legacy else 'off'}"]


def make_disk(path, mebibytes=4):
    with open(path, "wb") as f:
        f.truncate(mebibytes << 20)
    return path


class Disk:
    def __init__(self, guest):
        self.guest = guest

    def now(self):
        return self.guest.box.disk()

    def _wait(self, what, test, timeout=None):
        def look():
            self.guest.vm.check_alive()
            return test(self.now())
        wait_for(f"{what} in {self.guest.vm.name}", look, timeout)

    def wait_run(self, timeout=60):
        """Until every block was written once."""
        self._wait("a disk that is written", lambda d: d["state"] == RUN, timeout)

    def wait_requests(self, count, timeout=60):
        """Until so many more requests are done."""
        end = self.now()["completed"] + count
        self._wait(f"{count} requests", lambda d: d["completed"] >= end, timeout)

    def settle(self):
        """Begins no more requests, until nothing is in flight."""
        self.guest.box.virtio_put("disk", "stop", 1)
        self._wait("a disk at rest", lambda d: d["idle"] and not d["in_flight"])

    def go(self):
        self.guest.box.virtio_put("disk", "stop", 0)

    def check(self, path=None):
        """Nothing was lost, doubled, torn or put elsewhere; with `path` the file is read too."""
        self.settle()
        disk = self.now()
        wrong = {k: disk[k] for k in ("failed", "unasked", "bad_sectors") if disk[k]}
        if wrong or disk["submitted"] != disk["completed"]:
            raise AssertionError(f"The disk went wrong: {wrong} {disk}")
        if path:
            blocks, complaints = check_disk(self.guest.box, path, step=16)
            if not blocks or complaints:
                raise AssertionError(f"{blocks} blocks of the file looked at: sector, word, expected, "
                                     f"found {complaints[:5]}")
        return disk

    def poke(self, block=0):
        """Takes one of the guest's generations back, as if a write had not happened; for tests of tests."""
        at = file_offset(self.now()["generation_addr"]) + 4 * block
        memory = self.guest.box.memory
        memory[at:at + 4] = struct.pack("<I", struct.unpack("<I", memory[at:at + 4])[0] + 1)


class Peer(threading.Thread):
    """
    What stands behind the guest's taps, as a switch would: notes the number of every frame that the
    guest sends, and sends frames to where the guest spoke last.
    """

    def __init__(self, rate=1000):
        super().__init__(daemon=True)
        self.rate = rate
        self.numbers = []
        self.sent = 0
        self.mac = None
        self.home = None
        self.wires = []
        self.over = False
        self.lock = threading.Lock()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.join()
        for wire in self.wires:
            wire.close()

    def add(self, wire):
        wire.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        wire.socket.setblocking(False)
        with self.lock:
            self.wires.append(wire)

    def drop(self, wire):
        """What it still holds is read first."""
        time.sleep(0.05)
        with self.lock:
            self._read(wire)
            self.wires.remove(wire)
            self.home = None if self.home is wire else self.home
        wire.close()

    def _read(self, wire):
        while True:
            try:
                data, address = wire.socket.recvfrom(2048)
            except OSError:
                return  # nothing more, or the tap has vanished
            if address[2] == 4 or len(data) < 30 or data[12:14] != b"\x88\xb5":
                continue
            magic, number = struct.unpack("<QQ", data[14:30])
            body = bytes((number + i) & 0xFF for i in range(30, len(data)))
            if magic != MAGIC or data[30:] != body:
                number = -1
            self.numbers.append(number)
            self.mac = data[6:12]
            self.home = wire

    def _send(self):
        self.sent += 1
        data = self.mac + b"\x02\0\0\0\0\1\x88\xb5" + struct.pack("<QQ", MAGIC, self.sent)
        data += bytes((self.sent + i) & 0xFF for i in range(30, 100))
        try:
            self.home.socket.send(data)
        except OSError:
            pass

    def run(self):
        due = time.monotonic()
        while not self.over:
            with self.lock:
                wires = list(self.wires)
            select.select([w.socket for w in wires], [], [], 0.002)
            with self.lock:
                for wire in self.wires:
                    self._read(wire)
                while self.home and due < time.monotonic():
                    self._send()
                    due += 1 / self.rate
                if not self.home:
                    due = time.monotonic()

    def check(self, guest):
        """Lets the guest finish; what it sent came out once each, and it received nothing twice."""
        guest.box.virtio_put("nic", "stop", 1)
        wait_for("a network at rest", lambda: guest.box.nic()["idle"])
        sent = guest.box.nic()["sent"]
        wait_for("the last frame", lambda: sent in self.numbers[-64:])
        nic = guest.box.nic()
        wrong = {k: nic[k] for k in ("bad", "back", "unasked") if nic[k]}
        if wrong or nic["sent"] != nic["completed"]:
            raise AssertionError(f"The network went wrong: {wrong} {nic}")
        counted = {}
        for number in self.numbers:
            counted[number] = counted.get(number, 0) + 1
        lost = [n for n in range(1, sent + 1) if n not in counted]
        doubled = [n for n, times in counted.items() if times > 1 or n < 1]
        if lost or doubled:
            raise AssertionError(f"Of {sent} frames {len(lost)} were lost {lost[:5]}, {len(doubled)} "
                                 f"doubled or spoiled {doubled[:5]}")
        return nic


class Taps:
    """For a test case: a tap of its own for each pair of machines."""

    taps = 0

    def tap(self, legacy):
        Taps.taps += 1
        self.ifname = f"load{Taps.taps}"
        return ["-netdev", f"tap,id=n0,ifname={self.ifname},script=no,downscript=no",
                "-device", "virtio-net-device,netdev=n0", *transport(legacy)]

    def wait_frames(self, vm, count):
        """Until so many more frames have gone each way."""
        begin = vm.guest.box.nic()

        def look():
            vm.check_alive()
            nic = vm.guest.box.nic()
            return all(nic[k] >= begin[k] + count for k in ("completed", "received"))
        wait_for(f"{count} frames each way", look)


class Travels(Taps):
    """
    For a test case: a guest that keeps a disk or a network busy goes from machine to machine and has
    lost and doubled nothing. `route` is who runs it, one after the other. What the case has to have:

      first(who, extra, guest, paused=False)  a machine with the guest, ready unless paused
      next(who, extra, guest)                 one that waits for the guest
      move(src, dst)
      check_well(vm)                          the guest's own complaints
    """

    def with_each_driver(self, travel):
        """Calls travel(legacy, what the guest's driver asks for)."""
        for legacy in (True, False):
            for driver in DRIVERS:
                with self.subTest(legacy=legacy, driver=driver):
                    travel(legacy, driver)

    def carry_disk(self, route, guest, legacy, requests=300, options="", device=""):
        """Returns the guest's counters at the end."""
        path = make_disk(self.path(f"disk{len(self.machines)}"))
        extra = drive(path, legacy, options, device)
        vm = self.first(route[0], extra, guest)
        Disk(vm.guest).wait_run()
        for who in route[1:]:
            Disk(vm.guest).wait_requests(requests)
            dst = self.next(who, extra, guest)
            self.move(vm, dst)
            vm.quit()
            vm = dst
        Disk(vm.guest).wait_requests(requests)
        self.check_well(vm)
        disk = Disk(vm.guest).check(path)
        self.assertGreater(disk["reads"], requests)
        self.assertGreater(disk["writes"], requests)
        vm.quit()
        return disk

    def carry_network(self, route, guest, legacy, frames=200):
        """Each machine has a tap of its own."""
        with Peer() as peer:
            vm = self.first(route[0], self.tap(legacy), guest, paused=True)
            wire = Wire(self.ifname)
            peer.add(wire)
            vm.cmd("cont")
            vm.guest.wait_ready()
            for who in route[1:]:
                self.wait_frames(vm, frames)
                old = wire
                dst = self.next(who, self.tap(legacy), guest)
                wire = Wire(self.ifname)
                peer.add(wire)
                self.move(vm, dst)
                peer.drop(old)
                vm.quit()
                vm = dst
            self.wait_frames(vm, frames)
            self.check_well(vm)
            peer.check(vm.guest)
            vm.quit()
