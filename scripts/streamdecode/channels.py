# SPDX-License-Identifier: GPL-2.0-or-later
"""The other byte streams of a migration: return path, multifd channels, preempt channel."""

from . import ram
from .framing import FERRY_PING, features_text
from .model import Message, Packet, RamPart
from .reader import PAGE_SIZE, Reader, StreamError, Truncated

BITMAP_END = 0x0123456789abcdef
MULTIFD_MAGIC = 0x11223344
MULTIFD_SLOTS = 128
SYNC = 0x1
COMPRESSION_MASK = 0xe
COMPRESSIONS = {0: "none", 2: "zlib", 4: "zstd"}


# --- return path ---------------------------------------------------------------------------------

def shut_args(reader, args):
    args["value"] = reader.be32("value")


def pong_args(reader, args):
    args["value"] = reader.be32("value")
    if args["value"] == FERRY_PING:
        args["meaning"] = "echo of the Ferry offer"


def request_args(reader, args):
    args["start"] = reader.be64("start of a page request")
    args["length"] = reader.be32("length of a page request")


def request_id_args(reader, args):
    request_args(reader, args)
    args["block"] = reader.pstr("RAM block name")


def bitmap_args(reader, args):
    args["block"] = reader.pstr("RAM block name")


def no_args(reader, args):
    """A message without payload."""


def hello_args(reader, args):
    args["version"] = reader.be32("version")
    args["features"] = reader.be64("features")
    args["meaning"] = features_text(args["features"])
    if reader.left():
        args["program"] = reader.pstr("program version")
    # What a later version appends is not an error.
    if reader.left():
        args["more"] = reader.raw(reader.left(), "data")


def error_args(reader, args):
    args["text"] = reader.raw(reader.left(), "text").decode("utf-8", "replace")


MESSAGES = {
    1: ("SHUT", shut_args),
    2: ("PONG", pong_args),
    3: ("REQ_PAGES_ID", request_id_args),
    4: ("REQ_PAGES", request_args),
    5: ("RECV_BITMAP", bitmap_args),
    6: ("RESUME_ACK", shut_args),
    7: ("SWITCHOVER_ACK", no_args),
    0x4652: ("FERRY_HELLO", hello_args),
    0x4653: ("FERRY_READY", no_args),
    0x4654: ("FERRY_ERROR", error_args),
}


def parse_return(stream, reader):
    block = None
    while reader.left():
        start = reader.pos
        number = reader.be16("message type")
        length = reader.be16("message length")
        if number not in MESSAGES:
            raise StreamError(start, "return path message 0x%x is not known" % number)
        name, arguments = MESSAGES[number]
        where = reader.skip(length, "payload of message %s" % name)
        message = Message("message", start, reader.pos, number, name,
                          bytes(reader.data[where:where + length]))
        payload = Reader(reader.data, where, where + length)
        payload.outer = False
        arguments(payload, message.args)
        if payload.left():
            raise StreamError(payload.pos, "message %s has %d bytes too many"
                              % (name, payload.left()))
        if name == "REQ_PAGES_ID":
            block = message.args["block"]
        elif name == "REQ_PAGES":
            if block is None:
                raise StreamError(start, "a page request names no RAM block and none came before")
            message.args["block"] = block
        elif name == "RECV_BITMAP":
            recv_bitmap(reader, message)
        message.end = reader.pos
        stream.messages.append(message)
        stream.records.append(message)


def recv_bitmap(reader, message):
    """The bitmap follows outside the message's length: size, bits, end mark."""
    size = reader.be64("bitmap size")
    if size % 8:
        raise StreamError(reader.pos - 8, "a received-pages bitmap of %d bytes is not a multiple "
                          "of 8" % size)
    bits = reader.raw(size, "received-pages bitmap")
    message.args["bytes"] = size
    message.args["received"] = int.from_bytes(bits, "little").bit_count()
    message.args["bitmap"] = bits
    where = reader.pos
    if reader.be64("end of the bitmap") != BITMAP_END:
        raise StreamError(where, "the received-pages bitmap of '%s' lacks its end mark"
                          % message.args["block"])


# --- multifd -------------------------------------------------------------------------------------

def parse_multifd(stream, reader):
    stream.packets.append(multifd_init(reader))
    stream.records.append(stream.packets[0])
    while reader.left():
        packet = multifd_packet(reader, stream.packets[0].channel)
        stream.packets.append(packet)
        stream.records.append(packet)


def multifd_head(reader, what):
    start = reader.pos
    magic, version = reader.be32(what), reader.be32(what)
    if magic != MULTIFD_MAGIC or version != 1:
        raise StreamError(start, "%s begins with magic 0x%08x version %d" % (what, magic, version))
    return start


def multifd_init(reader):
    start = multifd_head(reader, "multifd init packet")
    uuid = reader.raw(16, "uuid").hex()
    channel = reader.u8("channel id")
    reader.skip(39, "rest of the multifd init packet")
    return Packet("init", start, reader.pos, channel,
                  "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:])))


def multifd_packet(reader, channel):
    start = multifd_head(reader, "multifd packet")
    flags = reader.be32("multifd flags")
    reader.be32("allocated pages")
    normal = reader.be32("normal pages")
    size = reader.be32("packet size")
    number = reader.be64("packet number")
    zero = reader.be32("zero pages")
    reader.skip(28, "reserved bytes of a multifd packet")
    name = reader.raw(256, "RAM block name").split(b"\0")[0]
    offsets = [reader.be64("page offset") for _ in range(MULTIFD_SLOTS)]
    if flags & ~(SYNC | COMPRESSION_MASK) or flags & COMPRESSION_MASK not in COMPRESSIONS:
        raise StreamError(start, "multifd flags 0x%x are not known" % flags)
    if normal + zero > MULTIFD_SLOTS:
        raise StreamError(start, "a multifd packet has %d pages, at most %d fit"
                          % (normal + zero, MULTIFD_SLOTS))
    for addr in offsets[:normal + zero]:
        if addr % PAGE_SIZE:
            raise StreamError(start, "page offset 0x%x in a multifd packet is not aligned" % addr)
    packet = Packet("packet", start, 0, channel, None, flags,
                    COMPRESSIONS[flags & COMPRESSION_MASK], bool(flags & SYNC), number)
    packet.block = name.decode("ascii", "replace")
    packet.normal, packet.zero = offsets[:normal], offsets[normal:normal + zero]
    # The size is left over from an earlier packet when there are no pages with data.
    packet.size = size if normal else 0
    if packet.compression == "none" and packet.size != normal * PAGE_SIZE:
        raise StreamError(start, "a multifd packet of %d pages announces %d bytes"
                          % (normal, packet.size))
    packet.data = reader.skip(packet.size, "data of multifd packet %d" % number)
    packet.end = reader.pos
    return packet


# --- preempt -------------------------------------------------------------------------------------

def parse_preempt(stream, reader):
    """Bare page records; an EOS word ends them in 7.2, the end of the input in later versions."""
    part = ram.parse_part(stream, reader, bare=True)
    stream.records.append(RamRecords(part))
    if reader.left():
        raise StreamError(reader.pos, "%d bytes after the end of a preempt channel"
                          % reader.left())


class RamRecords:
    """The one record of a preempt channel."""
    type = "ram"

    def __init__(self, part: RamPart):
        self.start, self.end, self.part = part.start, part.end, part


# --- which of them it is -------------------------------------------------------------------------

def detect(data):
    """The kind of a byte stream by its first bytes."""
    head = bytes(data[:4])
    if not head:
        return "empty"
    if head == b"QEVM":
        return "main"
    if head == MULTIFD_MAGIC.to_bytes(4, "big"):
        return "multifd"
    if head[0] == 0x08:
        return "recovery"
    if len(head) >= 2 and int.from_bytes(head[:2], "big") in MESSAGES:
        return "return"
    if len(head) >= 4 and head[:2] == b"\0\0":
        return "preempt"
    if b"QEVM".startswith(head):
        raise Truncated(0, "the stream magic needs 4 bytes but only %d are there" % len(head))
    raise StreamError(0, "not a migration stream: it begins with %s" % head.hex(" "))
