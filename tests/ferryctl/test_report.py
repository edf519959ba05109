# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of a migration: a valid file with what belongs in it."""

import os
import re
import shutil
import subprocess
import unittest
import xml.etree.ElementTree as ET

from ctlcase import FAILED, REFUSED, USAGE, CtlCase
from fakeqmp import QEMU, a_round, ram
from test_migrate import COMPLETED

SVG = "{http://www.w3.org/2000/svg}"
NASTY = '<&">\x1b[31m\x00\ufffe]]>'


class Report(CtlCase):
    def draw(self, info, *args):
        fake = self.fake(started=True, states=[info])
        path = self.path("report.svg")
        self.ctl("report", "-o", path, *args)
        fake.close()
        with open(path, encoding="utf-8") as f:
            text = f.read()
        self.assertNotRegex(text, "nan|inf")
        return ET.fromstring(text.encode())

    @staticmethod
    def texts(svg):
        return [t.text for t in svg.iter(SVG + "text")]

    def test_contents(self):
        svg = self.draw(COMPLETED)
        texts = self.texts(svg)
        for text in ("Migration of web1",
                     "completed after 345 ms, the guest paused for 12 ms, 10.0 MiB sent, 3 rounds",
                     "remaining, KiB", "rate, KiB/s", "throttle, %",
                     "milliseconds since the migration began", "memory still to be sent",
                     "the link carried", "the guest dirtied", "the guest is paused", "Decisions",
                     "1  after 200 ms, round 2: throttle 20 %: No progress",
                     "2  after 300 ms, round 3: switchover: It pays no more"):
            with self.subTest(text):
                self.assertIn(text.replace("KiB", "MiB"), [t.replace("KiB", "MiB") for t in texts])
        self.assertEqual(len(list(svg.iter(SVG + "circle"))), 3)  # a point for each round
        # two lines of rates, one of the throttle: a step for each round, and one for a decision
        paths = [p.get("d") for p in svg.iter(SVG + "path")]
        self.assertEqual([d.count("H") for d in paths], [3, 3, 4])
        # the pause: from 333 to 345 ms of 345, in each of three panels
        bands = [r for r in svg.iter(SVG + "rect") if r.get("fill-opacity")]
        self.assertEqual(len(bands), 3)
        for band in bands:
            self.assertAlmostEqual(float(band.get("width")), 852 * 12 / 345, delta=0.1)
            self.assertAlmostEqual(float(band.get("x")) + float(band.get("width")), 936, delta=0.1)

    def test_points(self):
        """Where the numbers are, the points are."""
        svg = self.draw({"status": "active", "total-time": 200,
                         "ram": ram(total=1000 * 4096), "rounds": [
                             a_round(1, 0, 500), a_round(2, 100, 250)]})
        (line,) = svg.iter(SVG + "polyline")
        points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
        self.assertEqual([p[0] for p in points], [84, 510, 936])
        base = 304
        heights = [base - p[1] for p in points]
        self.assertAlmostEqual(heights[1] / heights[0], 0.5, delta=0.01)
        self.assertAlmostEqual(heights[2] / heights[0], 0.25, delta=0.01)

    def test_throttle_and_suspension(self):
        """The throttle rises where it was decided; the guest's pauses are bands."""
        decisions = [{"round": 1, "time": t, "action": a, "value": v, "reason": "r"} for t, a, v in (
            (50, "throttle", 40), (120, "downtime-limit", 200), (200, "suspend", 100),
            (300, "resume", 0))]
        svg = self.draw({"status": "failed", "total-time": 400, "ram": ram(), "decisions": decisions,
                         "rounds": [a_round(1, 0, 9, throttle=40), a_round(2, 100, 9, throttle=40),
                                    a_round(3, 200, 9, throttle=20), a_round(4, 300, 9)]})
        throttle = [p.get("d") for p in svg.iter(SVG + "path")][2]

        def x(ms):
            return f"{84 + 852 * ms / 400:.2f}"

        def y(percent):
            return f"{592 + 100 - percent:.2f}"
        self.assertEqual(throttle.split(), [
            "M" + x(0), y(0), "H" + x(50), "V" + y(40), "H" + x(100), "L" + x(100), y(40), "H" + x(200),
            "L" + x(200), y(20), "H" + x(300), "L" + x(300), y(0), "H" + x(400)])
        bands = [(r.get("x"), r.get("width")) for r in svg.iter(SVG + "rect") if r.get("fill-opacity")]
        self.assertEqual(bands, [(x(200), "213.00")] * 3)
        self.assertIn("2  after 120 ms, round 1: downtime-limit 200 ms: r", self.texts(svg))

    def test_strings(self):
        """Whatever the machine says, it is text and not markup."""
        decisions = [{"round": 1, "time": 5, "action": NASTY, "reason": NASTY + " word" * 2000}
                     for _ in range(100)]
        svg = self.draw({"status": NASTY, "rounds": [a_round(1, 0, 1)], "decisions": decisions,
                         "ram": ram()})
        self.assertTrue(any('<&">?[31m' in t for t in self.texts(svg)))
        self.assertIn("and 60 more", self.texts(svg))

    def test_one_round_of_nothing(self):
        self.draw({"status": "completed", "rounds": [{}]})
        self.draw({"status": "completed", "rounds": [{"duration": 0, "bandwidth": 0}]})

    def test_no_history(self):
        self.fake(greeting=QEMU, started=True, states=[{"status": "completed", "ram": ram()}])
        self.assertIn("This machine (QEMU 7.2.22) keeps no history",
                      self.ctl("report", "-o", self.path("x"), expect=REFUSED).err)
        self.assertFalse(os.path.exists(self.path("x")))

    def test_not_written(self):
        self.fake(started=True, states=[COMPLETED])
        self.assertIn("Cannot write", self.ctl("report", "-o", "/nonexistent/x", expect=FAILED).err)

    def test_standard_output(self):
        self.fake(started=True, states=[COMPLETED])
        ET.fromstring(self.ctl("report").out.encode())
        self.ctl("report", "--json", expect=USAGE)

    def test_from_a_recording(self):
        """What migrate --json printed gives the same picture but for its title."""
        fake = self.fake(states=[COMPLETED])
        recording = self.path("recording")
        with open(recording, "w", encoding="utf-8") as f:
            f.write(self.ctl("migrate", "host:1", "--json").out)
        self.ctl("report", "-o", self.path("machine.svg"))
        fake.close()
        self.ctl("report", "--from", recording, "-o", self.path("file.svg"))
        pictures = []
        for name in ("machine.svg", "file.svg"):
            with open(self.path(name), encoding="utf-8") as f:
                pictures.append(re.sub("Migration[^<]*", "", f.read()))
        self.assertEqual(*pictures)

    def test_bad_recordings(self):
        path = self.path("recording")
        for text, status in (("", REFUSED), ("{}\n", REFUSED), ("no\n", USAGE), ("[]\n", USAGE),
                             ('{"type":"round"', USAGE), ('{"type": 5}\n\n{"type":"end"}', REFUSED)):
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            self.ctl("report", "--from", path, "-o", self.path("x"), expect=status)
        self.ctl("report", "--from", "/nonexistent", "-o", self.path("x"), expect=FAILED)

    def test_drawn(self):
        """An independent program can draw it, and something is on it."""
        if not shutil.which("rsvg-convert"):
            self.skipTest("No rsvg-convert")
        self.draw(COMPLETED)
        subprocess.run(["rsvg-convert", self.path("report.svg"), "-o", self.path("report.png")],
                       check=True)
        self.assertGreater(os.path.getsize(self.path("report.png")), 10000)


if __name__ == "__main__":
    unittest.main()
