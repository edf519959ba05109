#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The workload guest's mailbox, read from outside.

The layout comes from mailbox.h beside this file: every structure there is a list of 64-bit
little-endian fields, so there is nothing to keep in step. Memory comes from a backing file
(memory-backend-file, share=on), from a dump (pmemsave), or from any bytes the caller has.

    box = Mailbox.open("/dev/shm/guest-ram")
    box.header["seq"], box.cpu(0)["clock_ns"], box.bad()
    box.command("v")

As a program: guest_mailbox.py FILE prints all fields, mailbox.py FILE --watch prints each vCPU's sign of
life when it changes, guest_mailbox.py FILE --check verifies every page from outside (guest stopped).
"""

import mmap
import os
import re
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def _parse(path):
    with open(path, encoding="ascii") as f:
        text = f.read()
    defines = {}
    for name, value in re.findall(r"^#define (MAILBOX_\w+)\s+(0x[0-9a-fA-F]+|\d+)u", text, re.M):
        defines[name] = int(value, 0)
    structs = {}
    for name, body in re.findall(r"^struct (mailbox_\w+) \{\n(.*?)^\};", text, re.M | re.S):
        structs[name] = re.findall(r"^\s+uint64_t (\w+);", body, re.M)
    return defines, structs


DEFINES, STRUCTS = _parse(os.path.join(HERE, "mailbox.h"))
ADDR = DEFINES["MAILBOX_ADDR"]
SIZE = DEFINES["MAILBOX_SIZE"]
MAGIC = DEFINES["MAILBOX_MAGIC"]
PAGE = 4096
WORDS = 512
MASK = (1 << 64) - 1


class Mailbox:
    """`memory` is anything sliceable with guest physical addresses, writable for command()."""

    def __init__(self, memory):
        self.memory = memory

    @classmethod
    def open(cls, path):
        with open(path, "r+b") as f:
            return cls(mmap.mmap(f.fileno(), 0))

    @classmethod
    def from_dump(cls, data):
        """`data` is what was read from ADDR, SIZE bytes of it."""
        return cls(bytes(ADDR) + data)

    def _read(self, offset, name):
        fields = STRUCTS[name]
        raw = self.memory[ADDR + offset : ADDR + offset + 8 * len(fields)]
        return dict(zip(fields, struct.unpack("<%dQ" % len(fields), raw)))

    @property
    def header(self):
        return self._read(0, "mailbox_header")

    def alive(self):
        return self.header["magic"] == MAGIC

    def cpu(self, index):
        offset = DEFINES["MAILBOX_CPU_OFF"] + index * DEFINES["MAILBOX_CPU_SIZE"]
        return self._read(offset, "mailbox_cpu")

    def cpus(self):
        return [self.cpu(i) for i in range(self.header["cpus"])]

    def bad(self):
        """The records still in the log, oldest first."""
        out = []
        for i in range(DEFINES["MAILBOX_BAD_MAX"]):
            offset = DEFINES["MAILBOX_BAD_OFF"] + i * DEFINES["MAILBOX_BAD_SIZE"]
            rec = self._read(offset, "mailbox_bad")
            if rec["number"]:
                out.append(rec)
        return sorted(out, key=lambda r: r["number"])

    def stall_totals(self, cpu):
        """Of stall=: touches, stalls, and how long these were."""
        return self._read(self._stalls_at(cpu), "mailbox_stalls")

    def stalls(self, cpu, since=0):
        """Stalls of a vCPU from number `since` on, as far as the ring still has them."""
        at = self._stalls_at(cpu)
        count = self._read(at, "mailbox_stalls")["count"]
        slots = DEFINES["MAILBOX_STALL_MAX"]
        return [self._read(at + DEFINES["MAILBOX_STALL_OFF"] + n % slots * DEFINES["MAILBOX_STALL_SIZE"],
                           "mailbox_stall") for n in range(max(since, count - slots), count)]

    def disk(self):
        """The virtio disk at work (blk=1)."""
        return self._read(self._virtio_at(), "mailbox_disk")

    def nic(self):
        """The network device (net=)."""
        return self._read(self._virtio_at() + DEFINES["MAILBOX_NIC_OFF"], "mailbox_nic")

    def virtio_put(self, what, field, value):
        """`what`: "disk" or "nic"; one of the fields that may be written from outside."""
        at = ADDR + self._virtio_at() + (DEFINES["MAILBOX_NIC_OFF"] if what == "nic" else 0)
        at += 8 * STRUCTS["mailbox_" + what].index(field)
        self.memory[at : at + 8] = struct.pack("<Q", value)

    def _virtio_at(self):
        addr = self.header["virtio_addr"]
        if not addr:
            raise ValueError("The guest drives no virtio device: it was started without blk= or net=")
        return addr - ADDR

    def _stalls_at(self, cpu):
        addr = self.header["stall_addr"]
        if not addr:
            raise ValueError("The guest notes no stalls: it was started without stall=")
        return addr - ADDR + cpu * DEFINES["MAILBOX_STALL_AREA"]

    def put(self, field, value):
        offset = ADDR + 8 * STRUCTS["mailbox_header"].index(field)
        self.memory[offset : offset + 8] = struct.pack("<Q", value)

    def command(self, letter, timeout=5.0):
        """Hands a command to a running guest and waits until it is taken."""
        self.put("command", ord(letter))
        end = time.monotonic() + timeout
        while self.header["command"]:
            if time.monotonic() > end:
                raise TimeoutError("The guest does not take command '%s'" % letter)
            time.sleep(0.001)

    def page_addr(self, page):
        h = self.header
        for i in range(h["regions"]):
            n = h["region_pages%d" % i]
            if page < n:
                return h["region_addr%d" % i] + page * PAGE
            page -= n
        raise IndexError("Page number is beyond the pool")


def file_offset(addr, low=3 << 30):
    """Guest physical address to offset in the one RAM block (memory above 3 GiB is at 4 GiB)."""
    return addr if addr < low else addr - (4 << 30) + low


# ---- the pattern, as in pattern.h ----

ZERO, TEXT, RANDOM, SPARSE, MIXED = 1, 2, 0, 3, 4
_TEXT = (
    b"harbour ferry   current,a tide. the quay leaves mooring\nrope and"
    b" anchor on boardpilot   channel.two boats cross lantern\nat dawn "
)


def mix(x):
    x ^= x >> 31
    x = x * 0xB5297A4D3F84D5A5 & MASK
    return x ^ x >> 29


def base(page, gen, seed):
    x = mix((page * 0x8F1BBCDC5BE0CD19 + seed) & MASK)
    return mix(((x ^ gen) * 0xCA62C1D66ED9EBA1 + gen) & MASK)


def word(kind, page, gen, seed, w):
    b = base(page, gen, seed)
    if kind == MIXED:
        kind = (ZERO, ZERO, TEXT, TEXT, TEXT, RANDOM, RANDOM, RANDOM)[b >> 45 & 7]
    if kind == ZERO:
        return 0
    if kind == SPARSE and not 0 <= w - (b >> 20) % (WORDS - 8) < 8:
        b = base(page, 0, seed)
    r = mix((b + w * 0x9B05688C1F83D9AB) & MASK)
    if kind == TEXT:
        at = (r >> 40 & 15) * 8
        return struct.unpack_from("<Q", _TEXT, at)[0]
    return r


def check_disk(box, path, step=1, limit=20):
    """Looks at the file of a disk that is idle, every step-th block of it as the guest would, and at
    the begin and end of every sector. Returns (blocks checked, complaints)."""
    disk, seed = box.disk(), box.header["seed"]
    size, blocks = disk["block_bytes"], disk["blocks"]
    at = file_offset(disk["generation_addr"])
    generations = struct.unpack("<%dI" % blocks, box.memory[at : at + 4 * blocks])
    complaints = []
    with open(path, "rb") as f:
        for block, generation in enumerate(generations):
            data = struct.unpack("<%dQ" % (size // 8), f.read(size))
            for s in range(size // 512):
                sector = block * size // 512 + s
                got = data[64 * s : 64 * s + 64]
                b = base(sector, generation, seed)
                want = {w: mix((b + w * 0x9B05688C1F83D9AB) & MASK)
                        for w in (range(2, 64) if block % step == 0 else (63,))}
                want |= {0: sector, 1: generation}
                wrong = [w for w in want if want[w] != got[w]]
                if wrong:
                    complaints.append((sector, wrong[0], want[wrong[0]], got[wrong[0]]))
            if len(complaints) >= limit:
                break
    return blocks, complaints


def check(box, step=1, limit=20):
    """Verifies every step-th initialised page of a stopped guest; returns (checked, complaints)."""
    h = box.header
    busy = {c["cur_page"] - 1 for c in box.cpus() if c["cur_page"]}
    complaints = []
    checked = 0
    for page in range(0, h["pages_init"], step):
        if page in busy:
            continue
        at = file_offset(h["gen_addr"] + 4 * page)
        (gen,) = struct.unpack("<I", box.memory[at : at + 4])
        at = file_offset(box.page_addr(page))
        got = struct.unpack("<512Q", box.memory[at : at + PAGE])
        checked += 1
        for w in range(WORDS):
            want = word(h["data_kind"], page, gen, h["seed"], w)
            if got[w] != want:
                complaints.append((page, w, want, got[w]))
                break
        if len(complaints) >= limit:
            break
    return checked, complaints


def _main(argv):
    if len(argv) < 2:
        print(__doc__)
        return 2
    box = Mailbox.open(argv[1])
    if not box.alive():
        print("No mailbox in %s." % argv[1])
        return 1
    if "--check" in argv:
        checked, complaints = check(box)
        for page, w, want, got in complaints:
            print("page %d word %d: expected %x, got %x" % (page, w, want, got))
        print("%d pages checked, %d bad" % (checked, len(complaints)))
        return 1 if complaints else 0
    if "--watch" in argv:
        seen = {}
        while True:
            for c in box.cpus():
                if seen.get(c["index"]) != c["clock_ns"]:
                    seen[c["index"]] = c["clock_ns"]
                    print(time.monotonic_ns(), c["index"], c["loops"], c["clock_ns"], flush=True)
            time.sleep(0.001)
    for name, value in box.header.items():
        print("%-16s %d (0x%x)" % (name, value, value))
    for c in box.cpus():
        print("cpu", " ".join("%s=%d" % item for item in c.items()))
    for rec in box.bad():
        print("bad", " ".join("%s=%x" % item for item in rec.items()))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv))
