# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged streams, made out of a good one.

Generators of (label, bytes) for tests that feed a receiver what a broken or hostile sender might
send: truncations(), mutations(), bit_flips().  Labels are unique and stable for a given input, so
a test can name the ones it wants.  Many of the streams are merely unusual and may be accepted; what
a receiver must never do is crash, hang, or take up guest state of a stream it then refuses.
"""

from . import parse
from .build import (NUMBERS, Edit, Writer, be, pstr, ram_blocks, ram_eos, ram_page, ram_xbzrle,
                    ram_zero, subsection, uleb128, xbzrle_encode)
from .reader import PAGE_SIZE


def truncations(data, inside=True):
    """The stream cut at every record boundary; with `inside` also within each record.

    Inside a section the cut points are: after the type byte, in the head, at the start, in the
    middle and at the end of the payload, in the footer; around page records of each RAM part: in
    the first word, after it, in the first page's data.  The cut before the vmdescription leaves a
    whole stream, and the one before the first byte an empty one.
    """
    stream = parse(data)
    data = bytes(data)
    points = {0: "empty"}
    for record in flatten(stream.records):
        points.setdefault(record.start, "before %s" % record_name(record))
    for record in flatten(stream.records) if inside else ():
        name = record_name(record)
        inner = [(record.start + 1, "after the type of"), ((record.start + record.end) // 2,
                                                          "in the middle of")]
        if record.type == "section":
            inner += [(record.start + 5, "after the id of"),
                      (record.payload, "before the content of"),
                      (record.payload_end, "before the footer of"),
                      (record.end - 2, "in the footer of")]
            if record.ram:
                pages = [page for page in stream.ram.pages if page.part == record.ram.index][:1]
                inner += [(page.offset + 4, "in a record of") for page in pages]
                inner += [(page.offset + 8, "after a word of") for page in pages]
                inner += [(page.data + page.size // 2, "in a page of") for page in pages]
        for where, text in inner:
            points.setdefault(where, "%s %s" % (text, name))
    for where in sorted(points):
        if where < len(data):
            yield "cut at 0x%x %s" % (where, points[where]), data[:where]


def record_name(record):
    return getattr(record, "name", None) or record.type


def flatten(records):
    for record in records:
        yield record
        yield from flatten(getattr(record, "records", []))


def mutations(data):
    """The stream with one thing wrong (or just unusual), for each thing that can be.

    Covers header, configuration, commands, sections (dropped, doubled, moved, renamed, other
    instance, other version, wrong and missing footer, payload longer and shorter), subsections,
    RAM block list, page records, end and description.  For damaged bytes see bit_flips().
    """
    first = Edit(data)
    fresh = first.copy
    yield "magic", b"QEVN" + first.data[4:]
    for version in (0, 2, 4, 0xffffffff):
        yield "version %d" % version, first.data[:4] + be(version, 4) + first.data[8:]
    yield from configuration_mutations(fresh)
    for name in [piece.section.name for piece in first.sections("full")]:
        yield from section_mutations(fresh, name)
    yield "devices reversed", fresh().reorder(lambda pieces: pieces[::-1]).bytes()
    yield "ids renumbered", fresh().renumber().bytes()
    yield "one id for all devices", one_id(fresh())
    yield from command_mutations(fresh)
    yield from ram_mutations(fresh)
    yield "no end", fresh().drop_type("eof").drop_type("vmdescription").bytes()
    yield "no vmdescription", fresh().drop_type("vmdescription").bytes()
    bare = fresh().drop_type("vmdescription").bytes()
    yield "empty vmdescription", bare + Writer().vmdescription({}).bytes()
    yield "vmdescription not JSON", bare + Writer().vmdescription(b"{]").bytes()
    yield "vmdescription too long", bare + b"\x06\xff\xff\xff\xff{}"
    yield "vmdescription nested", bare + Writer().vmdescription(b"[" * 100000).bytes()
    yield "bytes after the end", first.data + b"\x04" * 16


def configuration_mutations(fresh):
    if not fresh().stream.configuration:
        return
    yield "no configuration", fresh().drop_type("configuration").bytes()
    yield "other machine", fresh().set_machine("nosuchmachine").bytes()
    edit = fresh()
    config = next(piece for piece in edit.pieces if piece.type == "configuration")
    for label, raw in (
            ("empty machine name", Writer().configuration("").bytes()),
            ("machine name too long", Writer().configuration("microvm", length=1 << 31).bytes()),
            ("machine name longer by one", Writer().configuration("microvm", length=8).bytes()),
            ("configuration twice", config.raw * 2),
            ("capabilities", config.raw + subsection("configuration/capabilities",
                                                     be(1, 4) + pstr("x-ignore-shared"))),
            ("capability count", config.raw + subsection("configuration/capabilities",
                                                         be(0xffffffff, 4))),
            ("uuid", config.raw + subsection("configuration/uuid", bytes(range(16)))),
            ("unknown configuration", config.raw + subsection("configuration/x", b""))):
        edit = fresh()
        next(piece for piece in edit.pieces if piece.type == "configuration").raw = raw
        yield label, edit.bytes()


def section_mutations(fresh, name):
    def change(act):
        edit = fresh()
        piece = edit.find(name)
        act(edit, piece)
        return edit.bytes()

    def attribute(key, value):
        return change(lambda edit, piece: setattr(piece, key, value))

    seen = fresh().find(name).section
    yield "%s: dropped" % name, change(lambda edit, piece: edit.drop(piece))
    yield "%s: twice" % name, change(lambda edit, piece: edit.insert_before(piece, piece.bytes()))
    yield "%s: renamed" % name, attribute("idstr", "nosuchdevice")
    yield "%s: name of 255 bytes" % name, attribute("idstr", "x" * 255)
    yield "%s: empty name" % name, attribute("idstr", "")
    yield "%s: name with a zero byte" % name, attribute("idstr", seen.idstr + "\0")
    yield "%s: other instance" % name, attribute("instance", seen.instance + 7)
    for version in sorted({0, seen.version - 1, seen.version + 1, 0xffffffff} - {seen.version, -1}):
        yield "%s: version %d" % (name, version), attribute("version", version)
    yield "%s: wrong footer" % name, attribute("footer", seen.id ^ 0x55)
    yield "%s: no footer" % name, attribute("footer", False)
    yield "%s: empty" % name, attribute("payload", b"")
    yield "%s: one byte short" % name, change(lambda edit, piece: piece.payload.pop())
    yield "%s: one byte more" % name, change(lambda edit, piece: piece.payload.append(0))
    yield "%s: all ones" % name, attribute("payload", b"\xff" * seen.size)
    yield "%s: all zeroes" % name, attribute("payload", bytes(seen.size))
    yield ("%s: unknown subsection" % name,
           change(lambda edit, piece: edit.add_subsection(name, seen.idstr + "/nosuch")))
    yield ("%s: subsection of another" % name,
           change(lambda edit, piece: edit.add_subsection(name, "nosuch/thing")))
    for sub in seen.subsections:
        yield ("%s: without %s" % (name, sub.path),
               change(lambda edit, piece, sub=sub: edit.drop_subsection(name, sub.path)))


def one_id(edit):
    for piece in edit.sections("full"):
        piece.id = 77
    return edit.bytes()


def command_mutations(fresh):
    def before_first_section(raw):
        edit = fresh()
        return edit.insert_before(edit.sections()[0], raw).bytes()

    yield "command 0", before_first_section(Writer().command(0).bytes())
    yield "command 0xffff", before_first_section(Writer().command(0xffff).bytes())
    yield "ping without return path", before_first_section(Writer().ping(1).bytes())
    for name in NUMBERS:
        yield "%s: empty" % name, before_first_section(Writer().command(name).bytes())
        yield ("%s: length 0xffff" % name,
               before_first_section(Writer().command(name, length=0xffff).bytes()))
    yield ("package of 4 GiB",
           before_first_section(Writer().command("PACKAGED", be(0xffffffff, 4)).bytes()))
    nest = b""
    for _ in range(40):
        nest = Writer().package(nest).bytes()
    yield "packages in packages", before_first_section(nest)
    for label, name, ranges in (
            ("discard of the whole address space", "microvm.ram", [(0, (1 << 64) - 1)]),
            ("discard that wraps", "microvm.ram", [((1 << 64) - PAGE_SIZE, 2 * PAGE_SIZE)]),
            ("discard of an unknown block", "nosuchblock", [(0, PAGE_SIZE)])):
        edit = fresh()
        yield label, edit.insert_before(edit.sections()[-1],
                                        Writer().discard(name, ranges).bytes()).bytes()
    yield "unknown record type", before_first_section(b"\x55")


def ram_mutations(fresh):
    sample = fresh()
    try:
        sample.find("ram", "start")
    except ValueError:
        return
    blocks = [(block.name, block.length) for block in sample.stream.ram.blocks.values()]
    name, length = blocks[0]

    def start(payload):
        edit = fresh()
        edit.find("ram", "start").payload = bytearray(payload)
        return edit.bytes()

    def pages(*records):
        return start(ram_blocks(blocks) + b"".join(records) + ram_eos())

    page = bytes(range(256)) * 16
    yield "block list empty", start(ram_blocks([]) + ram_eos())
    yield "block list reversed", start(ram_blocks(blocks[::-1]) + ram_eos())
    yield "block left out", start(ram_blocks(blocks[1:] or blocks) + ram_eos())
    yield "block unknown", start(ram_blocks(blocks + [("nosuchblock", 4096)]) + ram_eos())
    yield "block twice", start(ram_blocks(blocks + blocks[:1]) + ram_eos())
    yield "block of another size", start(ram_blocks([(name, length * 2)] + blocks[1:]) + ram_eos())
    yield "block of size 0", start(ram_blocks([(name, 0)] + blocks[1:]) + ram_eos())
    yield ("block of 2^63 bytes", start(ram_blocks([(name, 1 << 63)] + blocks[1:], 1 << 63)
                                        + ram_eos()))
    yield "total too small", start(ram_blocks(blocks, 4096) + ram_eos())
    yield "total too large", start(ram_blocks(blocks, 1 << 40) + ram_eos())
    yield "no block list", start(ram_eos())
    yield "page in START", pages(ram_page(0, page, name))
    yield "page outside its block", pages(ram_page(length, page, name))
    yield "page at the top of the address space", pages(ram_page((1 << 64) - PAGE_SIZE, page, name))
    yield "page of an unknown block", pages(ram_page(0, page, "nosuchblock"))
    yield "page that continues nothing", pages(ram_page(0, page))
    yield "zero page of ones", pages(ram_zero(0, name, 0xff))
    for flags in (0x00, 0x01, 0x0a, 0x18, 0x30, 0x80, 0x200, 0x400, 0x800):
        yield "RAM flags 0x%x" % flags, pages(ram_page(0, page, name, flags))
    base = ram_page(0, page, name)
    for label, encoded in (("", xbzrle_encode(page, page[:-1] + b"!")), (" empty", b""),
                           (" run of 0", b"\x00\x00"), (" no data", b"\x01\x10"),
                           (" beyond the page", uleb128(4090) + uleb128(10) + b"x" * 10),
                           (" three byte run", b"\x81\x80\x00\x01x"), (" ends in a run", b"\x10")):
        yield "xbzrle%s" % label, pages(base, ram_xbzrle(0, encoded))
    yield "xbzrle without the page before", pages(ram_xbzrle(0, b"\x00\x01x", name))
    yield "xbzrle of another kind", pages(base, ram_xbzrle(0, b"\x00\x01x", mark=2))
    yield "xbzrle too long", pages(base, ram_xbzrle(0, b"x" * 5000))
    for step in ("start", "part", "end"):
        edit = fresh()
        for piece in [one for one in edit.sections(step) if one.section.idstr == "ram"]:
            edit.drop(piece)
        yield "no RAM %s" % step, edit.bytes()
    edit = fresh()
    edit.find("ram", "start").footer = False
    yield "RAM without footer", edit.bytes()


def bit_flips(data, stride=1, low=0, high=None):
    """One bit wrong in every `stride`-th byte of [low, high); the bit changes with the offset."""
    data = bytes(data)
    for where in range(low, len(data) if high is None else high, stride):
        bit = where * 7 % 8
        yield ("bit %d of 0x%x" % (bit, where),
               data[:where] + bytes([data[where] ^ 1 << bit]) + data[where + 1:])
