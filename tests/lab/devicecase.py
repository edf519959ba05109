# SPDX-License-Identifier: GPL-2.0-or-later
"""
Cases whose guests have virtio devices: what the devices need in the outer machine, and what a guest
that works with all of them must have done before and after a move.

In the outer machine /disk is an ext4 of its own (on a RAM disk, so that images can be opened with
cache=none) and br0 a bridge, 192.168.77.1, to which each machine's tap is added; a program serves
the guests' downloads. In the guest `virtio up` and `virtio work` are what happens
(guest/virtio.sh).
"""

import itertools
import re
import select
import signal
import time

from ferrytest.deadline import Timeout, scaled
from labcase import LabCase
from labmachine import LIFETIME, fields

PORT = 7700
CHUNK, INTERVAL_MS = 4096, 100  # of the downloads
MEMORY = 160  # MiB
LINES = 20    # a second each, in the guest

HOST = """
[ -e /disk/lost+found ] && exit 0
for module in $(cat /lab/modules-later); do
    options=; [ $module = brd ] && options="rd_nr=1 rd_size=393216"
    insmod /lab/ko/$module.ko $options || exit 1
done
/lab/bin/mke2fs -q -t ext4 /dev/ram0 && mkdir -p /disk && mount -t ext4 /dev/ram0 /disk || exit 1
brctl addbr br0 && echo 0 >/sys/class/net/br0/bridge/forward_delay || exit 1
ip addr add 192.168.77.1/24 dev br0 && ip link set br0 up
"""

_taps = itertools.count(1)


class Disk:
    def __init__(self, path, serial="data", readonly=False, options="cache=none"):
        self.path, self.serial, self.readonly, self.options = path, serial, readonly, options

    def at(self, path):
        """The same disk by another path."""
        return Disk(path, self.serial, self.readonly, self.options)

    def arguments(self):
        drive = [f"id={self.serial}", f"file={self.path}", "format=raw", "if=none", self.options]
        if self.readonly:
            drive.append("readonly=on")
        return ["-drive", ",".join(filter(None, drive)),
                "-device", f"virtio-blk-device,drive={self.serial},serial={self.serial}"]


class Devices:
    """
    Of one guest, on whatever host it is; the order is the guest's and both sides' alike. `queues` are
    the tap's pairs; `balloon` may be more options of that device.
    """

    def __init__(self, *disks, legacy=False, user=True, tap=True, console=True, rng=True,
                 balloon=True, queues=1):
        self.disks, self.legacy, self.queues = disks, legacy, queues
        self.user, self.tap, self.console, self.rng, self.balloon = user, tap, console, rng, balloon

    def arguments(self, machine, base):
        """A VMM's arguments; `base` is where its sockets are."""
        argv = ["-global", f"virtio-mmio.force-legacy={'on' if self.legacy else 'off'}"]
        for disk in self.disks:
            argv += disk.arguments()
        if self.user:
            argv += ["-netdev", "user,id=user",
                     "-device", "virtio-net-device,netdev=user,mac=52:54:00:00:00:01"]
        if self.tap:
            machine.tap = f"lab{next(_taps)}"
            queues, mq = (f",queues={self.queues}", ",mq=on") if self.queues > 1 else ("", "")
            argv += ["-netdev", f"tap,id=tap,ifname={machine.tap},script=no,downscript=no{queues}",
                     "-device", f"virtio-net-device,netdev=tap,mac=52:54:00:00:00:02{mq}"]
        if self.console:
            argv += ["-device", "virtio-serial-device"]
            for name, device in (("hvc0", "virtconsole"), ("echo", "virtserialport,name=echo")):
                argv += ["-chardev", f"socket,id={name},path={base}.{name},server=on,wait=off",
                         "-device", f"{device},chardev={name}"]
        if self.rng:
            argv += ["-device", "virtio-rng-device"]
        if self.balloon:
            more = f",{self.balloon}" if isinstance(self.balloon, str) else ""
            argv += ["-device", f"virtio-balloon-device{more}"]
        return argv

    def started(self, machine):
        """Once the process is there."""
        if self.tap:
            machine.link.run(f"brctl addif br0 {machine.tap} && ip link set {machine.tap} up")

    def taps(self):
        """Names of the downloads over the tap."""
        return ["tap", *(f"tap{i}" for i in range(1, self.queues))] if self.tap else []

    def said(self):
        """What `virtio up` says of them."""
        nets = ["user"] * self.user + ["tap"] * self.tap
        return {"disks": {d.serial for d in self.disks}, "nets": set(nets),
                "ports": {"echo"} if self.console else set(),
                "console": {"hvc0"} if self.console else set(),
                "rng": {"virtio_rng.0"} if self.rng else set()}


class Port:
    """This side of a port of the guest."""

    def __init__(self, machine, name):
        self.name = f"{name} of {machine.name}"
        self.sock = machine.link.connect(f"{machine.base}.{name}")
        self.buffer = b""

    def ask(self, text, timeout=None):
        """A line in; the line that comes back."""
        self.sock.sendall(text.encode() + b"\n")
        return self.line(timeout)

    def line(self, timeout=None):
        end = time.monotonic() + scaled(timeout)
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise Timeout(f"Nothing came back over {self.name}; so far {self.buffer!r}")
            if select.select([self.sock], [], [], min(left, 0.5))[0]:
                data = self.sock.recv(4096)
                if not data:
                    raise Timeout(f"{self.name} was closed; so far {self.buffer!r}")
                self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode().strip()

    def close(self):
        self.sock.close()


class DeviceCase(LabCase):
    def setUp(self):
        super().setUp()
        self.sh(HOST, 60)
        self.server = self.outer.link.spawn(
            ["/lab/bin/streamer", str(PORT), str(CHUNK), str(INTERVAL_MS)], LIFETIME)
        self.addCleanup(self._end_server)
        self.server.wait_for("its first line", lambda: b"STREAMER" in self.server.out, 20)
        self.images = []
        self.addCleanup(self._remove_images)

    def _end_server(self):
        if self.outer.alive:
            self.server.signal(signal.SIGKILL)
            self.server.wait_end()

    def _remove_images(self):
        if self.outer.alive:
            self.sh(["rm", "-f", *self.images], check=False)

    # ---- disks ----

    def image(self, name="data", size="48M", tree=None):
        """A new image with an ext4, made out here, with what is in the folder `tree`; its path."""
        path = f"/disk/{name}-{len(self.images)}.img"
        self.sh(f"rm -f {path}; truncate -s {size} {path} && "
                f"/lab/bin/mke2fs -q -F -t ext4 {f'-d {tree}' if tree else ''} {path}", 60)
        self.images.append(path)
        return path

    def fsck(self, path):
        """Nothing is wrong with the file system in an image."""
        said = self.sh(f"/lab/bin/e2fsck -fn {path} 2>&1; echo STATUS $?", 60)
        self.assertRegex(said, r"STATUS 0\n", said)

    # ---- the guest ----

    def working(self, devices, *extra, job="ticker 20 500 &", **options):
        """A machine whose guest works with all its devices."""
        vm = self.machine(*extra, devices=devices, job=f"{job} virtio up; virtio work",
                          **{"memory": MEMORY, **options}).wait_up()
        self.mark("boot")
        up = fields(vm.line("DEVICES ", timeout=40).group(0).replace(",", "."))
        have = {k: set(filter(None, re.split("[.]", v))) if k != "rng" else {v}
                for k, v in up.items()}
        want = {k: v for k, v in devices.said().items() if v}
        self.assertEqual(have, want)
        self.mark("devices")
        self.progress(vm, devices)
        self.mark("work")
        return vm

    def latest(self, vm, pattern):
        """Fields of the last such line so far."""
        found = re.findall(f"^{pattern}.*\n", vm.serial(), re.M)
        return fields(found[-1]) if found else {}

    def next(self, vm, pattern, count=2, timeout=None):
        """Fields of the line that comes as number `count` from now on."""
        at = len(vm.serial())
        for _ in range(count):
            match = vm.line(pattern, at, timeout)
            at = match.end()
        return fields(match.group(0))

    def progress(self, vm, devices, source=None):
        """
        The guest goes on with each of its devices; what it says of them. `source` is where it was
        before: there must be more than there.
        """
        said = {}
        disks = devices.said()["disks"]
        patterns = {"files": r"FILES \d+ "} if "data" in disks else {}
        downloads = ["user"] * devices.user + devices.taps()
        patterns.update({name: rf"LOAD {name} \d+ " for name in downloads})
        begin = len(vm.serial())
        for what, pattern in patterns.items():
            before = self.latest(source, pattern) if source else None
            said[what] = self.goes_on(vm, what, pattern, begin, before)
        for name in devices.taps():
            self.assertEqual(said[name]["connections"], "1", said)
        if devices.rng:
            vm.line(r"RNG \d+ [0-9a-f]{32}", len(vm.serial()))
        if devices.console:
            for name in ("echo", "hvc0"):
                port = Port(vm, name)
                word = f"{vm.name}-{name}-{time.monotonic_ns()}"
                self.assertEqual(port.ask(word), f"ECHO {word}")
                port.close()
        return said

    def goes_on(self, vm, what, pattern, at, before):
        """
        Reads such lines from an offset on until they tell of progress; fields of the last. A download
        through user networking first finds out that its connection has stayed behind.
        """
        amount = "written" if what == "files" else "bytes"
        first = None
        for _ in range(LINES):
            match = vm.line(pattern, at)
            at, now = match.end(), fields(match.group(0))
            self.assertEqual((now["bad"], now.get("errors", "0")), ("0", "0"), (what, now))
            anew = what == "user" and before and now["connections"] == before["connections"]
            if first and int(now[amount]) > int(first[amount]) and not anew:
                return now
            if not first:
                first = now
                if before:
                    self.assertGreaterEqual(int(now[amount]), int(before[amount]), what)
        raise AssertionError(f"No progress of {what} in {LINES} lines; before the move {before}, "
                             f"after it {first}, now {now}")

    def move_on(self, src, devices, *extra, parameters=None, **options):
        """Moves a working guest to a new machine and sees that it goes on; (machine, done)."""
        dst, uri = self.destination(*extra, devices=devices, **{"memory": MEMORY, **options})
        self.mark("destination")
        return dst, self.move_to(src, dst, uri, devices, parameters)

    def move_to(self, src, dst, uri, devices, parameters=None):
        """The same to a machine that waits already; what the source's query-migrate said."""
        done = self.move(src, dst, uri, **{"downtime_limit": 1000, **(parameters or {})})
        self.mark("move")
        said = self.progress(dst, devices, src)
        self.check_well(dst)
        self.mark("goes on")
        self.note(f"{src.name} -> {dst.name}: {done['total-time']} ms, downtime "
                  f"{done['downtime']} ms, {done['ram']['dirty-sync-count']} rounds; {said}")
        return done

    def conclude(self, vm, devices):
        """The guest stops its work; what is on its disk is what it wrote, seen from both sides."""
        vm.type("virtio end")
        end = vm.line("DISK done ", timeout=60)
        text = vm.serial()[:end.end()]
        self.assertEqual(fields(end.group(0))["status"], "0", text[-500:])
        wrote = fields(re.findall("^FILES END .*\n", text, re.M)[-1])
        found = fields(re.findall("^FILES CHECKED .*\n", text, re.M)[-1])
        for key in ("files", "written"):
            self.assertEqual(found[key], wrote[key], (wrote, found))
        self.assertEqual((found["bad"], found["errors"]), ("0", "0"), found)
        self.assertEqual(vm.complaints(), [])
        vm.quit()
        for disk in devices.disks:
            self.fsck(disk.path)
        self.mark("compare")


__all__ = ["DeviceCase", "Devices", "Disk", "MEMORY", "Port"]
