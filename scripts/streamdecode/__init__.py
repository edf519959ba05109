# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoder for QEMU's migration stream, Ferry's own additions included.

    stream = streamdecode.parse(data)              bytes, bytearray or mmap
    stream = streamdecode.load("file.xz")          the same from a file, unpacked when it is xz
    stream.machine, stream.sections, stream.ram.blocks, stream.ram.pages, stream.commands
    stream.field("cpu", "env.eip"), stream.section("ioapic#1").fields

A parse ends at the end of the input, or at a StreamError with the offset.  With partial=True the
error is kept in stream.error and what was read before it is returned.

Files: reader.py (bounds), framing.py (forward records), ram.py, handlers.py, channels.py (return
path, multifd, preempt), layout.py + tables.py + virtio.py (device fields), memory.py (final RAM),
compare.py (two streams), report.py (text and JSON), build.py (making and editing streams),
hostile.py (damaging them).
"""

import lzma
import mmap

from .channels import detect, parse_multifd, parse_preempt, parse_return
from .framing import parse_forward, partial_record
from .model import Stream
from .reader import PAGE_SIZE, Reader, StreamError, Truncated

__all__ = ["PAGE_SIZE", "KINDS", "Stream", "StreamError", "Truncated", "detect", "load", "parse",
           "read_file"]

KINDS = {
    "main": parse_forward,
    "recovery": parse_forward,
    "return": parse_return,
    "multifd": parse_multifd,
    "preempt": parse_preempt,
    "empty": lambda stream, reader: None,
}

XZ_LIMIT = 4 << 30


def parse(data, kind=None, partial=False, earlier=None):
    """Parse one byte stream.

    `kind` is found from the first bytes when not given.  `earlier` is the parsed main stream that
    a recovery or preempt connection belongs to; with it RAM block names and sizes are checked.
    """
    if kind is None:
        kind = detect(data)
    stream = Stream(data, kind)
    if earlier is not None:
        stream.ram.blocks = dict(earlier.ram.blocks)
        stream.ram.total = earlier.ram.total
    try:
        KINDS[kind](stream, Reader(data))
    except StreamError as err:
        if not partial:
            raise
        stream.error = err
        partial_record(stream)
    stream.end = stream.records[-1].end if stream.records else 0
    return stream


def read_file(path):
    """The bytes of a file, mapped; unpacked when they are xz.  OSError or StreamError."""
    with open(path, "rb") as file:
        if file.read(6) == b"\xfd7zXZ\0":
            file.seek(0)
            unpacker = lzma.LZMADecompressor()
            try:
                data = unpacker.decompress(file.read(), XZ_LIMIT)
            except lzma.LZMAError as err:
                raise StreamError(0, "the xz file does not unpack: %s" % err) from None
            if not unpacker.eof:
                raise StreamError(0, "the xz file is cut short or unpacks to more than %d bytes"
                                  % XZ_LIMIT)
            return data
        file.seek(0, 2)
        if file.tell() == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load(path, **options):
    return parse(read_file(path), **options)
