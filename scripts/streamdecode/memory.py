# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest RAM as a receiver would have it after the last byte.

Pages are applied in the order of the main stream, discards included.  Pages of multifd channels
go between its synchronisation points: the flush words when the main stream has any, else the end
of every RAM section; a channel says with a SYNC packet that it got there.  Further connections
(preempt, recovery) come after the connection before them, which is right because in post-copy no
page is sent twice.

Blocks are anonymous maps, or files when a directory is given, so untouched memory costs nothing.
"""

import ctypes
import ctypes.util
import mmap
import os
import zlib

from .framing import FERRY_ZEROED
from .ram import xbzrle_runs
from .reader import PAGE_SIZE, StreamError

LIMIT = 1 << 40


class Block:
    """`data`: the content; `present`: one byte per page, 1 when it arrived and was not dropped."""

    def __init__(self, name, length, directory):
        self.name = name
        self.length = length
        self.present = bytearray((length + PAGE_SIZE - 1) // PAGE_SIZE)
        self.path = None
        if directory is None:
            self.data = mmap.mmap(-1, length)
        else:
            self.path = os.path.join(directory, file_name(name))
            with open(self.path, "w+b") as file:
                file.truncate(length)
                self.data = mmap.mmap(file.fileno(), length)

    def missing(self):
        return len(self.present) - sum(self.present)


def file_name(block):
    """A block's name as a file name: `/rom@etc/acpi/rsdp` becomes `rom@etc-acpi-rsdp.ram`."""
    safe = "".join(char if char.isalnum() or char in "@:._-" else "-" for char in block)
    return safe.strip("-.") + ".ram"


class Memory:
    def __init__(self, stream, directory=None):
        total = sum(block.length for block in stream.ram.blocks.values())
        if not stream.ram.blocks:
            raise StreamError(0, "the stream has no RAM block list to build memory from")
        if total > LIMIT:
            raise StreamError(0, "the RAM blocks of %d bytes are too large to build" % total)
        names = [file_name(name) for name in stream.ram.blocks]
        if len(set(names)) < len(names):
            raise StreamError(0, "two RAM blocks would have the same file name")
        self.blocks = {}
        for block in stream.ram.blocks.values():
            try:
                self.blocks[block.name] = Block(block.name, block.length, directory)
            except (OSError, MemoryError, ValueError) as err:
                raise StreamError(0, "no room for RAM block '%s': %s" % (block.name, err)) from None
        # Two Ferries may agree that what no record names is zero.
        if any(command.args["features"] & FERRY_ZEROED for command in stream.commands
               if command.name == "FERRY_FEATURES"):
            for block in self.blocks.values():
                block.present[:] = b"\1" * len(block.present)

    def target(self, name, addr, where):
        block = self.blocks.get(name)
        if block is None or addr >= block.length:
            raise StreamError(where, "page 0x%x of '%s' lies outside the RAM blocks"
                              % (addr, name))
        return block

    def store(self, name, addr, content, where):
        block = self.target(name, addr, where)
        size = min(PAGE_SIZE, block.length - addr)
        index = addr // PAGE_SIZE
        # A page of zeroes that is zero already is not written, so a file stays sparse.
        if content.count(0) != PAGE_SIZE or block.data[addr:addr + size].count(0) != size:
            block.data[addr:addr + size] = content[:size]
        block.present[index] = 1

    def page(self, stream, page):
        data = stream.data
        if page.kind in ("page", "mapped"):
            content = data[page.data:page.data + PAGE_SIZE]
        elif page.kind == "zero":
            content = bytes([data[page.data]]) * PAGE_SIZE
        elif page.kind == "compress":
            content = inflate(data[page.data:page.data + page.size], page.offset)
        else:
            block = self.target(page.block, page.addr, page.offset)
            changed = bytearray(block.data[page.addr:page.addr + PAGE_SIZE])
            for target, where, length in xbzrle_runs(data, page):
                changed[target:target + length] = data[where:where + length]
            content = bytes(changed)
        self.store(page.block, page.addr, content, page.offset)

    def pages(self, stream, first, last):
        """Apply pages [first, last) of a stream and the discards that came between them."""
        drops = [drop for drop in stream.ram.discards if first <= drop[0] < last
                 or drop[0] == last == len(stream.ram.pages)]
        for index in range(first, last):
            while drops and drops[0][0] <= index:
                self.discard(*drops.pop(0)[1:])
            self.page(stream, stream.ram.pages[index])
        for drop in drops:
            self.discard(*drop[1:])

    def discard(self, name, start, length):
        block = self.blocks.get(name)
        if block is None:
            return
        end = min(start + length, block.length)
        for index in range(start // PAGE_SIZE, (end + PAGE_SIZE - 1) // PAGE_SIZE):
            if block.present[index]:
                block.present[index] = 0
                where = index * PAGE_SIZE
                size = min(PAGE_SIZE, block.length - where)
                block.data[where:where + size] = bytes(size)


def reconstruct(main, others=(), directory=None):
    """Memory after `main` and the further connections of the same migration in `others`.

    StreamError when the connections do not fit together.
    """
    memory = Memory(main, directory)
    channels = [Channel(stream) for stream in others if stream.kind == "multifd"]
    if channels:
        points = main.ram.flushes or main.ram.ends
        for channel in channels:
            if len(channel.windows) - 1 != len(points):
                raise StreamError(0, "multifd channel %s has %d sync packets where the main "
                                  "stream has %d sync points"
                                  % (channel.number, len(channel.windows) - 1, len(points)))
        done = 0
        for index, point in enumerate(points):
            memory.pages(main, done, point)
            done = point
            for channel in channels:
                channel.apply(memory, index)
        memory.pages(main, done, len(main.ram.pages))
        for channel in channels:
            channel.apply(memory, len(points))
    else:
        memory.pages(main, 0, len(main.ram.pages))
    for stream in others:
        if stream.kind in ("preempt", "recovery"):
            memory.pages(stream, 0, len(stream.ram.pages))
        elif stream.kind != "multifd":
            raise StreamError(0, "a %s stream carries no memory of another one" % stream.kind)
    return memory


def inflate(data, where):
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, PAGE_SIZE + 1)
    except zlib.error as err:
        raise StreamError(where, "a compressed page does not unpack: %s" % err) from None
    if len(content) != PAGE_SIZE:
        raise StreamError(where, "a compressed page unpacks to %d bytes" % len(content))
    return content


# --- multifd channels ----------------------------------------------------------------------------

class Channel:
    """The packets of one channel, divided into windows by its SYNC packets."""

    def __init__(self, stream):
        self.stream = stream
        self.number = stream.packets[0].channel if stream.packets else None
        self.codec = None
        self.windows = [[]]
        for packet in stream.packets[1:]:
            self.windows[-1].append(packet)
            if packet.sync:
                self.windows.append([])

    def apply(self, memory, window):
        for packet in self.windows[window]:
            content = self.unpack(packet)
            for index, addr in enumerate(packet.normal):
                start = index * PAGE_SIZE
                memory.store(packet.block, addr, content[start:start + PAGE_SIZE], packet.start)
            for addr in packet.zero:
                memory.store(packet.block, addr, bytes(PAGE_SIZE), packet.start)

    def unpack(self, packet):
        """The page data of a packet; one compressed stream runs through all of a channel."""
        raw = bytes(self.stream.data[packet.data:packet.data + packet.size])
        if not packet.normal or packet.compression == "none":
            return raw
        size = len(packet.normal) * PAGE_SIZE
        try:
            if self.codec is None:
                self.codec = zlib.decompressobj() if packet.compression == "zlib" else Zstd()
            content = self.codec.decompress(raw, size + 1)
        except (zlib.error, ValueError) as err:
            raise StreamError(packet.data, "packet %d does not unpack: %s"
                              % (packet.number, err)) from None
        if len(content) != size:
            raise StreamError(packet.data, "packet %d unpacks to %d bytes instead of %d"
                              % (packet.number, len(content), size))
        return content


class Zstd:
    """Streaming zstd from the system's library, as Python has none of its own."""

    class Buffer(ctypes.Structure):
        _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]

    def __init__(self):
        name = ctypes.util.find_library("zstd")
        if name is None:
            raise ValueError("libzstd is not installed")
        self.lib = ctypes.CDLL(name)
        self.lib.ZSTD_createDStream.restype = ctypes.c_void_p
        self.lib.ZSTD_freeDStream.argtypes = [ctypes.c_void_p]
        self.lib.ZSTD_decompressStream.restype = ctypes.c_size_t
        self.lib.ZSTD_decompressStream.argtypes = [ctypes.c_void_p, ctypes.c_void_p,
                                                   ctypes.c_void_p]
        self.lib.ZSTD_isError.argtypes = [ctypes.c_size_t]
        self.stream = self.lib.ZSTD_createDStream()

    def __del__(self):
        if getattr(self, "stream", None):
            self.lib.ZSTD_freeDStream(self.stream)

    def decompress(self, data, limit):
        """At most `limit` bytes out of `data`, which is used up unless that limit is hit."""
        out = ctypes.create_string_buffer(limit)
        source = ctypes.create_string_buffer(data, len(data))
        into = self.Buffer(ctypes.addressof(out), limit, 0)
        taken = self.Buffer(ctypes.addressof(source), len(data), 0)
        while True:
            before = (into.pos, taken.pos)
            result = self.lib.ZSTD_decompressStream(self.stream, ctypes.byref(into),
                                                    ctypes.byref(taken))
            if self.lib.ZSTD_isError(result):
                raise ValueError("the zstd data is damaged")
            if into.pos == limit or (into.pos, taken.pos) == before:
                return out.raw[:into.pos]
