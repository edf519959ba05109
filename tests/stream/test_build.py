# SPDX-License-Identifier: GPL-2.0-or-later
"""Making streams, damaging them, and the decoder on the damaged ones: always one clear error."""

import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from streamfixtures import FIXTURES, SCRIPTS, data, fixtures, without_description

import streamdecode
from streamdecode import build, hostile, layout, memory, tables
from streamdecode.reader import PAGE_SIZE


def small():
    """A stream of all devices with little RAM in it, so that hundreds of variants parse fast."""
    edit = build.Edit(data("mv-kvm-full-S.bin"))
    edit.find("ram", "part").payload = bytearray(
        build.ram_page(0x1000, b"a" * PAGE_SIZE, "microvm.ram") + build.ram_zero(0x2000)
        + build.ram_zero(0, "pc.bios") + build.ram_eos())
    return edit.bytes()


def attempt(raw, **options):
    """Parse, or the StreamError.  Anything else that is raised fails the test."""
    try:
        return streamdecode.parse(raw, **options)
    except streamdecode.StreamError as err:
        return err


class Builder(unittest.TestCase):
    def minimal(self):
        writer = build.Writer().header().configuration("microvm")
        writer.section("start", 2, build.ram_blocks([("microvm.ram", 1 << 20)]) + build.ram_eos())
        writer.section("part", 2, build.ram_page(0x1000, b"a" * PAGE_SIZE, "microvm.ram")
                       + build.ram_zero(0x2000) + build.ram_eos())
        writer.section("end", 2, build.ram_eos())
        writer.device(4, "timer", {"cpu_clock_offset": 12345})
        writer.device(5, "cpu", {"env.eip": 0xfff0, "cpu/tsc_khz:env.tsc_khz": -1},
                      ["cpu/tsc_khz"])
        return writer.device(6, "ioapic", {"id": 1}, instance=1).eof().bytes()

    def test_from_nothing(self):
        stream = streamdecode.parse(self.minimal())
        self.assertTrue(stream.covered())
        self.assertEqual(stream.problems, [])
        self.assertEqual(stream.field("timer", "cpu_clock_offset"), 12345)
        self.assertEqual(stream.field("cpu", "cpu/tsc_khz:env.tsc_khz"), -1)
        self.assertEqual(stream.field("ioapic#1", "id"), 1)
        self.assertEqual([(page.addr, page.kind) for page in stream.ram.pages],
                         [(0x1000, "page"), (0x2000, "zero")])

    def test_misuse(self):
        with self.assertRaises(ValueError):
            build.device("cpu", {"env.nosuch": 1})
        with self.assertRaises(ValueError):
            build.device("cpu_common", {"halted": 1 << 32})
        with self.assertRaises(ValueError):
            build.device("nosuchdevice")
        edit = build.Edit(self.minimal())
        with self.assertRaises(ValueError):
            edit.find("apic")
        with self.assertRaises(ValueError):
            edit.set_field("cpu", "env.nosuch", 1)
        edit.drop_subsection("cpu", "cpu/tsc_khz")
        with self.assertRaises(ValueError):
            edit.set_field("cpu", "cpu/tsc_khz:env.tsc_khz", 1)

    def test_devices_rebuild(self):
        """Every device of the fixtures comes out of device() as it was, byte for byte."""
        for name, path in fixtures():
            stream = streamdecode.load(path, partial=True)
            with self.subTest(name):
                for section in stream.devices():
                    known = tables.lookup(section.idstr)
                    if section.source not in ("both", "table") or "virtio" in section.idstr \
                            or known is None:
                        continue
                    values = {field.path: field.value for field in section.fields}
                    raw = build.device(section.idstr, values,
                                       [one.path for one in section.subsections])
                    self.assertEqual(raw, bytes(stream.data[section.payload:section.payload_end]),
                                     section.name)

    def test_edit_changes_nothing_by_itself(self):
        for name in ("mv-kvm-full-S.bin", "live-postcopy.0.fwd", "live-pcrec-2.0.fwd",
                     "q10-mapped-ram.file"):
            with self.subTest(name):
                edit = build.Edit(data(name))
                self.assertEqual(edit.bytes(), data(name))
                self.assertEqual(edit.copy().bytes(), data(name))

    def test_edits(self):
        raw = data("mv-tcg-subsections-S.bin")
        edit = build.Edit(raw)
        edit.drop_subsection("cpu", "cpu/avx512").drop_subsection("cpu", "cpu/mpx")
        edit.set_field("cpu", "cpu/tsc_khz:env.tsc_khz", 5).set_field("cpu", "env.eip", 6)
        edit.find("apic").version = 2
        edit.find("fw_cfg").footer = False
        copy = edit.copy()
        copy.find("fw_cfg").footer = True
        copy.find("apic").version = 3
        stream = streamdecode.parse(copy.drop_type("vmdescription").bytes())
        self.assertEqual(stream.field("cpu", "cpu/tsc_khz:env.tsc_khz"), 5)
        self.assertEqual(stream.field("cpu", "env.eip"), 6)
        self.assertEqual(len(stream.section("cpu").subsections), 30)
        self.assertIn("fw_cfg", str(attempt(edit.bytes())))

    def test_edit_inside_a_package(self):
        edit = build.Edit(data("live-postcopy.0.fwd"))
        edit.set_field("cpu", "env.eip", 1).drop(edit.find("serial"))
        stream = streamdecode.parse(edit.bytes())
        self.assertEqual(stream.field("cpu", "env.eip"), 1)
        self.assertIsNone(stream.section("serial"))

    def test_xbzrle(self):
        old = bytes(range(256)) * 16
        for new in (old, old[:-1] + b"!", b"!" + old[1:], bytes(4096), b"a" * 2048 + old[2048:]):
            encoded = build.xbzrle_encode(old, new)
            if len(encoded) > PAGE_SIZE:
                continue
            writer = build.Writer().header().configuration()
            writer.section("start", 2, build.ram_blocks([("a", PAGE_SIZE)])
                           + build.ram_page(0, old, "a") + build.ram_xbzrle(0, encoded)
                           + build.ram_eos()).eof()
            block = memory.reconstruct(streamdecode.parse(writer.bytes())).blocks["a"]
            self.assertEqual(bytes(block.data), new)


class Hostile(unittest.TestCase):
    def test_truncations(self):
        """A cut stream is reported as cut, at an offset that exists."""
        for name, whole in (("small", small()), ("postcopy", data("live-postcopy.0.fwd"))):
            for label, raw in hostile.truncations(whole):
                with self.subTest("%s %s" % (name, label)):
                    result = attempt(raw)
                    if raw and "before vmdescription" not in label:
                        self.assertIsInstance(result, streamdecode.Truncated)
                        self.assertLessEqual(result.offset, len(raw))
                    partial = attempt(raw, partial=True)
                    if raw[:4] == b"QEVM":
                        self.assertTrue(partial.covered())

    def test_mutations(self):
        labels, refused, noticed = set(), 0, 0
        for label, raw in hostile.mutations(small()):
            with self.subTest(label):
                self.assertNotIn(label, labels)
                labels.add(label)
                result = attempt(raw)
                if isinstance(result, streamdecode.StreamError):
                    refused += 1
                    self.assertNotIn("\n", str(result))
                else:
                    self.assertTrue(result.covered())
                    noticed += bool(result.problems)
        self.assertGreater(len(labels), 400)
        self.assertGreater(refused, 150)
        self.assertGreater(noticed, 100)

    def test_every_kind_of_wrong_is_seen(self):
        """What must be refused, and what must at least be a problem."""
        results = {label: attempt(raw) for label, raw
                   in hostile.mutations(small())}
        for label in ("magic", "version 4", "configuration twice", "machine name too long",
                      "cpu: no footer", "cpu: wrong footer", "apic: one byte short",
                      "apic: one byte more", "serial: unknown subsection", "command 0",
                      "package of 4 GiB", "packages in packages", "unknown record type",
                      "block twice", "block left out", "block of size 0", "total too small",
                      "page outside its block", "page that continues nothing", "RAM flags 0x80",
                      "xbzrle run of 0", "xbzrle beyond the page", "xbzrle three byte run",
                      "xbzrle ends in a run", "no RAM start", "no end", "bytes after the end"):
            self.assertIsInstance(results[label], streamdecode.StreamError, label)
        for label in ("no configuration", "timer: dropped", "timer: twice", "cpu: renamed",
                      "cpu: version 13", "devices reversed", "ping without return path",
                      "discard of an unknown block", "vmdescription not JSON",
                      "vmdescription nested", "cpu: without cpu/tsc_khz"):
            self.assertTrue(results[label].problems, label)
        for label in ("ids renumbered", "no vmdescription", "page in START", "xbzrle",
                      "zero page of ones", "no RAM part"):
            self.assertEqual(results[label].problems, [], label)

    def test_bit_flips(self):
        """No byte of the head, the devices or the description can raise anything else."""
        raw = small()
        devices = streamdecode.parse(raw).section("timer").start
        for low, high, stride in ((0, 0x200, 1), (devices, devices + 3700, 3),
                                  (devices + 3700, len(raw), 61)):
            for label, bad in hostile.bit_flips(raw, stride, low, high):
                with self.subTest(label):
                    attempt(bad)

    def test_other_channels(self):
        for name in ("live-pcrec-2.0.ret", "live-q10-preempt.1.fwd", "live-multifd-zlib.2.fwd",
                     "live-q10-switchover-ack.0.ret", "live-postcopy.0.ret"):
            raw = data(name)
            for cut in range(0, min(len(raw), 3000), 7):
                with self.subTest("%s cut at %d" % (name, cut)):
                    attempt(raw[:cut])
            for label, bad in hostile.bit_flips(raw, 3, 0, min(len(raw), 3000)):
                with self.subTest("%s %s" % (name, label)):
                    attempt(bad)

    def test_description_bombs(self):
        """A description that is small but stands for a lot must not cost much."""
        raw = without_description(small())
        zero = {"name": "x", "type": "uint8", "size": 0, "array_len": 1 << 20}
        deep = {"name": "x", "type": "uint8", "size": 1}
        for _ in range(100):
            deep = {"name": "x", "type": "struct", "size": 1, "struct": {"fields": [deep]}}
        wide = {"name": "x", "type": "struct", "size": 0, "array_len": 1 << 19,
                "struct": {"fields": [zero]}}
        for label, field in (("zero", zero), ("deep", deep), ("wide", wide),
                             ("huge", {"name": "x", "type": "buffer", "size": 1 << 39}),
                             ("negative", {"name": "x", "type": "buffer", "size": -1}),
                             ("text", {"name": "x", "type": "buffer", "size": "8"}),
                             ("untyped", {"name": 5}), ("bool", {"name": "x", "type": True})):
            with self.subTest(label):
                entry = {"name": "timer", "instance_id": 0, "version": 2, "fields": [field]}
                result = attempt(raw + build.Writer().vmdescription({"devices": [entry]}).bytes())
                self.assertEqual(result.section("timer").source, "table")
                self.assertTrue(result.problems)

    def test_memory_limits(self):
        for blocks in ([("a", 1 << 62)], [("a/b", 4096), ("a-b", 4096)]):
            writer = build.Writer().header().configuration()
            writer.section("start", 2, build.ram_blocks(blocks) + build.ram_eos()).eof()
            with self.assertRaises(streamdecode.StreamError):
                memory.reconstruct(streamdecode.parse(writer.bytes()))

    def test_opaque_parts(self):
        """A part of which only the length is known decodes without a description, and with one the
        description's fields are taken."""
        edit = build.Edit(data("mv-tcg-min-S.bin"))
        edit.add_subsection("cpu", "cpu/msr_xfd", bytes(range(16)))
        stream = streamdecode.parse(edit.bytes())
        self.assertEqual(stream.field("cpu", "cpu/msr_xfd:data"), bytes(range(16)))
        field = layout.Field
        table = [field("a", "uint8", 0, 1, 1), field("b", layout.OPAQUE, 1, 4, b"abcd")]
        text = [field("a", "uint8", 0, 1, 1), field("b", "uint16", 1, 2, 5),
                field("c", "uint16", 3, 2, 6)]
        self.assertTrue(layout.same_fields(table, text))
        self.assertFalse(layout.same_fields(table, [text[1]]))


class CommandLine(unittest.TestCase):
    def run_tool(self, *args, fixture="mv-kvm-full-S.bin"):
        """(status, output, errors) of the tool on a fixture."""
        path = fixture if os.path.isabs(fixture) else os.path.join(FIXTURES, fixture + ".xz")
        done = subprocess.run([sys.executable, os.path.join(SCRIPTS, "stream-decode.py"), path,
                               *args], capture_output=True, text=True, timeout=300)
        self.assertNotIn("Traceback", done.stderr)
        return done.returncode, done.stdout, done.stderr

    def test_summary(self):
        status, out, err = self.run_tool()
        self.assertEqual((status, err), (0, ""))
        self.assertIn("every byte is accounted for", out)
        self.assertIn("16 decode alike", out)

    def test_options(self):
        for args, text in ((["--ram"], "RAM pages: 4107 zero, 8 page"),
                           (["--sections"], "full  cpu id 6 version 12"),
                           (["--fields", "cpu"], "env.eip = 0xfff0"),
                           (["--fields", "ioapic*"], "ioapic#1 version 3"),
                           (["--vmdesc"], '"vmsd_name": "kvmclock"'),
                           (["--json"], '"machine": "microvm"')):
            with self.subTest(args[0]):
                status, out, err = self.run_tool(*args)
                self.assertEqual((status, err), (0, ""))
                self.assertIn(text, out)

    def test_diff(self):
        path = os.path.join(FIXTURES, "mv-tcg-full-S.bin.xz")
        status, out, err = self.run_tool("--diff", path, "--ignore", "mc146818rtc *")
        self.assertEqual(status, 1)
        self.assertIn("kvmclock: section | -", out)
        self.assertNotIn("mc146818rtc", out)
        status, out, err = self.run_tool("--diff", os.path.join(FIXTURES, "mv-kvm-full-S.bin.xz"),
                                         "--ram")
        self.assertEqual((status, out), (0, "0 differences\n"))

    def test_memory(self):
        with tempfile.TemporaryDirectory() as folder:
            status, out, err = self.run_tool("--memory", folder, fixture="live-preempt.0.fwd")
            self.assertIn("microvm.ram.ram: 0x1000000 bytes, 1 pages never arrived", out)
            status, out, err = self.run_tool(
                "--memory", folder, "--with", os.path.join(FIXTURES, "live-preempt.1.fwd.xz"),
                fixture="live-preempt.0.fwd")
            self.assertEqual(status, 0, err)
            self.assertIn("microvm.ram.ram: 0x1000000 bytes, 0 pages never arrived", out)
            self.assertEqual(sorted(os.listdir(folder)),
                             ["microvm.ram.ram", "pc.bios.ram", "rom@etc-acpi-rsdp.ram",
                              "rom@etc-acpi-tables.ram", "rom@etc-table-loader.ram"])

    def test_bad_input(self):
        with tempfile.TemporaryDirectory() as folder:
            for label, raw, text in (
                    ("text", b"hello", "offset 0x0: not a migration stream"),
                    ("cut", data("mv-kvm-full-S.bin")[:70000], "offset 0x10"),
                    ("xz", b"\xfd7zXZ\0" + b"x" * 50, "does not unpack"),
                    ("damaged", build.Edit(data("mv-kvm-full-S.bin")).bytes()[:-16000] + b"\x99",
                     "offset 0x")):
                path = os.path.join(folder, label)
                with open(path, "wb") as file:
                    file.write(raw)
                with self.subTest(label):
                    for args in ([], ["--json"], ["--ram"], ["--fields", "all"]):
                        status, out, err = self.run_tool(*args, fixture=path)
                        self.assertEqual(status, 1)
                        self.assertEqual(len(err.splitlines()), 1, err)
                        if args != ["--fields", "all"]:
                            self.assertIn(text, err)
            status, out, err = self.run_tool(fixture=os.path.join(folder, "absent"))
            self.assertEqual((status, len(err.splitlines())), (1, 1))

    def test_partial_output(self):
        """What stands before the damage is still shown."""
        status, out, err = self.run_tool(fixture="live-pcrec-1.0.fwd")
        self.assertEqual(status, 1)
        self.assertIn("command PACKAGED", out)
        self.assertIn("needs 1 bytes but only 0 are left", err)

    def test_no_zstd(self):
        """Without libzstd only the content of zstd packets is out of reach."""
        main = streamdecode.parse(data("live-multifd-zstd.0.fwd"))
        channels = [streamdecode.parse(data("live-multifd-zstd.%d.fwd" % one)) for one in (1, 2)]
        with mock.patch("ctypes.util.find_library", return_value=None):
            with self.assertRaisesRegex(streamdecode.StreamError, "libzstd is not installed"):
                memory.reconstruct(main, channels)


if __name__ == "__main__":
    unittest.main()
