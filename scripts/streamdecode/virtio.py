# SPDX-License-Identifier: GPL-2.0-or-later
"""The field of type `virtio`: the whole state of one virtio device, opaque in the description.

Order on the wire: transport part (mmio or PCI), common part, queues, device part, subsections.
Which parts exist depends on the section's name (transport, device type) and on values read along
the way; nothing outside the stream is needed.  What a request in flight looks like is not known,
so a device with one is kept as bytes when a description gives its length, else refused.
"""

from .layout import Field, SubsectionSeen, leaf_value
from .reader import Reader, StreamError

QUEUES = 1024
NET_CTRL_GUEST_OFFLOADS = 1 << 2
PCI_CAP_MSIX = 0x11

# Rows of the repeated entries: (name, type, size)
VRING = [("avail", "uint64", 8), ("used", "uint64", 8)]
MMIO_QUEUE = [("num", "uint16", 2), ("enabled", "uint8", 1), ("desc", "lo,hi", 8),
              ("avail", "lo,hi", 8), ("used", "lo,hi", 8)]
PCI_QUEUE = [("num", "uint16", 2), ("unused", "uint8", 1)] + MMIO_QUEUE[1:]


class Walk:
    """A reader that records each value it takes as a field below `path`."""

    def __init__(self, reader, path, out):
        self.reader = reader
        self.path = path
        self.out = out
        self.prefix = ""

    def take(self, name, kind, size):
        path = "%s.%s%s" % (self.path, self.prefix, name)
        start = self.reader.pos
        raw = self.reader.raw(size, "field '%s'" % path)
        if kind == "lo,hi":
            # A 64-bit address as two words, the low one first.
            value = int.from_bytes(raw[4:8] + raw[0:4], "big")
        else:
            value = leaf_value(kind, raw)
        self.out.fields.append(Field(path, kind, start, size, value))
        return value

    def u8(self, name):
        return self.take(name, "uint8", 1)

    def u16(self, name):
        return self.take(name, "uint16", 2)

    def u32(self, name):
        return self.take(name, "uint32", 4)

    def u64(self, name):
        return self.take(name, "uint64", 8)

    def array(self, name, count, entry):
        """`count` entries; the zero ones at the end become one field, as most queues are unused."""
        size = sum(part[2] for part in entry)
        self.reader.need(count * size, "array '%s'" % name)
        data, start = self.reader.data, self.reader.pos
        used = count
        while used and not any(data[start + (used - 1) * size:start + used * size]):
            used -= 1
        for index in range(used):
            for part, kind, width in entry:
                self.take("%s[%d].%s" % (name, index, part), kind, width)
        if used < count:
            self.take("%s[%d..%d]" % (name, used, count - 1), "zeros", (count - used) * size)


def handler(idstr):
    """The decoder for the `virtio` field of section `idstr`, as layout.decode() wants it."""
    device = idstr.rpartition("/")[2]
    mmio = idstr.startswith("virtio-mmio@")

    def decode_field(reader, row, path, out):
        if row.size == 0:
            decode(reader, path, out, device, mmio)
            return
        reader.need(row.size, "field '%s'" % path)
        start, marks = reader.pos, (len(out.fields), len(out.subsections))
        bounded = Reader(reader.data, start, start + row.size)
        try:
            decode(bounded, path, out, device, mmio)
            if bounded.left():
                raise StreamError(bounded.pos, "%d bytes of '%s' are left over"
                                  % (bounded.left(), path))
            reader.pos = bounded.pos
        except StreamError as err:
            del out.fields[marks[0]:]
            del out.subsections[marks[1]:]
            out.notes.append((err.offset, "virtio state kept as bytes: %s" % err.reason))
            raw = reader.raw(row.size, "field '%s'" % path)
            out.fields.append(Field(path, row.type, start, row.size, raw))

    return decode_field


def decode(reader, path, out, device, mmio):
    walk = Walk(reader, path, out)
    if mmio:
        for name in ("host_features_sel", "guest_features_sel", "guest_page_shift"):
            walk.u32(name)
        msix = False
    else:
        msix = decode_pci(walk)
    walk.u8("status")
    walk.u8("isr")
    walk.u16("queue_sel")
    features = walk.u32("guest_features")
    length = walk.u32("config_len")
    if length:
        walk.take("config", "buffer", length)
    count = walk.u32("queues")
    if count > QUEUES:
        raise StreamError(reader.pos - 4, "a virtio device has %d queues, the limit is %d"
                          % (count, QUEUES))
    for index in range(count):
        walk.prefix = "queue[%d]." % index
        walk.u32("num")
        if mmio:
            walk.u32("align")
        walk.u64("desc")
        walk.u16("last_avail_idx")
        if msix:
            walk.u16("vector")
        walk.prefix = ""
    if device not in DEVICES:
        raise StreamError(reader.pos, "virtio device type '%s' is not known" % device)
    DEVICES[device](walk, features)
    decode_subsections(walk, SUBSECTIONS)


def decode_pci(walk):
    """The PCI transport; True when MSI-X is there.

    A conventional function carries 256 bytes of config space, an express one 4096: the express
    capability in the space itself tells which.
    """
    walk.u32("pci.version")
    data, start = walk.reader.data, walk.reader.pos
    walk.reader.need(256, "PCI config space")
    config = bytes(data[start:start + 256])
    caps = pci_capabilities(config)
    walk.take("pci.config", "pci config", 4096 if 0x10 in caps else 256)
    walk.take("pci.irq_state", "pci irq state", 16)
    if PCI_CAP_MSIX not in caps or caps[PCI_CAP_MSIX] > 252:
        return False
    where = caps[PCI_CAP_MSIX]
    vectors = (int.from_bytes(config[where + 2:where + 4], "little") & 0x7ff) + 1
    for index in range(vectors):
        walk.take("msix[%d]" % index, "buffer", 16)
    walk.take("msix_pending", "buffer", (vectors + 7) // 8)
    walk.u16("config_vector")
    return True


def pci_capabilities(config):
    """Capability id -> offset of its first instance, from the chain in a config space."""
    found, seen, where = {}, set(), config[0x34] & 0xfc
    while where >= 0x40 and where not in seen:
        seen.add(where)
        found.setdefault(config[where], where)
        where = config[where + 1] & 0xfc
    return found


# --- device parts ------------------------------------------------------------------------------

def no_part(walk, features):
    """Nothing of its own on the wire."""


def blk_part(walk, features):
    if walk.u8("request_follows"):
        raise StreamError(walk.reader.pos, "the layout of a block request in flight is not known")


def balloon_part(walk, features):
    walk.u32("num_pages")
    walk.u32("actual")
    decode_subsections(walk, {"virtio-balloon-device/page-poison": [("poison_val", "uint32", 4)]})


def net_part(walk, features):
    walk.take("mac", "buffer", 6)
    walk.u32("tx_waiting")
    walk.u32("mergeable_rx_bufs")
    walk.u16("net_status")
    walk.u8("promisc")
    walk.u8("allmulti")
    in_use = walk.u32("mac_table.in_use")
    walk.reader.need(in_use * 6, "the MAC filter table")
    if in_use:
        walk.take("mac_table.macs", "buffer", in_use * 6)
    walk.take("vlans", "buffer", 512)
    walk.u32("has_vnet_hdr")
    for name in ("multi_overflow", "uni_overflow", "alluni", "nomulti", "nouni", "nobcast",
                 "has_ufo"):
        walk.u8(name)
    if features & NET_CTRL_GUEST_OFFLOADS:
        walk.u64("curr_guest_offloads")


def console_part(walk, features):
    walk.u16("cols")
    walk.u16("rows")
    ports = walk.u32("max_nr_ports")
    if ports > 512:
        raise StreamError(walk.reader.pos - 4, "a virtio console has %d ports" % ports)
    for index in range((ports + 31) // 32):
        walk.u32("ports_map[%d]" % index)
    active = walk.u32("active_ports")
    if active > ports:
        raise StreamError(walk.reader.pos - 4, "%d of %d console ports are active"
                          % (active, ports))
    for index in range(active):
        walk.prefix = "port[%d]." % index
        walk.u32("id")
        walk.u8("guest_connected")
        walk.u8("host_connected")
        if walk.u32("elem_popped"):
            raise StreamError(walk.reader.pos,
                              "the layout of a console buffer in flight is not known")
        walk.prefix = ""


DEVICES = {
    "virtio-blk": blk_part,
    "virtio-net": net_part,
    "virtio-console": console_part,
    "virtio-rng": no_part,
    "virtio-balloon": balloon_part,
}

# Name -> rows (name, type, size) and arrays (name, count, entry), or a dict of what nests inside.
MMIO_STATE = [("guest_features", "lo,hi", 8), ("vqs", QUEUES, MMIO_QUEUE)]
PCI_STATE = [("dfselect", "uint32", 4), ("gfselect", "uint32", 4),
             ("guest_features", "lo,hi", 8), ("vqs", QUEUES, PCI_QUEUE)]
SUBSECTIONS = {
    "virtio/64bit_features": [("guest_features", "uint64", 8)],
    "virtio/virtqueues": [("vring", QUEUES, VRING)],
    "virtio/ringsize": [("vring", QUEUES, [("num_default", "uint32", 4)])],
    "virtio/broken": [("broken", "uint8", 1)],
    "virtio/extra_state": {"virtio_mmio/state": MMIO_STATE, "virtio_pci/modern_state": PCI_STATE},
    "virtio/disabled": [("disabled", "uint8", 1)],
    "virtio/started": [("started", "uint8", 1)],
}


def decode_subsections(walk, known):
    """Take the subsections of `known` that stand here, in any order."""
    reader = walk.reader
    while True:
        head = reader.peek(2)
        if len(head) < 2 or head[0] != 5:
            return
        name = reader.peek(2 + head[1])[2:].decode("latin-1")
        if name not in known:
            return
        start = reader.pos
        reader.skip(2 + head[1], "subsection name")
        version = reader.be32("subsection version")
        if version != 1:
            raise StreamError(start, "subsection '%s' has version %d, version 1 is known"
                              % (name, version))
        outer, walk.prefix = walk.prefix, walk.prefix + name + ":"
        content = known[name]
        if isinstance(content, dict):
            decode_subsections(walk, content)
        else:
            for row in content:
                if isinstance(row[1], int):
                    walk.array(*row)
                else:
                    walk.take(*row)
        path = "%s.%s%s" % (walk.path, outer, name)
        walk.prefix = outer
        walk.out.subsections.append(SubsectionSeen(path, name, version, start, reader.pos))
