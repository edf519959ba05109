# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of device state, and the one routine that decodes by them.

A Vmsd is a list of fields plus the subsections that may follow.  It comes from one of two places:
the built-in table (tables.py), or the description a stream carries at its end (from_description).
Both are decoded by decode(), so the same bytes give the same flat list of fields either way and
the two can be compared.

Field paths: `env.segs[2].base`; a field of a subsection has the subsection's name and a colon
before it: `cpu/tsc_khz:env.tsc_khz`, `state.serial/tsr:thr`.  When a layout names one field twice
(i8254 sends the first channel's next_transition_time again at its end), the second has `#2`.

On bad input everything here raises StreamError.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .reader import StreamError, Truncated

MAX_DEPTH = 16
MAX_ELEMENTS = 1 << 17

# Wire types and how their bytes become a value.  Anything that is not here is kept as bytes.
SIGNED = {"int8", "int16", "int32", "int64", "int32 equal", "timer"}
UNSIGNED = {"uint8", "uint16", "uint32", "uint64", "uint8 equal", "uint16 equal", "uint32 equal",
            "uint64 equal", "bool"}
LITTLE = {"int32 le"}
# Bytes of a table whose division is not known.
OPAQUE = "opaque"


class Field(NamedTuple):
    """One leaf: `value` is an int, or bytes for buffers and unknown types."""
    path: str
    type: str
    offset: int
    size: int
    value: Any


class SubsectionSeen(NamedTuple):
    path: str
    name: str
    version: int
    offset: int
    end: int


@dataclass
class Row:
    """A field of a layout.  `count`: None for a single element, a number for an array, the name
    of an earlier field of the same layout for an array as long as that field says."""
    name: str
    type: str
    size: int
    count: int | str | None = None
    first: int = 0
    struct: "Vmsd | None" = None


@dataclass
class Vmsd:
    name: str
    version: int | None
    rows: list = field(default_factory=list)
    subsections: list = field(default_factory=list)
    # True for a layout taken from a stream's own description: the subsections listed are those
    # that were sent, in that order, instead of those that may come.
    exact: bool = False

    def subsection(self, name):
        return next((sub for sub in self.subsections if sub.name == name), None)


class Names:
    """Makes the paths of one device unique."""

    def __init__(self):
        self.seen = {}

    def unique(self, path):
        count = self.seen[path] = self.seen.get(path, 0) + 1
        return path if count == 1 else "%s#%d" % (path, count)


class Decoded:
    """What decode() collected for one device: flat fields and the subsections seen."""

    def __init__(self):
        self.fields = []
        self.subsections = []
        self.notes = []
        self.visited = 0
        self.names = Names()


def leaf_value(kind, raw):
    if kind in SIGNED:
        return int.from_bytes(raw, "big", signed=True)
    if kind in UNSIGNED:
        return int.from_bytes(raw, "big")
    if kind in LITTLE:
        return int.from_bytes(raw, "little", signed=True)
    return raw


def leaf_bytes(kind, size, value):
    """The inverse of leaf_value(); raises ValueError when the value does not fit."""
    if isinstance(value, (bytes, bytearray)):
        if len(value) > size:
            raise ValueError("%d bytes do not fit into %d" % (len(value), size))
        return bytes(value).ljust(size, b"\0")
    order = "little" if kind in LITTLE else "big"
    try:
        if value < 0:
            return value.to_bytes(size, order, signed=True)
        return value.to_bytes(size, order)
    except OverflowError:
        raise ValueError("%d does not fit into %d bytes" % (value, size)) from None


def element_name(row, index):
    return row.name if row.count is None else "%s[%d]" % (row.name, row.first + index)


def decode(vmsd, reader, out, prefix="", special=None, depth=0):
    """Decode `vmsd` at the reader, appending to `out` (a Decoded).

    `special` maps a field type to a routine (reader, row, path, out) for the types whose bytes
    are not a plain row of fields.
    """
    if depth > MAX_DEPTH:
        raise StreamError(reader.pos, "structures nest deeper than %d" % MAX_DEPTH)
    for row in vmsd.rows:
        for index in range(elements(row, reader, out, prefix)):
            path = prefix + element_name(row, index)
            start = reader.pos
            out.visited += 1
            if out.visited > MAX_ELEMENTS:
                raise StreamError(start, "more than %d fields" % MAX_ELEMENTS)
            if row.struct is not None:
                decode(row.struct, reader, out, path + ".", special, depth + 1)
                if vmsd.exact and reader.pos - start != row.size:
                    raise StreamError(start, "'%s' is described as %d bytes but its parts take %d"
                                      % (path, row.size, reader.pos - start))
            elif special and row.type in special:
                special[row.type](reader, row, path, out)
            else:
                raw = reader.raw(row.size, "field '%s'" % path)
                value = leaf_value(row.type, raw)
                out.fields.append(Field(out.names.unique(path), row.type, start, row.size, value))
    if vmsd.exact:
        for sub in vmsd.subsections:
            decode_subsection(sub, reader, out, prefix, special, depth)
    else:
        while True:
            name = peek_subsection(reader, vmsd.name)
            if name is None:
                break
            sub = vmsd.subsection(name)
            if sub is None:
                raise StreamError(reader.pos, "subsection '%s' is not in the table" % name)
            decode_subsection(sub, reader, out, prefix, special, depth)


def elements(row, reader, out, prefix):
    if row.count is None:
        return 1
    if isinstance(row.count, int):
        return row.count
    count = next(one.value for one in reversed(out.fields) if one.path == prefix + row.count)
    if not 0 <= count <= MAX_ELEMENTS:
        raise StreamError(reader.pos, "'%s' announces %d elements" % (prefix + row.count, count))
    return count


def peek_subsection(reader, parent):
    """The name of the subsection at the reader, or None when there is none for `parent`."""
    head = reader.peek(2)
    if not head or head[0] != 5:
        return None
    want = parent.encode()
    raw = reader.peek(2 + head[1])[2:] if len(head) == 2 else b""
    if reader.outer and (len(head) < 2 or len(raw) < head[1]):
        if want.startswith(raw[:len(want)]):
            raise Truncated(reader.pos, "the stream ends within the name of a subsection")
        return None
    if len(raw) < head[1] or not raw.startswith(want):
        return None
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        return None


def decode_subsection(sub, reader, out, prefix, special, depth):
    start = reader.pos
    if reader.u8("subsection '%s'" % sub.name) != 5:
        raise StreamError(start, "subsection '%s' is announced but does not begin here" % sub.name)
    name = reader.pstr("subsection name")
    if name != sub.name:
        raise StreamError(start, "subsection '%s' stands where '%s' is described"
                          % (name, sub.name))
    version = reader.be32("subsection version")
    if sub.version not in (None, version):
        raise StreamError(start, "subsection '%s' has version %d, version %d is known"
                          % (name, version, sub.version))
    decode(sub, reader, out, prefix + name + ":", special, depth + 1)
    out.subsections.append(SubsectionSeen(prefix + name, name, version, start, reader.pos))


def encode(vmsd, values, subsections=(), prefix="", names=None):
    """Bytes of `vmsd` with `values` (path -> value, absent ones are 0).

    `subsections` names (by path) those to append.  Used paths are removed from `values`, so a
    caller can tell a misspelt one.
    """
    out, taken = bytearray(), {}
    names = names or Names()
    for row in vmsd.rows:
        count = taken.get(row.count, 0) if isinstance(row.count, str) else row.count
        for index in range(1 if count is None else count):
            path = prefix + element_name(row, index)
            if row.struct is not None:
                out += encode(row.struct, values, subsections, path + ".", names)
            else:
                taken[row.name] = values.pop(names.unique(path), 0)
                out += leaf_bytes(row.type, row.size, taken[row.name])
    for sub in vmsd.subsections:
        if prefix + sub.name in subsections:
            name = sub.name.encode()
            out += bytes([5, len(name)]) + name + sub.version.to_bytes(4, "big")
            out += encode(sub, values, subsections, prefix + sub.name + ":", names)
    return bytes(out)


# --- layouts out of a stream's own description ---------------------------------------------------

def same_fields(table, description):
    """True when both lists have the same fields; an opaque one stands for any with its bytes."""
    if table == description:
        return True
    spans = [(one.offset, one.offset + one.size) for one in table if one.type == OPAQUE]
    if not spans:
        return False
    return ([one for one in table if one.type != OPAQUE]
            == [one for one in description
                if not any(start <= one.offset and one.offset + one.size <= end
                           for start, end in spans)])


def from_description(entry, where):
    """The Vmsd for one entry of the description's `devices`; `where` is its offset for errors."""
    name = entry.get("vmsd_name") or entry.get("name")
    if not isinstance(name, str):
        raise StreamError(where, "a device in the vmdescription has no name")
    return vmsd_from(entry, name, where, 0)


def vmsd_from(entry, name, where, depth):
    if depth > MAX_DEPTH:
        raise StreamError(where, "the vmdescription nests deeper than %d" % MAX_DEPTH)
    rows = [row_from(item, name, where, depth) for item in listed(entry, "fields", name, where)]
    subs = []
    for item in listed(entry, "subsections", name, where):
        sub = item.get("vmsd_name")
        if not isinstance(sub, str):
            raise StreamError(where, "a subsection of '%s' has no name in the vmdescription" % name)
        subs.append(vmsd_from(item, sub, where, depth + 1))
    version = number(entry, "version", 0, name, where) if "version" in entry else None
    return Vmsd(name, version, rows, subs, exact=True)


def listed(entry, key, name, where):
    items = entry.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise StreamError(where, "'%s' of '%s' in the vmdescription is no list" % (key, name))
    return items


def number(entry, key, default, name, where):
    value = entry.get(key, default)
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise StreamError(where, "'%s' of '%s' in the vmdescription is no usable number"
                          % (key, name))
    return value


def row_from(item, owner, where, depth):
    name, kind = item.get("name"), item.get("type")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise StreamError(where, "a field of '%s' in the vmdescription lacks name or type" % owner)
    size = number(item, "size", 0, name, where)
    count, first = None, 0
    if "array_len" in item or "index" in item:
        count = number(item, "array_len", 1, name, where)
        first = number(item, "index", 0, name, where)
        if count > MAX_ELEMENTS:
            raise StreamError(where, "'%s' in the vmdescription has %d elements" % (name, count))
    struct = None
    inner = item.get("struct") if kind == "struct" else item if "fields" in item else None
    if inner is not None:
        if not isinstance(inner, dict):
            raise StreamError(where, "'struct' of '%s' in the vmdescription is no object" % name)
        struct = vmsd_from(inner, str(inner.get("vmsd_name", name)), where, depth + 1)
    return Row(name, kind, size, count, first, struct)


def described_length(vmsd):
    """Payload bytes a description stands for, by arithmetic alone (struct sizes as stated)."""
    total = sum(row.size * (1 if row.count is None else row.count) for row in vmsd.rows)
    for sub in vmsd.subsections:
        total += 1 + 1 + len(sub.name.encode()) + 4 + described_length(sub)
    return total
