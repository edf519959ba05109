# SPDX-License-Identifier: GPL-2.0-or-later
"""The RAM section: block list, page records, flush words; also the bare records of a preempt
channel and the mapped-ram layout.

Every part is a run of 64-bit words, the flags in the low 12 bits, ended by EOS.  Pages are noted
by where their data lies; nothing is copied here (memory.py does that).
"""

from .model import Page, RamBlock, RamPart
from .reader import PAGE_SIZE, StreamError, Truncated

FULL, ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
XBZRLE, HOOK, COMPRESS, FLUSH = 0x40, 0x80, 0x100, 0x200

# Most bytes a run length may take: a page has 4096 bytes, so two hold any.
RUN_BYTES = 2

NAMES = {ZERO: "zero", PAGE: "page", XBZRLE: "xbzrle", COMPRESS: "compress"}


def parse_part(stream, reader, advised=False, bare=False):
    """One section's payload up to and with its EOS; `bare` for a preempt channel, where the end of
    the input ends the records too.  Returns the RamPart, which is in stream.ram.parts as well."""
    ram = stream.ram
    part = RamPart(len(ram.parts), reader.pos)
    ram.parts.append(part)
    while True:
        if bare and reader.left() == 0:
            break
        start = reader.pos
        word = reader.be64("RAM record")
        flags, addr = word & (PAGE_SIZE - 1), word & ~(PAGE_SIZE - 1)
        if flags == EOS and addr == 0:
            part.ended = True
            break
        if flags == FLUSH and addr == 0:
            part.flushes += 1
            ram.flushes.append(len(ram.pages))
        elif flags == MEM_SIZE:
            parse_blocks(stream, reader, addr, advised, start)
        elif flags & ~CONTINUE in NAMES:
            parse_page(stream, reader, part, start, addr, flags)
        else:
            raise StreamError(start, "RAM record 0x%016x has flags 0x%x, which are not known"
                              % (word, flags))
        part.end = reader.pos
    part.end = reader.pos
    ram.ends.append(len(ram.pages))
    return part


def parse_blocks(stream, reader, total, advised, start):
    ram = stream.ram
    if ram.blocks:
        raise StreamError(start, "a second RAM block list")
    ram.total = total
    capabilities = (stream.configuration.capabilities or []) if stream.configuration else []
    listed = 0
    while listed < total:
        where = reader.pos
        name = reader.pstr("RAM block name")
        block = RamBlock(name, reader.be64("length of RAM block '%s'" % name))
        if name in ram.blocks:
            raise StreamError(where, "RAM block '%s' is listed twice" % name)
        listed += block.length
        if block.length == 0 or listed > total:
            raise StreamError(where, "RAM block '%s' of 0x%x bytes does not fit into the total of "
                              "0x%x" % (name, block.length, total))
        if advised:
            # Only blocks of larger pages carry this; a page size has no bits where a record has
            # its flags, and a name never begins with a zero byte.
            head = reader.peek(8)
            size = int.from_bytes(head, "big")
            if len(head) == 8 and head[0] == 0 and size and size % PAGE_SIZE == 0:
                block.page_size = reader.be64("page size")
        if "x-ignore-shared" in capabilities:
            block.gpa = reader.be64("guest address of RAM block '%s'" % name)
        ram.blocks[name] = block
        if "mapped-ram" in capabilities:
            parse_mapped(stream, reader, block)


def parse_mapped(stream, reader, block):
    """The header of one block in the mapped-ram layout, and the pages its bitmap names."""
    start = reader.pos
    version = reader.be32("mapped-ram header")
    page_size = reader.be64("mapped-ram page size")
    bitmap = reader.be64("mapped-ram bitmap offset")
    pages = reader.be64("mapped-ram pages offset")
    if version != 1 or page_size != PAGE_SIZE:
        raise StreamError(start, "mapped-ram header of version %d with page size %d is not known"
                          % (version, page_size))
    block.mapped = {"version": version, "page_size": page_size, "bitmap_offset": bitmap,
                    "pages_offset": pages, "present": 0}
    if bitmap == 0 and pages == 0:
        return
    count = (block.length + PAGE_SIZE - 1) // PAGE_SIZE
    if bitmap < reader.pos or pages < bitmap + (count + 7) // 8:
        raise StreamError(start, "mapped-ram offsets 0x%x and 0x%x of RAM block '%s' overlap "
                          "other data" % (bitmap, pages, block.name))
    if pages + block.length > reader.end:
        raise Truncated(start, "RAM block '%s' lies at 0x%x up to 0x%x but the file has 0x%x bytes"
                        % (block.name, pages, pages + block.length, reader.end))
    bits = reader.data[bitmap:bitmap + (count + 7) // 8]
    part = stream.ram.parts[-1]
    for index in range(count):
        if bits[index >> 3] >> (index & 7) & 1:
            note_page(stream, part, Page(start, block.name, index * PAGE_SIZE, "mapped",
                                         pages + index * PAGE_SIZE, PAGE_SIZE, part.index))
            block.mapped["present"] += 1
    reader.pos = pages + block.length


def parse_page(stream, reader, part, start, addr, flags):
    ram = stream.ram
    if flags & CONTINUE:
        if ram.current is None:
            raise StreamError(start, "a RAM record continues a block but none was named before")
    else:
        ram.current = reader.pstr("RAM block name")
        if ram.blocks and ram.current not in ram.blocks:
            raise StreamError(start, "RAM block '%s' is not in the block list" % ram.current)
    block = ram.blocks.get(ram.current)
    if block and addr >= block.length:
        raise StreamError(start, "page 0x%x lies outside RAM block '%s' of 0x%x bytes"
                          % (addr, ram.current, block.length))
    kind = NAMES[flags & ~CONTINUE]
    if kind == "zero":
        size = 1
    elif kind == "page":
        size = PAGE_SIZE
    elif kind == "xbzrle":
        mark = reader.u8("XBZRLE header")
        size = reader.be16("XBZRLE length")
        if mark != 1 or size > PAGE_SIZE:
            raise StreamError(start, "XBZRLE header with encoding %d and %d bytes is not known"
                              % (mark, size))
    else:
        size = reader.be32("length of a compressed page")
        if size > 2 * PAGE_SIZE:
            raise StreamError(start, "a compressed page takes %d bytes" % size)
    data = reader.skip(size, "%s record of page 0x%x of '%s'" % (kind, addr, ram.current))
    page = Page(start, ram.current, addr, kind, data, size, part.index)
    if kind == "xbzrle":
        for _ in xbzrle_runs(reader.data, page):
            pass
    note_page(stream, part, page)


def xbzrle_runs(data, page):
    """The changed runs of an XBZRLE record: (offset in the page, offset in the stream, length)."""
    where, end, target = page.data, page.data + page.size, 0
    while where < end:
        for name in ("unchanged", "changed"):
            value, shift = 0, 0
            while True:
                if where == end or shift == 7 * RUN_BYTES:
                    raise StreamError(page.offset, "XBZRLE record of page 0x%x: a run length is "
                                      "cut short or takes more than %d bytes"
                                      % (page.addr, RUN_BYTES))
                byte = data[where]
                where += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            if name == "unchanged":
                target += value
        if value == 0 or target + value > PAGE_SIZE or where + value > end:
            raise StreamError(page.offset, "XBZRLE record of page 0x%x: %d changed bytes at 0x%x "
                              "do not fit" % (page.addr, value, target))
        yield target, where, value
        target += value
        where += value


def note_page(stream, part, page):
    ram = stream.ram
    ram.pages.append(page)
    part.counts[page.kind] = part.counts.get(page.kind, 0) + 1
    part.bytes[page.kind] = part.bytes.get(page.kind, 0) + page.size
    key = (page.block, page.addr)
    if key in ram.seen:
        part.again += 1
    else:
        ram.seen.add(key)
