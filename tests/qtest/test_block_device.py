# SPDX-License-Identifier: GPL-2.0-or-later
"""
virtio-blk over block devices: loop devices, as -drive and -blockdev name them. What a guest and a
client see is what they see with QEMU, except where a case says otherwise.
"""

import hashlib
import os
import re
import struct
import subprocess
import unittest

from blkcase import DISCARD, FLUSH, IN, IOERR, MIB, OK, OUT, RO, WRITE_ZEROES, Blk, pattern
from ferrytest import QEMU, QmpError, ferry_binary, scaled
from ferrytest.loop import Loop
from sidebyside import have_qemu


def drive(device, more=""):
    return ("-drive", f"file={device},format=raw,if=none,id=d0{more}")


def blockdev(device, more=""):
    return ("-blockdev", f"driver=host_device,filename={device},node-name=d0{more}")


def raw(device, more=""):
    """As libvirt builds it, in two nodes."""
    return ("-blockdev", f'{{"driver":"host_device","filename":"{device}","node-name":"s0",'
                         f'"auto-read-only":true,"discard":"unmap"}}',
            "-blockdev", f"driver=raw,node-name=d0,file=s0{more}")


FORMS = (drive, blockdev, raw)


def brief(value):
    """Long data by its hash, so that a difference can be read."""
    if isinstance(value, (list, tuple)):
        return [brief(v) for v in value]
    if isinstance(value, bytes) and len(value) > 64:
        return f"{len(value)} bytes {hashlib.sha1(value).hexdigest()}"
    return value


class Device(Blk):
    def loop(self, size=4 * MIB, data=None, name="disk.img", **options):
        loop = Loop(self, self.image(size, name, data), **options)
        return loop

    def segment(self, kind, sector, sectors, flags=0):
        return self.request(kind, out=struct.pack("<QII", sector, sectors, flags))

    def as_qemu(self, steps, make_loop, form=blockdev, more="", **options):
        """What steps(loop) finds, which must be the same with QEMU; each has a device of its own."""
        if not have_qemu():
            raise unittest.SkipTest(f"{QEMU} is not there to compare with")
        results = []
        for binary in (QEMU, None):
            loop = make_loop("qemu.img" if binary else "ferry.img")
            self.start(backend=form(loop.device, more), binary=binary, **options)
            results.append(steps(loop))
            self.vm.quit()
        self.assertEqual(brief(results[0]), brief(results[1]))
        return results[1]

    def says(self, backend, *device, binary=None):
        """What a machine that does not start says."""
        result = subprocess.run(
            [binary or ferry_binary(), "-M", "microvm", "-accel", "tcg" if binary else "qtest",
             "-display", "none", "-nodefaults", "-S", *backend, *device],
            capture_output=True, text=True, timeout=scaled(), check=False)
        self.assertEqual(result.returncode, 1, result.stderr)
        return result.stderr


class Transfer(Device):
    def test_modes(self):
        """Every form, every way to the disk; the file below has it all."""
        data = pattern(65536)
        for form in FORMS:
            for more in (("", ",cache=none", ",cache=writethrough", ",cache=directsync,aio=native",
                          ",aio=threads", ",cache=unsafe") if form == drive else
                         ("", ",cache.direct=on", ",cache.no-flush=on")):
                with self.subTest(f"{form.__name__} {more}"):
                    loop = self.loop(name=f"{form.__name__}{more}.img")
                    self.start(backend=form(loop.device, more))
                    self.assertEqual(struct.unpack("<Q", self.config()[:8])[0], 4 * MIB // 512)
                    self.assertEqual(bool(self.open_flags(loop.device) & os.O_DIRECT),
                                     form != raw and any(m in more for m in ("none", "direct")))
                    self.write(8, data)
                    self.write(8191, data[:512])
                    self.assertEqual(self.read(8, 65536, pieces=4), data)
                    self.assertEqual(self.read(8191, 512), data[:512])
                    self.assertEqual(self.request(IN, 8192, in_bytes=512)[0], IOERR)
                    self.assertEqual(self.request(FLUSH)[0], OK)
                    self.vm.quit()
                    loop.settle()
                    with open(loop.path, "rb") as f:
                        content = f.read()
                    self.assertEqual(content[4096:4096 + 65536], data)
                    self.assertEqual(content[-512:], data[:512])
                    self.assertEqual(len(content), 4 * MIB)

    def test_flushed_is_in_the_file(self):
        """A flush, and a write without a write cache, leave nothing in the device's cache."""
        for more, flush in (("", True), (",cache=writethrough", False)):
            loop = self.loop(name=f"flush{flush}.img")
            self.start(backend=drive(loop.device, more))
            self.write(0, pattern(4096))
            if flush:
                self.assertEqual(self.request(FLUSH)[0], OK)
            with open(loop.path, "rb") as f:
                self.assertEqual(f.read(4096), pattern(4096))
            self.vm.quit()

    def test_blocks_of_4096(self):
        """A device that takes nothing smaller: with O_DIRECT the guest has to know (QEMU reads,
        changes and writes instead); through the page cache it need not."""
        def make(name):
            return self.loop(data=pattern(MIB), name=name, block_size=4096)

        def steps(_loop):
            return [self.request(OUT, 9, b"x" * 512), self.request(IN, 8, b"", 4096),
                    self.request(OUT, 16, pattern(8192, 5)), self.request(IN, 16, b"", 8192),
                    self.config()]

        self.as_qemu(steps, make)
        sizes = ",logical_block_size=4096,physical_block_size=4096"

        def large(_loop):
            return [self.request(OUT, 16, pattern(8192, 5)), self.request(IN, 16, b"", 8192),
                    self.request(OUT, 9, b"x" * 512)[0], self.request(IN, 9, b"", 4096)[0],
                    self.segment(WRITE_ZEROES, 16, 8), self.segment(WRITE_ZEROES, 17, 8)[0],
                    self.request(FLUSH), self.request(IN, 16, b"", 8192), self.config()]

        self.as_qemu(large, make, more=",cache.direct=on", device=sizes)
        self.as_qemu(large, make, form=drive, more=",cache=none,aio=native", device=sizes)
        said = self.says(blockdev(make("small.img").device, ",cache.direct=on"),
                         "-device", "virtio-blk-device,drive=d0")
        self.assertIn("Drive 'd0' is used with O_DIRECT and takes only requests of 4096 bytes: give "
                      "logical_block_size=4096, or a cache mode without O_DIRECT", said)

    def test_discard_and_zeroes(self):
        """What is discarded is given back by the file below, and only where that is asked for (QEMU
        7.2 makes holes for zeroes that may be holes also with discard=ignore)."""
        blocks = []

        def make(name):
            return self.loop(data=b"\xff" * 4 * MIB, name=name)

        def steps(loop):
            out = []
            for kind, flags in ((DISCARD, 0), (WRITE_ZEROES, 1), (WRITE_ZEROES, 0)):
                sector = 2048 * (kind & 3) + 1024 * flags
                answer = self.segment(kind, sector, 1024, flags)
                self.request(FLUSH)
                loop.settle()
                blocks.append(os.stat(loop.path).st_blocks)
                out.append((answer, self.read(sector - 1, 512), self.read(sector, 65536),
                            self.read(sector + 1023, 512), self.read((sector + 1024) % 8192, 512)))
            return out

        for more in ("", ",discard=unmap", ",discard=unmap,cache.direct=on"):
            with self.subTest(more):
                found = self.as_qemu(steps, make, more=more)
                self.assertEqual([f[2] == bytes(65536) for f in found], ["unmap" in more, True, True])
                self.assertEqual(blocks[-3:], [7168, 6144, 6144] if more else [8192] * 3)

    def test_queries(self):
        """query-block, query-named-block-nodes and query-blockstats."""
        def strip(value):
            if isinstance(value, dict):
                return {k: strip(v) for k, v in value.items()
                        if k not in ("driver-specific", "idle_time_ns", "parent")
                        and not k.endswith("_time_ns")}
            if isinstance(value, list):
                return [strip(v) for v in value]
            if isinstance(value, str):
                return "NAME" if value.startswith(("/dev/loop", "#block")) else value
            return value

        def steps(_loop):
            self.request(OUT, 8, b"x" * 4096)
            self.request(IN, 0, b"", 512)
            return strip([self.vm.cmd("query-block"), self.vm.cmd("query-named-block-nodes"),
                          self.vm.cmd("query-blockstats")])

        for form in (drive, blockdev):
            found = self.as_qemu(steps, lambda name: self.loop(name=name), form=form,
                                 device=",id=vd")
            self.assertEqual([n["drv"] for n in found[1]],
                             ["raw", "host_device"] if form == drive else ["host_device"])


class Kinds(Device):
    """Which driver takes what."""

    def test_file_driver(self):
        loop = self.loop()
        binaries = [None, QEMU] if have_qemu() else [None]
        for binary in binaries:
            said = self.says(("-blockdev", f"driver=file,filename={loop.device},node-name=d0"),
                             binary=binary)
            self.assertIn(f"'file' driver requires '{loop.device}' to be a regular file", said)
            said = self.says(("-blockdev", f"driver=host_device,filename={loop.path},node-name=d0"),
                             binary=binary)
            self.assertIn(f"'host_device' driver requires '{loop.path}' to be either a character "
                          "or block device", said)
        said = self.says(blockdev("/dev/null"))
        self.assertIn("'/dev/null' is neither a file nor a block device", said)

    def test_read_only_device(self):
        """One that cannot be written has to be asked for as such."""
        loop = self.loop(read_only=True, data=pattern(MIB))
        device = ("-device", "virtio-blk-device,drive=d0")
        binaries = [None, QEMU] if have_qemu() else [None]
        for form in FORMS:
            for binary in binaries:
                with self.subTest(f"{form.__name__} {binary}"):
                    said = self.says(form(loop.device), *device, binary=binary)
                    self.assertIn("Permission denied", said)
                    if not binary and form != blockdev:
                        self.assertIn(f"Could not open '{loop.device}'", said)
                        self.assertIn("give readonly=on", said)

        def steps(_loop):
            self.assertTrue(self.disk.device_features() >> RO & 1)
            return [self.request(OUT, 0, b"x" * 512), self.request(IN, 0, b"", 512),
                    self.request(FLUSH), self.segment(WRITE_ZEROES, 0, 8),
                    self.config(), self.vm.cmd("query-block")[0]["inserted"]["ro"]]

        for form, more in ((drive, ",readonly=on"), (blockdev, ",read-only=on"),
                           (raw, ",read-only=on")):
            found = self.as_qemu(steps, lambda name: self.loop(name=name, read_only=True),
                                 form=form, more=more)
            self.assertEqual(found[0][0], IOERR)
        with open(loop.path, "rb") as f:
            self.assertEqual(f.read(MIB), pattern(MIB))

    def test_read_only_filesystem(self):
        """The same of a file."""
        folder = self.path("ro")
        os.mkdir(folder)
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True,
                          check=False).returncode:
            raise unittest.SkipTest("Mounting a filesystem is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False)
        path = os.path.join(folder, "disk.img")
        with open(path, "wb") as f:
            f.truncate(MIB)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        device = ("-device", "virtio-blk-device,drive=d0")
        for binary in [None, QEMU] if have_qemu() else [None]:
            said = self.says(drive(path), *device, binary=binary)
            self.assertIn(f"Could not open '{path}': Read-only file system", said)
        self.start(path, drive=",readonly=on")
        self.assertEqual(self.read(0, 512), bytes(512))


class Resize(Device):
    def test_as_qemu(self):
        """The device is resized on the host, block_resize looks. It says how long it must be at
        least; the guest has what there is."""
        def steps(loop):
            def capacity():
                return struct.unpack("<Q", self.config()[:8])[0]

            def resize(size):
                self.disk.take_interrupt()
                try:
                    said = self.vm.cmd("block_resize", node_name="d0", size=size)
                except QmpError as error:
                    said = error.desc
                return (size, said, capacity(), self.disk.take_interrupt() & 2,
                        self.vm.cmd("query-named-block-nodes")[0]["image"]["virtual-size"])

            out = [resize(s) for s in (4 * MIB, 2 * MIB, 8 * MIB, 2 * MIB + 512, 100)]
            os.truncate(loop.path, 8 * MIB)
            loop.resized()
            out += [capacity(), resize(16 * MIB), resize(8 * MIB), resize(7 * MIB)]
            out += [self.request(OUT, 16383, pattern(512, 3)), self.request(IN, 16383, b"", 512)]
            os.truncate(loop.path, 3 * MIB)
            loop.resized()
            out += [capacity(), resize(8 * MIB), resize(3 * MIB), capacity(),
                    self.request(IN, 6144, b"", 512)[0], self.request(IN, 6143, b"", 512)[0]]
            return out

        for more in ("", ",cache.direct=on"):
            found = self.as_qemu(steps, lambda name: self.loop(name=name), more=more)
            self.assertEqual(found[7][:4], (8 * MIB, {}, 16384, 2))
            self.assertEqual(found[2][1], "Cannot grow device files")

    def test_guest_is_told(self):
        loop = self.loop()
        self.start(backend=drive(loop.device))
        os.truncate(loop.path, 6 * MIB)
        loop.resized()
        self.disk.take_interrupt()
        generation = self.disk.read(0xFC)
        self.vm.cmd("block_resize", device="d0", size=6 * MIB)
        self.disk.wait_interrupt(2)
        self.assertNotEqual(self.disk.read(0xFC), generation)
        self.write(12287, pattern(512))
        self.assertEqual(self.request(IN, 12288, b"", 512)[0], IOERR)


class Locks(Device):
    def test_exclude_each_other(self):
        """The same as of files, through any name of the device, against QEMU too."""
        others = [None, QEMU] if have_qemu() else [None]
        for holder in others:
            loop = self.loop(name=f"{bool(holder)}.img")
            self.start(backend=blockdev(loop.device), binary=holder)
            other = self.path(f"link-{bool(holder)}")
            os.symlink(loop.device, other)
            for binary in others:
                for name in (loop.device, other):
                    with self.subTest(f"{holder} {binary} {name}"):
                        said = self.says(drive(name), "-device", "virtio-blk-device,drive=d0",
                                         binary=binary)
                        self.assertIn('Failed to get "write" lock', said)
                        self.assertIn(f"Is another process using the image [{name}]?", said)
                        said = self.says(drive(name, ",readonly=on"), "-device",
                                         "virtio-blk-device,drive=d0", binary=binary)
                        self.assertIn('Failed to get shared "write" lock', said)
            self.vm.quit()
            self.start(backend=drive(loop.device))  # it is free again
            self.vm.quit()


class Faults(Device):
    def test_disk_gone(self):
        """The file below is cut: what is not there any more fails, and the machine goes on."""
        for more in (",cache=none", ""):
            loop = self.loop(data=pattern(4 * MIB), name=f"gone{more}.img")
            self.start(backend=drive(loop.device, more))
            self.assertEqual(self.read(0, 512), pattern(512))
            os.truncate(loop.path, 0)
            self.assertEqual(self.request(IN, 4096, b"", 4096)[0], IOERR)
            event = self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]
            self.assertEqual((event["operation"], event["action"], event["reason"],
                              event["nospace"]), ("read", "report", "Input/output error", False))
            self.assertEqual(self.vm.cmd("query-blockstats")[0]["stats"]["failed_rd_operations"], 1)
            self.vm.quit()

    def test_gone_and_back(self):
        """With rerror=stop nothing is lost: the file is there again, and the guest goes on."""
        loop = self.loop(data=pattern(4 * MIB))
        self.start(backend=drive(loop.device, ",cache=none,rerror=stop"))
        os.truncate(loop.path, 0)
        head, back = self.offer(IN, 4096, in_bytes=4096)
        self.queue.kick()
        self.vm.wait_state("io-error")
        self.assertIsNone(self.queue.poll())
        self.vm.cmd("cont")  # still not
        self.vm.wait_state("io-error")
        with open(loop.path, "r+b") as f:
            f.write(pattern(4 * MIB))
        self.vm.cmd("cont")
        self.assertEqual(self.queue.wait()[0], head)
        self.assertEqual(self.vm.qtest.readb(back + 4096), OK)
        self.assertEqual(self.vm.qtest.read(back, 4096), pattern(4 * MIB)[4096 * 512:][:4096])

    def test_seen_as_qemu(self):
        """The event, query-block and info block of a machine that has stopped."""
        def steps(loop):
            os.truncate(loop.path, 0)
            self.offer(IN, 4096, in_bytes=4096)
            self.queue.kick()
            event = self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]
            self.vm.wait_state("io-error")
            self.assertTrue(event.pop("node-name").startswith("#block"))
            text = self.vm.cmd("human-monitor-command", command_line="info block d0")
            text = re.sub(r"#block\d+", "#block", text).replace(loop.device, "DEVICE")
            return [event, self.vm.cmd("query-block")[0]["io-status"], text]

        found = self.as_qemu(steps, lambda name: self.loop(data=pattern(4 * MIB), name=name),
                             form=drive, more=",cache=none,rerror=stop")
        self.assertEqual(found[1], "failed")

    def full(self):
        """A device over a file that cannot have all its bytes."""
        small = self.path("small")
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small],
                          capture_output=True, check=False).returncode:
            raise unittest.SkipTest("Mounting a small filesystem is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=False)
        path = os.path.join(small, "disk.img")
        with open(path, "wb") as f:
            f.truncate(8 * MIB)
        self.small = small
        return Loop(self, path)

    def test_full_below(self):
        """No space below the device: the machine stops, and goes on when there is room."""
        loop = self.full()
        self.start(backend=drive(loop.device, ",cache=none"))
        out = {}
        for i in range(4):
            head, back = self.offer(OUT, i * 256, pattern(131072, i))
            out[head] = (i, back)
        self.queue.kick()
        event = self.vm.qmp.wait_event("BLOCK_IO_ERROR")["data"]
        self.assertEqual((event["operation"], event["action"], event["nospace"], event["reason"]),
                         ("write", "stop", True, "No space left on device"))
        self.vm.wait_state("io-error")
        self.assertEqual(self.vm.cmd("query-block")[0]["io-status"], "nospace")
        self.vm.cmd("cont")
        self.vm.wait_state("io-error")
        subprocess.run(["mount", "-o", "remount,size=16m", self.small], check=True)
        self.vm.cmd("cont")
        for _ in range(4):
            head, _ = self.queue.wait()
            i, back = out.pop(head)
            self.assertEqual(self.vm.qtest.readb(back), OK)
        for i in range(4):
            self.assertEqual(self.read(i * 256, 4096), pattern(4096, i))

    def test_full_behind_the_cache(self):
        """Through the page cache it shows at the flush, and stays: what is lost is lost."""
        loop = self.full()
        self.start(backend=drive(loop.device, ",werror=report"))
        for i in range(4):
            self.request(OUT, i * 256, pattern(131072, i))
        self.assertEqual(self.request(FLUSH)[0], IOERR)
        self.assertEqual(self.request(FLUSH)[0], IOERR)
        self.vm.quit()


if __name__ == "__main__":
    unittest.main()
