# SPDX-License-Identifier: GPL-2.0-or-later
"""
A virtio-net driver in the test, over qtest (see virtio.py), and taps that the test makes in a
network of its own.

    own_network()                            # once per test program; False: not allowed here
    tap = Tap("t0")                          # what the kernel has on the other side of -netdev tap
    nic = Nic(vm.qtest, slot(0), legacy=False, features=1 << MRG_RXBUF)
    nic.send(arp_request(...)); frame = nic.receive()
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time

from .deadline import Timeout, scaled
from .virtio import EVENT_IDX, NO_NOTIFY, VERSION_1, Memory, VirtioMmio, slot

(CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, MTU, MAC, GSO, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO,
 HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO, MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN,
 CTRL_RX_EXTRA, GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR) = (0, 1, 2, 3, *range(5, 24))

OK, ERR = 0, 1
MAC0 = bytes.fromhex("525400123456")
BROADCAST = b"\xff" * 6


def ip(text):
    return socket.inet_aton(text)


def frame(dst, src, ethertype, payload=b""):
    return dst + src + struct.pack(">H", ethertype) + payload


def arp_request(target, source="10.0.2.15", mac=MAC0):
    return frame(BROADCAST, mac, 0x0806, struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
                 + mac + ip(source) + bytes(6) + ip(target))


def checksum(data):
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source, target, protocol, payload):
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    head += ip(source) + ip(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def tcp(source, target, sport, dport, seq, ack, flags, payload=b"", window=65535):
    head = struct.pack(">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags,
                       window, 0, 0)
    pseudo = ip(source) + ip(target) + struct.pack(">BBH", 0, 6, len(head) + len(payload))
    summed = checksum(pseudo + head + payload)
    return ipv4(source, target, 6, head[:16] + struct.pack(">H", summed) + head[18:] + payload)


class Nic(VirtioMmio):
    """
    Set up and running. pairs: of queues; the control queue is there where CTRL_VQ is among the
    features. buffers: how many receive buffers each receive queue is given, of `size` bytes.
    """

    def __init__(self, qtest, base=None, legacy=True, features=0, pairs=1, buffers=8, size=2048,
                 max_pairs=None, queue_size=16, memory=None, begin=True, polite=True):
        super().__init__(qtest, slot(0) if base is None else base, legacy, memory)
        self.features = features
        self.polite = polite
        self.told = {}  # per queue: the index when the device was last told
        self.hdr_len = 12 if not legacy or features >> MRG_RXBUF & 1 else 10
        if not begin:
            return
        self.start(features)
        self.rx, self.tx = [], []
        for i in range(pairs):
            self.rx.append(self.add_queue(2 * i, queue_size))
            self.tx.append(self.add_queue(2 * i + 1, queue_size))
        self.ctrl = None
        if features >> CTRL_VQ & 1:
            index = 2 * (max_pairs or pairs) if features >> MQ & 1 else 2
            self.ctrl = self.add_queue(index, 8)
        self.driver_ok()
        self.posted = {}
        for i in range(pairs):
            for _ in range(buffers):
                self.post(size, i)
        self.scratch = self.memory.take(70000)
        self.ack = self.memory.take(16)

    def post(self, size, pair=0, at=None):
        """Gives a receive buffer: its size or a list of sizes of pieces."""
        sizes = [size] if isinstance(size, int) else size
        pieces = [(self.memory.take(n) if at is None else at, n, True) for n in sizes]
        head = self.rx[pair].add(pieces)
        self.posted[pair, head] = pieces
        self.kick(self.rx[pair])
        return head

    def kick(self, queue):
        """Tells the device of what was added, as a driver does: if it wants to hear of it."""
        if self.features >> EVENT_IDX & 1:
            event, old = queue.avail_event(), self.told.get(queue.number, 0)
            wanted = (queue.index - event - 1) & 0xFFFF < (queue.index - old) & 0xFFFF
            self.told[queue.number] = queue.index
        else:
            wanted = not queue.used_flags() & NO_NOTIFY
        if wanted or not self.polite:
            queue.kick()

    def take_buffer(self, used, pair=0, repost=True):
        """The bytes of a used receive buffer, which is given again."""
        head, written = used
        pieces = self.posted.pop((pair, head))
        data = b"".join(self.qtest.read(a, n) for a, n, _ in pieces)[:written]
        if repost:
            head = self.rx[pair].add(pieces)
            self.posted[pair, head] = pieces
            self.kick(self.rx[pair])
        return data

    def receive_raw(self, pair=0, timeout=None, repost=True):
        """Header and frame of the next that arrives."""
        data = self.take_buffer(self.rx[pair].wait(timeout), pair, repost)
        if self.features >> MRG_RXBUF & 1:
            for _ in range(struct.unpack("<H", data[10:12])[0] - 1):
                data += self.take_buffer(self.rx[pair].wait(timeout), pair, repost)
        return data

    def receive(self, pair=0, timeout=None, repost=True):
        return self.receive_raw(pair, timeout, repost)[self.hdr_len:]

    def receive_where(self, test, pair=0, timeout=None):
        """The next frame that the test takes; others are passed over."""
        end = time.monotonic() + scaled(timeout)
        while time.monotonic() < end:
            data = self.receive(pair, timeout)
            if test(data):
                return data
        raise Timeout("No such frame came in time")

    def nothing_comes(self, seconds=0.2, pair=0):
        time.sleep(seconds)
        return self.rx[pair].used_index() == self.rx[pair].last_used

    def send_raw(self, data, pair=0, pieces=None, wait=True, indirect=False):
        """Sends header and frame, in pieces of these sizes (the last takes the rest)."""
        at, buffers = self.scratch, []
        self.qtest.write(at, data)
        for size in [*(pieces or []), None]:
            left = len(data) - (at - self.scratch)
            size = left if size is None else size
            if size:
                buffers.append((at, size, False))
            at += size
        self.tx[pair].add(buffers, indirect)
        self.kick(self.tx[pair])
        return self.tx[pair].wait() if wait else None

    def send(self, data, pair=0, header=None, **how):
        return self.send_raw((header or b"").ljust(self.hdr_len, b"\0") + data, pair, **how)

    def control(self, kind, command, data=b""):
        self.qtest.write(self.scratch, bytes([kind, command]) + data)
        self.qtest.writeb(self.ack, 0xAA)
        self.ctrl.add([(self.scratch, 2 + len(data), False), (self.ack, 1, True)])
        self.kick(self.ctrl)
        self.ctrl.wait()
        return self.qtest.readb(self.ack)

    def config(self, offset, size):
        return self.qtest.read(self.base + 0x100 + offset, size) if size > 4 else int.from_bytes(
            bytes(self.qtest.readb(self.base + 0x100 + offset + i) for i in range(size)), "little")

    def mac(self):
        return bytes(self.qtest.readb(self.base + 0x100 + i) for i in range(6))

    def link_status(self):
        return self.config(6, 2)


# ---- networks of the host ----

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA


def own_network():
    """
    Puts this process, and what it starts, into an empty network of its own. Returns why not, or
    None.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        return f"no network of its own: {os.strerror(ctypes.get_errno())}"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"no taps: {error.strerror}"
    set_up("lo")
    return None


def _ifreq(name, flags=0):
    return struct.pack("16sH22x", name.encode(), flags)


def set_up(name, up=True):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        flags = struct.unpack("16sH22x", fcntl.ioctl(s, 0x8913, _ifreq(name)))[1]
        fcntl.ioctl(s, 0x8914, _ifreq(name, flags | 1 if up else flags & ~1))


def exists(name):
    return name in [n for _, n in socket.if_nameindex()]


def delete(name):
    subprocess.run(["ip", "link", "delete", name], check=True)


class Wire:
    """The host's side of a tap that exists: frames of the guest come out here."""

    def __init__(self, name, up=True):
        self.name = name
        if up:
            with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w",
                      encoding="ascii") as f:
                f.write("1")  # the kernel says nothing of its own there
            set_up(name)
        # without a protocol until it is bound: it would hear all interfaces so long
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((name, 3))
        # when the kernel saw a frame, by the clock of CLOCK_REALTIME
        self.socket.setsockopt(socket.SOL_SOCKET, 35, 1)

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.send(data)

    def receive(self, timeout=None):
        """The next frame that came from the guest."""
        return self.receive_at(timeout)[0]

    def receive_at(self, timeout=None):
        """The same, and when, in seconds since 1970."""
        end = time.monotonic() + scaled(timeout)
        while True:
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                data, ancillary, _, address = self.socket.recvmsg(70000, 100)
            except TimeoutError as error:
                raise Timeout(f"{self.name}: no frame in time") from error
            if address[2] == 4:  # our own, on its way out
                continue
            seconds = time.time()
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == 35:
                    sec, nsec = struct.unpack("qq", value)
                    seconds = sec + nsec / 1e9
            return data, seconds

    def nothing_comes(self, seconds=0.2):
        try:
            self.receive(seconds)
        except (Timeout, OSError):  # or the interface has gone
            return True
        return False


def multi_queue_fds(name, queues, vnet_hdr=True):
    """Descriptors of a multi-queue tap."""
    fds = []
    for _ in range(queues):
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, _ifreq(name, 0x0002 | 0x1000 | 0x0100
                                          | (0x4000 if vnet_hdr else 0)))
        fds.append(fd)
    return fds


__all__ = [n for n in dir() if not n.startswith("_")] + ["VERSION_1"]
