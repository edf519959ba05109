# SPDX-License-Identifier: GPL-2.0-or-later
"""
Sources that never come to an end: sections, names, descriptions and pings without end, or silence.
The destination's memory stays as it is, it answers on QMP all the while, and ends when told to.
"""

import os
import select
import sys
import threading
import time

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(SOURCE, "tests", "migration"))
sys.path.insert(0, os.path.join(SOURCE, "scripts"))

from ferrytest import is_sanitized, scaled
from migrationcase import MigrationCase
from streamdecode.build import (Writer, be, pstr, ram_blocks, ram_eos, ram_page, ram_zero,
                                subsection, word)
from victim import Victim, connect

PAGE = bytes(range(256)) * 16
BLOCKS = [("ram0", 16 << 20), ("/rom@etc/acpi/tables", 0x1000), ("pc.bios", 0x10000),
          ("/rom@etc/table-loader", 0x1000), ("/rom@etc/acpi/rsdp", 0x1000)]
SECONDS = 1.0
# Of memory the guest has 16 MiB, which pages may fill; this is what may come on top.
ALLOWED_KIB = 20 << 10


def begin():
    return Writer().header().configuration().bytes()


def ram(payload):
    """Up to the payload of an open ram section, without its end."""
    return b"\1" + be(1, 4) + pstr("ram") + be(0, 4) + be(4, 4) + ram_blocks(BLOCKS) + payload


def ping():
    return Writer().command("PING", be(7, 4)).bytes()


# What begins the stream, and what is then said again and again.
ENDLESS = {
    "zero pages": (begin() + ram(ram_zero(0, "ram0")), ram_zero(0x1000) * 1000),
    "one page": (begin() + ram(ram_page(0, PAGE, "ram0")), ram_page(0x2000, PAGE) * 16),
    "all pages": (begin() + ram(ram_zero(0, "ram0")),
                  b"".join(ram_page(i << 12, PAGE) for i in range(4096))),
    "empty ram sections": (begin() + ram(ram_eos()) + b"\x7e" + be(1, 4),
                           (b"\2" + be(1, 4) + ram_eos() + b"\x7e" + be(1, 4)) * 500),
    "switchover commands": (begin(), b"\x08\0\x0b\0\0" * 1000),
    "pings": (begin() + Writer().command("OPEN_RETURN_PATH").bytes(), ping() * 1000),
}
# The same for what is refused at once: it must not even be read.
REFUSED = {
    "lists of blocks": (begin() + ram(b""), ram_blocks(BLOCKS) * 100, "a second list"),
    "a list of one block": (begin() + b"\1" + be(1, 4) + pstr("ram") + be(0, 4) + be(4, 4) +
                            word((1 << 63) - 4096, 4), (pstr("ram0") + be(16 << 20, 8)) * 1000,
                            "twice"),
    "subsections": (begin(), subsection("configuration/uuid", bytes(16)) * 100, "more subsections"),
    "capabilities": (begin() + subsection("configuration/capabilities", be(0xffffffff, 4)),
                     pstr("x-ignore-shared") * 1000, "a list of 4294967295 capabilities"),
    "names": (Writer().header().bytes() + b"\x07" + be(0x7fffffff, 4), b"m" * 4096,
              "2147483647 bytes"),
    "sections": (begin() + ram(ram_eos()) + b"\x7e" + be(1, 4),
                 (b"\4" + be(9, 4) + pstr("globalstate") + be(0, 4) + be(1, 4) + be(8, 4) +
                  b"running".ljust(100, b"\0") + b"\x7e" + be(9, 4)) * 10, "twice"),
    "nothing known": (begin(), b"\x55" * 4096, "Unknown savevm section type 85"),
    "packages": (begin(), (b"\x08\0\7\0\4" + be(1 << 24, 4)) * 100, "post-copy"),
}


class Endless(MigrationCase):
    def talk(self, sock, start, again, stop):
        """Says it until told to stop or nobody listens."""
        self.sent = 0
        try:
            sock.sendall(start)
            while not stop.is_set():
                if select.select([], [sock], [], 0.05)[1]:
                    sock.setblocking(False)
                    self.sent += sock.send(again[self.sent % len(again):])
        except OSError:
            pass

    def begin(self):
        path = self.link()[5:]
        victim = Victim(self, "unix:" + path)
        sock = connect(path)
        self.addCleanup(sock.close)
        return victim, sock

    def test_endless(self):
        for label, (start, again) in ENDLESS.items():
            with self.subTest(label=label):
                victim, sock = self.begin()
                self.assertEqual(victim.cmd("query-status")["status"], "inmigrate")
                before = victim.resident_kib("VmRSS")
                stop = threading.Event()
                talker = threading.Thread(target=self.talk, args=(sock, start, again, stop))
                talker.start()
                end = time.monotonic() + SECONDS
                slowest = 0
                while time.monotonic() < end:
                    asked = time.monotonic()
                    self.assertEqual(victim.cmd("query-status")["status"], "inmigrate")
                    slowest = max(slowest, time.monotonic() - asked)
                    time.sleep(0.05)
                self.assertLess(slowest, scaled(5))
                if not is_sanitized():  # which keeps freed memory for a while
                    self.assertLess(victim.resident_kib() - before, ALLOWED_KIB)
                victim.cmd("quit")
                victim.wait_ended()
                self.assertEqual(victim.status, 0, victim.said())
                stop.set()
                talker.join()

    def test_refused_at_once(self):
        for label, (start, again, words) in REFUSED.items():
            with self.subTest(label=label):
                victim, sock = self.begin()
                stop = threading.Event()
                talker = threading.Thread(target=self.talk, args=(sock, start, again, stop))
                talker.start()
                self.assertIn(words, victim.reason())
                stop.set()
                talker.join()
                self.assertLess(self.sent, 8 << 20)

    def test_silence(self):
        """Who connects and says nothing, or stops in the middle of a section."""
        for label, start in (("nothing", b""), ("half a header", b"QEVM\0"),
                             ("half a section", begin() + ram(ram_page(0, PAGE, "ram0")[:100]))):
            with self.subTest(label=label):
                victim, sock = self.begin()
                sock.sendall(start)
                time.sleep(0.2)
                self.assertEqual(victim.cmd("query-status")["status"], "inmigrate")
                victim.cmd("quit")
                victim.wait_ended()
                self.assertEqual(victim.status, 0, victim.said())

