# SPDX-License-Identifier: GPL-2.0-or-later
"""
Every captured stream of QEMU (tests/stream/fixtures) into a Ferry with the machine options that the
stream tells. What Ferry does not have is refused by name.
"""

import os
import re
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "stream"))

import streamfixtures  # noqa: E402
from ferrytest import migrate, wait_for  # noqa: E402
from ferrytest.machine import Dead  # noqa: E402
from ferrytest.qmp import QmpClosed  # noqa: E402
from interopcase import FERRY, INSTALLED, InteropCase  # noqa: E402
from streamfixtures import streamdecode  # noqa: E402

# Machine options with the section that is there when they are on.
OPTIONS = {"pit": "i8254", "pic": "i8259", "rtc": "mc146818rtc", "isa-serial": "serial",
           "acpi": "acpi-ged"}
# Virtio sections with the options that the captures had for them.
VIRTIO = {
    "virtio-blk": ("-drive", "id=d0,file=DISK,format=raw,if=none", "-device",
                   "virtio-blk-device,drive=d0"),
    "virtio-net": ("-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0"),
    "virtio-console": ("-device", "virtio-serial-device", "-chardev", "null,id=c0", "-device",
                       "virtconsole,chardev=c0"),
    "virtio-rng": ("-device", "virtio-rng-device"),
    "virtio-balloon": ("-device", "virtio-balloon-device"),
}
UNKNOWN_DEVICE = "Unknown savevm section or instance '(block|0000:00:00.0/gpex_root)' 0"
POSTCOPY = "The source may switch to post-copy, which is not enabled here|Post-copy of dirty bitmaps"
MISSING = "ends before all of the memory has come: [0-9]+ pages of 'microvm.ram' are missing"
# Fixtures that a Ferry does not take, and its reason. What is not here is taken.
REFUSED = (
    ("blockmig|pcie", UNKNOWN_DEVICE),
    ("live-dbm|postcopy|preempt|pcrec", POSTCOPY),
    # their pages came over other connections
    ("live-multifd|ref-multifd", MISSING),
    ("q10-multifd", "Unknown combination of migration flags: 0x200"),
    ("compress", "an unexpected compressed page"),
    ("mapped-ram", "uses capability 'mapped-ram', which this side does not have"),
    # of a CPU that has everything
    ("subsections", "unknown subsection 'cpu/msr_hyperv_hypercall' in 'cpu'"),
)
PONG_1 = bytes.fromhex("0002000400000001")
SHUT_0 = bytes.fromhex("0001000400000000")


class Fixtures(InteropCase):
    def devices(self, stream):
        """-device and back ends for the virtio devices of a stream, in the order of their slots."""
        sections = [d for d in stream.devices() if "/virtio-" in d.name]
        if not sections:
            return []
        disk = self.path("disk.img")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        modern = b"virtio_mmio/state" in bytes(stream.data)
        extra = ["-global", f"virtio-mmio.force-legacy={'off' if modern else 'on'}"]
        for section in sections:
            extra += [disk if a == "DISK" else a.replace("DISK", disk)
                      for a in VIRTIO[section.name.split("/")[1]]]
        return extra

    def options(self, stream):
        names = {d.name for d in stream.devices()}
        main = max(stream.ram.blocks.values(), key=lambda b: (b.name in ("microvm.ram", "ram0")))
        return {"machine": ",".join(f"{o}={'on' if s in names else 'off'}"
                                    for o, s in OPTIONS.items()),
                "memory": main.length >> 20, "ram": "shm" if main.name == "ram0" else None,
                "smp": sum(n == "cpu" or n.startswith("cpu#") for n in names), "guest": None}

    def load(self, name):
        """(run state or what the refusal says, what was said on the return path)"""
        data = streamfixtures.data(name)
        stream = streamdecode.parse(data, partial=True)
        uri = self.link()
        # without the file that it was in, the guest has no memory to run in
        shared = "x-ignore-shared" in (stream.configuration.capabilities or [])
        vm = self.machine(FERRY, *self.devices(stream), incoming="defer", paused=shared,
                          **self.options(stream))
        migrate.set_capabilities(vm, x_ignore_shared=shared)
        vm.cmd("migrate-incoming", uri=uri)
        said = self.send(uri[5:], data)
        try:
            wait_for("incoming migration", lambda: self.arrived(vm))
            return vm.status(), said
        except (Dead, QmpClosed, ConnectionError):
            vm.wait(1)
            return vm.stderr(), said
        finally:
            if vm.alive():
                vm.kill()

    @staticmethod
    def send(path, data):
        """Sends it all, and returns what comes back."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(migrate.scaled(20))
        sock.connect(path)
        said = b""
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(4096):
                said += more
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has seen enough
        sock.close()
        return said

    @staticmethod
    def arrived(vm):
        vm.check_alive()
        return migrate.status(vm) == "completed"

    def test_each(self):
        for name, _ in streamfixtures.fixtures():
            stream = streamdecode.parse(streamfixtures.data(name), partial=True)
            if stream.kind != "main":
                continue  # another connection of a migration
            with self.subTest(name):
                outcome, said = self.load(name)
                wanted = next((says for part, says in REFUSED if re.search(part, name)), None)
                if wanted:
                    self.assertRegex(outcome, wanted)
                    self.assertNotIn("\n", outcome.strip())
                    continue
                self.assertEqual(outcome, "paused" if "ignore-shared" in name
                                 else self.runstate(stream))
                # as QEMU has answered, but for what only post-copy or switchover-ack ask for
                self.assertEqual(said, PONG_1 + SHUT_0 if b"\x08\0\1\0\0" in
                                 bytes(stream.data[:64]) else b"")

    @staticmethod
    def runstate(stream):
        raw = stream.field("globalstate", "runstate")
        return bytes(raw).split(b"\0")[0].decode()


class Description(InteropCase):
    def test_as_qemu(self):
        """What a stream says about its devices, field by field, is what QEMU's says."""
        self.compare()

    def test_virtio_as_qemu(self):
        """With the sizes of sections that have no fields."""
        disk = self.path("disk.img")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        devices = [a.replace("DISK", disk) for option in VIRTIO.values() for a in option]
        for legacy in ("on", "off"):
            self.compare(*devices, "-global", f"virtio-mmio.force-legacy={legacy}")

    def compare(self, *extra):
        described = {}
        for who in (FERRY, INSTALLED):
            path = self.path(f"stream-{who}")
            vm = self.machine(who, *extra, guest=None, paused=True)
            vm.cmd("migrate", uri=f"exec:cat >{path}")
            migrate.wait_status(vm, "completed")
            with open(path, "rb") as f:
                stream = streamdecode.parse(f.read())
            # QEMU describes slirp without a name and a version of its table
            described[who] = [(d["name"], d["instance_id"], list(self.rows(d)),
                               *((d["vmsd_name"], d["version"]) if d["name"] != "slirp" else ()))
                              for d in stream.description["devices"]]
            vm.quit()
        self.assertEqual(described[FERRY], described[INSTALLED])

    def rows(self, device):
        for field in device.get("fields", ()):
            if field["type"] == "tmp":
                # a wrapper of QEMU's that has no place on the wire
                yield from self.rows(field)
                continue
            yield {k: v for k, v in field.items() if k != "struct"}
            if "struct" in field:
                yield field["struct"]["vmsd_name"], field["struct"]["version"]
                yield from self.rows(field["struct"])
        for sub in device.get("subsections", ()):
            yield sub["vmsd_name"], sub["version"]
            yield from self.rows(sub)
