# SPDX-License-Identifier: GPL-2.0-or-later
"""
Guest memory as somebody outside sees it who must not disturb: a page that is missing at the
destination of a post-copy stays missing. (A mapping of the memory's file would make it present, full
of zeroes, and the guest would get those.)

    memory = Peek.of(vm, size)          the memory's file where it has a name, else the process's memory
    memory[0x200000:0x200008]           bytes; of missing pages zeroes
    memory.present(0x200000)            whether the page is there
    memory[0x200020:0x200028] = bytes   only where the page is present
"""

import os
import struct

PAGE = 4096
PRESENT = 1 << 63 | 1 << 62  # of /proc/PID/pagemap: in memory, or swapped out


class Peek:
    """Sliced with offsets in the block of the guest's memory."""

    @staticmethod
    def of(vm, size):
        return FilePeek(vm.ram_path) if vm.ram_path else ProcessPeek(vm.process.pid, size)

    def __getitem__(self, at):
        if isinstance(at, int):
            return self._get(at, 1)[0]
        return self._get(at.start, at.stop - at.start)

    def __setitem__(self, at, data):
        if isinstance(at, int):
            at, data = slice(at, at + 1), bytes([data])
        if not self.present(at.start) or not self.present(at.stop - 1):
            raise ValueError(f"The page at {at.start:#x} is missing: writing to it would spoil it")
        self._put(at.start, data)


class FilePeek(Peek):
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self):
        os.close(self.fd)

    def present(self, at):
        try:
            return os.lseek(self.fd, at, os.SEEK_DATA) == at
        except OSError:
            return False  # nothing from there on

    def _get(self, at, length):
        return os.pread(self.fd, length, at)

    def _put(self, at, data):
        os.pwrite(self.fd, data, at)


class ProcessPeek(Peek):
    """The one mapping of this size; as far as it is present in the process."""

    def __init__(self, pid, size):
        self.address = _mapping(pid, size)
        self.fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self.map = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def close(self):
        os.close(self.fd)
        os.close(self.map)

    def present(self, at):
        entry = os.pread(self.map, 8, (self.address + at) // PAGE * 8)
        return bool(struct.unpack("<Q", entry)[0] & PRESENT)

    def _get(self, at, length):
        data = b""
        while length:
            part = min(length, PAGE - at % PAGE)
            data += os.pread(self.fd, part, self.address + at) if self.present(at) else bytes(part)
            at += part
            length -= part
        return data

    def _put(self, at, data):
        os.pwrite(self.fd, data, self.address + at)


def _mapping(pid, size):
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as f:
        for line in f:
            fields = line.split()
            begin, end = (int(x, 16) for x in fields[0].split("-"))
            if end - begin == size and fields[1].startswith("rw"):
                return begin
    raise AssertionError(f"No mapping of {size} bytes in process {pid}")
