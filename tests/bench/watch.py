# SPDX-License-Identifier: GPL-2.0-or-later
"""
Who looks on while a guest moves, in processes of their own so that they do not wait for the bench.

  Pause    the guest's signs of life in both memory files: from the last one at the source to the
           first at the destination. The guest's own clock would not do: a QEMU stops it meanwhile.
  Work     the pages that the guest writes, over the whole of the move and in its worst second
  Asker    a client on a monitor of its own that asks query-migrate every five milliseconds; how long
           each answer took.
"""

import json
import mmap
import multiprocessing
import socket
import statistics
import struct
import time

import ferrytest.guest  # noqa: F401, it knows where guest_mailbox is
from guest_mailbox import ADDR, DEFINES, STRUCTS

LOOK_S = 0.0003
ASK_S = 0.005
TRAIL_S = 2.0
WORK_LOOK_S = 0.02
LOOPS = ADDR + DEFINES["MAILBOX_CPU_OFF"] + 8 * STRUCTS["mailbox_cpu"].index("loops")
WRITES = ADDR + DEFINES["MAILBOX_CPU_OFF"] + 8 * STRUCTS["mailbox_cpu"].index("writes")


def loops(memory):
    return struct.unpack("<Q", memory[LOOPS:LOOPS + 8])[0]


def writes(memory):
    return struct.unpack_from("<Q", memory, WRITES)[0]


class Worker:
    def __init__(self, *args):
        self.ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self.work, args=(theirs, *args), daemon=True)
        self.process.start()

    def result(self):
        """Ends it; what it has seen."""
        try:
            self.ours.send("end")
        except BrokenPipeError:
            pass  # it has seen everything
        found = self.ours.recv() if self.ours.poll(TRAIL_S + 5) else None
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
        return found


class Pause(Worker):
    """Milliseconds, or None when the guest was not seen on both sides."""

    @staticmethod
    def work(pipe, source, destination):
        with open(source, "rb") as a, open(destination, "rb") as b:
            src = mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ)
            dst = mmap.mmap(b.fileno(), 0, prot=mmap.PROT_READ)
            here, there = loops(src), None
            last = time.monotonic()
            give_up = None
            arrived = 0
            while give_up is None or time.monotonic() < give_up:
                now = time.monotonic()
                value = loops(src)
                if value != here:
                    here, last = value, now
                value = loops(dst)
                # the page itself arrives, perhaps several times, with what the source has written;
                # beyond that counts only the guest
                if value > here and there is None:
                    arrived = now
                    there = value
                    break
                if give_up is None and pipe.poll():
                    give_up = now + TRAIL_S
                time.sleep(LOOK_S)
        pipe.send((arrived - last) * 1e3 if there is not None else None)


class Work(Worker):
    """(average, worst second) in pages a second; a move of less than a second has no worst one."""

    @staticmethod
    def work(pipe, source, destination):
        with open(source, "rb") as a, open(destination, "rb") as b:
            src = mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ)
            dst = mmap.mmap(b.fileno(), 0, prot=mmap.PROT_READ)
            # what an earlier guest left in the destination's file counts only once it has moved on
            stale = writes(dst)
            seen = [(time.monotonic(), writes(src))]
            while not pipe.poll():
                time.sleep(WORK_LOOK_S)
                there = writes(dst)
                seen.append((time.monotonic(), max(writes(src), there if there != stale else 0)))
        worst, at = None, 0
        for when, count in seen:
            while at + 1 < len(seen) and when - seen[at + 1][0] >= 1.0:
                at += 1
            if when - seen[at][0] >= 1.0:
                rate = (count - seen[at][1]) / (when - seen[at][0])
                worst = rate if worst is None else min(worst, rate)
        average = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
        pipe.send((average, average if worst is None else worst))


class Switch(Worker):
    """
    (milliseconds from the last sign of life at the source to the first at the destination, pages
    written in the second after that), or None. `source` and `destination` are ferrytest.peek's.
    """

    @staticmethod
    def work(pipe, source, destination):
        def look(memory):
            """(loops, writes)"""
            data = memory[LOOPS:WRITES + 8]
            return struct.unpack_from("<Q", data)[0], struct.unpack_from("<Q", data, len(data) - 8)[0]

        seen = look(source)
        last = time.monotonic()
        first = None
        give_up = None
        while first is None and (give_up is None or time.monotonic() < give_up):
            now = time.monotonic()
            value = look(source)
            if value[0] != seen[0]:
                seen, last = value, now
            # the page comes with what the source has written; beyond that counts only the guest
            if look(destination)[0] > seen[0] and look(source)[0] == seen[0]:
                first = now
            elif give_up is None and pipe.poll():
                give_up = now + TRAIL_S
            time.sleep(LOOK_S)
        if first is None:
            pipe.send(None)
            return
        begun = look(destination)[1]
        time.sleep(max(0, first + 1.0 - time.monotonic()))
        pipe.send(((first - last) * 1e3, look(destination)[1] - begun))


class Asker(Worker):
    """(median, 99th percentile, largest) in milliseconds."""

    @staticmethod
    def work(pipe, path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            stream = sock.makefile("rb")
            stream.readline()
            sock.sendall(b'{"execute": "qmp_capabilities"}\n')
            took = []
            asked = b'{"execute": "query-migrate", "id": 1}\n'
            while b"return" not in stream.readline():
                pass
            pipe.send("ready")
            while not pipe.poll():
                begun = time.monotonic()
                sock.sendall(asked)
                while True:
                    line = stream.readline()
                    if not line or b'"id"' in line and "id" in json.loads(line):
                        break
                took.append((time.monotonic() - begun) * 1e3)
                time.sleep(max(0, ASK_S - (time.monotonic() - begun)))
        took.sort()
        pipe.send((statistics.median(took), took[int(len(took) * 0.99)], took[-1]))

    def __init__(self, path):
        super().__init__(path)
        self.ours.recv()

