# SPDX-License-Identifier: GPL-2.0-or-later
"""The forward direction: header, configuration, commands, sections, end and description.

Records are read one after the other; a section's payload is delimited by its own content (RAM and
other iterative handlers), by the built-in table, or by the description at the stream's end, which
is looked up before the first record is read.  The footer after the payload then proves the length.
"""

import ipaddress
import json
import re
from itertools import zip_longest

from . import handlers, ram, tables, virtio
from .layout import Decoded, decode, described_length, from_description, same_fields
from .model import Command, Configuration, Description, Eof, Header, Record, Section
from .reader import Reader, StreamError, Truncated

MAGIC = 0x5145564d
EOF, START, PART, END, FULL, SUBSECTION, VMDESC, CONFIG, COMMAND = range(9)
FOOTER = 0x7e
STEPS = {START: "start", PART: "part", END: "end", FULL: "full"}
PACKAGE_LIMIT = 16 << 20
DESCRIPTION_LIMIT = 16 << 20

# Ferry's own: the value of the PING that offers it, the command that comes after everything else,
# and the names of the features both sides agree on.
FERRY_PING = 0x46525259
FERRY_GO = 0x4653
FERRY_ZEROED = 0x1
FERRY_FEATURES = {FERRY_ZEROED: "zeroed", 0x2: "commit", 0x4: "check", 0x8: "runs", 0x10: "bye",
                  0x20: "addresses"}


# --- commands ------------------------------------------------------------------------------------

def no_args(reader, args):
    """A command without payload."""


def value_args(reader, args):
    args["value"] = reader.be32("value")
    if args["value"] == FERRY_PING:
        args["meaning"] = "Ferry offer"


def advise_args(reader, args):
    # Empty when post-copy was advised for dirty bitmaps only.
    if reader.left():
        args["page_sizes"] = reader.be64("page sizes")
        args["target_page_size"] = reader.be64("target page size")


def discard_args(reader, args):
    args["version"] = reader.u8("discard version")
    args["block"] = reader.pstr("RAM block name")
    if reader.u8("end of the RAM block name") != 0:
        raise StreamError(reader.pos - 1, "the RAM block name of a discard lacks its zero byte")
    args["ranges"] = []
    while reader.left():
        args["ranges"].append((reader.be64("start of a range"), reader.be64("length of a range")))


def block_args(reader, args):
    args["block"] = reader.pstr("RAM block name")


def features_text(bits):
    names = [name for bit, name in FERRY_FEATURES.items() if bits & bit]
    rest = bits & ~sum(FERRY_FEATURES)
    return " ".join(names + (["0x%x" % rest] if rest else [])) or "none"


def ferry_features_args(reader, args):
    args["features"] = reader.be64("features")
    args["meaning"] = features_text(args["features"])


def ferry_go_args(reader, args):
    args["stopped_ns"] = reader.be64("time since the clocks stopped")


def ferry_check_args(reader, args):
    args["last"] = reader.u8("whether a chunk is the last") == 1
    args["bytes"] = reader.left()
    reader.skip(reader.left(), "a chunk of a description")


def ferry_addresses_args(reader, args):
    """Each as (where the device is, address)."""
    args["addresses"] = []
    while reader.left():
        place = reader.be64("place of a device")
        family, router = reader.u8("family of an address"), reader.u8("router flag")
        raw = reader.raw(16, "an address")
        if family not in (4, 6):
            raise StreamError(reader.pos - 18, f"an IP address of the family {family}")
        text = str(ipaddress.ip_address(bytes(raw[:4] if family == 4 else raw)))
        args["addresses"].append((place, text + (" router" if router else "")))


# number -> (name, arguments)
COMMANDS = {
    1: ("OPEN_RETURN_PATH", no_args),
    2: ("PING", value_args),
    3: ("POSTCOPY_ADVISE", advise_args),
    4: ("POSTCOPY_LISTEN", no_args),
    5: ("POSTCOPY_RUN", no_args),
    6: ("POSTCOPY_RAM_DISCARD", discard_args),
    7: ("PACKAGED", value_args),
    8: ("ENABLE_COLO", no_args),
    9: ("POSTCOPY_RESUME", no_args),
    10: ("RECV_BITMAP", block_args),
    11: ("SWITCHOVER_START", no_args),
    0x4652: ("FERRY_FEATURES", ferry_features_args),
    0x4653: ("FERRY_GO", ferry_go_args),
    0x4654: ("FERRY_CHECK", ferry_check_args),
    0x4655: ("FERRY_BYE", no_args),
    0x4656: ("FERRY_ADDRESSES", ferry_addresses_args),
}


# --- the description at the end ------------------------------------------------------------------

def find_description(data):
    """Offset of the description record, or None.

    It is the last thing in a stream, but for Ferry's GO: a record byte 06, a length that reaches
    exactly to the end or to the GO, and JSON.  Candidates are tried from the end, where only the
    JSON's own text could mislead.
    """
    tail = data[max(0, len(data) - DESCRIPTION_LIMIT - 64):]
    base = len(data) - len(tail)
    for match in reversed(list(re.finditer(rb"\x06(?=.{4}\{)", tail, re.DOTALL))):
        where = base + match.start()
        if description_end(data, where) is not None:
            return where
    return None


def description_end(data, where):
    end = where + 5 + int.from_bytes(data[where + 1:where + 5], "big")
    go = bytes([COMMAND]) + FERRY_GO.to_bytes(2, "big")
    return end if end == len(data) or data[end:end + 3] == go else None


def load_description(stream):
    where = find_description(stream.data)
    if where is None:
        return
    try:
        value = json.loads(bytes(stream.data[where + 5:description_end(stream.data, where)]))
    except (ValueError, RecursionError):
        stream.problem(where, "The vmdescription is not JSON.")
        return
    if not isinstance(value, dict) or not isinstance(value.get("devices", []), list):
        stream.problem(where, "The vmdescription is not an object with a list of devices.")
        return
    stream.description = value
    stream.description_offset = where


def description_entry(stream, section):
    """(index, Vmsd) for a section, or (None, None)."""
    if stream.description is None:
        return None, None
    for index, entry in enumerate(stream.description.get("devices", [])):
        if not isinstance(entry, dict):
            continue
        if entry.get("name") == section.idstr and entry.get("instance_id") == section.instance:
            try:
                return index, from_description(entry, stream.description_offset)
            except StreamError as err:
                stream.problem(err.offset, "Section '%s': %s." % (section.name, err.reason))
                return index, None
    return None, None


# --- records -------------------------------------------------------------------------------------

class Parser:
    """Reads forward records into `stream`.  Keeps what later records refer to."""

    def __init__(self, stream):
        self.stream = stream
        self.open = {}
        self.state = {}
        self.advised = False
        self.returning = False
        self.described = []
        self.ended = False

    def header(self, reader):
        start = reader.pos
        if reader.be32("stream magic") != MAGIC:
            raise StreamError(start, "the stream does not begin with QEVM")
        version = reader.be32("stream version")
        if version != 3:
            raise StreamError(start + 4, "stream version %d is not known, version 3 is" % version)
        self.stream.records.append(Header("header", start, reader.pos, version))

    def records(self, reader, into, packaged=False):
        while reader.left():
            start = reader.pos
            kind = reader.u8("record type")
            if self.ended and kind != VMDESC \
                    and reader.peek(2) != FERRY_GO.to_bytes(2, "big"):
                raise StreamError(start, "record type 0x%02x after the end of the state" % kind)
            record = self.record(reader, start, kind, packaged)
            record.end = reader.pos
            into.append(record)

    def record(self, reader, start, kind, packaged):
        if kind in STEPS:
            return self.section(reader, start, kind, packaged)
        if kind == COMMAND:
            return self.command(reader, start, packaged)
        if packaged:
            raise StreamError(start, "record type 0x%02x inside a package" % kind)
        if kind == EOF:
            self.ended = True
            return Eof("eof", start, reader.pos)
        if kind == CONFIG:
            return self.configuration(reader, start)
        if kind == VMDESC:
            length = reader.be32("length of the vmdescription")
            return Description("vmdescription", start, 0,
                               reader.raw(length, "the vmdescription"))
        raise StreamError(start, "record type 0x%02x is not known" % kind)

    def configuration(self, reader, start):
        if self.stream.configuration:
            raise StreamError(start, "a second configuration section")
        config = Configuration("configuration", start, 0)
        config.machine = reader.text(reader.be32("length of the machine name"), "machine name")
        while reader.peek(1) == b"\x05":
            where = reader.pos
            reader.u8("subsection")
            name = reader.pstr("subsection name")
            version = reader.be32("subsection version")
            if name == "configuration/capabilities":
                count = reader.be32("capability count")
                reader.need(count, "%d capabilities" % count)
                config.capabilities = [reader.pstr("capability") for _ in range(count)]
            elif name == "configuration/uuid":
                raw = reader.raw(16, "uuid").hex()
                config.uuid = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
            elif name == "configuration/target-page-bits":
                config.page_bits = reader.be32("page bits")
            else:
                raise StreamError(where, "configuration subsection '%s' is not known" % name)
            config.subsections.append((name, version, where, reader.pos))
        self.stream.configuration = config
        return config

    def command(self, reader, start, packaged):
        number = reader.be16("command")
        length = reader.be16("command length")
        if number not in COMMANDS:
            raise StreamError(start, "command 0x%x is not known" % number)
        name, arguments = COMMANDS[number]
        where = reader.skip(length, "payload of command %s" % name)
        command = Command("command", start, reader.pos, number, name,
                          bytes(reader.data[where:where + length]))
        payload = Reader(reader.data, where, where + length)
        payload.outer = False
        arguments(payload, command.args)
        if payload.left():
            raise StreamError(payload.pos, "command %s has %d bytes too many"
                              % (name, payload.left()))
        if name == "PACKAGED":
            if packaged:
                raise StreamError(start, "a package inside a package")
            size = command.args["value"]
            if size > PACKAGE_LIMIT:
                raise StreamError(start, "a package of %d bytes is over the limit of %d"
                                  % (size, PACKAGE_LIMIT))
            where = reader.skip(size, "package")
            inner = Reader(reader.data, where, where + size)
            inner.outer = False
            self.records(inner, command.records, packaged=True)
        elif name == "POSTCOPY_ADVISE":
            self.advised = length > 0
        elif name == "POSTCOPY_RAM_DISCARD":
            self.discard(start, command.args["block"], command.args["ranges"])
        elif name == "OPEN_RETURN_PATH":
            self.returning = True
        elif name == "PING" and not self.returning and self.stream.kind == "main":
            self.stream.problem(start, "A PING comes before the return path is opened.")
        self.stream.commands.append(command)
        return command

    def discard(self, start, name, ranges):
        ram_state = self.stream.ram
        block = ram_state.blocks.get(name)
        for first, size in ranges:
            if ram_state.blocks and (block is None or first + size > block.length):
                self.stream.problem(start, "A discard of 0x%x bytes at 0x%x lies outside the RAM "
                                    "blocks ('%s')." % (size, first, name))
            ram_state.discards.append((len(ram_state.pages), name, first, size))

    # --- sections

    def section(self, reader, start, kind, packaged):
        stream = self.stream
        section = Section("section", start, 0, STEPS[kind], reader.be32("section id"))
        section.packaged = packaged
        if kind in (START, FULL):
            section.idstr = reader.pstr("section name")
            section.instance = reader.be32("instance")
            section.version = reader.be32("version")
            if kind == START:
                self.open[section.id] = section
        elif section.id in self.open:
            first = self.open[section.id]
            section.idstr, section.instance = first.idstr, first.instance
            section.version = first.version
        elif stream.kind == "recovery":
            # The sections were opened on the connection that broke; only RAM goes on.
            section.idstr = "ram"
        else:
            raise StreamError(start, "section id %d was not started" % section.id)
        section.payload = reader.pos
        if kind == FULL:
            self.device(reader, section)
        elif section.idstr == "ram":
            section.ram = ram.parse_part(stream, reader, self.advised)
            section.source = "content"
        elif section.idstr in handlers.PARSERS:
            state = self.state.setdefault((section.idstr, section.instance), {})
            section.items = handlers.PARSERS[section.idstr](reader, state)
            section.source = "content"
        else:
            self.search(reader, section)
        section.payload_end = reader.pos
        self.footer(reader, section)
        if kind == END:
            self.open.pop(section.id, None)
        stream.sections.append(section)
        return section

    def footer(self, reader, section):
        where = reader.pos
        if reader.u8("footer of section '%s'" % section.name) != FOOTER:
            raise StreamError(where, "section '%s' has no footer after its %d bytes"
                              % (section.name, where - section.payload))
        number = reader.be32("footer of section '%s'" % section.name)
        if number != section.id:
            raise StreamError(where, "the footer of section '%s' names id %d instead of %d"
                              % (section.name, number, section.id))
        section.footer = True

    def device(self, reader, section):
        """Decode a device by table and by description, and hold the two against each other."""
        stream, start = self.stream, reader.pos
        index, described = description_entry(stream, section)
        if index is not None:
            self.described.append(index)
        table, results, errors = self.table(section), {}, {}
        for source, layout in (("table", table), ("description", described)):
            if layout is None:
                continue
            try:
                results[source] = self.attempt(reader, section, layout, source)
            except StreamError as err:
                errors[source] = err
        if not results:
            if errors:
                # The one that got furthest says best what is wrong.
                raise max(errors.values(), key=lambda err: err.offset)
            self.search(reader, section)
            return
        for source, err in errors.items():
            stream.problem(err.offset, "Section '%s' does not decode by %s: %s."
                           % (section.name, source, err.reason))
        if "description" in results:
            self.compare(reader, section, results, table, described)
        section.source = "both" if len(results) == 2 else next(iter(results))
        out, reader.pos = results.get("table") or results["description"]
        section.fields, section.subsections = out.fields, out.subsections
        stream.notes += [(where, "Section '%s': %s." % (section.name, text))
                         for where, text in out.notes]

    def table(self, section):
        layout = tables.lookup(section.idstr)
        if layout and layout.version != section.version:
            self.stream.problem(section.start, "Section '%s' has version %d, the table knows %d."
                                % (section.name, section.version, layout.version))
            return None
        return layout

    def attempt(self, reader, section, layout, source):
        """Decode the payload by one layout: (Decoded, end), with the footer standing at the end."""
        out, trial = Decoded(), Reader(reader.data, reader.pos, reader.end)
        trial.outer = reader.outer
        decode(layout, trial, out, special={"virtio": virtio.handler(section.idstr)})
        footer = bytes([FOOTER]) + section.id.to_bytes(4, "big")
        if trial.left() < len(footer) and trial.outer and footer.startswith(trial.peek(5)):
            raise Truncated(trial.pos, "the stream ends where section '%s' needs its footer"
                            % section.name)
        if trial.peek(5) != footer:
            raise StreamError(trial.pos, "no footer where section '%s' ends by %s (%d bytes)"
                              % (section.name, source, trial.pos - reader.pos))
        return out, trial.pos

    def compare(self, reader, section, results, table, described):
        """The description against its own arithmetic, the section's head and the table."""
        stream, start = self.stream, section.payload
        by_text, end_text = results["description"]
        if end_text - start != described_length(described):
            stream.problem(start, "Section '%s' takes %d bytes but is described with %d."
                           % (section.name, end_text - start, described_length(described)))
        if described.version not in (None, section.version):
            stream.problem(section.start, "Section '%s' has version %d but is described as %d."
                           % (section.name, section.version, described.version))
        if "table" not in results:
            return
        by_table, end_table = results["table"]
        if end_table != end_text:
            stream.problem(start, "Section '%s' is %d bytes by table and %d by description."
                           % (section.name, end_table - start, end_text - start))
            return
        if same_fields(by_table.fields, by_text.fields):
            if by_table.fields != by_text.fields:
                # The description knows the parts of what the table has as one.
                results["table"] = results["description"]
            return
        for other in tables.dialects(table)[1:]:
            if self.attempt(reader, section, other, "table")[0].fields == by_text.fields:
                return
        ours, theirs = next(pair for pair in zip_longest(by_table.fields, by_text.fields)
                            if pair[0] != pair[1])
        stream.problem((ours or theirs).offset, "Section '%s': the table has %s where the "
                       "description has %s." % (section.name, field_name(ours),
                                                field_name(theirs)))

    def search(self, reader, section):
        """Nothing says how long the payload is: take it up to what looks like its footer."""
        mark = bytes([FOOTER]) + section.id.to_bytes(4, "big")
        where = reader.pos
        while True:
            where = reader.data.find(mark, where, reader.end)
            if where < 0:
                kind = Truncated if reader.outer else StreamError
                raise kind(reader.pos, "section '%s' is not known and no footer of it follows"
                           % section.name)
            if where + 5 == reader.end or reader.data[where + 5] in (0, 1, 2, 3, 4, 6, 8):
                break
            where += 1
        section.source = "footer"
        section.fields = []
        self.stream.problem(reader.pos, "Section '%s' is not known; its %d bytes were found by "
                            "its footer." % (section.name, where - reader.pos))
        reader.pos = where

    def finish(self):
        """Checks that need the whole stream."""
        stream = self.stream
        if not self.ended:
            if not stream.kind == "recovery":
                raise Truncated(len(stream.data), "the stream ends without its end record")
            raise Truncated(len(stream.data), "the connection ends without the end record")
        if stream.kind == "main" and stream.configuration is None:
            stream.problem(8, "The stream has no configuration section.")
        for record in stream.records:
            if record.type == "vmdescription" and record.start != stream.description_offset \
                    and record.start not in [where for where, _ in stream.problems]:
                stream.problem(record.start, "The vmdescription is not usable.")
        if stream.description is not None:
            count = len(stream.description.get("devices", []))
            sent = len(stream.devices())
            if count and self.described != list(range(count)):
                stream.problem(stream.description_offset,
                               "The vmdescription lists %d devices, the stream has %d, and they "
                               "are not the same in the same order." % (count, sent))


def field_name(field):
    return "nothing" if field is None else "'%s' (%s, %d bytes)" % (field.path, field.type,
                                                                    field.size)


def parse_forward(stream, reader):
    parser = Parser(stream)
    if stream.kind == "main":
        load_description(stream)
        parser.header(reader)
    parser.records(reader, stream.records)
    parser.finish()


def partial_record(stream):
    """The unread rest after an error, as a record, so that the records tile the input."""
    end = stream.records[-1].end if stream.records else 0
    if end < len(stream.data):
        stream.records.append(Record("unread", end, len(stream.data)))
