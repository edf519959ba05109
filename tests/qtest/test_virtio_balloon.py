# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-balloon: pages given and taken back, statistics, reports; registers and QMP as QEMU's."""

import os
import struct
import unittest

from ferrytest import wait_for
from ferrytest.balloon import (ACTUAL, COMMAND, HINT, INFLATE, NONE, NUM_PAGES, PATH, POISON,
                               REPORTING, STATS, Balloon)
from ferrytest.peek import Peek
from ferrytest.virtio import CONFIG, DEVICE_ID, QUEUE_NUM_MAX, QUEUE_SEL, slot
from sidebyside import QTestCase

MIB = 1 << 20
PAGE = 4096
UNKNOWN = (1 << 64) - 1
AREA = 4 * MIB  # of 16: nobody else uses it from here on


class BalloonCase(QTestCase):
    def device(self, options="", legacy=True, features=None, memory=16, ram="shm", drive=True, extra=(),
               **machine):
        self.boot("-device", "virtio-balloon-device" + options, *extra, "-global",
                  f"virtio-mmio.force-legacy={'on' if legacy else 'off'}", memory=memory, ram=ram,
                  **machine)
        self.balloon = Balloon(self.vm.qtest, slot(0), legacy)
        if drive:
            self.balloon.begin(features)
        return self.balloon

    def fill(self, start, length):
        self.vm.qtest.memset(start, length, 0x5A)

    def peek(self, memory=16):
        peek = Peek.of(self.vm, memory * MIB)
        self.addCleanup(peek.close)
        return peek

    def pages(self, peek, start, count):
        """Which of these pages the host has memory for."""
        return [peek.present(start + i * PAGE) for i in range(count)]


class Registers(BalloonCase):
    """Beside QEMU."""

    def look(self, base):
        yield f"readl {base + DEVICE_ID:#x}"
        for half in (0, 1):
            yield f"writel {base + 0x14:#x} {half}"
            yield f"readl {base + 0x10:#x}"
        for at in range(0, 20, 4):
            yield f"readl {base + CONFIG + at:#x}"
        for queue in range(6):
            yield f"writel {base + QUEUE_SEL:#x} {queue}"
            yield f"readl {base + QUEUE_NUM_MAX:#x}"
        # what the driver writes, with all features accepted, and without any
        for features in (0xFFFFFFFF, 0):
            yield f"writel {base + 0x70:#x} 0"
            yield f"writel {base + 0x70:#x} 3"
            yield f"writel {base + 0x24:#x} 0"
            yield f"writel {base + 0x20:#x} {features:#x}"
            for at in range(0, 16, 4):
                yield f"writel {base + CONFIG + at:#x} {0x11111111 + at:#x}"
            yield f"writeb {base + CONFIG + 5:#x} 0x77"
            yield f"writew {base + CONFIG + 14:#x} 0x7777"
            for at in range(0, 20, 4):
                yield f"readl {base + CONFIG + at:#x}"
        yield f"writel {base + 0x70:#x} 0"
        for at in range(0, 16, 4):
            yield f"readl {base + CONFIG + at:#x}"

    def test_as_qemu(self):
        for options in ("", ",deflate-on-oom=on", ",page-poison=off", ",free-page-reporting=on",
                        ",free-page-reporting=on,page-poison=off,event_idx=off"):
            with self.subTest(options=options):
                self.compare(list(self.look(slot(0))), "-device", "virtio-balloon-device" + options)

    def test_modern_features(self):
        """QEMU offers bit 40 (RING_RESET) too, which this has not."""
        self.device(legacy=False, drive=False)
        self.assertEqual(self.balloon.device_features(), 0x130000012)

    def test_hints(self):
        """QEMU wants an iothread for this; the rest is its."""
        self.device(",free-page-hint=on", drive=False)
        self.assertEqual(self.balloon.device_features(), 0x3900001A)
        self.device(",free-page-hint=on,page-poison=off,free-page-reporting=on", drive=False)
        self.assertEqual(self.balloon.device_features(), 0x3900002A)
        self.assertEqual([self.balloon.config(at) for at in range(4)], [0, 0, 0, NONE])
        for queue in range(6):
            self.balloon.write(QUEUE_SEL, queue)
            self.assertEqual(self.balloon.read(QUEUE_NUM_MAX), 1024 if queue < 5 else 0)


class Pages(BalloonCase):
    def give_and_take(self, ram):
        balloon = self.device(ram=ram)
        self.fill(AREA, 64 * PAGE)
        peek = self.peek()
        self.assertEqual(self.pages(peek, AREA, 64), [True] * 64)
        # in order, backwards, and one by itself
        balloon.inflate([AREA // PAGE + i for i in (0, 1, 2, 3, 11, 10, 9, 8, 20)])
        given = {0, 1, 2, 3, 8, 9, 10, 11, 20}
        self.assertEqual(self.pages(peek, AREA, 64), [i not in given for i in range(64)])
        for i in range(24):
            self.assertEqual(self.vm.qtest.read(AREA + i * PAGE, PAGE),
                             bytes(PAGE) if i in given else b"\x5a" * PAGE, i)
        balloon.deflate([AREA // PAGE + i for i in given])
        self.fill(AREA, 64 * PAGE)
        self.assertEqual(self.vm.qtest.read(AREA, 64 * PAGE), b"\x5a" * 64 * PAGE)

    def test_shared(self):
        self.give_and_take("shm")

    def test_memfd(self):
        self.give_and_take("memfd")

    def test_private(self):
        self.give_and_take(None)

    def test_private_file(self):
        """The file below is not touched."""
        path = self.path("below")
        with open(path, "wb") as f:
            f.write(b"\x11" * 16 * MIB)
        balloon = self.device(ram=None, extra=(
            "-object", f"memory-backend-file,id=m0,size=16M,mem-path={path},share=off",
            "-machine", "memory-backend=m0"))
        self.fill(AREA, 4 * PAGE)
        balloon.inflate([AREA // PAGE + 1])
        self.assertEqual(self.vm.qtest.read(AREA, 3 * PAGE),
                         b"\x5a" * PAGE + b"\x11" * PAGE + b"\x5a" * PAGE)
        with open(path, "rb") as f:
            self.assertEqual(f.read(), b"\x11" * 16 * MIB)
        self.assertEqual(os.stat(path).st_blocks * 512, 16 * MIB)

    def test_modern(self):
        balloon = self.device(legacy=False)
        self.fill(AREA, 4 * PAGE)
        balloon.inflate([AREA // PAGE + 2])
        self.assertEqual(self.pages(self.peek(), AREA, 4), [True, True, False, True])

    def test_numbers_out_of_range(self):
        """Behind the memory, in registers, between memory and firmware; and a good one with them."""
        balloon = self.device()
        firmware = self.vm.qtest.read(0xFFFF0000, 0x10000)
        self.fill(AREA, 2 * PAGE)
        bad = [16 * MIB // PAGE, NONE, 0x80000000, 0xFEB00, 0xFFFEF, 0x100000]
        balloon.inflate(bad + [AREA // PAGE] + bad)
        balloon.deflate(bad)
        self.assertEqual(self.pages(self.peek(), AREA, 2), [False, True])
        self.assertEqual(self.vm.qtest.read(0xFFFF0000, 0x10000), firmware)
        self.assertEqual(self.vm.stderr(), "")

    def test_odd_lengths(self):
        """Bytes behind the last whole number do not count; nor do pieces, and what is to write."""
        balloon = self.device()
        self.fill(AREA, 8 * PAGE)
        queue = balloon.queues[INFLATE]
        at = balloon.memory.take(64)
        self.vm.qtest.write(at, struct.pack("<IIH", AREA // PAGE, AREA // PAGE + 1, 2))
        # a number in three pieces, and half of one
        queue.add([(at, 1, False), (at + 1, 2, False), (at + 3, 1, False), (at + 4, 6, False)])
        queue.kick()
        self.assertEqual(queue.wait(), (0, 0))
        self.assertEqual(self.pages(self.peek(), AREA, 4), [False, False, True, True])
        for buffers in ([(at, 3, False)], [(at, 8, True)], [(at, 1, False), (at, 1, True)]):
            queue.add(buffers)
            queue.kick()
            self.assertEqual(queue.wait()[1], 0)
        self.assertEqual(self.pages(self.peek(), AREA, 4), [False, False, True, True])

    def test_all_of_the_memory(self):
        """The guest gives away its rings, too."""
        balloon = self.device()
        self.fill(AREA, PAGE)
        balloon.inflate(range(16 * MIB // PAGE), wait=False)
        wait_for("the pages to go", lambda: self.vm.qtest.readb(AREA) == 0)
        balloon.begin()
        self.fill(AREA, PAGE)
        balloon.inflate([AREA // PAGE])
        self.assertEqual(self.vm.qtest.readb(AREA), 0)

    def test_too_many(self):
        balloon = self.device(legacy=False)
        queue = balloon.queues[INFLATE]
        queue.add([(AREA, 16384 * 4, False)])
        queue.kick()
        queue.wait()
        queue.add([(AREA, 16384 * 4 + 1, False)])
        queue.kick()
        self.assertTrue(balloon.is_broken())
        self.assertIn("names more than 16384 pages", self.vm.stderr())
        balloon.begin()
        self.fill(AREA, PAGE)
        balloon.inflate([AREA // PAGE])
        self.assertEqual(self.vm.qtest.readb(AREA), 0)

    def test_many_requests(self):
        """More than one call carries out; none is forgotten."""
        balloon = self.device()
        queue = balloon.queues[INFLATE]
        for _ in range(4):
            for _ in range(8):
                queue.add([(AREA, 16384 * 4, False)])
            queue.kick()
            for _ in range(8):
                queue.wait()


class Huge(BalloonCase):
    def test_parts(self):
        """Only whole pages of the host are given back."""
        try:
            with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                      encoding="ascii") as f:
                free = int(f.read())
        except OSError:
            free = 0
        if free < 8:
            raise unittest.SkipTest("No 8 free huge pages of 2 MiB here")
        balloon = self.device(ram=None, extra=(
            "-object", "memory-backend-memfd,id=m0,size=16M,hugetlb=on,hugetlbsize=2M,share=on",
            "-machine", "memory-backend=m0"))
        self.fill(AREA, 4 * MIB)
        first = AREA // PAGE
        balloon.inflate(range(first, first + 511))
        self.assertEqual(self.vm.qtest.readb(AREA), 0x5A)
        # a part taken back begins anew; another page in between does, too
        balloon.deflate([first])
        balloon.inflate([first + 511])
        self.assertEqual(self.vm.qtest.readb(AREA), 0x5A)
        balloon.inflate([*range(first, first + 256), first + 512, *range(first + 256, first + 512)])
        self.assertEqual(self.vm.qtest.readb(AREA), 0x5A)
        balloon.inflate(reversed(range(first, first + 512)))
        self.assertEqual(self.vm.qtest.readb(AREA), 0)
        self.assertEqual(self.vm.qtest.readb(AREA + 2 * MIB), 0x5A)


class Reports(BalloonCase):
    def report(self, pieces):
        queue = self.balloon.queues[max(self.balloon.queues)]
        queue.add([(addr, length, True) for addr, length in pieces])
        queue.kick()
        self.assertEqual(queue.wait()[1], 0)

    def test_reported(self):
        self.device(",free-page-reporting=on")
        self.fill(AREA, 16 * PAGE)
        peek = self.peek()
        self.report([(AREA, 2 * PAGE), (AREA + 4 * PAGE, PAGE)])
        self.assertEqual(self.pages(peek, AREA, 6), [False, False, True, True, False, True])
        # no whole page, and one with two halves around it
        self.report([(AREA + 8 * PAGE + 1, PAGE), (AREA + 10 * PAGE + 16, 2 * PAGE)])
        self.assertEqual(self.pages(peek, AREA + 8 * PAGE, 6),
                         [True, True, True, False, True, True])

    def test_poison(self):
        """Free pages that are full of something are left alone; full of zeroes, they are not."""
        balloon = self.device(",free-page-reporting=on")
        self.fill(AREA, 4 * PAGE)
        balloon.write(CONFIG + 4 * POISON, 0x5A5A5A5A)
        self.report([(AREA, PAGE)])
        self.assertEqual(self.vm.qtest.readb(AREA), 0x5A)
        balloon.write(CONFIG + 4 * POISON, 0)
        self.report([(AREA, PAGE)])
        self.assertEqual(self.vm.qtest.readb(AREA), 0)
        # who has not accepted the feature says nothing by it
        balloon.begin(1 << REPORTING)
        balloon.write(CONFIG + 4 * POISON, 0x5A5A5A5A)
        self.assertEqual(balloon.config(POISON), 0)
        self.report([(AREA + PAGE, PAGE)])
        self.assertEqual(self.vm.qtest.readb(AREA + PAGE), 0)

    def test_not_memory(self):
        balloon = self.device(",free-page-reporting=on", legacy=False)
        queue = balloon.queues[max(balloon.queues)]
        queue.add([(16 * MIB - PAGE, 2 * PAGE, True)])
        queue.kick()
        self.assertTrue(balloon.is_broken())


class Statistics(BalloonCase):
    def device(self, *args, **options):
        super().device(*args, **{"qmp": True, **options})
        self.queue = self.balloon.queues[STATS] if self.balloon.queues else None
        return self.balloon

    def stats(self):
        return self.vm.cmd("qom-get", path=PATH, property="guest-stats")

    def known(self):
        return {k: v for k, v in self.stats()["stats"].items() if v != UNKNOWN}

    def put(self, data, pieces=None):
        at = self.balloon.memory.take(len(data) + 1)
        self.vm.qtest.write(at, data + b"\0")
        self.queue.add(pieces or [(at, len(data), False)])
        self.queue.kick()
        return at

    def interval(self, seconds):
        self.vm.cmd("qom-set", path=PATH, property="guest-stats-polling-interval", value=seconds)

    def test_none(self):
        self.device()
        self.assertEqual(self.stats(), {"last-update": 0, "stats": {
            f"stat-{name}": UNKNOWN for name in (
                "swap-in", "swap-out", "major-faults", "minor-faults", "free-memory", "total-memory",
                "available-memory", "disk-caches", "htlb-pgalloc", "htlb-pgfail")}})

    def test_told(self):
        self.device()
        self.put(b"".join(struct.pack("<HQ", tag, 1000 + tag) for tag in range(10)))
        names = ("swap-in", "swap-out", "major-faults", "minor-faults", "free-memory", "total-memory",
                 "available-memory", "disk-caches", "htlb-pgalloc", "htlb-pgfail")
        want = {f"stat-{name}": 1000 + tag for tag, name in enumerate(names)}
        wait_for("the statistics", lambda: self.known() == want)
        self.assertGreater(self.stats()["last-update"], 1700000000)
        self.assertIsNone(self.queue.poll())

    def test_silly(self):
        """Unknown tags, a tag twice, parts of records, nothing at all, far too much."""
        self.device()
        record = struct.pack
        self.put(record("<HQHQHQ", 10, 1, 0xFFFF, 2, 4, 3) + record("<HQ", 4, 5) + b"\x05\0\x01")
        wait_for("the last of two", lambda: self.known() == {"stat-free-memory": 5})
        # the driver has one buffer; with a second it gets the first one back
        self.put(b"\x01")
        self.assertEqual(self.queue.wait(), (0, 0))
        wait_for("no statistics", lambda: self.known() == {})
        at = self.balloon.memory.take(16)
        self.vm.qtest.write(at, record("<HQ", 6, 77))
        self.put(b"", [(at, 1, False), (at + 1, 4, False), (at + 5, 5, False)])
        wait_for("a record in pieces", lambda: self.known() == {"stat-available-memory": 77})
        self.put(b"", [(AREA, 8 * MIB, False)])
        wait_for("zeroes", lambda: self.known() == {"stat-swap-in": 0})
        self.put(b"", [(AREA, 8, True)])
        wait_for("no statistics", lambda: self.known() == {})

    def test_polling(self):
        self.device()
        self.put(struct.pack("<HQ", 4, 1))
        wait_for("the statistics", lambda: self.known())
        self.vm.qtest.clock_step(100 * 10**9)
        self.assertIsNone(self.queue.poll())
        self.interval(2)
        self.vm.qtest.clock_step(1)  # the first time at once
        self.assertEqual(self.queue.wait(), (0, 0))
        self.put(struct.pack("<HQ", 4, 2))
        wait_for("the statistics", lambda: self.known() == {"stat-free-memory": 2})
        self.vm.qtest.clock_step(2 * 10**9 - 1)
        self.assertIsNone(self.queue.poll())
        self.vm.qtest.clock_step(1)
        self.queue.wait()
        # a driver that is late is asked no sooner than an interval after it came
        self.vm.qtest.clock_step(10 * 10**9)
        self.put(struct.pack("<HQ", 4, 3))
        wait_for("the statistics", lambda: self.known() == {"stat-free-memory": 3})
        self.interval(0)
        self.vm.qtest.clock_step(100 * 10**9)
        self.assertIsNone(self.queue.poll())

    def test_interval(self):
        """Values and refusals as QEMU's."""
        self.device(",guest-stats-polling-interval=7")
        self.assertEqual(self.vm.cmd("qom-get", path=PATH, property="guest-stats-polling-interval"), 7)
        arguments = {"path": PATH, "property": "guest-stats-polling-interval"}
        self.interval(0xFFFFFFFF)
        for value, said in ((-1, "timer value must be greater than zero"),
                            (1 << 32, "timer value is too big"),
                            ((1 << 63) - 1, "timer value is too big")):
            self.refused(said, self.vm, "qom-set", **arguments, value=value)
        for value in ("5", 2.5, True, None, []):
            self.refused("Invalid parameter type for 'guest-stats-polling-interval', expected: "
                         "integer", self.vm, "qom-set", **arguments, value=value)
        self.assertEqual(self.vm.cmd("qom-get", **arguments), 0xFFFFFFFF)

    def test_reset_forgets_the_buffer(self):
        balloon = self.device()
        self.put(struct.pack("<HQ", 4, 1))
        wait_for("the statistics", lambda: self.known())
        balloon.begin()
        self.queue = balloon.queues[STATS]
        self.interval(1)
        self.vm.qtest.clock_step(5 * 10**9)
        self.assertIsNone(self.queue.poll())
        self.put(struct.pack("<HQ", 4, 2))
        wait_for("the statistics", lambda: self.known() == {"stat-free-memory": 2})
        self.vm.qtest.clock_step(10**9)
        self.queue.wait()

    def test_feature_not_accepted(self):
        self.device(features=0)
        self.interval(1)
        self.put(struct.pack("<HQ", 4, 1))
        self.vm.qtest.clock_step(5 * 10**9)
        self.assertIsNone(self.queue.poll())


class Client(BalloonCase):
    def test_no_balloon(self):
        self.boot(qmp=True)
        said = "No balloon device has been activated"
        self.refused(said, self.vm, "balloon", "DeviceNotActive", value=MIB)
        self.refused(said, self.vm, "query-balloon", "DeviceNotActive")
        for line in ("info balloon", "balloon 5"):
            self.assertEqual(self.hmp(line), f"Error: {said}\r\n")

    def hmp(self, line):
        return self.vm.qmp.execute("human-monitor-command", {"command-line": line})

    def test_target(self):
        balloon = self.device(qmp=True, memory=64)
        for value in (0, -1, -MIB):
            self.refused("Parameter 'target' expects a size", self.vm, "balloon", value=value)
        balloon.take_interrupt()
        for value, pages in ((MIB, 16128), (4097, 16382), (64 * MIB + 5, 0), (1 << 40, 0),
                             (64 * MIB - 4096, 1), (64 * MIB - 1, 0), (16 * MIB, 12288)):
            self.vm.cmd("balloon", value=value)
            self.assertEqual(balloon.config(NUM_PAGES), pages, value)
            self.assertEqual(balloon.take_interrupt() & 2, 2)
        self.assertEqual(self.vm.cmd("query-balloon"), {"actual": 64 * MIB})
        self.hmp("balloon 32")
        self.assertEqual(balloon.config(NUM_PAGES), 8192)
        balloon.write(CONFIG + 4 * ACTUAL, 8192)
        self.assertEqual(self.hmp("info balloon"), "balloon: actual=32\r\n")
        for line in ("balloon", "balloon x", "balloon 0", "balloon 99999999999999"):
            self.assertRegex(self.hmp(line), "^Error: ")
        # the driver's reset leaves both
        balloon.begin()
        self.assertEqual((balloon.config(NUM_PAGES), balloon.config(ACTUAL)), (8192, 8192))

    def test_actual(self):
        """What the guest says: an event, at most one a second, the last one right."""
        balloon = self.device(qmp=True)
        balloon.write(CONFIG + 4 * ACTUAL, 256)
        self.vm.qmp.wait_event("BALLOON_CHANGE", actual=15 * MIB)
        for pages in (512, 768, 768, NONE, 1024):
            balloon.write(CONFIG + 4 * ACTUAL, pages)
        self.assertEqual(self.vm.cmd("query-balloon"), {"actual": 12 * MIB})
        self.vm.qmp.wait_event("BALLOON_CHANGE")
        changes = [e["data"]["actual"] for e in self.vm.qmp.events if e["event"] == "BALLOON_CHANGE"]
        self.assertEqual(changes, [15 * MIB, 12 * MIB])
        # more than there is
        balloon.write(CONFIG + 4 * ACTUAL, NONE)
        self.assertEqual(self.vm.cmd("query-balloon"), {"actual": 0})

    def test_one_only(self):
        vm = self.ferry("-device", "virtio-balloon-device", "-device", "virtio-balloon-device",
                        accel="qtest", qmp=False)
        vm.wait(1)
        self.assertIn("Only one balloon device is supported", vm.stderr())

    def test_properties(self):
        self.device(qmp=True, drive=False)
        types = {p["name"]: p["type"] for p in self.vm.cmd("qom-list", path=PATH)}
        self.assertEqual(types["guest-stats"], "guest statistics")
        self.assertEqual(types["guest-stats-polling-interval"], "int")
        kind = "virtio-balloon-device"
        for name, said in (
                ("guest-stats", f"Property '{kind}.guest-stats' is not writable"),
                ("type", f"Property '{kind}.type' is not writable"),
                ("nosuch", f"Property '{kind}.nosuch' not found"),
                ("deflate-on-oom", "Attempt to set property 'deflate-on-oom' on anonymous device (type "
                                   f"'{kind}') after it was realized")):
            self.refused(said, self.vm, "qom-set", path=PATH, property=name, value=True)
        self.refused("Device '/nosuch' not found", self.vm, "qom-set", "DeviceNotFound",
                     path="/nosuch", property="type", value=1)
        self.refused("Property 'microvm-machine.acpi' is not writable", self.vm, "qom-set",
                     path="/machine", property="acpi", value="on")


class Hints(BalloonCase):
    """Without a migration; with one: tests/migration/test_balloon.py."""

    def test_nobody_asks(self):
        balloon = self.device(",free-page-hint=on")
        self.fill(AREA, PAGE)
        self.assertEqual(balloon.config(COMMAND), 0)
        queue = balloon.queues[HINT]
        balloon.command(0x80000000)
        balloon.command(0)
        queue.add([(AREA, 4 * PAGE, True)])
        queue.kick()
        self.assertEqual(queue.wait()[1], 0)
        self.assertEqual(self.vm.qtest.readb(AREA), 0x5A)

    def test_commands_of_a_wrong_length(self):
        for length in (1, 3, 5, 4096):
            balloon = self.device(",free-page-hint=on", legacy=False)
            queue = balloon.queues[HINT]
            queue.add([(AREA, length, False)])
            queue.kick()
            self.assertTrue(balloon.is_broken(), length)
            self.vm.quit()
