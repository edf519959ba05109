# SPDX-License-Identifier: GPL-2.0-or-later
"""
Memory that the guest does not need, on the way: given to the balloon, reported, or named as free
while a migration asks. The test is the balloon's driver, over qtest; in the cases about the dirty
log the workload guest runs beside it.
"""

import struct

from ferrytest import migrate, wait_for
from ferrytest.balloon import COMMAND, HINT, PATH, STATS, Balloon
from ferrytest.peek import Peek
from ferrytest.virtio import CONFIG, Memory, slot
from migrationcase import MigrationCase
from postcopycase import PostcopyCase

MIB = 1 << 20
PAGE = 4096
AREA = 16 * MIB  # of 64


class Base(MigrationCase):
    balloon = None

    def machines_with_balloon(self, options="", **more):
        """A pair without a guest of its own; nobody but the test writes to memory."""
        more = {"guest": None, "qtest": True, "memory": 64, "smp": 1, "ready": False, **more}
        extra = ("-device", "virtio-balloon-device" + options)
        self.uri = self.link()
        self.src = self.vm(*extra, name="source", **self.only(more))
        self.dst = self.vm(*extra, name="destination", incoming="defer", **self.only(more))
        migrate.set_capabilities(self.src, self.dst, return_path=more.get("return_path", True))
        self.dst.cmd("migrate-incoming", uri=self.uri)
        self.balloon = Balloon(self.src.qtest, slot(0), True, Memory(MIB))
        self.balloon.begin()
        return self.src, self.dst

    @staticmethod
    def only(options):
        return {k: v for k, v in options.items() if k not in ("ready", "return_path")}

    def follow(self, dst):
        """The driver is on the other side."""
        self.balloon.qtest = dst.qtest
        for queue in self.balloon.queues.values():
            queue.qtest = dst.qtest

    def fill(self, vm):
        """32 MiB of data."""
        for at in (AREA, AREA + 16 * MIB):
            vm.qtest.memset(at, 16 * MIB, 0x5A)

    def pages_sent(self, src):
        return migrate.info(src).get("ram", {}).get("normal", 0)

    def peek(self, vm, memory=64):
        peek = Peek.of(vm, memory * MIB)
        self.addCleanup(peek.close)
        return peek

    def present(self, peek, start, length):
        return sum(peek.present(start + at) for at in range(0, length, PAGE))

    def numbers(self, start, length):
        return range(start // PAGE, (start + length) // PAGE)


class Given(Base):
    def send(self, ram, given, return_path=True):
        """Bytes of pages sent for 32 MiB of data of which so many MiB were given to the balloon."""
        src, dst = self.machines_with_balloon(ram=ram, return_path=return_path)
        self.fill(src)
        for at in range(AREA, AREA + given * MIB, MIB):
            self.balloon.inflate(self.numbers(at, MIB))
        there, peek = self.peek(src), self.peek(dst)
        sent = migrate.move(src, dst, self.uri)["ram"]["normal-bytes"]
        self.follow(dst)
        # neither side holds memory for it
        self.assertEqual(self.present(there, AREA, given * MIB), 0)
        self.assertEqual(self.present(peek, AREA, given * MIB), 0)
        self.assertEqual(dst.qtest.readb(AREA + 32 * MIB - 1), 0x5A)
        if given:
            self.assertEqual(dst.qtest.read(AREA, PAGE), bytes(PAGE))
            # the guest takes some back, and gives some more
            self.balloon.deflate(self.numbers(AREA, MIB))
            dst.qtest.memset(AREA, MIB, 0x11)
            self.balloon.inflate([(AREA + 32 * MIB) // PAGE - 1])
            self.assertEqual(dst.qtest.readb(AREA + 32 * MIB - 1), 0)
        src.quit()
        dst.quit()
        return sent

    def test_less_is_sent(self):
        for ram in ("shm", None):
            plain = self.send(ram, 0)
            self.assertGreaterEqual(plain, 32 * MIB)
            less = self.send(ram, 24)
            self.assertLess(abs(plain - less - 24 * MIB), MIB / 4, (plain, less))

    def test_without_return_path(self):
        """Each page is named, the given ones with nine bytes."""
        self.assertLess(self.send("shm", 24, return_path=False), 9 * MIB)

    def test_reported(self):
        src, dst = self.machines_with_balloon(",free-page-reporting=on")
        self.fill(src)
        queue = self.balloon.queues[3]
        for at in range(AREA, AREA + 24 * MIB, 4 * MIB):
            queue.add([(at, 2 * MIB, True), (at + 2 * MIB, 2 * MIB, True)])
            queue.kick()
            queue.wait()
        self.assertLess(migrate.move(src, dst, self.uri)["ram"]["normal-bytes"], 9 * MIB)

    def test_given_after_it_was_sent(self):
        """
        The second round comes to pages that were written, and then given away: it does not bring
        them back. What the destination has of them is what was sent, or zero.
        """
        for ram in ("shm", None):
            src, dst = self.machines_with_balloon(ram=ram)
            src.qtest.memset(AREA, 4 * MIB, 0x5A)
            peek = self.peek(src)
            migrate.start(src, self.uri, max_bandwidth=MIB)
            wait_for("pages sent", lambda: self.pages_sent(src) > 256)
            # written and given; given; written, given and written
            src.qtest.memset(AREA, 64 * PAGE, 0x22)
            self.balloon.inflate(self.numbers(AREA, 128 * PAGE))
            src.qtest.memset(AREA, 8 * PAGE, 0x33)
            self.assertEqual(migrate.status(src), "active")
            migrate.set_parameters(src, max_bandwidth=1 << 30)
            migrate.finish(src, dst)
            self.assertEqual(self.present(peek, AREA + 8 * PAGE, 120 * PAGE), 0)
            self.assertEqual(dst.qtest.read(AREA, 8 * PAGE), b"\x33" * 8 * PAGE)
            for page in range(8, 128):
                have = set(dst.qtest.read(AREA + page * PAGE, PAGE))
                self.assertIn(have, ({0}, {0x5A}), page)
            self.assertEqual(dst.qtest.readb(AREA + 128 * PAGE), 0x5A)
            src.quit()
            dst.quit()

    def test_shared_memory_stays(self):
        """x-ignore-shared: both sides have the same file, holes included."""
        path = self.path("memory")
        options = {"ram": None, "guest": None, "qtest": True, "memory": 64, "smp": 1}
        extra = ("-device", "virtio-balloon-device", "-object",
                 f"memory-backend-file,id=m0,size=64M,mem-path={path},share=on",
                 "-machine", "memory-backend=m0")
        src = self.vm(*extra, name="source", **options)
        dst = self.vm(*extra, name="destination", incoming="defer", **options)
        migrate.set_capabilities(src, dst, return_path=True, x_ignore_shared=True)
        uri = self.link()
        dst.cmd("migrate-incoming", uri=uri)
        self.balloon = Balloon(src.qtest, slot(0), True, Memory(MIB))
        self.balloon.begin()
        src.qtest.memset(AREA, MIB, 0x5A)
        self.balloon.inflate(self.numbers(AREA, MIB // 2))
        migrate.move(src, dst, uri)
        self.follow(dst)
        self.assertEqual(dst.qtest.readb(AREA), 0)
        self.assertEqual(dst.qtest.readb(AREA + MIB // 2), 0x5A)
        self.balloon.inflate(self.numbers(AREA + MIB // 2, MIB // 2))
        self.assertEqual(dst.qtest.readb(AREA + MIB // 2), 0)


class State(Base):
    def test_numbers_and_statistics(self):
        """Target, size and poison come along; the buffer with statistics is had again."""
        src, dst = self.machines_with_balloon()
        balloon, queue = self.balloon, self.balloon.queues[STATS]
        src.cmd("balloon", value=48 * MIB)
        balloon.write(CONFIG + 4, 4096)
        balloon.write(CONFIG + 12, 0xAABBCCDD)
        at = balloon.memory.take(16)
        src.qtest.write(at, struct.pack("<HQ", 4, 1234))
        queue.add([(at, 10, False)])
        queue.kick()

        def free(vm):
            return vm.cmd("qom-get", path=PATH, property="guest-stats")["stats"]["stat-free-memory"]
        wait_for("statistics", lambda: free(src) == 1234)
        migrate.move(src, dst, self.uri)
        self.follow(dst)
        self.assertEqual([balloon.config(i) for i in range(4)], [4096, 4096, 0, 0xAABBCCDD])
        self.assertEqual(dst.cmd("query-balloon"), {"actual": 48 * MIB})
        wait_for("statistics", lambda: free(dst) == 1234)
        self.assertIsNone(queue.poll())
        dst.cmd("qom-set", path=PATH, property="guest-stats-polling-interval", value=1)
        self.assertEqual(queue.wait(), (0, 0))
        dst.qtest.write(at, struct.pack("<HQ", 4, 4321))
        queue.add([(at, 10, False)])
        queue.kick()
        wait_for("statistics", lambda: free(dst) == 4321)
        queue.wait()

    def test_damaged(self):
        """What a section may not hold is refused by name."""
        src, _ = self.machines_with_balloon(",free-page-hint=on")
        path = self.path("stream")
        migrate.set_capabilities(src, return_path=False)
        migrate.start(src, f"exec:cat >{path}")
        migrate.wait_status(src, "completed")
        with open(path, "rb") as f:
            whole = f.read()
        hints, poison = (b"virtio-balloon-device/" + name
                         for name in (b"free-page-report", b"page-poison"))
        at, other = whole.index(hints) + len(hints), whole.index(poison)

        def put(where, data):
            return whole[:where] + data + whole[where + len(data):]
        for number, (stream, said) in enumerate((
                (whole, None),
                (put(at + 8, b"\0\0\0\x04"), "free page hints of the unknown status 4"),
                (put(at, b"\0\0\0\x02"), "version 2 of subsection"),
                (put(other + len(poison) - 1, b"x"), "page-poisox', which is unknown"),
                (whole[:at + 12] + whole[at - len(hints) - 2:], "or there twice"))):
            with open(path, "wb") as f:
                f.write(stream)
            dst = self.vm("-device", "virtio-balloon-device,free-page-hint=on", guest=None, memory=64,
                          smp=1, incoming=f"exec:cat {path}", wait=not said, name=f"dst{number}")
            if said:
                dst.wait(1)
                self.assertIn(said, dst.stderr())
            else:
                dst.wait_state("running")
                dst.quit()

    def test_back_on_the_source(self):
        """After a cancel the buffer is still the source's, once."""
        src, dst = self.machines_with_balloon()
        queue = self.balloon.queues[STATS]
        queue.add([(AREA, 10, False)])
        queue.kick()
        migrate.hold(src, "ready")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "ready")
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        dst.wait(1)
        src.cmd("qom-set", path=PATH, property="guest-stats-polling-interval", value=1)
        self.assertEqual(queue.wait(), (0, 0))
        self.assertEqual(queue.used_index(), 1)


class Named(Base):
    """Free page hints."""

    def ask(self, src):
        """Starts a migration and holds it where the guest has been asked; the command id."""
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        self.assertEqual(self.balloon.wait_interrupt(2) & 2, 2)
        number = self.balloon.config(COMMAND)
        self.assertGreaterEqual(number, 0x80000000)
        return number

    def start(self, **options):
        src, dst = self.machines_with_balloon(",free-page-hint=on", **options)
        self.fill(src)
        return src, dst

    def test_not_sent(self):
        for return_path in (True, False):
            src, dst = self.start(return_path=return_path)
            balloon = self.balloon
            number = self.ask(src)
            # before it has begun, and with another number, nothing counts
            balloon.hint(AREA, 4 * MIB)
            balloon.command(number + 1)
            balloon.hint(AREA, 4 * MIB)
            balloon.command(number)
            for at in range(AREA + 4 * MIB, AREA + 20 * MIB, 4 * MIB):
                balloon.hint(at, 4 * MIB)
            balloon.hint(AREA + 20 * MIB + 1, 2 * PAGE)  # one whole page
            # used again, by a device's write
            src.qtest.memset(AREA + 8 * MIB, 5 * PAGE, 0x77)
            balloon.command(0)
            balloon.hint(AREA + 24 * MIB, 4 * MIB)
            self.assertEqual(balloon.config(COMMAND), 0)
            migrate.release(src)
            sent = migrate.finish(src, dst)["ram"]["normal-bytes"]
            self.follow(dst)
            self.assertLess(abs(sent - 16 * MIB), MIB / 4)
            self.assertEqual(dst.qtest.read(AREA + 8 * MIB, 5 * PAGE), b"\x77" * 5 * PAGE)
            self.assertEqual(dst.qtest.read(AREA + 8 * MIB + 5 * PAGE, PAGE), bytes(PAGE))
            for at in (0, 4 * MIB - PAGE, 20 * MIB, 20 * MIB + 2 * PAGE, 24 * MIB, 32 * MIB - 1):
                self.assertEqual(dst.qtest.readb(AREA + at), 0x5A, at)
            self.assertEqual(dst.qtest.readb(AREA + 20 * MIB + PAGE), 0)
            # the guest has them back
            self.assertEqual(balloon.config(COMMAND), 1)
            src.quit()
            dst.quit()

    def test_cancelled(self):
        """The guest has its pages back, with their content; the next time another number counts."""
        src, dst = self.start()
        balloon = self.balloon
        first = self.ask(src)
        balloon.command(first)
        balloon.hint(AREA, 16 * MIB)
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        dst.wait(1)
        balloon.wait_interrupt(2)
        self.assertEqual(balloon.config(COMMAND), 1)
        self.assertEqual(src.qtest.read(AREA, 16 * MIB), b"\x5a" * 16 * MIB)
        # late, for nobody
        balloon.hint(AREA, 16 * MIB)
        self.uri = self.link()
        dst = self.vm("-device", "virtio-balloon-device,free-page-hint=on", name="second",
                      incoming=self.uri, guest=None, qtest=True, memory=64, smp=1)
        migrate.set_capabilities(src, return_path=False)
        self.assertEqual(self.ask(src), first + 1)
        balloon.command(first)
        balloon.hint(AREA, 16 * MIB)
        migrate.release(src)
        self.assertGreaterEqual(migrate.finish(src, dst)["ram"]["normal-bytes"], 32 * MIB)
        self.assertEqual(dst.qtest.readb(AREA), 0x5A)

    def test_reset_while_asked(self):
        src, dst = self.start()
        self.balloon.command(self.ask(src))
        self.balloon.begin()
        self.assertEqual(self.balloon.config(COMMAND), 0)
        self.balloon.hint(AREA, 16 * MIB)
        migrate.release(src)
        self.assertGreaterEqual(migrate.finish(src, dst)["ram"]["normal-bytes"], 32 * MIB)

    def test_no_driver(self):
        """Who has not accepted the feature is not asked."""
        src, dst = self.machines_with_balloon(",free-page-hint=on")
        self.balloon.begin(0)
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        self.assertEqual((self.balloon.config(COMMAND), self.balloon.take_interrupt()), (0, 0))
        migrate.release(src)
        migrate.finish(src, dst)

    def test_paused_guest(self):
        src, dst = self.start()
        src.cmd("stop")
        migrate.hold(src, "active")
        migrate.start(src, self.uri)
        migrate.wait_held(src, "active")
        self.assertEqual(self.balloon.config(COMMAND), 0)
        migrate.release(src)
        migrate.finish(src, dst, running=False)


class UsedAgain(Base):
    """The guest's own writes to pages that it has named, with the dirty log and the ring."""

    def rewrite_after_hint(self, accel="kvm", **capabilities):
        extra = ("-device", "virtio-balloon-device,free-page-hint=on")
        options = {"guest": "mem=12M rate=max vrate=0 precheck=0 report=100", "memory": 24,
                   "qtest": True, "accel": accel}
        src = self.vm(*extra, name="source", **options)
        uri = self.uri = self.link()
        dst = self.vm(*extra, name="destination", incoming="defer", **options)
        migrate.set_capabilities(src, dst, return_path=True, **capabilities)
        dst.cmd("migrate-incoming", uri=uri)
        src.guest.wait_ready()
        box = src.guest.box
        box.command("p")
        src.serial_line("PAUSED")
        self.balloon = Balloon(src.qtest, slot(0), True, Memory(20 * MIB))
        self.balloon.begin()
        migrate.hold(src, "active")
        migrate.start(src, uri)
        migrate.wait_held(src, "active")
        self.balloon.command(self.balloon.config(COMMAND))
        first, pages = box.page_addr(0), box.header["pages_init"]
        self.assertEqual(box.page_addr(pages - 1), first + (pages - 1) * PAGE)
        self.balloon.hint(first, pages * PAGE)
        before = [cpu["writes"] for cpu in box.cpus()]
        box.command("g")
        # each vCPU writes its own pages in order: all of them
        wait_for("all pages to be written again",
                 lambda: all(cpu["writes"] > n + cpu["pages"] for cpu, n in zip(box.cpus(), before)),
                 60)
        said = len(src.serial())
        box.command("p")
        src.serial_line("PAUSED", said)
        migrate.release(src)
        migrate.finish(src, dst)
        dst.guest.check()

    def test_log(self):
        self.rewrite_after_hint()

    def test_ring(self):
        self.rewrite_after_hint("kvm,dirty-ring-size=4096")

    def test_xbzrle(self):
        self.rewrite_after_hint(xbzrle=True)


class Postcopy(Base, PostcopyCase):
    GUEST_OPTIONS = "mem=8M rate=2000 report=100 pattern=random data=random"

    def test_given_while_memory_is_missing(self):
        """Nothing is discarded at the destination before all is there; then it is."""
        extra = ("-device", "virtio-balloon-device")
        options = {"guest": self.GUEST_OPTIONS, "memory": 24, "qtest": True, "peek": True}
        for ram in ("shm", None):
            src = self.vm(*extra, name="source", ram=ram, **options)
            uri = self.link()
            dst = self.vm(*extra, name="destination", ram=ram, incoming="defer", **options)
            migrate.set_capabilities(src, dst, return_path=True, events=True)
            self.allow(src, dst)
            dst.cmd("migrate-incoming", uri=uri)
            src.guest.wait_ready()
            area = 16 * MIB
            self.balloon = Balloon(src.qtest, slot(0), True, Memory(20 * MIB))
            self.balloon.begin()
            src.qtest.memset(area, 2 * MIB, 0x5A)
            self.balloon.inflate(self.numbers(area, MIB))
            self.switch(src, uri)
            self.follow(dst)
            peek = self.peek(dst, 24)
            # pages that have come, and others
            for at in range(area + MIB, area + MIB + 8 * PAGE, PAGE):
                self.assertEqual(dst.qtest.readb(at), 0x5A)
            self.balloon.inflate(self.numbers(area + MIB, MIB))
            self.assertEqual(dst.qtest.readb(area + MIB), 0x5A)
            self.go_on(src)
            migrate.wait_status(src, "completed")
            migrate.wait_status(dst, "completed")
            self.assertEqual(self.present(peek, area, MIB), 0)
            self.assertEqual(dst.qtest.readb(area + MIB), 0x5A)
            wait_for("an end to the gate", lambda: (self.balloon.inflate(
                self.numbers(area + MIB, MIB)), not peek.present(area + MIB))[1])
            dst.guest.check()
            src.quit()
            dst.quit()

    def test_named(self):
        """Pages that were named in the first round are neither missing nor sent after the switch."""
        extra = ("-device", "virtio-balloon-device,free-page-hint=on")
        # what the guest writes again does not count much, however long it takes
        guest = self.GUEST_OPTIONS.replace("rate=2000", "rate=100")
        options = {"guest": guest, "memory": 64, "qtest": True, "peek": True}
        src = self.vm(*extra, name="source", **options)
        uri = self.link()
        dst = self.vm(*extra, name="destination", incoming="defer", **options)
        migrate.set_capabilities(src, dst, return_path=True, events=True)
        self.allow(src, dst)
        dst.cmd("migrate-incoming", uri=uri)
        src.guest.wait_ready()
        self.balloon = Balloon(src.qtest, slot(0), True, Memory(12 * MIB))
        self.balloon.begin()
        self.fill(src)
        migrate.hold(src, "active")
        migrate.start(src, uri, max_bandwidth=1 << 30)
        migrate.wait_held(src, "active")
        self.balloon.command(self.balloon.config(COMMAND))
        self.balloon.hint(AREA, 16 * MIB)
        migrate.set_parameters(src, max_bandwidth=16 * MIB)
        migrate.release(src)
        # behind the named part, in the middle of the rest
        wait_for("half of the memory", lambda: self.pages_sent(src) * PAGE > 12 * MIB)
        src.cmd("migrate-start-postcopy")
        migrate.wait_status(src, "postcopy-active", "completed")
        self.follow(dst)
        self.assertEqual(self.balloon.config(COMMAND), 1)
        done = migrate.wait_status(src, "completed")
        migrate.wait_status(dst, "completed")
        self.assertLess(done["ram"]["normal-bytes"], 30 * MIB)
        self.assertEqual(dst.qtest.readb(AREA), 0)
        self.assertEqual(dst.qtest.readb(AREA + 16 * MIB), 0x5A)
        self.assertEqual(dst.qtest.readb(AREA + 32 * MIB - 1), 0x5A)
        dst.guest.check()
