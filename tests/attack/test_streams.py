# SPDX-License-Identifier: GPL-2.0-or-later
"""
Damaged streams (scripts/streamdecode/hostile.py) into whole processes. Each is taken, or refused
with one sentence and status 1; nothing hangs or crashes. What is missing is named.
"""

import collections
import os
import re
import sys
import zlib

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tests", "migration"))
sys.path.insert(0, os.path.join(SOURCE, "scripts"))

from ferrytest import is_sanitized
from migrationcase import MigrationCase
from streamdecode import hostile
from victim import MACHINE, Victim, good_stream


class Streams(MigrationCase):
    def setUp(self):
        super().setUp()
        self.good = good_stream(self)

    def load(self, data, *machine):
        """What the process says, or None when it takes the stream."""
        path = self.path("stream")
        with open(path, "wb") as f:
            f.write(data)
        victim = Victim(self, f"file:{path}", *machine)
        if not victim.wait_decided():
            return victim.reason()
        victim.quit()
        return None

    def named(self, *wanted):
        found = dict(hostile.mutations(self.good))
        return {label: found[label] for label in found if any(w in label for w in wanted)}

    def test_nothing_but_an_end(self):
        header = self.good[:20]
        self.assertEqual(header[-7:], b"microvm")
        self.assertIn("before all of the memory has come", self.load(header + b"\0"))

    def test_missing_devices(self):
        """Each device in turn. Those that a good stream may lack are not missed."""
        dropped = self.named("dropped")
        self.assertGreater(len(dropped), 10)
        for label, data in dropped.items():
            with self.subTest(label=label):
                said = self.load(data)
                if "kvmclock" in label or "globalstate" in label:
                    self.assertIsNone(said)
                else:
                    self.assertIn("lacks the state of", said)

    def test_missing_memory(self):
        for label, wanted in (("block list empty", "no memory 'ram0'"), ("block left out", "no memory 'ram0'"),
                              ("no block list", "without a list of its blocks"),
                              ("no RAM start", "Unknown savevm section"),
                              ("no RAM part", "before all of the memory has come")):
            with self.subTest(label=label):
                self.assertIn(wanted, self.load(self.named(label)[label]))

    def test_other_machine(self):
        """More vCPUs or devices than the source has."""
        more = [("3" if a == "2" else a) for a in MACHINE]
        self.assertIn("lacks the state of 'cpu", self.load(self.good, *more))
        less = [a.replace(",isa-serial=on", ",isa-serial=off") for a in MACHINE]
        self.assertIn("'serial'", self.load(self.good, *less))

    def test_sample(self):
        # the same ones each time, although no two streams are quite the same: by name, without offsets
        seen = collections.Counter()
        streams = []
        for label, data in (*hostile.mutations(self.good), *hostile.truncations(self.good)):
            name = re.sub("0x[0-9a-f]+", "", label)
            seen[name] += 1
            streams.append((zlib.crc32(f"{name} {seen[name]}".encode()), label, data))
        for _, label, data in sorted(streams)[:20 if is_sanitized() else 100]:
            with self.subTest(label=label):
                self.load(data)
