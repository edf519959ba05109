# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a stream may leave out, reorder or say otherwise, as a table: an edit of a good stream, what
QEMU 7.2 does with it, what Ferry does, and where Ferry is stricter (or knows more), why.

An outcome is a run state (the stream is taken, and the guest is then in that state) or Refused with
what the refusal says.
"""

import os
import sys
from dataclasses import dataclass
from typing import Callable

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts"))

from streamdecode import PAGE_SIZE, build  # noqa: E402
from streamdecode.build import Edit, Writer, be, pstr, ram_page, ram_zero  # noqa: E402

RAM, TABLES = "ram0", "/rom@etc/acpi/tables"
PAGE = bytes(range(256)) * (PAGE_SIZE // 256)


@dataclass
class Refused:
    says: str  # a regular expression


@dataclass
class Rule:
    name: str
    edit: Callable  # (Edit) -> Edit or bytes
    qemu: object
    ferry: object
    why: str = ""  # where the two differ
    unwell: bool = False  # the guest that Ferry has taken need not be well


# ---- edits ----

def same(edit):
    return edit


def header(version=3, magic=b"QEVM"):
    return lambda edit: magic + be(version, 4) + edit.data[8:]


def footer(name, step, value):
    def change(edit):
        edit.find(name, step).footer = value
        return edit
    return change


def without(name, step="full"):
    def change(edit):
        pieces = [p for p in edit.sections(step) if p.section.name == name]
        for piece in pieces:
            edit.drop(piece)
        return edit
    return change


def twice(name):
    def change(edit):
        piece = edit.find(name)
        return edit.insert_before(piece, piece.bytes())
    return change


def attribute(name, key, value, step="full"):
    def change(edit):
        setattr(edit.find(name, step), key, value)
        return edit
    return change


def field(name, path, value):
    return lambda edit: edit.set_field(name, path, value)


def devices_first(edit):
    devices = [p for p in edit.pieces if p.section and p.section.step == "full"]
    edit.pieces = [p for p in edit.pieces if p not in devices]
    start = next(i for i, p in enumerate(edit.pieces) if p.section)
    edit.pieces[start:start] = devices
    return edit


def subsections_of(edit, name):
    piece = edit.find(name)
    subs = [s for s in piece.section.subsections if s.path.count("/") == 1]
    if len(subs) < 2:
        raise ValueError(f"'{name}' has {len(subs)} subsections, and two are needed")
    return piece, subs


def subsections_reversed(name):
    def change(edit):
        piece, subs = subsections_of(edit, name)
        raw = [bytes(edit.data[s.offset:s.end]) for s in subs]
        piece.payload = piece.payload[:subs[0].offset - piece.section.payload] + \
            b"".join(raw[::-1])
        return edit
    return change


def subsections_dropped(name):
    def change(edit):
        piece, subs = subsections_of(edit, name)
        for sub in subs:
            if sub.path != "cpu/tsc_khz":
                edit.drop_subsection(name, sub.path)
        return edit
    return change


def blocks(change):
    """Edits the list of RAM blocks: change([(name, length)]) -> the same, or (list, total)."""
    def act(edit):
        have = [(b.name, b.length) for b in edit.stream.ram.blocks.values()]
        new = change(have)
        new, total = new if isinstance(new, tuple) else (new, None)
        edit.find("ram", "start").payload = bytearray(build.ram_blocks(new, total)
                                                      + build.ram_eos())
        return edit
    return act


def resized(name, length):
    return blocks(lambda have: [(n, length if n == name else old) for n, old in have])


def larger(name, length):
    """A resizable block that is larger, its further pages zero."""
    def change(edit):
        old = edit.stream.ram.blocks[name].length
        resized(name, length)(edit)
        part = edit.sections("part")[0]
        part.payload = b"".join(ram_zero(at, name) for at in range(old, length, PAGE_SIZE)) + \
            part.payload
        return edit
    return change


def in_start(*records):
    """Page records in START, before the ones of the stream."""
    def change(edit):
        start = edit.find("ram", "start")
        start.payload = start.payload[:-8] + b"".join(records) + build.ram_eos()
        return edit
    return change


def start_twice(edit):
    start = edit.find("ram", "start")
    return edit.insert_before(edit.sections("part")[0], start.bytes())


def no_ram_data(edit):
    for step in ("part", "end"):
        without("ram", step)(edit)
    return edit


def one_page_less(edit):
    """The last page that the stream has once only, and not in its end, does not come."""
    count = {}
    for page in edit.stream.ram.pages:
        count[(page.block, page.addr)] = count.get((page.block, page.addr), 0) + 1
    part = edit.sections("part")[0]
    pages = [p for p in edit.stream.ram.pages if p.part == part.section.ram.index]
    at = next(i for i in range(len(pages) - 2, 0, -1)
              if count[(pages[i].block, pages[i].addr)] == 1
              and pages[i + 1].block == pages[i].block == pages[i - 1].block)
    start, end = pages[at].offset, pages[at + 1].offset
    base = part.section.payload
    del part.payload[start - base:end - base]
    return edit


def before_sections(raw):
    return lambda edit: edit.insert_before(edit.sections()[0], raw)


def description(value):
    return lambda edit: edit.drop_type("vmdescription").bytes() + (
        Writer().vmdescription(value).bytes() if value is not None else b"")


def runstate(name):
    raw = name.encode() + b"\0"
    return lambda edit: edit.set_field("globalstate", "size", len(raw)).set_field(
        "globalstate", "runstate", raw.ljust(100, b"\0"))


def xbzrle(encoded, **options):
    return in_start(ram_page(0x5000, PAGE, RAM), build.ram_xbzrle(0x5000, encoded, **options))


COMPRESSED = build.word(0x5000, 0x100) + pstr(RAM) + be(8, 4) + bytes(8)

# ---- the table ----

RUNS = "running"
CRASHED = "ended"  # taken, and the guest does not survive it: when, and how, is chance
NO = Refused("load of migration failed")
SIZE = 16 << 20

RESET = "the device would be as after reset, and the guest that has set it up does not know"
PARTLY = "what has not come would be zero or old, and the guest would find out by chance"
TWICE = "one of the two is wrong, and nobody knows which"
NOT_A_STATE = "the guest would be in a state that no command leads out of"

DEVICES = ("timer", "fw_cfg", "cpu_common", "cpu", "kvm-tpr-opt", "apic", "ioapic", "ioapic#1",
           "acpi-ged", "i8259", "i8259#1", "i8254", "mc146818rtc", "serial")


def lacks(name):
    idstr, _, instance = name.partition("#")
    return Refused(f"lacks the state of '{idstr}' instance {instance or 0}")


def raw(writer):
    return before_sections(writer.bytes())


def refused(name, edit, says, **options):
    """Both refuse."""
    return Rule(name, edit, NO, Refused(says), **options)


def taken(name, edit, state=RUNS, **options):
    """Both take it."""
    return Rule(name, edit, state, state, **options)


XBZRLE_BAD = "changed page .xbzrle. that cannot be decoded"
XBZRLE_LONG = "changed page .xbzrle. of an unknown kind or longer"

RULES = [
    taken("as it is", same),

    # header, configuration, end
    refused("magic", header(magic=b"QEVN"), "Not a migration stream"),
    refused("version 2", header(2), "SaveVM v2 format is obsolete"),
    refused("version 4", header(4), "Unsupported migration stream version"),
    refused("no configuration", lambda e: e.drop_type("configuration"),
            "Configuration section missing"),
    refused("other machine", lambda e: e.set_machine("pc-i440fx-7.2"),
            "Machine type received is 'pc-i440fx-7.2' and local is 'microvm'"),
    refused("no end", lambda e: e.drop_type("eof").drop_type("vmdescription"), "ended early"),
    taken("no description", description(None)),
    taken("empty description", description({})),
    taken("description that is none", description(b"{]")),

    # sections
    refused("no footer of a device", footer("apic", "full", False),
            "Missing section footer for apic"),
    refused("no footer of memory", footer("ram", "start", False), "Missing section footer for ram"),
    refused("wrong footer", footer("apic", "full", 0x55),
            "Mismatched section id in footer for apic"),
    taken("ids renumbered", lambda e: e.renumber()),
    *[Rule(f"no {name}", without(name), RUNS, lacks(name), RESET)
      for name in DEVICES],
    # as an emulator sends, whose guests have none; this one has, and its clock begins anew
    taken("no kvmclock", without("kvmclock"), unwell=True),
    taken("no globalstate", without("globalstate")),  # QEMU has a switch for that
    Rule("section twice", twice("apic"), RUNS, Refused("section 'apic' instance 0 twice"), TWICE),
    refused("section unknown", attribute("serial", "idstr", "nosuchdevice"),
            "Unknown savevm section or instance 'nosuchdevice' 0"),
    refused("instance unknown", attribute("ioapic#1", "instance", 7),
            "Unknown savevm section or instance 'ioapic' 7"),
    refused("version above", attribute("cpu", "version", 13),
            "unsupported version 13 for 'cpu' v12"),
    refused("version below", attribute("cpu", "version", 10), "version 10 of 'cpu'"),
    taken("devices reversed", lambda e: e.reorder(lambda d: d[::-1])),
    taken("devices first", devices_first),
    taken("subsections reversed", subsections_reversed("cpu")),
    taken("subsections left out", subsections_dropped("cpu")),
    refused("subsection unknown", lambda e: e.add_subsection("cpu", "cpu/nosuch"),
            "unknown subsection 'cpu/nosuch'"),
    refused("subsection of another", lambda e: e.add_subsection("cpu", "nosuch/thing"),
            "Missing section footer for cpu"),
    refused("subsection of a later version",
            lambda e: e.add_subsection("cpu", "cpu/msr_tsc_adjust", bytes(8), 2),
            "version 2 of 'cpu/msr_tsc_adjust'"),

    # the list of RAM blocks
    taken("blocks reversed", blocks(lambda b: b[::-1])),
    Rule("block not listed", blocks(lambda b: [x for x in b if x[0] != TABLES]), RUNS,
         Refused(f"has no memory '{TABLES}'"), PARTLY),
    refused("block unknown", blocks(lambda b: b + [("nosuchblock", 4096)]),
            'Unknown ramblock "nosuchblock"'),
    Rule("block twice", blocks(lambda b: b + b[-1:]), RUNS,
         Refused("names the memory '/rom@etc/acpi/rsdp' twice"), TWICE),
    refused("fixed block of another size", resized("pc.bios", 0x20000),
            "Length mismatch: pc.bios: 0x20000 in != 0x10000"),
    taken("resizable block larger", larger(TABLES, 0x3000)),
    refused("resizable block too large", resized(TABLES, 1 << 30), f"Length mismatch: {TABLES}"),
    refused("total too small", blocks(lambda b: (b, 4096)), "longer than their total"),
    refused("total too large", blocks(lambda b: (b, 1 << 40)), "Unknown ramblock"),
    Rule("START twice", start_twice, RUNS, Refused("a second one"), TWICE),
    refused("no START", without("ram", "start"), "Unknown savevm section 2"),

    # pages
    Rule("no PART", without("ram", "part"), CRASHED, Refused("pages of .* are missing"), PARTLY),
    taken("no END, and every page has come", without("ram", "end"), unwell=True),
    Rule("no PART, no END", no_ram_data, CRASHED, Refused("pages of .* are missing"), PARTLY),
    Rule("one page less", one_page_less, RUNS, Refused("1 pages of .* are missing, the first at"),
         PARTLY),
    taken("page in START", in_start(ram_page(0x5000, PAGE, RAM))),
    taken("zero page of ones", in_start(ram_zero(0x5000, RAM, 0xff))),
    refused("page outside", in_start(ram_page(SIZE, PAGE, RAM)), "Illegal RAM offset 0x1000000 "),
    refused("page at the top", in_start(ram_page((1 << 64) - PAGE_SIZE, PAGE, RAM)),
            "Illegal RAM offset 0xfffffffffffff000 "),
    refused("page of an unknown block", in_start(ram_page(0, PAGE, "nosuchblock")),
            "Can't find block nosuchblock"),
    refused("page that continues nothing", in_start(ram_page(0, PAGE)),
            "Ack, bad migration stream!"),
    refused("compressed page", in_start(COMPRESSED), "an unexpected compressed page"),
    refused("multifd flush", in_start(build.word(0, 0x200)),
            "Unknown combination of migration flags: 0x200"),
    refused("flags unknown", in_start(ram_page(0, PAGE, RAM, 0x800)),
            "Unknown combination of migration flags: 0x800"),
    taken("xbzrle", xbzrle(b"\x05\x03abc")),
    refused("xbzrle run of 0", xbzrle(b"\x05\x00"), XBZRLE_BAD),
    refused("xbzrle without an end", xbzrle(b"\x05"), XBZRLE_BAD),
    refused("xbzrle of three bytes", xbzrle(b"\x81\x80\x00\x01x"), XBZRLE_BAD),
    refused("xbzrle beyond the page", xbzrle(b"\xfa\x1f\x0a" + b"x" * 10), XBZRLE_BAD),
    refused("xbzrle too long", xbzrle(b"x" * 5000), XBZRLE_LONG),
    refused("xbzrle of another kind", xbzrle(b"\x05\x03abc", mark=2), XBZRLE_LONG),

    # commands
    Rule("SWITCHOVER_START", raw(Writer().command(11)), NO, RUNS,
         "no stricter: 10.0 sends it on microvm"),
    refused("command 0", raw(Writer().command(0)), "MIG_CMD 0x0 unknown"),
    refused("command 12", raw(Writer().command(12)), "MIG_CMD 0xc unknown"),
    refused("command 0xffff", raw(Writer().command(0xffff)), "MIG_CMD 0xffff unknown"),
    refused("ping", raw(Writer().ping(1)), "A ping without a return path"),
    refused("ping of three bytes", raw(Writer().command("PING", bytes(3))),
            "Command 0x2 with 3 bytes instead of 4"),
    taken("return path that nobody can read", raw(Writer().command("OPEN_RETURN_PATH"))),
    taken("ping that nobody hears", raw(Writer().command("OPEN_RETURN_PATH").ping(1))),
    taken("return path twice", raw(Writer().command("OPEN_RETURN_PATH")
                                   .command("OPEN_RETURN_PATH"))),
    Rule("features that nobody offered", raw(Writer().command("OPEN_RETURN_PATH")
                                             .command(0x4652, be(3, 8))), NO,
         Refused("Ferry features 0x3 that were not offered")),
    refused("post-copy advised", raw(Writer().command("POSTCOPY_ADVISE", be(4096, 8) * 2)),
            "post-copy"),
    refused("post-copy run", raw(Writer().command("POSTCOPY_RUN")), "post-copy"),
    refused("record unknown", before_sections(b"\x55"), "Unknown savevm section type 85"),

    # values
    *[taken(f"run state {name}", runstate(name), name)
      for name in ("paused", "prelaunch", "postmigrate", "shutdown", "suspended")],
    Rule("run state finish-migrate", runstate("finish-migrate"), "finish-migrate",
         Refused("'finish-migrate', in which no guest can arrive"), NOT_A_STATE),
    Rule("run state inmigrate", runstate("inmigrate"), "inmigrate",
         Refused("'inmigrate', in which no guest can arrive"), NOT_A_STATE),
    Rule("run state save-vm", runstate("save-vm"), Refused("invalid runstate transition"),
         Refused("'save-vm', in which no guest can arrive")),  # QEMU aborts
    refused("run state nosuchstate", runstate("nosuchstate"), "unknown run state"),
    taken("no hflags", field("cpu", "env.hflags", 0)),
    taken("TSC of 0", field("cpu", "env.tsc", 0), unwell=True),
    taken("TSC of another frequency", field("cpu", "cpu/tsc_khz:env.tsc_khz", 1000000)),
]
