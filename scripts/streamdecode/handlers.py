# SPDX-License-Identifier: GPL-2.0-or-later
"""Iterative sections other than RAM: dirty bitmaps and the old block migration.

Their payloads delimit themselves.  Each record becomes a dict in Section.items.
"""

from .reader import StreamError

# Dirty bitmap record flags.
DB_EOS, DB_ZEROES, DB_NAME, DB_NODE = 0x01, 0x02, 0x04, 0x08
DB_START, DB_COMPLETE, DB_BITS, DB_MORE = 0x10, 0x20, 0x40, 0x80

# Block migration word flags, in the low 9 bits (the rest is a sector number).
BLK_DATA, BLK_EOS, BLK_PROGRESS, BLK_ZERO = 0x01, 0x02, 0x04, 0x08
BLK_CHUNK = 1 << 20


def parse_dirty_bitmap(reader, state):
    """`state` carries node and bitmap names over sections: they are sent only when they change."""
    items = []
    while True:
        start = reader.pos
        flags = reader.u8("dirty bitmap record")
        if flags & DB_MORE:
            raise StreamError(start, "dirty bitmap flags 0x%02x are of the extended form, which is "
                              "not known" % flags)
        item = {"offset": start}
        if flags & DB_NODE:
            state["node"] = reader.pstr("node name")
        if flags & DB_NAME:
            state["bitmap"] = reader.pstr("bitmap name")
        action = flags & ~(DB_NODE | DB_NAME | DB_ZEROES)
        if action == DB_EOS:
            items.append({"offset": start, "record": "eos"})
            return items
        item.update(node=state.get("node"), bitmap=state.get("bitmap"))
        if action == DB_START:
            item["record"] = "start"
            item["granularity"] = reader.be32("bitmap granularity")
            bits = reader.u8("bitmap flags")
            item["enabled"], item["persistent"] = bool(bits & 1), bool(bits & 2)
        elif action == DB_COMPLETE:
            item["record"] = "complete"
        elif action == DB_BITS:
            item["record"] = "bits"
            item["sector"] = reader.be64("first sector")
            item["sectors"] = reader.be32("sector count")
            item["zeroes"] = bool(flags & DB_ZEROES)
            if not flags & DB_ZEROES:
                size = reader.be64("bitmap size")
                data = reader.raw(size, "bitmap data")
                item["bytes"] = size
                item["set"] = int.from_bytes(data, "little").bit_count()
        else:
            raise StreamError(start, "dirty bitmap flags 0x%02x are not known" % flags)
        items.append(item)


def parse_block(reader, state):
    items = []
    while True:
        start = reader.pos
        word = reader.be64("block migration record")
        flags, sector = word & 0x1ff, word >> 9
        if flags == BLK_EOS:
            items.append({"offset": start, "record": "eos"})
            return items
        if flags == BLK_PROGRESS:
            items.append({"offset": start, "record": "progress", "percent": sector})
            continue
        if flags & ~BLK_ZERO != BLK_DATA:
            raise StreamError(start, "block migration flags 0x%x are not known" % flags)
        name = reader.pstr("block device name")
        if not flags & BLK_ZERO:
            reader.skip(BLK_CHUNK, "chunk of block device '%s'" % name)
        items.append({"offset": start, "record": "zero" if flags & BLK_ZERO else "data",
                      "device": name, "sector": sector})


PARSERS = {"dirty-bitmap": parse_dirty_bitmap, "block": parse_block}
