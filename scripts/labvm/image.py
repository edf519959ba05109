# SPDX-License-Identifier: GPL-2.0-or-later
"""
The file systems of both machines, as archives that the kernel unpacks (cpio.py):

    base      the outer machine without anything of ours that changes: user space, KVM's modules, the
              peer VMM with its firmware, the inner guest's kernel; kept in the cache
    overlay   the program under test and the tools of tests/lab; made for each run
    inner     the inner guest, a file of the overlay; inner-stress adds stress-ng (kept in the cache)
    python    Python, for runs that have this tree inside (tree.py; kept in the cache)

Inside the outer machine: /usr/bin/ferry-system-x86_64, /usr/bin/qemu-system-x86_64 (the installed
version), /opt/qemu-system-x86_64 (that of backports, if there is one), /lab/vmlinuz, /lab/inner.cpio,
/lab/stress.cpio, /lab/bin (tools), /usr/share/qemu (firmware, of the installed version).
"""

import glob
import hashlib
import lzma
import os
import re
import shutil
import subprocess

from . import cpio, emulator, programs, tree
from .packages import Missing, Packages, cache_dir, locked, run

FIRMWARE_FILES = ("bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin", "linuxboot.bin", "pvh.bin",
                  "kvmvapic.bin", "multiboot_dma.bin")
MODULES = ("virtio_pci", "virtio_console", "irqbypass", "kvm", "kvm-amd")
# Loaded where a case needs them: a disk to have images on, a bridge with taps.
LATER_MODULES = ("brd", "bridge", "tun")
DISK_TOOLS = ("mke2fs", "e2fsck")
INNER_MODULES = ("msr",)
# What the command `virtio up` loads (tests/lab/guest/virtio.sh).
INNER_VIRTIO = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng",
                "virtio_balloon")
PORT = "org.ferry.lab"
HERE = os.path.dirname(os.path.abspath(__file__))

OUTER_INIT = """#!/bin/busybox sh
export PATH=/usr/bin:/bin HOME=/tmp
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o size=75% none /dev/shm; mount -t devpts none /dev/pts
ip link set lo up
echo 1 >/proc/sys/kernel/panic_on_oops; echo '/tmp/core.%e' >/proc/sys/kernel/core_pattern
ulimit -c unlimited
for module in $(cat /lab/modules); do insmod /lab/ko/$module.ko || echo "LAB: no $module"; done
cd /tmp
while ! port=$(echo /dev/vport*) || [ ! -c "$port" ]; do usleep 10000; done
/lab/bin/agent "$port"
echo "LAB: the agent ended"
poweroff -f
"""

INNER_INIT = """#!/bin/busybox sh
export PATH=/bin HOME=/tmp
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
stty -echo
echo "INNER UP $(grep -c ^processor /proc/cpuinfo)"
(n=0; while :; do echo "SHELL $n $(date +%s)"; n=$((n + 1)); sleep 1; done) &
eval "$JOB"
while read -r line; do eval "$line"; done
echo "INNER the serial port is at its end"
while :; do sleep 1000; done
"""


def digest(*things):
    """A short name for content: files count by path, size and time."""
    total = hashlib.sha256()
    for thing in things:
        if os.path.isabs(thing) and os.path.exists(thing):
            info = os.stat(thing)
            thing = f"{thing} {info.st_size} {info.st_mtime_ns}"
        total.update(thing.encode() + b"\0")
    return total.hexdigest()[:16]


def module_bytes(path):
    with (lzma.open(path) if path.endswith(".xz") else open(path, "rb")) as f:
        return f.read()


class Modules:
    """Kernel modules with those they depend on, in the order in which they can be loaded."""

    def __init__(self, root):
        files = glob.glob(os.path.join(root, "**", "*.ko*"), recursive=True)
        self.paths = {self._name(os.path.basename(f)): f for f in files}
        self.content = {}
        self.order = []

    @staticmethod
    def _name(file):
        return re.sub(r"\.ko.*$", "", file).replace("-", "_")

    def want(self, module):
        name = self._name(module)
        if name in self.content:
            return
        if name not in self.paths:
            return  # built into the kernel
        self.content[name] = module_bytes(self.paths[name])
        found = re.search(rb"\0depends=([^\0]*)\0", self.content[name])
        for other in (found.group(1).decode().split(",") if found else []):
            if other:
                self.want(other)
        self.order.append(name)


class Images:
    """Makes what is missing in the cache; files of one run go to `run_dir`."""

    def __init__(self, source_dir, build_dir, binary, with_tree=False):
        self.source_dir, self.build_dir, self.binary = source_dir, build_dir, binary
        self.with_tree = with_tree
        self.cache = cache_dir(source_dir)
        self.packages = Packages(self.cache)
        self.images = os.path.join(self.cache, "images")
        self.newer = None  # emulator that is also the newer peer

    def _cached(self, name, key, make):
        path = os.path.join(self.images, f"{name}-{key}.cpio")
        if not os.path.exists(path):
            os.makedirs(self.images, exist_ok=True)
            for old in glob.glob(os.path.join(self.images, f"{name}-*.cpio")):
                os.unlink(old)
            with cpio.Archive(path) as archive:
                make(archive)
        return path

    # ---- pieces ----

    def kernel(self):
        found = glob.glob(os.path.join(self.packages.kernel(), "boot", "vmlinuz-*"))
        if not found:
            raise Missing(f"{self.packages.kernel()} has no kernel")
        return found[0]

    def busybox(self):
        return os.path.join(self.packages.get("busybox-static"), "bin", "busybox")

    def agent(self):
        source = os.path.join(HERE, "agent.c")
        return programs.compiled(source, self.images, digest(source))

    def tsc_khz(self):
        """Frequency of this host's time stamp counter, as text; see tsckhz.c."""
        source = os.path.join(HERE, "tsckhz.c")
        return run(programs.compiled(source, self.images, digest(source)), timeout=20).strip()

    def disk_tool(self, tool):
        """(program, libraries) of one of e2fsprogs, which nearly every host has."""
        path = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if path:
            return path, programs.libraries(path)[0]
        return programs.packaged(self.packages, "e2fsprogs", f"sbin/{tool}")

    def _user_space(self, archive, init):
        for folder in ("proc", "sys", "tmp", "etc"):
            archive.folder(folder)
        archive.console()
        archive.file("bin/busybox", self.busybox(), 0o755)
        for applet in subprocess.run([self.busybox(), "--list"], stdout=subprocess.PIPE, text=True,
                                     check=True, timeout=20).stdout.split():
            if applet != "busybox":
                archive.link(f"bin/{applet}", "busybox")
        archive.text("init", init, 0o755)

    def base(self):
        """The outer machine's unchanging part."""
        peer, newer = emulator.installed().path, self.newer
        kernel = self.kernel()
        key = digest(os.path.realpath(peer), newer.path if newer else "", kernel, self.busybox(),
                     self.agent(), OUTER_INIT, " ".join(MODULES + LATER_MODULES + DISK_TOOLS))

        def make(archive):
            self._user_space(archive, OUTER_INIT)
            archive.file("lab/bin/agent", self.agent(), 0o755)
            archive.file("lab/vmlinuz", kernel, 0o644)
            modules = Modules(self.packages.kernel())
            for module in MODULES:
                modules.want(module)
            if "kvm" not in modules.order:
                raise Missing(f"{self.packages.kernel()} has no kvm module")
            at_once = list(modules.order)
            for module in LATER_MODULES:
                modules.want(module)
            for name in modules.order:
                self._bytes(archive, f"lab/ko/{name}.ko", modules.content[name])
            archive.text("lab/modules", "\n".join(at_once) + "\n")
            archive.text("lab/modules-later", "\n".join(modules.order[len(at_once):]) + "\n")
            known = set()
            for tool in DISK_TOOLS:
                program, found = self.disk_tool(tool)
                programs.add(archive, f"lab/bin/{tool}", program, found, known)
            programs.add(archive, f"usr/bin/{emulator.NAME}", peer, programs.libraries(peer)[0],
                         known)
            if newer:
                programs.add(archive, f"opt/{emulator.NAME}", newer.path,
                             programs.libraries(newer.path)[0], known)
            for file in FIRMWARE_FILES:
                have = [p for d in emulator.FIRMWARE if os.path.exists(p := os.path.join(d, file))]
                if have:
                    archive.file(f"usr/share/qemu/{file}", have[0], 0o644)
        return self._cached("base", key, make)

    def _bytes(self, archive, name, data):
        path = os.path.join(self.images, f"piece.{os.getpid()}")
        with open(path, "wb") as f:
            f.write(data)
        archive.file(name, path, 0o644)
        os.unlink(path)

    def tools(self, folder):
        """Programs of tests/lab/<folder>, compiled, and its shell scripts: {name: path}."""
        found = {}
        tests = os.path.join(self.source_dir, "tests", "lab")
        headers = sorted(glob.glob(os.path.join(tests, "*", "*.h")))
        for source in sorted(glob.glob(os.path.join(tests, folder, "*.c"))):
            name = os.path.splitext(os.path.basename(source))[0]
            found[name] = programs.compiled(source, self.images, digest(source, *headers))
        for script in glob.glob(os.path.join(tests, folder, "*.sh")):
            found[os.path.splitext(os.path.basename(script))[0]] = script
        return found

    def stress(self):
        """What inner-stress has besides inner."""
        program, found = programs.packaged(self.packages, "stress-ng", "usr/bin/stress-ng")

        def make(archive):
            programs.add(archive, "bin/stress-ng", program, found)
        return self._cached("stress", digest(program, *sorted(found.values())), make)

    def inner(self):
        tools = self.tools("guest")
        program, found = programs.packaged(self.packages, "memtester", "usr/sbin/memtester")

        def make(archive):
            self._user_space(archive, INNER_INIT)
            programs.add(archive, "bin/memtester", program, found)
            for name, path in tools.items():
                archive.file(f"bin/{name}", path, 0o755)
            modules = Modules(self.packages.kernel())
            for module in INNER_MODULES:
                modules.want(module)
            others = len(modules.order)
            for module in INNER_VIRTIO:
                modules.want(module)
            for name in modules.order:
                self._bytes(archive, f"lib/{name}.ko", modules.content[name])
            archive.text("lib/virtio", "\n".join(modules.order[others:]) + "\n")
        return self._cached("inner", digest(self.busybox(), program, self.kernel(), INNER_INIT,
                                            " ".join(INNER_MODULES + INNER_VIRTIO),
                                            *tools.values()), make)

    def python(self):
        return self._cached("python", digest(tree.interpreter(), tree.__file__),
                            lambda archive: tree.python(archive, self.images))

    def overlay(self, path):
        """What is under test and what tests it."""
        inner, stress = self.inner(), self.stress()
        with cpio.Archive(path) as archive:
            programs.add(archive, "usr/bin/ferry-system-x86_64", self.binary,
                         programs.libraries(self.binary)[0])
            archive.file("lab/inner.cpio", inner, 0o644)
            archive.file("lab/stress.cpio", stress, 0o644)
            for name, tool in self.tools("tools").items():
                archive.file(f"lab/bin/{name}", tool, 0o755)
            workload = os.path.join(self.build_dir, "tests", "guest", "workload.elf")
            if os.path.exists(workload):
                archive.file("lab/workload.elf", workload, 0o644)
            if self.with_tree:
                tree.sources(archive, self.source_dir, self.build_dir, self.binary)

    def make(self, run_dir):
        """(emulator, kernel, initrd) for a run."""
        if not os.access(self.binary, os.X_OK):
            raise Missing(f"There is no {self.binary}: run 'make build' first, or name another "
                          "build with --build-dir")
        with locked(self.cache):
            chosen = emulator.choose(self.cache)
            if chosen.path != emulator.installed().path:
                self.newer = chosen
            overlay = os.path.join(run_dir, "overlay.cpio")
            self.overlay(overlay)
            initrd = os.path.join(run_dir, "initrd.cpio")
            parts = [self.base(), *([self.python()] if self.with_tree else []), overlay]
            cpio.concatenate(initrd, parts)
            os.unlink(overlay)
            return chosen, self.kernel(), initrd
