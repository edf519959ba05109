# SPDX-License-Identifier: GPL-2.0-or-later
"""
Destinations whose virtio devices are not like the source's. Each misfit is said by migrate-check, ends
`migrate` before a byte of the guest moves, and is refused by the loading side as well, which a source
without a return path meets; what fits passes all three.
"""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "migration"))

from ferrytest import migrate, net
from ferrytest.virtio import EVENT_IDX, INDIRECT_DESC, Memory, VirtioMmio, slot
from migrationcase import MigrationCase

WHY_NOT = net.own_network()
MIB = 1 << 20
RINGS = 0x800000
MODERN = ("-global", "virtio-mmio.force-legacy=off")


def disk(**properties):
    return {"blk": properties}


def nic(back_end="user", **properties):
    return {"net": (back_end, properties)}


def ports(*devices, **properties):
    return {"serial": (properties, devices)}


def balloon(**properties):
    return {"balloon": properties}


TAP = "tap,vnet_hdr=on"
BARE = "tap,vnet_hdr=off"
FOUR = "tap,queues=4"

# Source, destination, what its driver accepts (None: there is no driver yet), what the check says
# (an obstacle unless it begins with "warning"; None: nothing), what the loading side says (None: it
# takes the guest). A row may say more of the machines.
ROWS = (
    ("alike", disk(), disk(), 0, None, None),
    ("fewer disk queues", disk(num_queues=4), disk(num_queues=2), 0,
     "num-queues=4 on the source and num-queues=2", "4 queues where this one has 2"),
    ("more disk queues", disk(num_queues=1), disk(num_queues=2), 0,
     "warning.*num-queues=1 on the source and num-queues=2", None),
    ("no discard", disk(), disk(discard="off"), 1 << 13, "'dev0' uses discard", "Features 0x2000 "),
    ("discard unused", disk(), disk(discard="off"), 0, None, None),
    ("discard unused as yet", disk(), disk(discard="off"), None,
     "warning.*'dev0' offers discard", None),
    ("no event index", disk(), disk(event_idx="off"), 1 << EVENT_IDX, "uses event_idx",
     "Features 0x20000000 "),
    ("no indirect descriptors", disk(), disk(indirect_desc="off"), 1 << INDIRECT_DESC,
     "uses indirect_desc", "Features 0x10000000 "),
    ("blocks of 4096", disk(), disk(logical_block_size=4096), 0,
     "logical_block_size=512 on the source and logical_block_size=4096", None),
    ("no buffers that merge", nic(), nic(mrg_rxbuf="off"), 1 << net.MRG_RXBUF, "uses mrg_rxbuf",
     "Features 0x8000 "),
    ("no control queue", nic(), nic(ctrl_vq="off"), 1 << net.CTRL_VQ | 1 << net.CTRL_RX,
     "uses ctrl_vq, ctrl_rx", "Features 0x60000 "),
    ("another address", nic(mac="52:54:00:00:00:01"), nic(mac="52:54:00:00:00:02"), 0,
     "warning.*mac=52:54:00:00:00:01 on the source", None),
    ("no offloads", nic(TAP), nic(BARE), 1 << net.CSUM,
     "vnet_hdr=on on the source and vnet_hdr=off", "requires vnet_hdr=on"),
    ("no headers, offloads unused", nic(TAP), nic(BARE), 0,
     "vnet_hdr=on on the source and vnet_hdr=off", "requires vnet_hdr=on"),
    ("offloads that are new", nic(BARE), nic(TAP), 0, None, None),
    ("offload off", nic(TAP), nic(TAP, guest_tso4="off"), 1 << net.GUEST_CSUM | 1 << net.GUEST_TSO4,
     "uses guest_tso4", "Features 0x82 "),
    ("fewer pairs", nic(FOUR, mq="on"), nic(TAP, mq="on"), 0, "queues=4 on the source and queues=1",
     "virtio-net"),
    ("more pairs", nic(TAP, mq="on"), nic(FOUR, mq="on"), 0, "queues=1 on the source and queues=4",
     "."),
    ("other registers", disk(), disk(), 0, "force-legacy=on on the source and force-legacy=off",
     "virtio-mmio.force-legacy", {"destination": MODERN}),
    ("other registers too", disk(), disk(), 0, "force-legacy=off on the source and force-legacy=on",
     "virtio-mmio.force-legacy|Features 0x100000000 ", {"source": MODERN}),
    ("a port less", ports("virtconsole", "virtserialport,name=a"), ports("virtconsole"), None,
     "ports=0 1 on the source and ports=0 ", "other ports"),
    ("other numbers", ports("virtserialport,nr=3,name=a"), ports("virtserialport,nr=4,name=a"), None,
     "ports=3 on the source and ports=4 ", "other ports"),
    ("other names", ports("virtserialport,name=a"), ports("virtserialport,name=b"), None,
     "warning.*names=a on the source and names=b ", None),
    ("fewer ports", ports(max_ports=8), ports(max_ports=4), None,
     "max_ports=8 on the source and max_ports=4", "18 queues where this one has 10"),
    ("no page reports", balloon(free_page_reporting="on"), balloon(), 1 << 5,
     "uses free-page-reporting", "4 queues where this one has 3"),
    ("no page reports, unused", balloon(free_page_reporting="on"), balloon(), 0,
     "has 4 queues on the source and 3", "4 queues where this one has 3"),
    ("no deflation", balloon(deflate_on_oom="on"), balloon(), 1 << 2, "uses deflate-on-oom",
     "Features 0x4 "),
)


def words(properties):
    names = {"num_queues": "num-queues", "free_page_reporting": "free-page-reporting",
             "deflate_on_oom": "deflate-on-oom"}
    return "".join(f",{names.get(k, k)}={v}" for k, v in properties.items())


@unittest.skipIf(WHY_NOT, WHY_NOT)
class Misfits(MigrationCase):
    taps = 0

    def arguments(self, device):
        (kind, what), = device.items()
        if kind == "blk":
            path = self.path("disk.img")
            with open(path, "ab") as f:
                f.truncate(MIB)
            return ["-drive", f"file={path},format=raw,if=none,id=d0,cache=none,file.locking=off",
                    "-device", "virtio-blk-device,drive=d0,id=dev0" + words(what)]
        if kind == "net":
            back_end, properties = what
            if back_end.startswith("tap"):
                Misfits.taps += 1
                back_end += f",ifname=mis{self.taps},script=no,downscript=no"
            return ["-netdev", back_end + ",id=n0", "-device",
                    "virtio-net-device,netdev=n0,id=dev0" + words(properties)]
        if kind == "serial":
            properties, devices = what
            argv = ["-device", "virtio-serial-device,id=dev0" + words(properties)]
            for d in devices:
                argv += ["-device", d]
            return argv
        return ["-device", "virtio-balloon-device,id=dev0" + words(what)]

    def machine(self, device, more, **options):
        return self.vm(*self.arguments(device), *more, guest=None, smp=1, qtest=True, **options)

    def await_guest(self, return_path):
        uri = self.link()
        migrate.set_capabilities(self.src, self.dst, return_path=return_path)
        self.dst.cmd("migrate-incoming", uri=uri)
        return uri

    def check(self, uri, says):
        found = self.src.cmd("migrate-check", uri=uri, peer="ferry")
        said = [f"{f['severity']} {f['subject']} {f['reason']}" for f in found["findings"]
                if f["kind"] in ("device", "disk")]
        if says is None:
            self.assertEqual(said, [])
            return
        self.assertEqual(len(said), 1, said)
        severity = "warning" if says.startswith("warning") else "obstacle"
        self.assertRegex(said[0], f"^{severity} dev0 .*" + says.removeprefix("warning"))

    def refused_by_check(self, uri, says):
        """The destination waits on as if nothing had been, and so does the guest here."""
        migrate.start(self.src, uri)
        self.assertRegex(migrate.wait_status(self.src, "failed")["error-desc"], says)
        self.assertEqual((self.src.status(), self.dst.status()), ("running", "inmigrate"))

    def load(self, refusal, there, more):
        """With nothing but the stream."""
        self.dst.quit()
        self.dst = self.machine(there, more, incoming="defer", name="destination")
        migrate.start(self.src, self.await_guest(False))
        if refusal is None:
            migrate.finish(self.src, self.dst)
            self.dst.quit()
        else:
            self.dst.wait(1)
            self.assertRegex(self.dst.stderr(), "load of migration failed: .*(?:" + refusal + ")")
            self.assertEqual(self.dst.stderr().count("\n"), 1)
            migrate.wait_status(self.src, "completed", "failed")
        self.src.quit()

    def test_all(self):
        for label, here, there, accepts, says, refusal, *rest in ROWS:
            more = rest[0] if rest else {}
            with self.subTest(label):
                self.src = self.machine(here, more.get("source", ()), name="source")
                self.dst = self.machine(there, more.get("destination", ()), incoming="defer",
                                        name="destination")
                if accepts is not None:
                    driver = VirtioMmio(self.src.qtest, slot(0), "source" not in more, Memory(RINGS))
                    driver.start(accepts)
                    driver.driver_ok()
                uri = self.await_guest(True)
                self.check(uri, says)
                if says and not says.startswith("warning"):
                    self.refused_by_check(uri, says)
                self.load(refusal, there, more.get("destination", ()))


if __name__ == "__main__":
    unittest.main()
