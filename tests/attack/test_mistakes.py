# SPDX-License-Identifier: GPL-2.0-or-later
"""
The classic mistakes of a loader, one by one: what is wrong with the stream, and what must be said about
it. (tests/attack/README.md lists which mistake is held by which test.)
"""

import os
import sys

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tests", "migration"))
sys.path.insert(0, os.path.join(SOURCE, "scripts"))

from migrationcase import MigrationCase
from streamdecode import hostile
from streamdecode.build import (Edit, Writer, be, ram_blocks, ram_eos, ram_page, ram_zero,
                                subsection, word)
from victim import good_stream, load

PAGE = b"\x5a" * 4096
TOP = 1 << 31
FIFO = bytes(16)

# One field that no good stream has so: section, field, value, what is said. (-1 in an unsigned field
# is its largest value.)
FIELDS = (
    ("timer", "cpu_clock_offset", -1, "timer/cpu_clock_offset = -1, outside"),
    ("fw_cfg", "fw_cfg/acpi_mr:table_mr_size", 0x200001, "is larger than its memory"),
    ("fw_cfg", "fw_cfg/acpi_mr:linker_mr_size", 1 << 63, "is larger than its memory"),
    ("fw_cfg", "fw_cfg/acpi_mr:rsdp_mr_size", (1 << 64) - 1, "is larger than its memory"),
    ("cpu", "env.mp_state", 99, "vCPU 0 has an impossible mp_state"),
    ("cpu#1", "env.mp_state", (1 << 32) - 1, "vCPU 1 has an impossible mp_state"),
    ("cpu", "env.exception_nr", 32, "an impossible exception_nr"),
    ("cpu", "env.exception_nr", -2, "an impossible exception_nr"),
    ("cpu", "env.interrupt_injected", 256, "an impossible interrupt_injected"),
    ("cpu", "env.interrupt_injected", -TOP, "an impossible interrupt_injected"),
    ("cpu", "env.sipi_vector", TOP, "an impossible sipi_vector"),
    ("cpu", "env.fptag_vmstate", 256, "an impossible fptag"),
    ("cpu", "env.fpregs_format_vmstate", 1, "an impossible fpregs_format"),
    ("apic", "id", 1, "has id 1 in the stream"),
    ("apic#1", "id", 255, "has id 255 in the stream"),
    ("apic", "count_shift", 8, "apic/count_shift = 8, outside"),
    ("apic", "count_shift", -1, "apic/count_shift = -1, outside"),
    ("apic", "initial_count_load_time", -(1 << 63), "apic/initial_count_load_time"),
    ("i8254", "channels[0].count", 0x10001, "/count = 65537, outside"),
    ("i8254", "channels[2].count", -1, "/count = -1, outside"),
    ("i8254", "channels[0].count_load_time", (1 << 63) - 1, "/count_load_time"),
    ("i8254", "channels[1].mode", 8, "/mode = 8, outside"),
    ("i8254", "channels[1].rw_mode", 255, "/rw_mode = 255, outside"),
    ("i8259", "priority_add", 8, "i8259/priority_add = 8, outside"),
    ("i8259#1", "init_state", 4, "i8259/init_state = 4, outside"),
    ("globalstate", "size", 101, "globalstate/size = 101, outside"),
    ("globalstate", "size", TOP, "globalstate/size = 2147483648, outside"),
    ("globalstate", "runstate", b"x" * 100, "unknown run state"),
    ("globalstate", "runstate", b"inmigrate".ljust(100, b"\0"), "in which no guest can arrive"),
    ("kvm-tpr-opt", "state", 1, "the TPR optimisation"),
    ("ioapic#1", "id", 16, "ioapic/id = 16, outside"),
)

# Subsections of the serial port, which most streams do not have: FIFOs whose index or count is out of
# range, or twice.
SUBSECTIONS = (
    ("head", [("recv_fifo", FIFO + be(16, 4) + be(1, 4))], "/head = 16, outside"),
    ("head of 2^31", [("xmit_fifo", FIFO + be(TOP, 4) + be(1, 4))], "/head = 2147483648, outside"),
    ("count", [("recv_fifo", FIFO + be(0, 4) + be(17, 4))], "/num = 17, outside"),
    ("count of -1", [("xmit_fifo", FIFO + be(0, 4) + be(0xffffffff, 4))],
     "/num = 4294967295, outside"),
    ("twice", [("recv_fifo", FIFO + be(0, 4) + be(1, 4))] * 2, "subsection 'serial/recv_fifo' in"),
    ("unknown", [("nosuch", b"")], "unknown subsection 'serial/nosuch'"),
    ("version", [("tsr", bytes(6))], "version 7 of 'serial/tsr'"),
)

# Labels of scripts/streamdecode/hostile.py that are such mistakes.
LABELS = (
    ("machine name too long", "machine name has 2147483648 bytes"),
    ("machine name longer by one", "machine name has a byte 0x0"),
    ("other machine", "Machine type received is 'nosuchmachine'"),
    ("capability count", "a list of 4294967295 capabilities"),
    ("unknown configuration", "unknown subsection 'configuration/x'"),
    ("command 0", "MIG_CMD 0x0 unknown"),
    ("command 0xffff", "MIG_CMD 0xffff unknown"),
    ("PING: length 0xffff", "with 65535 bytes instead of 4"),
    ("package of 4 GiB", "in the wrong place"),
    ("unknown record type", "Unknown savevm section type 85"),
    ("block list empty", "no memory 'ram0'"),
    ("block left out", "no memory 'ram0'"),
    ("block unknown", "Unknown ramblock \"nosuchblock\""),
    ("block twice", "names the memory 'ram0' twice"),
    ("block of another size", "Length mismatch: ram0"),
    ("block of size 0", "Length mismatch: ram0"),
    ("block of 2^63 bytes", "Length mismatch: ram0"),
    ("total too small", "longer than their total"),
    ("total too large", "Unknown ramblock|a name with the byte|twice|ended early"),
    ("no block list", "without a list of its blocks"),
    ("page outside its block", "Illegal RAM offset 0x1000000"),
    ("page at the top of the address space", "Illegal RAM offset 0xfffffffffffff000"),
    ("page of an unknown block", "Can't find block nosuchblock"),
    ("page that continues nothing", "before any was named"),
    ("RAM flags 0x400", "Unknown combination of migration flags: 0x400"),
    ("RAM flags 0x0", "Unknown combination of migration flags: 0x0"),
    ("serial: twice", "'serial' instance 0 twice"),
    ("cpu#1: twice", "'cpu' instance 1 twice"),
    ("serial: renamed", "Unknown savevm section or instance 'nosuchdevice'"),
    ("cpu: other instance", "Unknown savevm section or instance 'cpu' 7"),
    ("apic: version 4", "unsupported version 4 for 'apic' v3"),
    ("apic: version 0", "version 0 of 'apic'"),
    ("mc146818rtc: version 4294967295", "unsupported version 4294967295"),
    ("i8254: one byte short", "i8254"),
    ("i8254: one byte more", "footer for i8254"),
    ("timer: empty", "timer"),
    ("timer: wrong footer", "Mismatched section id in footer for timer"),
    ("timer: no footer", "Missing section footer for timer"),
    ("serial: unknown subsection", "unknown subsection 'serial/nosuch'"),
    ("vmdescription nested", None),  # nobody reads it
    ("ping without return path", "A ping without a return path"),
    ("no end", "ended early"),
)


class Mistakes(MigrationCase):
    @classmethod
    def setUpClass(cls):
        cls.good = None

    def setUp(self):
        super().setUp()
        if not Mistakes.good:
            Mistakes.good = good_stream(self)
            Mistakes.edit = Edit(Mistakes.good)

    def load(self, data):
        return load(self, data)

    def refused(self, data, words):
        said = self.load(data)
        if words is None:
            self.assertIsNone(said)
        else:
            self.assertIsNotNone(said, "It was taken")
            self.assertRegex(said, "|".join(map(_plain, words.split("|"))))

    def test_good(self):
        self.assertIsNone(self.load(self.good))

    def test_fields(self):
        for section, field, value, words in FIELDS:
            with self.subTest(section=section, field=field, value=value):
                self.refused(self.edit.copy().set_field(section, field, value).bytes(), words)

    def test_subsections(self):
        for label, parts, words in SUBSECTIONS:
            with self.subTest(label=label):
                edit = self.edit.copy()
                for name, payload in parts:
                    version = 7 if label == "version" else 1
                    edit.add_subsection("serial", "serial/" + name, payload, version)
                self.refused(edit.bytes(), words)

    def test_labels(self):
        found = dict(hostile.mutations(self.good))
        for label, words in LABELS:
            with self.subTest(label=label):
                self.refused(found[label], words)

    def test_memory(self):
        """Records where none belong, and a section that comes again."""
        end = self.edit.find("ram", "end")
        blocks = [(block.name, block.length) for block in self.edit.stream.ram.blocks.values()]
        again = Writer().section("start", 77, ram_blocks(blocks) + ram_eos()).bytes()
        cases = (
            ("START twice", again, "a second one"),
            ("PART of nothing", Writer().section("part", 55, ram_eos()).bytes(),
             "Unknown savevm section 55"),
            ("list in a PART", Writer().section("part", end.id, ram_blocks(blocks) + ram_eos()).bytes(),
             "a second list of RAM blocks"),
            ("page one beyond the end", Writer().section(
                "part", end.id, ram_page(blocks[0][1], PAGE, blocks[0][0]) + ram_eos()).bytes(),
             "Illegal RAM offset"),
            ("zero page beyond the end", Writer().section(
                "part", end.id, ram_zero(1 << 62, blocks[0][0]) + ram_eos()).bytes(),
             "Illegal RAM offset"),
            ("flags of two kinds", Writer().section("part", end.id, word(0, 0x0a) + ram_eos()).bytes(),
             "Unknown combination"),
        )
        for label, raw, words in cases:
            with self.subTest(label=label):
                self.refused(self._before_end(raw), words)
        with self.subTest(label="END twice"):
            self.refused(self._before_end(end.bytes()), "Memory after the end")

    def _before_end(self, raw):
        edit = self.edit.copy()
        return edit.insert_before(edit.find("ram", "end"), raw).bytes()

    def test_configuration(self):
        edit = self.edit
        at = next(i for i, piece in enumerate(edit.pieces) if piece.type == "configuration")
        uuid = subsection("configuration/uuid", bytes(16))
        caps = "configuration/capabilities"
        for label, extra, words in (
                ("three subsections", uuid * 3, "more subsections"),
                ("more names than counted", subsection(caps, be(0, 4) + b"\1x"), "Unknown savevm section"),
                ("fewer names than counted", subsection(caps, be(3, 4) + b"\1x"), "name|capability|machine|ended"),
                ("unknown name", subsection(caps, be(1, 4) + b"\6nosuch"), "capability 'nosuch'"),
                ("version", subsection(caps, be(0, 4), 2), "version 2")):
            with self.subTest(label=label):
                copy = edit.copy()
                copy.pieces[at].raw += extra
                self.refused(copy.bytes(), words)


def _plain(words):
    return "".join(c if c.isalnum() or c in " '/_=,\"" else "\\" + c for c in words)
