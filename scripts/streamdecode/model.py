# SPDX-License-Identifier: GPL-2.0-or-later
"""What parsing yields: plain data, no behaviour beyond look-ups.

A Stream holds its records in wire order.  Every record says where it starts and ends; the records
of a stream that was read to its end tile it without gaps, and Stream.covered() proves it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from .reader import PAGE_SIZE


class Page(NamedTuple):
    """One page record.  `data`, `size`: where the record's data lies in the stream.

    kind: page, zero, xbzrle, compress, mapped.  `part` is the index of the RAM part it came in.
    """
    offset: int
    block: str
    addr: int
    kind: str
    data: int
    size: int
    part: int


@dataclass
class Record:
    type: str
    start: int
    end: int


@dataclass
class Configuration(Record):
    machine: str = ""
    capabilities: list = None
    uuid: str = None
    page_bits: int = None
    subsections: list = field(default_factory=list)


@dataclass
class Command(Record):
    """`args` is what the payload says, by name; `records` is the content of a package."""
    number: int = 0
    name: str = ""
    payload: bytes = b""
    args: dict = field(default_factory=dict)
    records: list = field(default_factory=list)


@dataclass
class Section(Record):
    """A device's or an iterative handler's section.  step: start, part, end, full.

    `source` says what gave the payload's length: table, description, both, content (RAM and other
    self-delimiting payloads) or footer (unknown content, the footer was searched).
    """
    step: str = ""
    id: int = 0
    idstr: str = ""
    instance: int = 0
    version: int = None
    payload: int = 0
    payload_end: int = 0
    footer: bool = False
    source: str = ""
    packaged: bool = False
    fields: list = field(default_factory=list)
    subsections: list = field(default_factory=list)
    ram: "RamPart" = None
    items: list = field(default_factory=list)

    @property
    def name(self):
        return self.idstr if self.instance == 0 else "%s#%d" % (self.idstr, self.instance)

    @property
    def size(self):
        return self.payload_end - self.payload

    def field(self, path):
        """The value of a field; KeyError when the section has no such field."""
        for item in self.fields:
            if item.path == path:
                return item.value
        raise KeyError(path)


@dataclass
class Eof(Record):
    pass


@dataclass
class Header(Record):
    version: int = 3


@dataclass
class Description(Record):
    text: bytes = b""


@dataclass
class Message(Record):
    """A return path message."""
    number: int = 0
    name: str = ""
    payload: bytes = b""
    args: dict = field(default_factory=dict)


@dataclass
class Packet(Record):
    """A packet of a multifd channel; the init packet has only `channel` and `uuid`."""
    channel: int = None
    uuid: str = None
    flags: int = 0
    compression: str = ""
    sync: bool = False
    number: int = 0
    block: str = ""
    normal: list = field(default_factory=list)
    zero: list = field(default_factory=list)
    data: int = 0
    size: int = 0


@dataclass
class RamBlock:
    name: str
    length: int
    page_size: int = PAGE_SIZE
    gpa: int = None
    mapped: dict = None


@dataclass
class RamPart:
    """The RAM records of one section (or of a whole preempt channel)."""
    index: int
    start: int
    end: int = 0
    counts: dict = field(default_factory=dict)
    bytes: dict = field(default_factory=dict)
    again: int = 0
    flushes: int = 0
    ended: bool = False

    @property
    def pages(self):
        return sum(self.counts.values())


@dataclass
class Ram:
    total: int = 0
    blocks: dict = field(default_factory=dict)
    pages: list = field(default_factory=list)
    parts: list = field(default_factory=list)
    discards: list = field(default_factory=list)
    # Where, as an index into pages, flush words and ends of parts came: the points at which the
    # pages of multifd channels must have arrived.
    flushes: list = field(default_factory=list)
    ends: list = field(default_factory=list)
    seen: set = field(default_factory=set)
    current: str = None


class Stream:
    """A parsed stream.

    kind: main, recovery, return, multifd, preempt or empty.  `error` is the StreamError that ended
    the parse, or None; `problems` are (offset, text) of what is inconsistent but readable.
    """

    def __init__(self, data, kind):
        self.data = data
        self.kind = kind
        self.records = []
        self.sections = []
        self.commands = []
        self.messages = []
        self.packets = []
        self.configuration = None
        self.description = None
        self.description_offset = None
        self.ram = Ram()
        self.problems = []
        self.notes = []
        self.error = None
        self.end = 0

    @property
    def machine(self):
        return self.configuration.machine if self.configuration else None

    def problem(self, offset, text):
        self.problems.append((offset, text))

    def section(self, name, instance=None):
        """The last full section of that name (`ioapic`, or `ioapic#1`), or None."""
        if instance is None:
            name, _, number = name.partition("#")
            instance = int(number) if number.isdigit() else 0
        found = [one for one in self.sections
                 if one.idstr == name and one.instance == instance and one.step == "full"]
        return found[-1] if found else None

    def field(self, name, path):
        """A device field's value; KeyError when section or field is not there."""
        section = self.section(name)
        if section is None:
            raise KeyError(name)
        return section.field(path)

    def devices(self):
        """The full sections in wire order, packaged ones included."""
        return [one for one in self.sections if one.step == "full"]

    def covered(self):
        """True when the top-level records tile the whole input."""
        where = 0
        for record in self.records:
            if record.start != where or record.end < where:
                return False
            where = record.end
        return where == len(self.data)
