# SPDX-License-Identifier: GPL-2.0-or-later
"""
The tables of the section `cpu` against what QEMU sends: each subsection alone and all together go
through them byte for byte, and those for which a guest has no use here are refused by name. Nothing
of this needs a CPU that has the feature (tests/lab/cpusubsections.py says which are tested so only).
"""

import os
import struct
import subprocess
import sys
import unittest

SOURCE_DIR = os.environ["FERRY_SOURCE_DIR"]
sys.path[0:0] = [os.path.join(SOURCE_DIR, "scripts"), os.path.join(SOURCE_DIR, "tests", "lab")]

import streamdecode  # noqa: E402
from cpusubsections import CHANCE, LIVE, REFUSED, ROWS, WIRE, names  # noqa: E402
from streamdecode import tables  # noqa: E402

FIXTURE = os.path.join(SOURCE_DIR, "tests", "stream", "fixtures", "mv-tcg-subsections-S.bin.xz")
PROGRAM = os.path.join(os.environ["FERRY_BUILD_DIR"], "tests", "unit", "cpu-wire")
MARK = 5  # begins a subsection
# Lengths of those that the fixture has not; the decoder knows them by nothing else.
OPAQUE = {"exception_info": 11, "amd_tsc_scale_msr": 8, "mcg_ext_ctl": 8, "msr_tsx_ctrl": 4,
          "msr_xfd": 16, "intel_amx_xtile": 8256, "arch_lbr": 784, "intel_sgx": 32,
          "msr_hyperv_runtime": 8, "msr_hyperv_reenlightenment": 24}


def subsection(name, payload, version=1):
    text = f"cpu/{name}".encode()
    return struct.pack(">BB", MARK, len(text)) + text + struct.pack(">I", version) + payload


def through(section):
    return subprocess.run([PROGRAM], input=section, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60)


class Wire(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        stream = streamdecode.load(FIXTURE)
        cpu = stream.section("cpu")
        raw = bytes(stream.data[cpu.payload:cpu.payload + cpu.size])
        cls.captured = {}
        at = [raw.index(bytes((MARK, len(one.name))) + one.name.encode()) for one in cpu.subsections]
        for one, begin, end in zip(cpu.subsections, at, at[1:] + [len(raw)]):
            cls.captured[one.name[len("cpu/"):]] = raw[begin:end]
        cls.main = raw[:at[0]]

    def piece(self, row):
        """A subsection of that name with something in it."""
        if row.fixture:
            return self.captured[row.name]
        length = OPAQUE[row.name]
        # as booleans, flags and numbers all of it is plausible
        return subsection(row.name, bytes((1, 1, 1) + (2,) * (length - 3)) if row.name ==
                          "exception_info" else bytes(range(1, 256)) * (length // 255)
                          + bytes(range(1, 1 + length % 255)))

    def back(self, section):
        done = through(section)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout

    def test_table_is_whole(self):
        """Whatever the fixture or the decoder knows has a row, and each row its place."""
        self.assertEqual([row.name for row in ROWS if row.fixture], list(self.captured))
        self.assertEqual({row.name for row in ROWS if row.fixture is not None},
                         {one.name[len("cpu/"):] for one in tables.CPU_SUBSECTIONS})
        self.assertEqual(len({row.name for row in ROWS}), len(ROWS))

    def test_each_alone(self):
        for row in ROWS:
            if row.how == REFUSED:
                continue
            with self.subTest(row.name):
                section = self.main + self.piece(row)
                back = self.back(section)
                # what is absent in the section has power-on values, and is not sent
                self.assertEqual(back.hex(), section.hex())

    def test_all_together(self):
        """In QEMU's order, those it was never seen to send in ours."""
        section = self.main + b"".join(self.piece(row) for row in ROWS if row.how != REFUSED)
        self.assertEqual(self.back(section).hex(), section.hex())

    def test_any_order(self):
        section = self.main + b"".join(self.piece(row) for row in ROWS if row.how != REFUSED)
        turned = self.main + b"".join(self.piece(row) for row in reversed(ROWS)
                                      if row.how != REFUSED)
        self.assertEqual(self.back(turned).hex(), section.hex())

    def test_refused_by_name(self):
        for name in names(REFUSED):
            row = next(row for row in ROWS if row.name == name)
            with self.subTest(name):
                done = through(self.main + (subsection(name, bytes(8)) if row.fixture is None
                                            else self.piece(row)))
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"cpu/{name}", done.stderr.decode())

    def test_damaged(self):
        """A subsection that ends early, or is of another version, is refused."""
        for name in names(LIVE, CHANCE, WIRE):
            row = next(row for row in ROWS if row.name == name)
            whole = self.main + self.piece(row)
            with self.subTest(name):
                self.assertEqual(through(whole[:-1]).returncode, 1)
                other = bytearray(whole)
                other[len(self.main) + 2 + len("cpu/") + len(name) + 3] = 2
                self.assertEqual(through(bytes(other)).returncode, 1)


if __name__ == "__main__":
    unittest.main()
