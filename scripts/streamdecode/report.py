# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsed streams as text and as JSON."""

import json
import re

from .compare import show
from .ram import NAMES

KIND_TEXT = {"main": "forward stream", "recovery": "recovery stream", "return": "return path",
             "multifd": "multifd channel", "preempt": "preempt channel", "empty": "empty stream"}
PAGE_KINDS = list(NAMES.values()) + ["mapped"]


def heading(stream, name):
    text = "%s: %s, %d bytes" % (name, KIND_TEXT[stream.kind], len(stream.data))
    if stream.machine:
        text += ", machine %s" % stream.machine
    yield text


def summary(stream, name):
    yield from heading(stream, name)
    yield from sections(stream)
    if stream.ram.parts:
        yield from ram(stream, parts=False)
    yield from checks(stream)


def checks(stream):
    """One line on what holds; problems are the caller's to print."""
    devices = stream.devices()
    if devices:
        both = sum(one.source == "both" for one in devices)
        yield ("devices: %d, of which %d decode alike by table and description, %d by table only, "
               "%d by description only"
               % (len(devices), both, sum(one.source == "table" for one in devices),
                  sum(one.source == "description" for one in devices)))
    if stream.error is None and stream.covered():
        yield "every byte is accounted for"


# --- the record list -----------------------------------------------------------------------------

def sections(stream):
    yield "%-10s %10s  record" % ("offset", "bytes")
    yield from record_lines(stream.records, "")


def record_lines(records, indent):
    for record in records:
        yield "0x%08x %10d  %s%s" % (record.start, record.end - record.start, indent,
                                     describe(record))
        yield from record_lines(getattr(record, "records", ()), indent + "  ")


def describe(record):
    return DESCRIBE[record.type](record)


def describe_section(section):
    text = "%-5s %s id %d" % (section.step, section.name, section.id)
    if section.version is not None and section.step in ("start", "full"):
        text += " version %d" % section.version
    text += ": %d bytes at 0x%x" % (section.size, section.payload)
    if section.ram:
        text += ", %s" % (page_counts(section.ram.counts) or "no pages")
    elif section.items:
        text += ", %d records" % len(section.items)
    if section.step == "full":
        text += ", %d fields" % len(section.fields)
        if section.subsections:
            text += ", with %s" % " ".join(one.name for one in section.subsections)
    return text


def describe_configuration(config):
    text = "configuration: machine %s" % config.machine
    if config.capabilities is not None:
        text += ", capabilities %s" % " ".join(config.capabilities)
    if config.uuid:
        text += ", uuid %s" % config.uuid
    if config.page_bits is not None:
        text += ", page bits %d" % config.page_bits
    return text


def arguments(args):
    parts = []
    for name, value in args.items():
        if name == "ranges":
            parts.append("ranges " + (" ".join("0x%x+0x%x" % one for one in value[:4])
                                      + (" ... (%d)" % len(value) if value[4:] else "")))
        elif isinstance(value, bytes):
            if name != "bitmap":
                parts.append("%s %s" % (name, value.hex() or "(empty)"))
        elif isinstance(value, int):
            parts.append("%s 0x%x" % (name, value))
        else:
            parts.append("%s %s" % (name, value))
    return ", ".join(parts)


def describe_call(record, label):
    args = arguments(record.args)
    return "%s %s%s" % (label, record.name, " (%s)" % args if args else "")


def describe_packet(packet):
    return ("packet %d: %s%s, %d pages with data (%s, %d bytes), %d zero pages"
            % (packet.number, packet.block or "no block", ", sync" if packet.sync else "",
               len(packet.normal), packet.compression, packet.size, len(packet.zero)))


DESCRIBE = {
    "header": lambda record: "header: QEVM version %d" % record.version,
    "configuration": describe_configuration,
    "section": describe_section,
    "command": lambda record: describe_call(record, "command"),
    "message": lambda record: describe_call(record, "message"),
    "eof": lambda record: "end of the state",
    "vmdescription": lambda record: "vmdescription: %d bytes of JSON" % len(record.text),
    "init": lambda packet: "init packet: channel %d, uuid %s" % (packet.channel, packet.uuid),
    "packet": describe_packet,
    "ram": lambda record: "page records: %s" % (page_counts(record.part.counts) or "none"),
    "unread": lambda record: "not read",
}


# --- RAM -----------------------------------------------------------------------------------------

def page_counts(counts):
    return ", ".join("%d %s" % (counts[kind], kind) for kind in PAGE_KINDS if kind in counts)


def ram(stream, parts=True):
    state = stream.ram
    if state.blocks:
        yield "RAM blocks: %d, 0x%x bytes" % (len(state.blocks), state.total)
        for block in state.blocks.values():
            text = "  %-30s 0x%x" % (block.name, block.length)
            if block.page_size != 4096:
                text += " page size 0x%x" % block.page_size
            if block.gpa is not None:
                text += " at guest address 0x%x" % block.gpa
            if block.mapped:
                text += " pages at 0x%x, bitmap at 0x%x, %d present" % (
                    block.mapped["pages_offset"], block.mapped["bitmap_offset"],
                    block.mapped["present"])
            yield text
    if parts and state.parts:
        steps = {section.ram.index: section.step for section in stream.sections if section.ram}
        yield ("%5s %-5s %-10s %10s " % ("part", "step", "offset", "bytes")
               + " ".join("%8s" % kind for kind in PAGE_KINDS) + "    again    flush")
        for part in state.parts:
            yield ("%5d %-5s 0x%08x %10d " % (part.index, steps.get(part.index, "-"), part.start,
                                             part.end - part.start)
                   + " ".join("%8d" % part.counts.get(kind, 0) for kind in PAGE_KINDS)
                   + " %8d %8d" % (part.again, part.flushes))
    totals, sizes = {}, {}
    for part in state.parts:
        for kind, count in part.counts.items():
            totals[kind] = totals.get(kind, 0) + count
            sizes[kind] = sizes.get(kind, 0) + part.bytes[kind]
    yield "RAM pages: %s; %d distinct; %d bytes of content" % (
        page_counts(totals) or "none", len(state.seen), sum(sizes.values()))
    if state.discards:
        yield "discarded: %d ranges, 0x%x bytes" % (len(state.discards),
                                                   sum(one[3] for one in state.discards))


# --- fields --------------------------------------------------------------------------------------

def fields(section):
    if section.items:
        yield "%s %s: %d bytes at 0x%x" % (section.name, section.step, section.size,
                                           section.payload)
        for item in section.items:
            yield "  0x%08x %s" % (item["offset"], " ".join(
                "%s=%s" % pair for pair in item.items() if pair[0] != "offset"))
        return
    yield "%s version %d: %d bytes at 0x%x, decoded by %s" % (
        section.name, section.version, section.size, section.payload, section.source)
    for first, last, count in runs(section.fields):
        path = first.path
        if count > 1:
            path = re.sub(r"\[(\d+)\]$", lambda match: "[%s..%d]" % (
                match.group(1), int(match.group(1)) + count - 1), path)
        kind = "%s:%d" % (first.type, first.size) if isinstance(first.value, bytes) else first.type
        yield "  0x%08x %-14s %s = %s" % (first.offset, kind, path, show(first))


def runs(items):
    """Fields with array elements of equal value taken together: (first, last, count)."""
    group = []
    for item in items:
        if group and follows(group[-1], item):
            group.append(item)
            continue
        if group:
            yield group[0], group[-1], len(group)
        group = [item]
    if group:
        yield group[0], group[-1], len(group)


def follows(last, item):
    if last.value != item.value or last.type != item.type:
        return False
    ends = [re.fullmatch(r"(.*)\[(\d+)\]", one.path, re.DOTALL) for one in (last, item)]
    return (all(ends) and ends[0].group(1) == ends[1].group(1)
            and int(ends[0].group(2)) + 1 == int(ends[1].group(2)))


# --- JSON ----------------------------------------------------------------------------------------

def as_json(stream, name):
    value = {
        "file": name, "kind": stream.kind, "bytes": len(stream.data), "machine": stream.machine,
        "records": [record_json(record) for record in stream.records],
        "ram": {
            "total": stream.ram.total,
            "blocks": [vars(block) for block in stream.ram.blocks.values()],
            "parts": [{**vars(part), "pages": part.pages} for part in stream.ram.parts],
            "distinct_pages": len(stream.ram.seen),
            "discards": [list(one[1:]) for one in stream.ram.discards],
        },
        "problems": [{"offset": where, "text": text} for where, text in stream.problems],
        "error": None if stream.error is None else {"offset": stream.error.offset,
                                                    "text": stream.error.reason},
        "complete": stream.error is None and stream.covered(),
    }
    return json.dumps(value, indent=1, default=plain)


def record_json(record):
    value = {key: item for key, item in vars(record).items()
             if key not in ("records", "fields", "subsections", "ram", "part", "text")}
    value["type"] = record.type
    if record.type == "section":
        value["name"] = record.name
        value["fields"] = {field.path: field.value for field in record.fields}
        value["subsections"] = [one.path for one in record.subsections]
        value["ram_part"] = record.ram.index if record.ram else None
    if getattr(record, "records", None):
        value["records"] = [record_json(one) for one in record.records]
    return value


def plain(value):
    """What JSON has no type for: bytes as hex."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    raise TypeError("no JSON for %s" % type(value))
