# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a source may get wrong on the way to post-copy, up to the guest that runs: the destination refuses it
with one sentence and ends, as with any other stream. (test_postcopy_run.py is about what comes after.)
"""

import os
import sys

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tests", "migration"))
sys.path.insert(0, os.path.join(SOURCE, "scripts"))

from ferrytest import wait_for
from migrationcase import MigrationCase
from streamdecode.build import Edit, Writer, be, ram_eos, ram_page, ram_zero
from victim import Victim, connect, good_stream

RAM = 16 << 20
PAGE = b"\x5a" * 4096
ADVISE = be(4096, 8) * 2
TOP = 1 << 63


def part(records, step="part"):
    return Writer().section(step, 1, records + ram_eos()).bytes()


def command(name, payload=b"", length=None):
    return Writer().command(name, payload, length).bytes()


def discard(block, *ranges):
    return Writer().discard(block, ranges).bytes()


LISTEN, RUN = command("POSTCOPY_LISTEN"), command("POSTCOPY_RUN")
DISCARD = discard("ram0", (0, 0x10000))
PAGES = part(ram_page(0, PAGE, "ram0") + b"".join(ram_page(i << 12, PAGE) for i in range(1, 15)) +
             ram_zero(15 << 12))
END = part(b"", "end") + b"\0"

# What is put in the place of which piece, and what is said of it.
MISTAKES = (
    ("announced twice", {"advise": command("POSTCOPY_ADVISE", ADVISE) * 2}, "announcement of post-copy in the"),
    ("announced late", {"advise": b"", "discard": command("POSTCOPY_ADVISE", ADVISE)}, "in the wrong place"),
    ("never announced", {"advise": b""}, r"\(discard\) in the wrong place"),
    ("no return path", {"return_path": b""}, "without a return path"),
    ("page of 8 KiB", {"advise": command("POSTCOPY_ADVISE", be(4096, 8) + be(8192, 8))}, "pages of 8192 bytes"),
    ("page sizes", {"advise": command("POSTCOPY_ADVISE", be(1 << 21, 8) + be(4096, 8))}, "of other sizes"),
    ("length 8", {"advise": command("POSTCOPY_ADVISE", be(4096, 8))}, "with 8 bytes instead"),
    ("length 17", {"advise": command("POSTCOPY_ADVISE", ADVISE + b"x")}, "17 bytes"),
    ("bitmaps", {"advise": command("POSTCOPY_ADVISE")}, "dirty bitmaps"),
    ("discard of nothing known", {"discard": discard("nosuch", (0, 4096))}, "memory 'nosuch', which is not"),
    ("discard behind the end", {"discard": discard("ram0", (RAM, 4096))}, "discards 0x1000 bytes at 0x1000000"),
    ("discard over the end", {"discard": discard("ram0", (RAM - 4096, 8192))}, "discards 0x2000 bytes"),
    ("discard unaligned", {"discard": discard("ram0", (1, 4096))}, "at 0x1 of"),
    ("discard of a part", {"discard": discard("ram0", (0, 100))}, "discards 0x64 bytes"),
    ("discard of 2^63", {"discard": discard("ram0", (0, TOP))}, "discards 0x8000000000000000"),
    ("discard at 2^63", {"discard": discard("ram0", (TOP, TOP))}, "at 0x8000000000000000"),
    ("discard to 2^64", {"discard": discard("ram0", (4096, (1 << 64) - 4096))}, "discards 0xfffffffffffff000"),
    ("discard of version 1", {"discard": DISCARD[:5] + b"\1" + DISCARD[6:]}, "discard of version 1"),
    ("half a range", {"discard": command("POSTCOPY_RAM_DISCARD", b"\0\4ram0\0" + bytes(15))}, "version 0 and 22 bytes"),
    ("name without its end", {"discard": command("POSTCOPY_RAM_DISCARD", b"\0\4ram0\1" + bytes(16))}, "discard of version"),
    ("name longer than the command", {"discard": command("POSTCOPY_RAM_DISCARD", b"\0\4ram0\0", 3)}, "and 3 bytes"),
    ("discard in the package", {"listen": DISCARD + LISTEN}, "in the wrong place"),
    ("discard after LISTEN", {"listen": LISTEN + DISCARD}, "in the wrong place"),
    ("memory in the package", {"listen": PAGES + LISTEN}, "Unknown savevm section 1"),
    ("memory after LISTEN", {"listen": LISTEN + PAGES}, "Unknown savevm section 1"),
    ("LISTEN outside", {"discard": LISTEN}, r"\(listen\) in the wrong place"),
    ("RUN outside", {"discard": RUN}, r"\(run\) in the wrong place"),
    ("LISTEN twice", {"listen": LISTEN * 2}, r"\(listen\) in the wrong place"),
    ("RUN before LISTEN", {"listen": RUN + LISTEN}, r"\(run\) in the wrong place"),
    ("no LISTEN", {"listen": b"", "run": b""}, "without the command to listen"),
    ("no RUN", {"run": b""}, "does not say that the guest is to run"),
    ("no devices", {"devices": b""}, "lacks the state of .timer."),
    ("end in the package", {"listen": LISTEN + b"\0"}, "Unknown savevm section type 0"),
    ("a package in the package", {"listen": Writer().package(LISTEN).bytes()}, r"\(package\) in the wrong place"),
    ("package of 4 GiB", {"package": command("PACKAGED", be((1 << 32) - 1, 4))}, "A package of 4294967295 bytes"),
    ("package of 17 MiB", {"package": command("PACKAGED", be(17 << 20, 4))}, "A package of 17825792 bytes"),
    ("package of nothing", {"package": command("PACKAGED", be(0, 4))}, "without the command to listen"),
    ("package with a length of 3", {"package": command("PACKAGED", b"abc")}, "3 bytes"),
    ("package cut", {"package": command("PACKAGED", be(1 << 20, 4)) + bytes(1000), "pages": b"", "end": b""},
     "ended early"),
    ("package in place of memory", {"start": b"", "parts": b"", "discard": b""}, r"\(package\) in the wrong place"),
    ("resumed", {"discard": command("POSTCOPY_RESUME")}, "takes up a post-copy that is not here"),
    ("bitmap asked for", {"discard": command("RECV_BITMAP", b"\4ram0")}, "takes up a post-copy that is not here"),
)


class PostcopyStreams(MigrationCase):
    def setUp(self):
        super().setUp()
        edit = Edit(good_stream(self))
        first = edit.pieces.index(edit.find("ram", "start"))
        self.good = {
            "head": b"".join(piece.bytes() for piece in edit.pieces[:first]),
            "return_path": command("OPEN_RETURN_PATH"),
            "advise": command("POSTCOPY_ADVISE", ADVISE),
            "start": edit.pieces[first].bytes(),
            "parts": b"".join(piece.bytes() for piece in edit.sections("part")),
            "discard": DISCARD,
            "listen": LISTEN,
            "devices": b"".join(piece.bytes() for piece in edit.sections("full")),
            "run": RUN,
            "package": None,
            "pages": PAGES,
            "end": END,
        }

    def stream(self, **other):
        p = {**self.good, **other}
        package = p["package"]
        if package is None:
            package = Writer().package(p["listen"] + p["devices"] + p["run"]).bytes()
        return (p["head"] + p["return_path"] + p["advise"] + p["start"] + p["parts"] + p["discard"] +
                package + p["pages"] + p["end"])

    def give(self, data, enabled=True):
        path = self.path("stream")
        if os.path.exists(path):
            os.unlink(path)
        victim = Victim(self, "defer")
        victim.wait_monitor()
        victim.cmd("migrate-set-capabilities", capabilities=[
            {"capability": "postcopy-ram", "state": enabled}])
        victim.cmd("migrate-incoming", uri="unix:" + path)
        self.sock = connect(path)
        self.addCleanup(self.sock.close)
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # refused before its end
        return victim

    def test_good(self):
        victim = self.give(self.stream())
        wait_for("completion", lambda: victim.cmd("query-migrate").get("status") == "completed")
        self.assertEqual(victim.cmd("query-status")["status"], "paused")  # -S
        self.assertEqual(victim.said(), "")
        victim.quit()

    def test_not_enabled(self):
        victim = self.give(self.stream(), enabled=False)
        self.assertRegex(victim.reason(), "which is not enabled here: set capability 'postcopy-ram'")

    def test_mistakes(self):
        for what, pieces, words in MISTAKES:
            with self.subTest(what=what):
                victim = self.give(self.stream(**pieces))
                self.sock.shutdown(1)  # nothing more comes
                self.assertRegex(victim.reason(), words)

    def test_memory_that_does_not_come(self):
        """The guest runs and waits, and so does the process."""
        victim = self.give(self.stream(pages=b""))
        wait_for("pause", lambda: victim.cmd("query-migrate").get("status") == "postcopy-paused")
        now = victim.cmd("query-migrate")
        self.assertIn("16 pages of memory have not come", now["error-desc"])
        self.assertEqual(now["postcopy-faults"]["missing-pages"], 16)
        victim.quit()
