# SPDX-License-Identifier: GPL-2.0-or-later
"""One move of the workload guest, looked at from all sides. No printing here but the progress line."""

import json
import os
import select
import subprocess
import sys
import time

from guest_mailbox import ADDR, DEFINES, STRUCTS

from place import Trouble

HERE = os.path.dirname(os.path.abspath(__file__))

POLL_S = 0.05
SAMPLES_S = 0.15  # looking at the guest's time of day
MOVE_S = 600.0


def wall_error_ns(box):
    """
    The guest's time of day minus the host's. What the mailbox shows is some moments old, so the
    largest of many samples is the one nearest to the truth.
    """
    at = ADDR + 8 * STRUCTS["mailbox_header"].index("wall_ns")
    best = None
    end = time.monotonic() + SAMPLES_S
    while time.monotonic() < end:
        wall = int.from_bytes(box.memory[at:at + 8], "little")
        error = wall - time.clock_gettime_ns(time.CLOCK_REALTIME)
        best = error if best is None else max(best, error)
        time.sleep(0.0002)
    return best


def writes(box):
    return sum(cpu["writes"] for cpu in box.cpus())


def forget_gaps(box):
    """The largest gap counts from now on."""
    for index in range(box.header["cpus"]):
        for name in ("gap_max_ns", "gap_max_at"):
            at = (ADDR + DEFINES["MAILBOX_CPU_OFF"] + index * DEFINES["MAILBOX_CPU_SIZE"]
                  + 8 * STRUCTS["mailbox_cpu"].index(name))
            box.memory[at:at + 8] = bytes(8)


class Watcher:
    """The third process."""

    def __init__(self, place, src, dst):
        self.process = place.helper(
            [sys.executable, os.path.join(HERE, "watcher.py"), src.ram_path, dst.ram_path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise Trouble("The watching process did not start.")

    def result(self, timeout=10.0):
        """None when it has not seen the whole of it."""
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self.process.stdin.close()
        line = self.process.stdout.readline()
        self.process.wait()
        seen = json.loads(line) if line else None
        if not seen or any(None in cpu for cpu in seen["cpus"]):
            return None
        return seen


class Move:
    """Everything that is known of a move. Nanoseconds unless said."""

    def __init__(self, src, dst):
        self.src, self.dst = src, dst
        self.rounds = []  # bytes remaining when each began
        self.info = None  # last answer to query-migrate
        self.watched = None
        self.guest_gap = None
        self.guest_longest = None  # its longest gap when that was not the switch
        self.wall_before = self.wall_after = None
        self.writes_before = self.writes_during = None  # pages per second
        self.verified = self.bad_words = 0
        self.back = {}

    # -- doing it

    def prepare(self):
        """Before it: what the guest does when nobody disturbs it."""
        box = self.src.guest.box
        begun, count = time.monotonic(), writes(box)
        self.wall_before = wall_error_ns(box)
        time.sleep(0.35)
        self.writes_before = (writes(box) - count) / (time.monotonic() - begun)

    def run(self, place, uri, progress):
        """Until the source says completed and the destination runs; Trouble otherwise."""
        src = self.src
        watcher = Watcher(place, src, self.dst)
        box = src.guest.box
        forget_gaps(box)
        begun, count = time.monotonic(), writes(box)
        src.cmd("migrate", uri=uri)
        while True:
            self._ask()
            progress.update(self.info)
            status = self.info.get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled"):
                raise Trouble(f"The migration {status}: {self.info.get('error-desc', 'no reason')}")
            if time.monotonic() - begun > MOVE_S:
                raise Trouble(f"The migration is not over after {MOVE_S:.0f} s; the guest writes "
                              "faster than it can be sent: choose a lower --rate.")
            select.select([src.qmp.sock], [], [], POLL_S)
            src.qmp.drain_events()
        self.writes_during = (writes(box) - count) / (self.info["total-time"] / 1e3)
        progress.end()
        self.dst.wait_state("running")
        self.watched = watcher.result()

    def _ask(self):
        """query-migrate; a new round's size is kept."""
        self.info = self.src.cmd("query-migrate")
        ram = self.info.get("ram")
        if not ram or self.info["status"] not in ("active", "device"):
            return
        while len(self.rounds) < ram["dirty-sync-count"]:
            # a round that came and went between two looks has the size of its successor, at most
            self.rounds.append(ram["remaining"])

    def judge(self):
        """After it: the guest's own findings."""
        guest = self.dst.guest
        guest.wait_alive()
        self.wall_after = wall_error_ns(guest.box)
        self._find_gap(guest.box)
        verify_bad = guest.verify(timeout=120)
        cpus = guest.box.cpus()
        self.verified = guest.box.header["verify_pages"]
        self.bad_words = max(verify_bad, sum(cpu["bad_words"] for cpu in cpus))
        self.back = {name: sum(cpu[name] for cpu in cpus) for name in ("back", "tsc_back", "xback")}
        complaints = guest.complaints()
        if complaints and not self.bad_words:
            raise Trouble(f"The guest complains: {complaints[0]}")

    def _find_gap(self, box):
        """The largest gap that a vCPU saw, and whether it was the switch or something else."""
        cpu = max(box.cpus(), key=lambda c: c["gap_max_ns"])
        self.guest_gap = cpu["gap_max_ns"]
        if self.watched:
            _, _, last, first = self.watched["cpus"][cpu["index"]]
            if not last < cpu["gap_max_at"] <= first:
                # its clock at the last and at the first sign, then
                self.guest_longest = self.guest_gap
                self.guest_gap = max(f - l for _, _, l, f in self.watched["cpus"])

    # -- what came of it

    @property
    def source_ms(self):
        return float(self.info["downtime"])

    @property
    def guest_ms(self):
        return self.guest_gap / 1e6

    @property
    def watched_ms(self):
        """From the last sign of any vCPU on the source to the first on the destination."""
        if not self.watched:
            return None
        cpus = self.watched["cpus"]
        return (min(c[1] for c in cpus) - max(c[0] for c in cpus)) / 1e6
