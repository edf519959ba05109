# SPDX-License-Identifier: GPL-2.0-or-later
"""Two streams held against each other: configuration, RAM blocks, devices and their fields.

Meant for the same machine saved by two programs.  Section ids, offsets and the description are
the sender's own business and are not compared; the order of devices is.
"""

from fnmatch import fnmatchcase
from typing import NamedTuple

from .memory import reconstruct
from .reader import PAGE_SIZE


class Difference(NamedTuple):
    """`where` is `section field` or a heading; left and right are texts."""
    where: str
    left: str
    right: str


def show(field):
    """A field's value as text: hex for unsigned, decimal for signed, buffers in hex."""
    value = field.value
    if isinstance(value, int):
        return str(value) if value < 0 or field.type.startswith("int") else hex(value)
    if field.type == "zeros" or not any(value):
        return "%d zero bytes" % len(value)
    return show_bytes(value)


def show_bytes(value):
    text = value.rstrip(b"\0")
    if len(text) > 3 and all(32 <= byte < 127 for byte in text):
        return '"%s"' % text.decode()
    return value.hex() if len(value) <= 32 else "%s... (%d bytes)" % (value[:32].hex(), len(value))


def compare(left, right, ignore=(), with_ram=False, left_others=(), right_others=()):
    """The differences, in order.  `ignore`: patterns (fnmatch) of `where` to leave out."""
    found = list(compare_heads(left, right)) + list(compare_devices(left, right))
    if with_ram:
        found += list(compare_ram(reconstruct(left, left_others),
                                  reconstruct(right, right_others)))
    return [one for one in found if not any(fnmatchcase(one.where, pattern) for pattern in ignore)]


def compare_heads(left, right):
    for name in ("machine", "capabilities", "uuid", "page_bits"):
        mine, other = (getattr(one.configuration, name, None) for one in (left, right))
        if mine != other:
            yield Difference("configuration %s" % name, str(mine), str(other))
    mine, other = (["%s=0x%x" % (block.name, block.length) for block in one.ram.blocks.values()]
                   for one in (left, right))
    if mine != other:
        yield Difference("RAM blocks", " ".join(mine), " ".join(other))
    mine, other = ([section.name for section in one.devices()] for one in (left, right))
    if sorted(mine) == sorted(other) and mine != other:
        yield Difference("device order", " ".join(mine), " ".join(other))


def compare_devices(left, right):
    theirs = {section.name: section for section in right.devices()}
    for section in left.devices():
        other = theirs.pop(section.name, None)
        if other is None:
            yield Difference(section.name, "section", "-")
            continue
        if section.version != other.version:
            yield Difference("%s version" % section.name, str(section.version), str(other.version))
        yield from compare_fields(section, other)
    for name in theirs:
        yield Difference(name, "-", "section")


def compare_fields(section, other):
    mine, theirs = ([one.path for one in part.subsections] for part in (section, other))
    if mine != theirs and sorted(mine) == sorted(theirs):
        yield Difference("%s order of subsections" % section.name, " ".join(mine),
                         " ".join(theirs))
    rest = {field.path: field for field in other.fields}
    for field in section.fields:
        match = rest.pop(field.path, None)
        where = "%s %s" % (section.name, field.path)
        if match is None:
            yield Difference(where, show(field), "-")
        elif field.type != match.type or field.size != match.size:
            yield Difference("%s type" % where, "%s:%d" % (field.type, field.size),
                             "%s:%d" % (match.type, match.size))
        elif field.value != match.value:
            yield Difference(where, *show_pair(field, match))
    for path, field in rest.items():
        yield Difference("%s %s" % (section.name, path), "-", show(field))


def show_pair(field, match):
    """Both values; of long buffers only the part around the first byte that differs."""
    left, right = show(field), show(match)
    if isinstance(field.value, int) or len(field.value) <= 32:
        return left, right
    first = next(index for index in range(len(field.value))
                 if field.value[index] != match.value[index])
    return tuple("+0x%x: %s" % (first, value[first:first + 16].hex())
                 for value in (field.value, match.value))


def compare_ram(left, right):
    for name, block in left.blocks.items():
        other = right.blocks.get(name)
        if other is None or other.length != block.length:
            continue
        addrs = [addr for addr in range(0, block.length, PAGE_SIZE)
                 if block.data[addr:addr + PAGE_SIZE] != other.data[addr:addr + PAGE_SIZE]]
        if addrs:
            text = " ".join("0x%x" % addr for addr in addrs[:8]) + (" ..." if addrs[8:] else "")
            yield Difference("RAM %s" % name, "%d pages differ" % len(addrs), text)
