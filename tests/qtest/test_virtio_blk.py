# SPDX-License-Identifier: GPL-2.0-or-later
"""
virtio-blk driven by the test: what it offers is what QEMU offers, every kind of request and every
wrong one, errors of the disk and what becomes of them, its queries. Where a QEMU is installed the
same driver talks to it, and the answers must be the same.
"""

import os
import re
import struct
import subprocess
import unittest

from blkcase import (DISCARD, FLUSH, GET_ID, IN, IOERR, MIB, OK, OUT, RING_RESET, RO, SCSI,
                     WRITE_ZEROES, Blk, pattern)
from ferrytest import QEMU, scaled
from ferrytest.virtio import EVENT_IDX, INDIRECT_DESC
from sidebyside import have_qemu


class Requests(Blk):
    def test_read_and_write(self):
        for legacy in (True, False):
            for options in ("", ",aio=threads", ",cache=none", ",cache=writethrough",
                            ",cache=directsync", ",cache=unsafe", ",cache=none,aio=native"):
                with self.subTest(f"{legacy} {options}"):
                    path = self.image()
                    self.start(path, drive=options, legacy=legacy,
                               features=1 << EVENT_IDX | 1 << INDIRECT_DESC)
                    self.assertEqual(bool(self.open_flags(path) & os.O_DIRECT),
                                     "none" in options or "directsync" in options)
                    data = pattern(65536)
                    self.write(8, data)
                    self.assertEqual(self.read(8, 65536, pieces=4), data)
                    self.write(200, data[:2048], pieces=4)
                    self.assertEqual(self.read(200, 2048, indirect=True), data[:2048])
                    self.assertEqual(self.request(FLUSH), (OK, b"", 1))
                    self.disk.wait_interrupt()
                    self.vm.quit()
                    with open(path, "rb") as f:
                        content = f.read()
                    self.assertEqual(content[8 * 512:8 * 512 + 65536], data)
                    self.assertEqual(content[200 * 512:][:2048], data[:2048])
                    self.assertEqual(len(content), MIB)

    def test_threads_without_io_uring(self):
        os.environ["FERRY_BLOCK_AIO"] = "threads"
        self.addCleanup(os.environ.pop, "FERRY_BLOCK_AIO")
        self.start(drive=",cache=none")
        data = pattern(4096)
        self.write(0, data)
        self.assertEqual(self.read(0, 4096), data)
        self.vm.quit()
        result = subprocess.run(
            [self.vm.argv[0], "-M", "microvm", "-accel", "qtest", "-display", "none", "-drive",
             f"file={self.image()},format=raw,if=none,id=d,aio=io_uring"],
            capture_output=True, text=True, timeout=scaled(), check=False)
        self.assertIn("io_uring", result.stderr)
        self.assertEqual(result.returncode, 1)

    def test_many_at_once(self):
        self.start(device=",num-queues=4,queue-size=64", queues=4)
        want, heads = {}, {}
        for number, queue in self.disk.queues.items():
            for i in range(20):
                data = pattern(512, number * 64 + i)
                sector = number * 100 + i
                want[sector] = data
                heads[number, self.offer(OUT, sector, data, queue=queue)[0]] = sector
        for queue in self.disk.queues.values():
            queue.kick()
        for number, queue in self.disk.queues.items():
            for _ in range(20):
                head, written = queue.wait()
                self.assertEqual(written, 1)
                del heads[number, head]  # each once
        self.assertEqual(heads, {})
        for sector, data in want.items():
            self.assertEqual(self.read(sector, 512), data)

    def test_discard_and_zeroes(self):
        path = self.image(4 * MIB, data=b"\xff" * 4 * MIB)
        self.start(path, drive=",discard=unmap")
        before = os.stat(path).st_blocks
        for kind, flags in ((DISCARD, 0), (WRITE_ZEROES, 1), (WRITE_ZEROES, 0)):
            segment = struct.pack("<QII", 2048 * (kind & 3) + 1024 * flags, 1024, flags)
            self.assertEqual(self.request(kind, out=segment), (OK, b"", 1))
        for sector in (2048, 3072, 6144):
            self.assertEqual(self.read(sector, 512 * 1024), bytes(512 * 1024))
        for sector in (2047, 4096, 6143, 7168):
            self.assertEqual(self.read(sector, 512), b"\xff" * 512)
        self.assertLess(os.stat(path).st_blocks, before)

    def test_discard_ignored(self):
        path = self.image(data=b"\xff" * MIB)
        self.start(path)
        self.assertEqual(self.request(DISCARD, out=struct.pack("<QII", 0, 2048, 0))[0], OK)
        self.assertEqual(self.read(0, 512), b"\xff" * 512)

    def test_serial(self):
        self.start(device=",serial=abc")
        self.assertEqual(self.request(GET_ID, in_bytes=20)[1], b"abc".ljust(20, b"\0"))

    def test_read_only(self):
        path = self.image(data=b"x" * 1024)
        self.start(path, drive=",readonly=on,werror=stop")
        self.assertTrue(self.disk.device_features() >> RO & 1)
        self.assertEqual(self.read(0, 512), b"x" * 512)
        self.assertEqual(self.open_flags(path) & os.O_ACCMODE, os.O_RDONLY)
        self.assertEqual(self.request(OUT, 0, b"y" * 512)[0], IOERR)
        self.assertEqual(self.request(DISCARD, out=struct.pack("<QII", 0, 1, 0))[0], IOERR)
        self.assertEqual(self.request(FLUSH)[0], OK)
        # it is the guest that is wrong, and not the disk
        stats = self.vm.cmd("query-blockstats")[0]["stats"]
        self.assertEqual((stats["invalid_wr_operations"], stats["invalid_unmap_operations"],
                          stats["failed_wr_operations"]), (1, 1, 0))
        self.assertEqual(self.vm.status(), "running")
        with open(path, "rb") as f:
            self.assertEqual(f.read(512), b"x" * 512)

    def test_short_image(self):
        """An image that ends within a sector, and one that somebody cuts."""
        path = self.image(1000)
        self.start(path)
        self.assertEqual(struct.unpack("<Q", self.config()[:8])[0], 2)
        self.assertEqual(self.read(1, 512), bytes(512))
        os.truncate(path, 0)
        self.assertEqual(self.read(0, 1024), bytes(1024))

    def test_reset_while_busy(self):
        self.start()
        for i in range(16):
            self.offer(OUT, i, pattern(512, i))
        self.queue.kick()
        self.disk.start()  # a reset
        self.disk.add_queue(0, 64)
        self.disk.driver_ok()
        self.queue = self.disk.queues[0]
        self.write(100, pattern(512))
        self.assertEqual(self.read(100, 512), pattern(512))


class AsQemu(Blk):
    """The same requests to both."""

    def test_features_and_config(self):
        def look():
            return (hex(self.disk.device_features() & ~(1 << RING_RESET)), self.config().hex())

        for legacy in (True, False):
            for drive, device in (
                    ("", ""), (",readonly=on", ""), (",cache=writethrough", ""),
                    ("", ",config-wce=off"), (",cache=writethrough", ",config-wce=off"),
                    ("", ",num-queues=3,queue-size=128"),
                    ("", ",discard=off,write-zeroes=off"), ("", ",seg-max-adjust=off"),
                    ("", ",logical_block_size=4096,physical_block_size=4096"), ("", ",write-cache=off"),
                    ("", ",logical_block_size=512,physical_block_size=4096,min_io_size=4096"
                         ",opt_io_size=65536,discard_granularity=8192"),
                    ("", ",max-discard-sectors=8,max-write-zeroes-sectors=16"),
                    ("", ",indirect_desc=off,event_idx=off")):
                with self.subTest(f"legacy {legacy} {drive} {device}"):
                    self.both(look, drive=drive, device=device, legacy=legacy)

    def test_sizes(self):
        for size in (512, 1000, 516096, MIB, 3 * MIB + 512, 504 * MIB, 9000 * MIB, 2 << 40):
            with self.subTest(size):
                self.both(lambda: self.config().hex(), size=size)

    def test_answers(self):
        def segment(sector, count, flags=0):
            return struct.pack("<QII", sector, count, flags)

        def steps():
            out = []
            for kind, sector, data, in_bytes in (
                    (IN, 0, b"", 512), (IN, 2047, b"", 512), (IN, 2048, b"", 512),
                    (IN, 2047, b"", 1024), (IN, 1 << 63, b"", 512), (IN, (1 << 64) - 1, b"", 512),
                    (IN, 0, b"", 100), (IN, 0, b"", 0), (IN, 5000, b"", 0),
                    (OUT, 0, b"a" * 512, 0), (OUT, 2047, b"b" * 1024, 0), (OUT, 3, b"c" * 100, 0),
                    (OUT, 1, b"", 0), (IN, 0, b"", 1024), (OUT | 0x80000000, 4, b"d" * 512, 0),
                    (FLUSH, 0, b"", 0), (FLUSH | 1, 7, b"", 0), (FLUSH, 0, b"", 512),
                    (GET_ID, 0, b"", 20), (GET_ID, 0, b"", 3), (GET_ID, 0, b"", 64),
                    (GET_ID, 0, b"", 0), (GET_ID | 1, 0, b"", 20),
                    (SCSI, 0, b"", 0), (3, 0, b"", 0), (14, 0, b"", 0), (99, 0, b"", 0),
                    (16, 0, b"", 0), (6, 0, b"x" * 512, 0), (0x80000000, 0, b"", 512),
                    (DISCARD, 0, segment(0, 8), 0), (DISCARD, 0, segment(0, 8, 1), 0),
                    (DISCARD, 0, segment(2040, 9), 0), (DISCARD, 0, segment(1 << 63, 8), 0),
                    (DISCARD, 0, segment(0, 0), 0), (DISCARD, 0, segment(0, 0xFFFFFFFF), 0),
                    (DISCARD, 0, segment(0, 8) * 2, 0), (DISCARD, 0, segment(0, 8, 2), 0),
                    (DISCARD, 0, segment(0, 8) + b"abc", 0), (10, 0, segment(0, 8), 0),
                    (WRITE_ZEROES, 0, segment(8, 8), 0), (WRITE_ZEROES, 0, segment(8, 8, 1), 0),
                    (WRITE_ZEROES, 0, segment(8, 8, 2), 0),
                    (WRITE_ZEROES, 0, segment(2047, 2), 0), (12, 0, segment(16, 8), 0),
                    (WRITE_ZEROES, 0, segment(8, 8) * 3, 0), (IN, 0, b"", 32768)):
                out.append((kind, sector, len(data), in_bytes,
                            self.request(kind, sector, data, in_bytes)))
            return out

        for legacy in (True, False):
            self.both(steps, legacy=legacy, device=",serial=0123456789012345678")
        self.both(steps, device=",logical_block_size=1024,physical_block_size=1024")

    def test_read_only(self):
        def steps():
            return [self.request(kind, 0, data, in_bytes) for kind, data, in_bytes in (
                (OUT, b"x" * 512, 0), (IN, b"", 512), (FLUSH, b"", 0),
                (WRITE_ZEROES, struct.pack("<QII", 0, 1, 0), 0))]

        self.both(steps, drive=",readonly=on")

    def test_queries(self):
        def strip(value, path):
            if isinstance(value, dict):
                return {k: strip(v, path) for k, v in value.items()
                        if k not in ("node-name", "actual-size", "driver-specific", "idle_time_ns")
                        and not k.endswith("_time_ns")}
            if isinstance(value, list):
                return [strip(v, path) for v in value]
            return "FILE" if isinstance(value, str) and value.endswith(".img") else value

        def steps():
            if not self.disk.device_features() >> RO & 1:
                self.request(OUT, 8, b"x" * 4096)
            self.request(IN, 0, b"", 512)
            self.request(IN, 5000, b"", 512)
            self.request(FLUSH)
            blocks = [b for b in self.vm.cmd("query-block") if b["device"] == "d0"]
            stats = [b for b in self.vm.cmd("query-blockstats") if b.get("device") == "d0"]
            for s in stats:
                del s["parent"]["stats"]  # QEMU counts little there
                del s["parent"]
            return strip([blocks, stats, self.vm.cmd("query-named-block-nodes")], "")

        self.both(steps, device=",id=vd")
        self.both(steps, device=",id=vd", drive=",cache=none,readonly=on")


    def test_shapes(self):
        """What the queries and the event have in them, whatever the values are: the same names, of
        the same kinds, at the same places."""
        def shape(value):
            if isinstance(value, dict):
                return {k: shape(v) for k, v in value.items()}
            if isinstance(value, list):
                return [shape(v) for v in value]
            return type(value).__name__

        def steps():
            self.request(OUT, 8, b"x" * 4096)
            self.request(IN, 0, b"", 512)
            self.request(FLUSH)
            return [shape(answer) for answer in (
                self.vm.cmd("query-block"), self.vm.cmd("query-blockstats"),
                self.vm.cmd("query-blockstats", query_nodes=True),
                self.vm.cmd("query-named-block-nodes"),
                self.vm.cmd("query-named-block-nodes", flat=True))]

        path = self.image()
        for backend in (
                ("-drive", f"file={path},format=raw,if=none,id=d0"),
                ("-blockdev", f"driver=file,filename={path},node-name=d0"),
                ("-blockdev", f"driver=file,filename={path},node-name=s0",
                 "-blockdev", "driver=raw,file=s0,node-name=d0"),
                ("-blockdev", f"driver=raw,file.driver=file,file.filename={path},node-name=d0")):
            with self.subTest(backend[-1]):
                self.both(steps, backend=backend, device=",id=vd")
                self.both(steps, backend=backend)

    def test_for_people(self):
        """info block and info blockstats, line by line."""
        def lines(command):
            text = self.vm.cmd("human-monitor-command", command_line=command)
            text = re.sub(r"#block\d+", "#block", text)
            text = re.sub(r"(_time_ns)=\d+", r"\1=T", text)
            text = re.sub(r"disk-\w+\.img", "disk.img", text)
            return re.sub(r"disk size: .*", "disk size", text)

        def steps():
            self.request(IN, 0, b"", 512)
            return [lines("info " + page) for page in (
                "block", "block -v", "block d0", "block -v d0", "block -n", "block  -n  -v",
                "block nobody", "block -x", "block d0 d1", "blockstats")]

        for more in ("", ",readonly=on,cache=none", ",cache=unsafe", ",cache=writethrough"):
            found = self.both(steps, drive=more, device=",id=vd")
            self.assertIn("    Attached to:      vd\r\n", found[0])
        path = self.image(1500 * 1024)
        found = self.both(steps, backend=("-blockdev", f"driver=raw,file.driver=file,node-name=d0,"
                                                       f"file.filename={path}"))
        self.assertIn("virtual size: 1.46 MiB (1536000 bytes)\r\n", found[3])


class Hostile(Blk):
    """A driver that breaks the rules finds a device that needs a reset, and nothing worse."""

    def broken(self, buffers):
        self.start(self.image(name=f"disk{buffers[0][0]}.img"))
        self.queue.add(buffers)
        self.queue.kick()
        self.assertTrue(self.disk.is_broken())
        self.drive()
        self.write(0, pattern(512))

    def test_no_header(self):
        self.broken([(0x300000, 15, False), (0x300100, 513, True)])
        self.broken([(0x300100, 513, True)])

    def test_no_status(self):
        self.broken([(0x300000, 16, False), (0x300100, 512, False)])

    def test_no_segment(self):
        for kind in (DISCARD, WRITE_ZEROES):
            self.start(self.image(name=f"disk{kind}.img"))
            self.offer(kind, out=bytes(8))
            self.queue.kick()
            self.assertTrue(self.disk.is_broken())

    def test_odd_layouts(self):
        """Header, data and status in any pieces."""
        self.start(features=1 << INDIRECT_DESC)
        self.write(4, pattern(1024))
        self.vm.qtest.write(0x300000, struct.pack("<IIQ", IN, 0, 4))
        self.queue.add([(0x300000, 3, False), (0x300003, 1, False), (0x300004, 12, False),
                        (0x301001, 500, True), (0x301200, 525, True)])
        self.queue.kick()
        self.queue.wait()
        self.assertEqual(self.vm.qtest.read(0x301001, 500)
                         + self.vm.qtest.read(0x301200, 525), pattern(1024) + b"\0")
        self.vm.qtest.write(0x302000, struct.pack("<IIQ", OUT, 0, 9) + pattern(512, 5))
        self.queue.add([(0x302000, 500, False), (0x302000 + 500, 28, False), (0x303000, 1, True)])
        self.queue.kick()
        self.queue.wait()
        self.assertEqual(self.read(9, 512), pattern(512, 5))

    def test_more_than_a_call_takes(self):
        """An indirect table of 1024 pieces."""
        self.start(features=1 << INDIRECT_DESC)
        data = pattern(1022 * 512)
        for start in range(0, len(data), 65024):
            self.vm.qtest.b64write(0x400000 + start, data[start:start + 65024])
        self.vm.qtest.write(0x300000, struct.pack("<IIQ", OUT, 0, 0))
        self.queue.add([(0x300000, 16, False)] +
                       [(0x400000 + i * 512, 512, False) for i in range(1022)] +
                       [(0x300100, 1, True)], indirect=True)
        self.queue.kick()
        self.assertEqual(self.queue.wait()[1], 1)
        self.assertEqual(self.read(1000, 11264), data[512000:512000 + 11264])


class Options(Blk):
    def refused(self, desc, *args):
        result = subprocess.run([self.ferry_argv0(), "-M", "microvm", "-accel", "qtest",
                                 "-display", "none", *args], capture_output=True, text=True,
                                timeout=scaled(), check=False)
        self.assertIn(desc, result.stderr)
        self.assertEqual(result.returncode, 1)

    def ferry_argv0(self):
        from ferrytest.machine import ferry_binary
        return ferry_binary()

    def test_refused(self):
        path = self.image()
        drive = ("-drive", f"file={path},format=raw,if=none,id=d")
        device = "virtio-blk-device"
        for more, desc in (
                ("", "drive property not set"),
                (",drive=x", "can't find value 'x'"),
                (",drive=d,num-queues=0", "num-queues"),
                (",drive=d,queue-size=3", "queue-size"),
                (",drive=d,queue-size=2", "queue-size"),
                (",drive=d,queue-size=2048", "queue-size"),
                (",drive=d,logical_block_size=100", "logical_block_size"),
                (",drive=d,logical_block_size=4096,physical_block_size=512", "not supported"),
                (",drive=d,werror=maybe", "'werror'"),
                (",drive=d,rerror=enospc", "'rerror'"),
                (",drive=d,scsi=on", "scsi"),
                (",drive=d,iothread=io0", "iothread"),
                (",drive=d,packed=on", "packed")):
            with self.subTest(more):
                self.refused(desc, *drive, "-device", device + more)
        self.refused("already in use", *drive, "-device", f"{device},drive=d", "-device",
                     f"{device},drive=d")

    def test_two_disks_and_blockdev(self):
        one, two = self.image(name="one.img"), self.image(2 * MIB, name="two.img")
        self.vm = self.ferry(
            "-blockdev", f"driver=file,filename={one},node-name=f1",
            "-blockdev", '{"driver":"raw","node-name":"r1","file":"f1"}',
            "-blockdev", f"driver=raw,node-name=r2,read-only=on,file.driver=file,"
                         f"file.filename={two}",
            "-device", "virtio-blk-device,drive=r1,id=a", "-device",
            "virtio-blk-device,drive=r2,id=b", accel="qtest", qtest=True)
        self.drive(legacy=True, number=1)
        self.assertEqual(struct.unpack("<Q", self.config()[:8])[0], 4096)
        self.drive(legacy=True)
        self.write(0, pattern(512))
        self.assertEqual([(b["qdev"], b["inserted"]["ro"]) for b in self.vm.cmd("query-block")],
                         [("a", False), ("b", True)])

    def test_resize(self):
        self.start()
        self.disk.take_interrupt()
        self.vm.cmd("block_resize", device="d0", size=2 * MIB)
        self.disk.wait_interrupt(2)
        self.assertEqual(struct.unpack("<Q", self.config()[:8])[0], 4096)
        self.write(4095, pattern(512))
        self.vm.cmd("block_resize", device="d0", size=MIB)
        self.assertEqual(self.request(IN, 4095, b"", 512)[0], IOERR)

    def test_hot_nodes(self):
        self.start()
        self.vm.cmd("blockdev-add", **{"driver": "file", "node-name": "n",
                                       "filename": self.image(name="more.img")})
        self.assertIn("n", [n["node-name"] for n in self.vm.cmd("query-named-block-nodes")])
        self.vm.cmd("blockdev-del", **{"node-name": "n"})
        self.assertNotIn("n", [n["node-name"] for n in self.vm.cmd("query-named-block-nodes")])


class Locks(Blk):
    def refused(self, binary, path, wanted, drive="", device=""):
        from ferrytest.machine import ferry_binary
        accel = "tcg" if binary else "qtest"
        result = subprocess.run(
            [binary or ferry_binary(), "-M", "microvm", "-accel", accel, "-display", "none",
             "-nodefaults", "-S", "-drive", f"file={path},format=raw,if=none,id=d{drive}",
             "-device", f"virtio-blk-device,drive=d{device}"],
            capture_output=True, text=True, timeout=scaled(), check=False)
        self.assertIn(f"Failed to get {wanted} lock", result.stderr)
        self.assertIn(f"Is another process using the image [{path}]?", result.stderr)
        self.assertEqual(result.returncode, 1)

    def others(self):
        return [None, QEMU] if have_qemu() else [None]

    def test_writers_exclude_each_other(self):
        for holder in self.others():
            path = self.image()
            self.start(path, binary=holder)
            for other in self.others():
                with self.subTest(f"{holder} {other}"):
                    self.refused(other, path, '"write"')
                    self.refused(other, path, 'shared "write"', drive=",readonly=on")
                    self.refused(other, path, '"write"', device=",share-rw=on")
            self.vm.quit()

    def test_readers_share(self):
        for holder in self.others():
            path = self.image()
            self.start(path, drive=",readonly=on", binary=holder)
            first = self.vm
            for other in self.others():
                self.start(path, drive=",readonly=on", binary=other)
                self.vm.quit()
                self.refused(other, path, '"write"')
            first.quit()

    def test_share_rw(self):
        for holder in self.others():
            path = self.image()
            self.start(path, device=",share-rw=on", binary=holder)
            first = self.vm
            for other in self.others():
                self.start(path, device=",share-rw=on", binary=other)
                self.vm.quit()
                self.refused(other, path, 'shared "write"')
                self.start(path, drive=",file.locking=off", binary=other)
                self.vm.quit()
            first.quit()


class Gone(Blk):
    """A disk that fails, and comes back."""

    def failing(self, *kinds):
        if kinds:
            with open(self.fault, "w", encoding="ascii") as f:
                f.write(" ".join(kinds))
        else:
            os.unlink(self.fault)

    def start(self, *args, **options):
        self.fault = self.path("fault")
        return super().start(*args, env={"FERRY_FAIL_BLOCK": self.fault}, **options)

    def test_read_reports(self):
        self.start()
        self.failing("read")
        self.assertEqual(self.request(IN, 0, in_bytes=512)[0], IOERR)
        event = self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]
        self.assertEqual((event["operation"], event["action"], event["reason"], event["nospace"]),
                         ("read", "report", "Input/output error", False))
        self.failing()
        self.read(0, 512)

    def test_stop_at_each_kind(self):
        self.start(drive=",rerror=stop,werror=stop,cache=none")
        self.write(8, pattern(512))
        for kind, name, out, in_bytes in (
                (IN, "read", b"", 512), (OUT, "write", pattern(512, 3), 0), (FLUSH, "flush", b"", 0),
                (DISCARD, "discard", struct.pack("<QII", 64, 8, 0), 0),
                (WRITE_ZEROES, "zeroes", struct.pack("<QII", 64, 8, 0), 0)):
            with self.subTest(name):
                self.failing(name)
                head, back = self.offer(kind, 8, out, in_bytes)
                self.queue.kick()
                self.vm.wait_state("io-error")
                self.assertEqual(self.vm.cmd("query-block")[0]["io-status"], "failed")
                self.assertIsNone(self.queue.poll())
                did = "read" if name == "read" else "written"
                self.assertIn(f"Disk 'd0' cannot be {did}: ", self.vm.stderr())
                self.assertIn("Input/output error; the guest is stopped: look after it, then cont",
                              self.vm.stderr())
                self.failing()
                self.vm.cmd("cont")
                self.assertEqual(self.queue.wait()[0], head)
                self.assertEqual(self.vm.qtest.readb(back + in_bytes), OK)

    def test_failed_flush_stays(self):
        """What the host's cache has lost, no later flush makes good."""
        for drive, later in (("", IOERR), (",cache=none", OK)):
            self.start(self.image(name=f"disk{later}.img"), drive=drive + ",werror=report")
            self.failing("flush")
            self.assertEqual(self.request(FLUSH)[0], IOERR)
            self.failing()
            self.assertEqual(self.request(FLUSH)[0], later)

    def test_unsafe_does_not_flush(self):
        """With cache=unsafe a flush does nothing, so it cannot fail; nor does that of a disk that
        is only read."""
        for drive in (",cache=unsafe", ",readonly=on"):
            self.start(self.image(name=f"disk{len(drive)}.img"), drive=drive)
            self.failing("flush")
            self.assertEqual(self.request(FLUSH)[0], OK)
            self.failing()


class Errors(Blk):
    """A disk with an end before its end: a small tmpfs."""

    def setUp(self):
        super().setUp()
        self.small = self.path("small")
        os.mkdir(self.small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", self.small],
                          capture_output=True, check=False).returncode:
            raise unittest.SkipTest("Mounting a small filesystem is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.small], check=False)
        self.disk_path = os.path.join(self.small, "disk.img")
        with open(self.disk_path, "wb") as f:
            f.truncate(8 * MIB)

    def fill(self):
        """Requests until nothing fits any more; the heads by sector."""
        sectors = {}
        for i in range(6):
            head, back = self.offer(OUT, i * 256, pattern(131072, i))
            sectors[head] = (i * 256, back)
        self.queue.kick()
        return sectors

    def make_room(self):
        subprocess.run(["mount", "-o", "remount,size=4m", self.small], check=True)

    def finish(self, sectors):
        used = set()
        while len(used) < len(sectors):
            head, _ = self.queue.wait()
            self.assertNotIn(head, used)
            used.add(head)
            self.assertEqual(self.vm.qtest.readb(sectors[head][1]), OK)
        self.assertIsNone(self.queue.poll())
        for sector, _ in sectors.values():
            self.assertEqual(self.read(sector, 512), pattern(512, sector // 256))

    def test_stop_and_retry(self):
        for drive, device in (("", ""), (",werror=stop", ""), ("", ",werror=enospc"),
                              (",werror=report", ",werror=stop"), (",aio=threads", "")):
            with self.subTest(drive + device):
                self.start(self.disk_path, drive=drive, device=device)
                sectors = self.fill()
                event = self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]
                node = event.pop("node-name")
                self.assertEqual(event, {"device": "d0", "operation": "write", "action": "stop",
                                         "nospace": True, "reason": "No space left on device"})
                self.assertTrue(node.startswith("#block"))
                self.vm.wait_state("io-error")
                self.assertEqual(self.vm.cmd("query-block")[0]["io-status"], "nospace")
                self.vm.cmd("cont")  # still no room
                self.vm.wait_state("io-error")
                self.assertIn(f"Disk 'd0' cannot be written: '{self.disk_path}': No space left on "
                              "device; the guest is stopped: make room, then cont",
                              self.vm.stderr())
                self.make_room()
                self.vm.cmd("cont")
                self.finish(sectors)
                stats = self.vm.cmd("query-blockstats")[0]["stats"]
                self.assertEqual(stats["wr_operations"], len(sectors))  # each once
                self.assertEqual(self.vm.cmd("query-block")[0]["io-status"], "ok")
                self.vm.quit()
                os.truncate(self.disk_path, 0)
                os.truncate(self.disk_path, 8 * MIB)
                subprocess.run(["mount", "-o", "remount,size=256k", self.small], check=True)

    def test_report(self):
        self.start(self.disk_path, drive=",werror=report")
        sectors = self.fill()
        self.assertEqual(self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]["action"], "report")
        statuses = [self.vm.qtest.readb(sectors[self.queue.wait()[0]][1]) for _ in sectors]
        self.assertIn(IOERR, statuses)
        self.assertEqual(self.vm.status(), "running")
        stats = self.vm.cmd("query-blockstats")[0]["stats"]
        self.assertEqual(stats["failed_wr_operations"], statuses.count(IOERR))

    def test_ignore(self):
        self.start(self.disk_path, drive=",werror=ignore")
        sectors = self.fill()
        self.assertEqual(self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]["action"], "ignore")
        for _ in sectors:
            self.assertEqual(self.vm.qtest.readb(sectors[self.queue.wait()[0]][1]), OK)

    def test_reset_forgets(self):
        """What waits for `cont` does not outlive the driver's reset."""
        self.start(self.disk_path)
        self.fill()
        self.vm.wait_state("io-error")
        self.drive()
        self.make_room()
        self.vm.cmd("cont")
        self.write(8000, pattern(512))
        self.assertIsNone(self.queue.poll())

    def test_quit_while_waiting(self):
        self.start(self.disk_path)
        self.fill()
        self.vm.wait_state("io-error")
        self.vm.quit()


if __name__ == "__main__":
    unittest.main()
