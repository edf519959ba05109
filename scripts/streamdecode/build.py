# SPDX-License-Identifier: GPL-2.0-or-later
"""Making streams: from nothing, or out of an existing one.

Three layers, each usable alone:

    Writer        appends records to a byte string; nothing is checked, so anything can be written
    device()      the payload of a device section out of field values, by the built-in table
    Edit          an existing stream in pieces that can be dropped, moved and changed

hostile.py makes whole families of damaged streams with them.  Misuse of this module is a
ValueError; it never guesses.
"""

import copy
import json

from . import framing, layout, parse, ram, tables
from .reader import PAGE_SIZE


def be(value, size):
    """`value` in `size` bytes; larger values are cut off, as a hostile writer might want them."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "big")


def pstr(text):
    raw = text if isinstance(text, bytes) else text.encode()
    if len(raw) > 255:
        raise ValueError("a string of %d bytes does not fit its length byte" % len(raw))
    return bytes([len(raw)]) + raw


def subsection(name, payload=b"", version=1):
    return b"\x05" + pstr(name) + be(version, 4) + payload


NUMBERS = {name: number for number, (name, _) in framing.COMMANDS.items()}


class Writer:
    """Appends to self.out; every method returns self so that calls can be chained."""

    def __init__(self):
        self.out = bytearray()

    def bytes(self):
        return bytes(self.out)

    def raw(self, data):
        self.out += data
        return self

    def header(self, version=3, magic=framing.MAGIC):
        return self.raw(be(magic, 4) + be(version, 4))

    def configuration(self, machine="microvm", subsections=b"", length=None):
        name = machine if isinstance(machine, bytes) else machine.encode()
        length = len(name) if length is None else length
        return self.raw(b"\x07" + be(length, 4) + name + subsections)

    def command(self, name, payload=b"", length=None):
        """`name` is a name of framing.COMMANDS or a number; `length` overrides the true one."""
        number = name if isinstance(name, int) else NUMBERS[name]
        length = len(payload) if length is None else length
        return self.raw(b"\x08" + be(number, 2) + be(length, 2) + payload)

    def ping(self, value):
        return self.command("PING", be(value, 4))

    def package(self, records, length=None):
        length = len(records) if length is None else length
        return self.command("PACKAGED", be(length, 4)).raw(records)

    def discard(self, block, ranges):
        body = b"\0" + pstr(block) + b"\0" + b"".join(be(start, 8) + be(size, 8)
                                                     for start, size in ranges)
        return self.command("POSTCOPY_RAM_DISCARD", body)

    def section(self, step, number, payload=b"", idstr="ram", instance=0, version=4,
                footer=True):
        """step: start, part, end, full.  `footer`: True, False or the id it should name."""
        kind = {name: code for code, name in framing.STEPS.items()}[step]
        self.raw(bytes([kind]) + be(number, 4))
        if step in ("start", "full"):
            self.raw(pstr(idstr) + be(instance, 4) + be(version, 4))
        self.raw(payload)
        if footer is not False:
            self.footer(number if footer is True else footer)
        return self

    def footer(self, number):
        return self.raw(bytes([framing.FOOTER]) + be(number, 4))

    def device(self, number, idstr, values=None, subsections=(), instance=0, footer=True):
        """A full section by the table; see device()."""
        return self.section("full", number, device(idstr, values, subsections), idstr, instance,
                            tables.lookup(idstr).version, footer)

    def eof(self):
        return self.raw(b"\0")

    def vmdescription(self, value):
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.raw(b"\x06" + be(len(text), 4) + text)


# --- payloads ------------------------------------------------------------------------------------

def word(addr, flags):
    return be(addr | flags, 8)


def ram_eos():
    return word(0, ram.EOS)


def ram_blocks(blocks, total=None, extra=None):
    """The block list of RAM START without its EOS.

    `blocks`: (name, length) pairs; `extra` maps a name to bytes that follow its entry.
    """
    total = sum(length for _, length in blocks) if total is None else total
    body = word(total, ram.MEM_SIZE)
    for name, length in blocks:
        body += pstr(name) + be(length, 8) + (extra or {}).get(name, b"")
    return body


def ram_page(addr, data, block=None, flags=ram.PAGE):
    """A page record; without `block` it continues the block of the record before."""
    if len(data) != PAGE_SIZE:
        raise ValueError("a page has %d bytes, not %d" % (PAGE_SIZE, len(data)))
    return ram_head(addr, flags, block) + data


def ram_zero(addr, block=None, fill=0):
    return ram_head(addr, ram.ZERO, block) + be(fill, 1)


def ram_xbzrle(addr, encoded, block=None, mark=1, length=None):
    length = len(encoded) if length is None else length
    return ram_head(addr, ram.XBZRLE, block) + be(mark, 1) + be(length, 2) + encoded


def ram_head(addr, flags, block):
    if block is None:
        return word(addr, flags | ram.CONTINUE)
    return word(addr, flags) + pstr(block)


def xbzrle_encode(old, new):
    """The XBZRLE encoding of `new` against `old`; empty when they are equal."""
    out, where, size = b"", 0, len(new)
    while True:
        start = where
        while where < size and old[where] == new[where]:
            where += 1
        if where == size:
            return out
        same, start = where - start, where
        while where < size and old[where] != new[where]:
            where += 1
        out += uleb128(same) + uleb128(where - start) + new[start:where]


def uleb128(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def device(idstr, values=None, subsections=()):
    """Payload of a device section by the built-in table.

    `values` maps field paths to ints or bytes, absent fields are 0; `subsections` lists those to
    send by path (`cpu/tsc_khz`, `state.serial/tsr`).
    """
    known = tables.lookup(idstr)
    if known is None or any(row.type == "virtio" for row in known.rows):
        raise ValueError("there is no table to build a section '%s' with" % idstr)
    rest, wanted = dict(values or {}), set(subsections)
    payload = layout.encode(known, rest, wanted)
    if rest:
        raise ValueError("section '%s' has no field '%s'" % (idstr, min(rest)))
    return payload


# --- editing an existing stream -------------------------------------------------------------------

class Piece:
    """One record of a stream under edit.

    A section keeps its head, payload and footer apart; a package keeps its records as pieces; any
    other record is raw bytes.
    """

    def __init__(self, record, data):
        self.type = record.type
        self.record = record
        self.raw = bytes(data[record.start:record.end])
        self.section = record if record.type == "section" else None
        self.command = record if record.type == "command" else None
        self.inner = None
        if self.section:
            self.id, self.idstr = record.id, record.idstr
            self.instance, self.version = record.instance, record.version
            self.payload = bytearray(data[record.payload:record.payload_end])
            # True for the matching footer, False for none, or the id it names.
            self.footer = True
            # Payload ranges of the original that were cut out, to find the fields behind them.
            self.removed = []
        elif self.command and record.records:
            self.inner = [Piece(one, data) for one in record.records]

    def copy(self):
        other = copy.copy(self)
        if self.section:
            other.payload = bytearray(self.payload)
            other.removed = list(self.removed)
        if self.inner is not None:
            other.inner = [piece.copy() for piece in self.inner]
        return other

    def place(self, offset, size):
        """Where in the payload now stands what stood at `offset` of the parsed stream."""
        where = offset - self.section.payload
        for start, end in self.removed:
            if start < where + size and where < end:
                raise ValueError("this part of section '%s' was removed" % self.section.name)
        now = where - sum(end - start for start, end in self.removed if end <= where)
        if now + size > len(self.payload):
            raise ValueError("section '%s' is now too short for this" % self.section.name)
        return now

    def bytes(self):
        if self.section:
            return Writer().section(self.section.step, self.id, bytes(self.payload), self.idstr,
                                    self.instance, self.version, self.footer).bytes()
        if self.inner is not None:
            return Writer().package(b"".join(piece.bytes() for piece in self.inner)).bytes()
        return self.raw


class Edit:
    """A stream in pieces.  Built from whole streams only (StreamError otherwise)."""

    def __init__(self, data):
        self.data = bytes(data)
        self.stream = parse(self.data)
        if self.stream.kind not in ("main", "recovery"):
            raise ValueError("only the forward stream can be edited, not a %s stream"
                             % self.stream.kind)
        self.pieces = [Piece(record, self.data) for record in self.stream.records]

    def copy(self):
        """An independent copy, without parsing again."""
        other = copy.copy(self)
        other.pieces = [piece.copy() for piece in self.pieces]
        return other

    def bytes(self):
        return b"".join(piece.bytes() for piece in self.pieces)

    def lists(self):
        """The lists that hold pieces: the top level, and the content of each package."""
        yield self.pieces
        for piece in self.pieces:
            if piece.inner is not None:
                yield piece.inner

    def all(self):
        return [piece for group in self.lists() for piece in group]

    def sections(self, step=None):
        return [piece for piece in self.all() if piece.section
                and step in (None, piece.section.step)]

    def find(self, name, step="full"):
        """The piece of section `name` (`ioapic#1` for instance 1); ValueError if there is none."""
        for piece in self.sections(step):
            if piece.section.name == name:
                return piece
        raise ValueError("the stream has no %s section '%s'" % (step, name))

    def drop(self, piece):
        for group in self.lists():
            if piece in group:
                group.remove(piece)
                return self
        raise ValueError("this piece is not in the stream")

    def drop_type(self, kind):
        """Drop all top-level records of a type, such as vmdescription or eof."""
        self.pieces = [piece for piece in self.pieces if piece.type != kind]
        return self

    def insert_before(self, piece, raw):
        """Put bytes in front of a piece."""
        for group in self.lists():
            if piece in group:
                filler = Piece.__new__(Piece)
                filler.type, filler.record, filler.raw = "raw", None, bytes(raw)
                filler.section = filler.command = filler.inner = None
                group.insert(group.index(piece), filler)
                return self
        raise ValueError("this piece is not in the stream")

    def reorder(self, order):
        """Put the device sections into the order `order(list of pieces)` returns."""
        for group in self.lists():
            slots = [index for index, piece in enumerate(group)
                     if piece.section and piece.section.step == "full"]
            for index, piece in zip(slots, order([group[slot] for slot in slots])):
                group[index] = piece
        return self

    def set_field(self, name, path, value):
        """Overwrite one field of a device (int, or bytes for buffers)."""
        piece = self.find(name)
        for field in piece.section.fields:
            if field.path == path:
                where = piece.place(field.offset, field.size)
                if isinstance(value, int) and field.type not in layout.SIGNED \
                        and field.type not in layout.UNSIGNED and field.type not in layout.LITTLE:
                    raise ValueError("field '%s' takes bytes" % path)
                piece.payload[where:where + field.size] = layout.leaf_bytes(field.type, field.size,
                                                                            value)
                return self
        raise ValueError("section '%s' has no field '%s'" % (name, path))

    def add_subsection(self, name, sub, payload=b"", version=1):
        """Append a subsection to a device section."""
        self.find(name).payload += subsection(sub, payload, version)
        return self

    def drop_subsection(self, name, path):
        piece = self.find(name)
        for seen in piece.section.subsections:
            if seen.path == path:
                size = seen.end - seen.offset
                start = piece.place(seen.offset, size)
                del piece.payload[start:start + size]
                old = seen.offset - piece.section.payload
                piece.removed.append((old, old + size))
                return self
        raise ValueError("section '%s' has no subsection '%s'" % (name, path))

    def renumber(self, shift=100):
        """Other section ids, as another sender might use."""
        for piece in self.sections():
            piece.id += shift
        return self

    def set_machine(self, machine):
        for index, piece in enumerate(self.pieces):
            if piece.type == "configuration":
                start = piece.record.start
                old = 5 + len(self.stream.machine)
                rest = self.data[start + old:piece.record.end]
                self.pieces[index].raw = Writer().configuration(machine, rest).bytes()
                return self
        raise ValueError("the stream has no configuration section")
