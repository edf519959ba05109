# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream decoder on captured streams: to the last byte, and what it says of them.

Run: python3 -m unittest discover -s tests/stream
"""

import hashlib
import unittest

from streamfixtures import CUT, data, fixtures, load, without_description

import streamdecode
from streamdecode import build, compare, framing, memory
from streamdecode.reader import PAGE_SIZE


def flatten(records):
    for record in records:
        yield record
        yield from flatten(getattr(record, "records", []))


class EveryFixture(unittest.TestCase):
    def test_to_the_last_byte(self):
        for name, path in fixtures():
            with self.subTest(name):
                stream = streamdecode.load(path, partial=True)
                self.assertTrue(stream.covered())
                self.assertEqual(stream.problems, [])
                self.assertEqual(stream.notes, [])
                if name in CUT:
                    self.assertIsInstance(stream.error, streamdecode.Truncated)
                else:
                    self.assertIsNone(stream.error)
                    self.assertNotEqual(stream.records[-1].type, "unread")
                self.assertEqual({section.footer for section in stream.sections} - {True}, set())

    def test_table_and_description_agree(self):
        """On microvm only slirp's private state has no table."""
        for name, path in fixtures():
            stream = streamdecode.load(path, partial=True)
            if stream.machine != "microvm" or stream.description is None:
                continue
            with self.subTest(name):
                for section in stream.devices():
                    want = "description" if section.idstr == "slirp" else "both"
                    self.assertEqual(section.source, want, section.name)

    def test_fields_tile_the_payload(self):
        for name, path in fixtures():
            with self.subTest(name):
                for section in streamdecode.load(path, partial=True).devices():
                    self.tile(section)

    def tile(self, section):
        """Every byte is a field's, or the head of a subsection."""
        heads = {one.offset: 6 + len(one.name) for one in section.subsections}
        where = section.payload
        for field in section.fields:
            while where in heads:
                where += heads[where]
            self.assertEqual(field.offset, where, "%s %s" % (section.name, field.path))
            where += field.size
        while where in heads:
            where += heads[where]
        self.assertEqual(where, section.payload_end, section.name)

    def test_paths_are_unique(self):
        for name, path in fixtures():
            with self.subTest(name):
                for section in streamdecode.load(path, partial=True).devices():
                    paths = [field.path for field in section.fields]
                    self.assertEqual(len(paths), len(set(paths)), section.name)

    def test_without_description(self):
        """The table alone gives the same fields as the whole stream."""
        for name, path in fixtures():
            whole = streamdecode.load(path, partial=True)
            if whole.machine != "microvm" or whole.description is None:
                continue
            with self.subTest(name):
                bare = streamdecode.parse(without_description(bytes(whole.data)))
                self.assertIsNone(bare.description)
                for mine, other in zip(whole.devices(), bare.devices(), strict=True):
                    self.assertEqual(mine.payload_end, other.payload_end)
                    if mine.idstr != "slirp":
                        self.assertEqual(other.source, "table", mine.name)
                        self.assertEqual(mine.fields, other.fields)


class Values(unittest.TestCase):
    def test_reset_state(self):
        stream = load("mv-kvm-full-S.bin")
        self.assertEqual(stream.machine, "microvm")
        self.assertEqual(stream.field("cpu", "env.eip"), 0xfff0)
        self.assertEqual(stream.field("cpu", "env.segs[1].base"), 0xffff0000)
        self.assertEqual(stream.field("cpu", "env.interrupt_injected"), -1)
        self.assertEqual(stream.field("cpu", "cpu/tsc_khz:env.tsc_khz"), 2596130)
        self.assertEqual(stream.field("ioapic#1", "ioredtbl[23]"), 0x10000)
        self.assertEqual(stream.field("globalstate", "runstate").rstrip(b"\0"), b"prelaunch")
        self.assertEqual(stream.field("kvmclock", "kvmclock/clock_is_reliable:clock_is_reliable"),
                         1)
        with self.assertRaises(KeyError):
            stream.field("cpu", "env.nothing")
        with self.assertRaises(KeyError):
            stream.field("nothing", "env.eip")
        self.assertIsNone(stream.section("ioapic#2"))

    def test_sections_in_order(self):
        stream = load("mv-tcg-min-S.bin")
        self.assertEqual([(one.step, one.name, one.version, one.size)
                          for one in stream.sections if one.step != "part"],
                         [("start", "ram", 4, 52), ("end", "ram", 4, 8), ("full", "timer", 2, 24),
                          ("full", "fw_cfg", 2, 30), ("full", "cpu_common", 1, 8),
                          ("full", "cpu", 12, 1851), ("full", "kvm-tpr-opt", 1, 144),
                          ("full", "apic", 3, 181), ("full", "ioapic", 3, 206),
                          ("full", "globalstate", 1, 104)])
        self.assertEqual([(block.name, block.length) for block in stream.ram.blocks.values()],
                         [("microvm.ram", 0x1000000), ("pc.bios", 0x10000)])

    def test_virtio(self):
        legacy, modern = load("mv-drv-legacy.bin"), load("mv-drv-modern.bin")
        blk = legacy.section("virtio-mmio@00000000feb02e00/virtio-blk")
        self.assertEqual(blk.field("virtio.guest_page_shift"), 12)
        self.assertEqual(blk.field("virtio.virtio/started:started"), 1)
        net = modern.section("virtio-mmio@00000000feb02c00/virtio-net")
        self.assertEqual(net.field("virtio.mac"), bytes.fromhex("525400123456"))
        self.assertIn("virtio.virtio/extra_state:virtio_mmio/state",
                      [one.path for one in net.subsections])

    def test_rare_subsections(self):
        stream = load("mv-tcg-subsections-S.bin")
        self.assertEqual(len(stream.section("cpu").subsections), 32)
        self.assertEqual(stream.field("serial", "state.serial/recv_fifo:recv_fifo.data")[:5],
                         b"hello")
        self.assertEqual(stream.field("apic", "apic_sipi:wait_for_sipi"), 1)

    def test_ram_statistics(self):
        part = load("mv-kvm-full-S.bin").ram.parts[1]
        self.assertEqual(part.counts, {"zero": 4107, "page": 8})
        self.assertEqual(part.again, 0)
        counts = {}
        for part in load("live-xbzrle.0.fwd").ram.parts:
            for kind, count in part.counts.items():
                counts[kind] = counts.get(kind, 0) + count
        self.assertGreater(counts["xbzrle"], 0)

    def test_configuration(self):
        self.assertEqual(load("live-ignore-shared.0.fwd").configuration.capabilities,
                         ["x-ignore-shared"])
        uuid = load("live-validate-uuid.0.fwd").configuration.uuid
        self.assertRegex(uuid, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")

    def test_block_list_extras(self):
        blocks = load("live-huge-postcopy.0.fwd").ram.blocks
        self.assertEqual({name: block.page_size for name, block in blocks.items()
                          if block.page_size != 4096}, {"ram0": 0x200000})
        blocks = load("live-ignore-shared.0.fwd").ram.blocks
        self.assertEqual(blocks["pc.bios"].gpa, 0xffff0000)
        mapped = load("q10-mapped-ram.file").ram.blocks["microvm.ram"].mapped
        self.assertEqual((mapped["bitmap_offset"], mapped["pages_offset"]), (0x8c, 0x100000))

    def test_dirty_bitmaps(self):
        items = [item for section in load("live-dbm.0.fwd").sections for item in section.items]
        self.assertEqual([item["bitmap"] for item in items if item["record"] == "start"],
                         ["dis", "bitmap-zero", "bm0"])
        self.assertEqual(sum(item["record"] == "complete" for item in items), 3)

    def test_block_migration(self):
        items = [item for section in load("blockmig.bin").sections for item in section.items]
        self.assertEqual([item["device"] for item in items if item["record"] == "data"], ["d0"])


class Postcopy(unittest.TestCase):
    def test_package(self):
        stream = load("live-postcopy.0.fwd")
        names = [command.name for command in stream.commands]
        self.assertEqual(names[:3], ["OPEN_RETURN_PATH", "PING", "POSTCOPY_ADVISE"])
        package = next(one for one in stream.commands if one.name == "PACKAGED")
        self.assertEqual(package.records[0].name, "POSTCOPY_LISTEN")
        self.assertEqual(package.records[-1].name, "POSTCOPY_RUN")
        self.assertTrue(all(section.packaged for section in stream.devices()))
        self.assertEqual(stream.field("globalstate", "runstate").rstrip(b"\0"), b"running")

    def test_switchover_start(self):
        self.assertIn("SWITCHOVER_START",
                      [one.name for one in load("live-q10-postcopy.0.fwd").commands])

    def test_return_path(self):
        messages = load("live-postcopy.0.ret").messages
        self.assertEqual([one.name for one in messages],
                         ["PONG"] * 4 + ["REQ_PAGES_ID", "SHUT"])
        self.assertEqual(messages[4].args, {"start": 0x867000, "length": 4096,
                                            "block": "microvm.ram"})
        ack = load("live-q10-switchover-ack.0.ret").messages[0]
        self.assertEqual(ack.name, "SWITCHOVER_ACK")

    def test_recovery(self):
        for name in ("live-pcrec", "live-q10-pcrec"):
            with self.subTest(name):
                cut = load(name + "-1.0.fwd", partial=True)
                resumed = load(name + "-2.0.fwd", earlier=cut)
                self.assertEqual(resumed.kind, "recovery")
                self.assertEqual({one.name for one in resumed.commands},
                                 {"RECV_BITMAP", "POSTCOPY_RESUME"})
                bitmaps = [one for one in load(name + "-2.0.ret").messages
                           if one.name == "RECV_BITMAP"]
                before = memory.reconstruct(cut)
                after = memory.reconstruct(cut, [resumed])
                self.assertEqual(sum(one.missing() for one in after.blocks.values()), 0)
                # What the receiver reports is what its side of the first connection carried.
                for one in bitmaps:
                    block = before.blocks[one.args["block"]]
                    self.assertEqual(one.args["received"], sum(block.present), block.name)

    def test_preempt(self):
        for name in ("live-preempt", "live-q10-preempt"):
            with self.subTest(name):
                main = load(name + ".0.fwd")
                channel = load(name + ".1.fwd", earlier=main)
                self.assertEqual(channel.kind, "preempt")
                missing = memory.reconstruct(main).blocks["microvm.ram"].missing()
                self.assertEqual(missing, len(channel.ram.pages))
                after = memory.reconstruct(main, [channel])
                self.assertEqual(after.blocks["microvm.ram"].missing(), 0)


class Memory(unittest.TestCase):
    """ref-*: the digest is of the sender's own memory dump after the migration, without the range
    0xa0000-0xfffff, where the dump shows the firmware instead of RAM."""

    REFERENCE = {
        "ref-xbzrle": (1, "b1483c989870a8b5711330d16a9050013747de0fd4a72b8f6f1eb58270687a14"),
        "ref-compress": (1, "8ccf11ad2b1d148dcb4493fb644098772f19aa8a9e873abcbb643a09990aea92"),
        "ref-multifd-zstd": (3,
                             "cc9fb96269cb88e24e441d84808f9f707149997d95ad7e1f8125e06ad345d66e"),
    }

    def test_equals_the_sender(self):
        for name, (connections, digest) in self.REFERENCE.items():
            with self.subTest(name):
                streams = [load("%s.%d.fwd" % (name, index)) for index in range(connections)]
                result = memory.reconstruct(streams[0], streams[1:])
                block = result.blocks["microvm.ram"]
                self.assertEqual(block.missing(), 0)
                raw = bytes(block.data)
                self.assertEqual(hashlib.sha256(raw[:0xa0000] + raw[0x100000:]).hexdigest(), digest)

    def test_multifd(self):
        for name in ("live-multifd", "live-multifd-zlib", "live-multifd-zstd", "live-q10-multifd",
                     "live-q10-multifd-zerolegacy", "live-q10-multifd-zstd"):
            with self.subTest(name):
                main = load(name + ".0.fwd")
                channels = [load("%s.%d.fwd" % (name, index)) for index in (1, 2)]
                self.assertEqual({one.packets[0].channel for one in channels}, {0, 1})
                result = memory.reconstruct(main, channels)
                self.assertEqual(sum(one.missing() for one in result.blocks.values()), 0)
                with self.assertRaises(streamdecode.StreamError):
                    memory.reconstruct(main, [streamdecode.parse(
                        bytes(channels[0].data[:64]))])

    def test_mapped_ram(self):
        for name in ("q10-mapped-ram.file", "q10-mapped-ram-mfd.file"):
            with self.subTest(name):
                stream = load(name)
                result = memory.reconstruct(stream)
                plain = memory.reconstruct(load("q10-file.file"))
                self.assertEqual(bytes(result.blocks["pc.bios"].data),
                                 bytes(plain.blocks["pc.bios"].data))
                # Zero pages are holes: the pages present are those the plain file has data for.
                self.assertEqual(
                    {(page.block, page.addr) for page in stream.ram.pages},
                    {(page.block, page.addr) for page in load("q10-file.file").ram.pages
                     if page.kind == "page"})

    def test_discard(self):
        page = b"x" * PAGE_SIZE
        blocks = [("a", 4 * PAGE_SIZE)]
        writer = build.Writer().header().configuration()
        writer.section("start", 1, build.ram_blocks(blocks) + build.ram_eos())
        writer.section("part", 1, build.ram_page(0, page, "a") + build.ram_page(PAGE_SIZE, page)
                       + build.ram_eos())
        writer.discard("a", [(0, PAGE_SIZE), (3 * PAGE_SIZE, PAGE_SIZE)])
        tail = writer.bytes()
        writer.section("part", 1, build.ram_zero(0, "a") + build.ram_eos()).eof()
        done = memory.reconstruct(streamdecode.parse(writer.bytes())).blocks["a"]
        self.assertEqual(list(done.present), [1, 1, 0, 0])
        self.assertEqual(bytes(done.data[:2 * PAGE_SIZE]), bytes(PAGE_SIZE) + page)
        done = memory.reconstruct(streamdecode.parse(tail + b"\0")).blocks["a"]
        self.assertEqual(list(done.present), [0, 1, 0, 0])


class Ferry(unittest.TestCase):
    """What only Ferry sends."""

    def test_forward(self):
        raw = data("mv-tcg-min-S.bin")
        edit = build.Edit(raw)
        extra = (build.Writer().command("OPEN_RETURN_PATH").ping(framing.FERRY_PING)
                 .command("FERRY_FEATURES", build.be(3, 8)))
        edit.insert_before(edit.sections()[0], extra.bytes())
        ends = build.Writer().command("FERRY_GO", build.be(1000, 8)).bytes()
        stream = streamdecode.parse(edit.bytes() + ends)
        self.assertEqual(stream.problems, [])
        self.assertEqual(stream.section("cpu").source, "both")
        self.assertEqual([one.name for one in stream.commands],
                         ["OPEN_RETURN_PATH", "PING", "FERRY_FEATURES", "FERRY_GO"])
        self.assertEqual(stream.commands[1].args["meaning"], "Ferry offer")
        self.assertEqual(stream.commands[2].args["meaning"], "zeroed commit")
        self.assertEqual(stream.commands[3].args["stopped_ns"], 1000)
        bare = without_description(edit.bytes()) + ends
        self.assertEqual(streamdecode.parse(bare).problems, [])
        with self.assertRaises(streamdecode.StreamError):
            streamdecode.parse(edit.bytes() + build.Writer().ping(1).bytes())

    def test_addresses(self):
        edit = build.Edit(data("mv-tcg-min-S.bin"))
        place = build.be(0xFEB02E00, 8)
        one = place + b"\4\0" + bytes([192, 0, 2, 7]) + bytes(12)
        two = place + b"\6\1" + bytes.fromhex("20010db8" + "0" * 22 + "09")
        edit.insert_before(edit.sections()[0], build.Writer().command("FERRY_ADDRESSES", one + two)
                           .bytes())
        stream = streamdecode.parse(edit.bytes())
        self.assertEqual(stream.problems, [])
        self.assertEqual(stream.commands[0].args["addresses"],
                         [(0xFEB02E00, "192.0.2.7"), (0xFEB02E00, "2001:db8::9 router")])
        with self.assertRaises(streamdecode.StreamError):
            streamdecode.parse(build.Writer().header().configuration()
                               .command("FERRY_ADDRESSES", one[:-1]).eof().bytes())

    def test_zeroed(self):
        writer = build.Writer().header().configuration()
        writer.command("FERRY_FEATURES", build.be(framing.FERRY_ZEROED, 8))
        writer.section("start", 1, build.ram_blocks([("a", 4 * PAGE_SIZE)]) + build.ram_eos())
        block = memory.reconstruct(streamdecode.parse(writer.eof().bytes())).blocks["a"]
        self.assertEqual(block.missing(), 0)

    def test_return(self):
        raw = (bytes.fromhex("46520014 00000001 0000000000000046 07") + b"ferry 1"
               + bytes.fromhex("46530000 0002000446525259 46540003") + b"No."
               + bytes.fromhex("0001000400000000"))
        stream = streamdecode.parse(raw)
        self.assertEqual(stream.kind, "return")
        self.assertEqual([one.name for one in stream.messages],
                         ["FERRY_HELLO", "FERRY_READY", "PONG", "FERRY_ERROR", "SHUT"])
        self.assertEqual(stream.messages[0].args, {"version": 1, "features": 0x46,
                                                   "meaning": "commit check 0x40", "program": "ferry 1"})
        self.assertEqual(stream.messages[3].args["text"], "No.")


class Compare(unittest.TestCase):
    def test_same(self):
        one = load("mv-kvm-full-S.bin")
        self.assertEqual(compare.compare(one, one, with_ram=True), [])

    def test_what_differs(self):
        raw = data("mv-kvm-full-S.bin")
        edit = build.Edit(raw).set_field("cpu", "env.regs[3]", 7)
        edit.set_field("mc146818rtc", "cmos_data", bytes(128))
        edit.drop(edit.find("serial"))
        edit.set_machine("other").drop_subsection("cpu", "cpu/tsc_khz")
        found = compare.compare(streamdecode.parse(raw), streamdecode.parse(edit.bytes()))
        self.assertEqual([one.where for one in found],
                         ["configuration machine", "cpu env.regs[3]",
                          "cpu cpu/tsc_khz:env.tsc_khz", "mc146818rtc cmos_data", "serial"])
        self.assertEqual(found[1][1:], ("0x0", "0x7"))
        found = compare.compare(streamdecode.parse(raw), streamdecode.parse(edit.bytes()),
                                ignore=["cpu *", "mc146818rtc *", "configuration *"])
        self.assertEqual([one.where for one in found], ["serial"])

    def test_order(self):
        raw = data("mv-kvm-full-S.bin")
        edit = build.Edit(raw).reorder(lambda pieces: pieces[::-1])
        found = compare.compare(streamdecode.parse(raw), streamdecode.parse(edit.bytes()))
        self.assertEqual([one.where for one in found], ["device order"])

    def test_memory(self):
        raw = data("mv-kvm-full-S.bin")
        edit = build.Edit(raw)
        edit.insert_before(edit.find("ram", "end"), build.Writer().section(
            "part", edit.find("ram", "end").id,
            build.ram_page(0x3000, b"!" * PAGE_SIZE, "microvm.ram") + build.ram_eos()).bytes())
        found = compare.compare(streamdecode.parse(raw), streamdecode.parse(edit.bytes()),
                                with_ram=True)
        self.assertEqual([tuple(one) for one in found],
                         [("RAM microvm.ram", "1 pages differ", "0x3000")])


if __name__ == "__main__":
    unittest.main()
