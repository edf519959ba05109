# SPDX-License-Identifier: GPL-2.0-or-later
"""
Post-copy whose guest has left, and a man in the middle who says what no peer may. Nothing of it loses the
guest: both sides pause, and a good link goes on, as often as it takes.
"""

import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from fakepeer import ERROR, HELLO_MESSAGE, PONG, READY, SHUT, be32, message
from ferrytest import migrate, scaled
from ferrytest.qmp import QmpError
from middle import Middle
from migrationcase import MigrationCase
from victim import connect

REQ_PAGES_ID, REQ_PAGES, RECV_BITMAP, RESUME_ACK, RUNS = 3, 4, 5, 6, 0x4656
MEMORY = 64
SLOW = 128 << 10  # eight minutes for all of it, however long the words take


def be64(value):
    return struct.pack(">Q", value)


def pstr(name):
    return bytes([len(name)]) + name


def request(offset, length, name=None):
    payload = be64(offset) + be32(length)
    return message(REQ_PAGES_ID, payload + pstr(name)) if name else message(REQ_PAGES, payload)


def command(kind, payload=b""):
    return struct.pack(">BHH", 8, kind, len(payload)) + payload


def part(records, kind=2, section=1, footer=1):
    """A part of memory whose section has its number; of the end mark's word, too."""
    return bytes([kind]) + be32(section) + records + be64(0x10) + b"\x7e" + be32(footer)


def page(offset, name=b"ram0", flags=8, data=b"\x5a" * 4096):
    return be64(offset | flags) + (pstr(name) if name else b"") + data


def bitmap(name, size, data, mark=0x0123456789abcdef):
    return message(RECV_BITMAP, pstr(name)) + be64(size) + data + be64(mark)


# What a destination says, and what the source says of it.
FROM_DESTINATION = (
    ("message 0x777", message(0x777), "0x777 that nothing asked for"),
    ("length of a message", message(SHUT, bytes(5)), "0x1 of 5 bytes"),
    ("unknown block", request(0, 4096, b"nosuchblock"), "memory 'nosuchblock', which is not part"),
    ("block named with a byte 0", message(REQ_PAGES_ID, be64(0) + be32(4096) + b"\5ram\0x"), "makes no sense"),
    ("name shorter than it says", message(REQ_PAGES_ID, be64(0) + be32(4096) + b"\7ram0"), "makes no sense"),
    ("name without a name", message(REQ_PAGES_ID, be64(0) + be32(4096) + b"\0"), "memory '', which is not part"),
    ("behind the end", request(MEMORY << 20, 4096, b"ram0"), "asks for 0x1000 bytes at 0x4000000"),
    ("over the end", request((MEMORY << 20) - 4096, 8192, b"ram0"), "asks for 0x2000 bytes"),
    ("at 2^64 - 4096", request((1 << 64) - 4096, 8192, b"ram0"), "asks for 0x2000 bytes"),
    ("nothing", request(0, 0, b"ram0"), "asks for 0x0 bytes"),
    ("2^31", request(0, 1 << 31, b"ram0"), "asks for 0x80000000 bytes"),
    ("2^32 - 1", request(4096, (1 << 32) - 1, b"ram0"), "asks for 0xffffffff bytes"),
    ("READY again", message(READY), "has loaded the guest"),
    ("bitmap", bitmap(b"ram0", 2048, bytes(2048)), "a bitmap of 'ram0' that nothing asked for"),
    ("RESUME_ACK", message(RESUME_ACK, be32(1)), "goes on that nothing asked for"),
    ("RESUME_ACK of 0", message(RESUME_ACK, be32(0)), "cannot go on"),
    ("RUNS again", message(RUNS, be64(1)), "began to run"),
    ("SHUT 0", message(SHUT, be32(0)), "runs the guest that nothing asked for"),
    ("SHUT 1", message(SHUT, be32(1)), "could not load the guest"),
    ("refusal", message(ERROR, b"no"), "refused the guest: no"),
    ("hello", HELLO_MESSAGE, "hello that nothing asked for"),
    ("pong", message(PONG, be32(77)), "ping 0x4d that was not sent"),
)

# What a source says, and what the destination says of it.
FROM_SOURCE = (
    ("record", b"\x55", "An unknown record in post-copy"),
    ("command 0", command(0), "A command that does not belong there"),
    ("ADVISE", command(3, be64(4096) * 2), "A command that does not belong there"),
    ("LISTEN", command(4), "A command that does not belong there"),
    ("RUN", command(5), "A command that does not belong there"),
    ("DISCARD", command(6, b"\0" + pstr(b"ram0") + b"\0" + be64(0) + be64(4096)), "does not belong"),
    ("PACKAGED", command(7, be32(5)) + command(4), "A command that does not belong there"),
    ("PING without a number", command(2), "A command that does not belong there"),
    ("GO of no length", command(0x4653), "A command that does not belong there"),
    ("RESUME", command(9), "A resume that nothing waits for"),
    ("bitmap of what", command(10, pstr(b"nosuchblock")), "of a block that is not there"),
    ("bitmap of a longer name", command(10, pstr(b"ram0") + b"x"), "of a block that is not there"),
    ("START", b"\1" + be32(2) + pstr(b"ram") + be32(0) + be32(4), "An unknown record"),
    ("FULL", b"\4" + be32(7) + pstr(b"timer") + be32(0) + be32(2), "An unknown record"),
    ("part of another section", part(b"", section=99), "not the memory's"),
    ("no footer", b"\2" + be32(1) + be64(0x10) + b"\x08", "without its footer"),
    ("other footer", part(b"", footer=3), "A footer of another section"),
    ("end of the stream", b"\0", "pages of memory have not come"),
    ("END and the end", part(b"", kind=3) + b"\0", "pages of memory have not come"),
    ("after END", part(b"", kind=3) + part(b""), "or after its end"),
    ("unknown block", part(page(0, b"nosuchblock")), "Can't find block nosuchblock"),
    ("page behind the end", part(page(MEMORY << 20)), "Illegal RAM offset 0x4000000"),
    ("page at 2^64 - 4096", part(page((1 << 64) - 4096)), "Illegal RAM offset 0xfffffffffffff000"),
    ("xbzrle", part(page(0, flags=0x40, data=b"\1\0\4aaaa")), r"changes \(xbzrle\)"),
    ("compressed", part(page(0, flags=0x100, data=be32(4) + b"aaaa")), "compressed page"),
    ("list of blocks", part(page(0, None, flags=4, data=b"")), "a second list of RAM blocks"),
    ("flags", part(page(0, flags=0x400, data=b"")), "Unknown combination"),
    ("bytes that are not zero", part(page(0, flags=2, data=b"\1")), "that are not zero"),
    ("end mark with an offset", b"\2" + be32(1) + be64(0x1010), "an end of memory with an offset"),
)

# Harmless, however often: what has been claimed is on its way.
FLOOD_OF_REQUESTS = request(0, 1 << 20, b"ram0") * 10000


class Paused(MigrationCase):
    def leave(self, preempt=False, **options):
        """A guest that has left through a man in the middle, most of its memory to come."""
        src, dst = self.pair(guest="report=100 rate=100 data=random", memory=MEMORY, smp=1, **options)
        migrate.set_capabilities(src, dst, postcopy_ram=True, postcopy_preempt=preempt)
        middle = Middle(self, self.uri[5:])
        migrate.start(src, middle.uri, max_bandwidth=20 << 20, max_postcopy_bandwidth=SLOW)
        migrate.wait_status(src, "active")
        src.cmd("migrate-start-postcopy")
        migrate.wait_status(src, "postcopy-active")
        dst.wait_state("running")
        migrate.wait_for("word that the guest runs", lambda: RUNS in middle.seen)
        return middle

    def both_paused(self):
        said = [migrate.wait_status(vm, "postcopy-paused")["error-desc"] for vm in (self.src, self.dst)]
        self.assertEqual(self.dst.status(), "running")
        self.assertNotEqual(self.src.status(), "running")
        return said

    def take_up(self, through=True):
        """On a new link, through a man in the middle or straight."""
        uri = self.link()
        self.dst.cmd("migrate-recover", uri=uri)
        middle = Middle(self, uri[5:], first=False) if through else None
        self.src.cmd("migrate", uri=middle.uri if through else uri, resume=True)
        migrate.wait_status(self.dst, "postcopy-active")
        migrate.wait_status(self.src, "postcopy-active")
        return middle

    def arrive(self):
        """Whatever has been done to it, the guest arrives, and all of its memory is right."""
        self.take_up(through=False)
        migrate.set_parameters(self.src, max_postcopy_bandwidth=0)
        migrate.wait_status(self.src, "completed")
        migrate.wait_status(self.dst, "completed")
        self.dst.guest.check()
        self.assertFalse(self.src.guest.is_alive(0.1))

    def words(self, direction, words, who):
        middle = self.leave()
        for what, evil, reason in words:
            middle.say(direction, evil)
            said = self.both_paused()
            self.assertRegex(said[who], reason, what)
            middle = self.take_up()
        self.assertGreater(migrate.info(self.dst)["postcopy-faults"]["missing-pages"], 1000)
        middle.say("fwd", b"\x55")
        self.both_paused()
        self.arrive()

    def test_destination_says(self):
        self.words("ret", FROM_DESTINATION, 0)

    def test_source_says(self):
        self.words("fwd", FROM_SOURCE, 1)

    def test_flood(self):
        """Requests without end are work, and no more than that."""
        middle = self.leave()
        for _ in range(50):
            middle.say("ret", FLOOD_OF_REQUESTS)
        self.assertEqual(migrate.status(self.src), "postcopy-active")
        middle.say("ret", message(0x777))
        self.both_paused()
        self.arrive()

    def test_take_back_of_a_guest_that_runs_there(self):
        self.leave().say("ret", message(SHUT, be32(1)))
        self.both_paused()
        self.refuses("The guest has run at the destination", self.src, "migrate-take-back")
        self.refuses("There's a migration process in progress", self.src, "migrate", uri="unix:/x")
        self.arrive()

    def refuses(self, words, vm, name, **arguments):
        with self.assertRaises(QmpError) as raised:
            vm.cmd(name, **arguments)
        self.assertIn(words, str(raised.exception))

    # --- who takes up the link is not the other side ---

    def test_stranger_at_the_destination(self):
        """What is no source connects to a destination that waits for its own."""
        self.leave().say("fwd", b"\x55")
        self.both_paused()
        for what, words, reason in (
                ("greeting", b"QEVM\0\0\0\3", "An unknown record"),
                ("nonsense", b"GET / HTTP/1.1\r\n\r\n", "An unknown record"),
                ("zeroes", bytes(100), "pages of memory have not come"),
                ("garbage", b"\xff" * 5000, "An unknown record"),
                ("a bitmap of nothing", command(10, pstr(b"x")), "of a block that is not there"),
                ("two resumes", command(9) * 2, "A resume that nothing waits for"),
                ("a page of its own block", part(page(0, b"\x01")), "a name with the byte"),
                ("a page that goes on", part(page(0, None, flags=0x28)), "before any was named"),
                ("half a command", command(10, pstr(b"ram0"))[:-2], "ended early"),
                ("silence", b"", "no bytes came|ended early")):
            uri = self.link()
            self.dst.cmd("migrate-recover", uri=uri)
            with self.subTest(what=what), connect(uri[5:]) as sock:
                sock.sendall(words)
                if words:
                    sock.shutdown(socket.SHUT_WR)
                migrate.wait_for("stranger to be sent away", lambda: self._paused_again(reason))
        self.assertEqual(migrate.status(self.src), "postcopy-paused")
        self.arrive()

    def _paused_again(self, reason):
        now = migrate.info(self.dst)
        if now["status"] == "postcopy-paused" and "socket-address" not in now:
            self.assertRegex(now["error-desc"], reason)
            return True
        return False

    def test_stranger_that_stays(self):
        """It keeps the link busy for ever; migrate-pause ends it."""
        self.leave().say("fwd", b"\x55")
        self.both_paused()
        uri = self.link()
        self.dst.cmd("migrate-recover", uri=uri)
        with connect(uri[5:]) as sock:
            for _ in range(3):
                sock.sendall(command(2, be32(1)))
                time.sleep(0.1)
            migrate.wait_status(self.dst, "postcopy-recover")
            self.dst.cmd("migrate-pause")
            self.assertEqual(migrate.wait_status(self.dst, "postcopy-paused")["error-desc"],
                             "Paused by migrate-pause")
        self.arrive()

    def test_stranger_at_the_source(self):
        """The source is sent to what is no destination, or to one that lies about what it has."""
        self.leave().say("fwd", b"\x55")
        self.both_paused()
        pages = MEMORY << 8
        good = bitmap(b"ram0", pages // 8, bytes(pages // 8))
        for what, words, reason in (
                ("nothing", b"", "gave no bitmap of the memory"),
                ("garbage", b"HTTP/1.1 400 Bad Request\r\n\r\n", "0x4854"),
                ("short bitmap", bitmap(b"ram0", 8, bytes(8)), "a bitmap of 8 bytes for 'ram0'"),
                ("bitmap of 2^63", bitmap(b"ram0", 1 << 63, bytes(8)), "bytes for 'ram0'"),
                ("other block", bitmap(b"pc.bios", 8, bytes(8)), "that nothing asked for"),
                ("end mark", bitmap(b"ram0", pages // 8, bytes(pages // 8), 1), "does not end"),
                ("half of it", good[:1000], "gave no bitmap"),
                ("twice", good * 2, "that nothing asked for"),
                ("everything", bitmap(b"ram0", pages // 8, b"\xff" * (pages // 8)), "gave no bitmap"),
                ("requests", good + request(0, 4096, b"ram0") * 100, "gave no bitmap"),
                ("resumed unasked", message(RESUME_ACK, be32(1)), "goes on that nothing asked for"),
                ("refusal", message(ERROR, b"no") + message(SHUT, be32(1)), "refused the guest: no")):
            with self.subTest(what=what), socket.socket(socket.AF_UNIX) as listener:
                uri = self.link()
                listener.bind(uri[5:])
                listener.listen(1)
                listener.settimeout(scaled())
                # what ends by the source's patience ends so whenever it hears the words
                waits = "no bitmap" in reason
                migrate.set_parameters(self.src, greeting_timeout=500 if waits else 20000)
                self.src.cmd("migrate", uri=uri, resume=True)
                with listener.accept()[0] as sock:
                    sock.settimeout(scaled())
                    sock.recv(5)
                    if not waits:
                        migrate.wait_status(self.src, "postcopy-recover")
                    try:
                        sock.sendall(words)
                    except OSError:
                        self.assertTrue(waits)
                    said = migrate.wait_status(self.src, "postcopy-paused")["error-desc"]
                    self.assertRegex(said, reason)
        self.assertEqual(migrate.status(self.dst), "postcopy-paused")
        migrate.set_parameters(self.src, greeting_timeout=20000)
        self.arrive()

    # --- the connection for urgent pages ---

    def test_urgent_connections(self):
        """A hundred strangers, some silent, some not: the guest arrives."""
        middle = self.leave(preempt=True)
        migrate.wait_for("second connection", lambda: middle.connections == 2)
        strangers = []
        for i in range(100):
            try:
                sock = connect(self.uri[5:])
            except BlockingIOError:
                continue  # they come faster than they can be sent away
            self.addCleanup(sock.close)
            strangers.append(sock)
            try:
                sock.sendall((b"\xff" * 100, be64(8) + b"\4ram", b"", page(0, b"nosuchblock"),
                              page(1 << 40, b"ram0"))[i % 5])
            except OSError:
                pass  # one too many
        time.sleep(scaled(0.2))
        self.assertEqual(migrate.status(self.dst), "postcopy-active")
        self.assertEqual(migrate.status(self.src), "postcopy-active")
        migrate.set_parameters(self.src, max_postcopy_bandwidth=32 * SLOW)
        self.dst.guest.check()
        migrate.set_parameters(self.src, max_postcopy_bandwidth=0)
        migrate.wait_status(self.src, "completed")
        self.dst.guest.check()
        self.assertLess(self.dst.stderr().count("\n"), 110)

    def test_silence(self):
        """A link that neither breaks nor carries anything is a broken one."""
        middle = self.leave()
        for vm in (self.src, self.dst):
            migrate.set_parameters(vm, link_timeout=int(scaled(2) * 1000))
        middle.say("fwd", b"\x55")
        self.both_paused()
        middle = self.take_up()
        middle.stalled = True
        self.both_paused()
        self.arrive()
