# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory, from every kind of backend, and what the host sees of it."""

import fcntl
import mmap
import os
import re
import unittest

from ferrytest import TestCase, have_kvm, migrate

DEVICES = "pit=on,pic=on,rtc=on,isa-serial=on"


def free_huge_pages():
    try:
        with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", encoding="ascii") as f:
            return int(f.read())
    except FileNotFoundError:
        return 0


@unittest.skipUnless(have_kvm(), "No /dev/kvm")
class MemoryCase(TestCase):
    def start(self, backend=None, memory=16, guest="report=100 rate=5000 data=mixed", **options):
        extra = options.pop("extra", ())
        if backend:
            extra = ("-object", f"{backend},id=ram0,size={memory}M", "-machine", "memory-backend=ram0",
                     *extra)
        return self.ferry(*extra, guest=guest, memory=memory, machine=DEVICES, smp=2, **options)

    def works(self, vm):
        """Without a mailbox the guest says itself that its memory is right."""
        vm.serial_line("READY")
        vm.serial_line(r"T seq=3 .* bad=0 ")

    def resident(self, vm):
        """KiB of memory that the process has."""
        with open(f"/proc/{vm.process.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


class Backends(MemoryCase):
    def test_each(self):
        for backend in ("memory-backend-ram", "memory-backend-ram,share=on",
                        "memory-backend-memfd", "memory-backend-memfd,share=off",
                        f"memory-backend-file,mem-path={self.path('private')},share=off",
                        f"memory-backend-file,mem-path={self.path('shared')},share=on",
                        f"memory-backend-file,mem-path={self.shm},share=on",
                        "memory-backend-ram,merge=off,dump=off"):
            with self.subTest(backend=backend):
                vm = self.start(backend)
                self.works(vm)
                (info,) = vm.cmd("query-memory-size-summary"),
                self.assertEqual(info["base-memory"], 16 << 20)

    def test_json(self):
        vm = self.start(extra=("-object", '{"qom-type": "memory-backend-memfd", "id": "ram0", '
                                          '"size": 16777216, "share": true}',
                               "-machine", "memory-backend=ram0"))
        self.works(vm)

    def test_shared_file_is_the_memory(self):
        vm = self.start(ram="file")
        vm.guest.wait_ready()
        self.assertEqual(os.path.getsize(vm.ram_path), 16 << 20)
        vm.guest.check()
        vm.guest.poke()
        with self.assertRaises(AssertionError):
            vm.guest.check()

    def test_private_file_is_left_alone(self):
        path = self.path("ram")
        with open(path, "wb") as f:
            f.truncate(16 << 20)
        vm = self.start(f"memory-backend-file,mem-path={path},share=off")
        self.works(vm)
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            self.assertEqual(m.find(b"FERRYMB1"), -1)

    def test_folder_leaves_no_file(self):
        vm = self.start(f"memory-backend-file,mem-path={self.shm},share=on")
        self.works(vm)
        self.assertEqual(os.listdir(self.shm), [])

    def test_prealloc(self):
        lazy = self.start("memory-backend-ram,prealloc=off", memory=64, paused=True)
        ready = self.start("memory-backend-ram,prealloc=on", memory=64, paused=True)
        self.assertGreater(self.resident(ready) - self.resident(lazy), 60 * 1024)

    def test_untouched_memory_costs_nothing(self):
        """Also after a guest has started that uses little of it, and after a move."""
        guest = "report=100 rate=100 mem=2M"
        src = self.start(memory=512, guest=guest)
        src.serial_line("READY")
        uri = "unix:" + self.path("m")
        dst = self.start(memory=512, guest=guest, incoming=uri)
        self.assertLess(self.resident(src), 150 * 1024)
        migrate.move(src, dst, uri)
        dst.serial_line("T ")
        self.assertLess(self.resident(src), 150 * 1024)
        self.assertLess(self.resident(dst), 150 * 1024)

    def lock_huge_pages(self):
        """Others make and take them too: test-arrival, test_postcopy.py."""
        lock = open("/dev/shm/ferry-test-huge-pages", "w", encoding="ascii")
        self.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)

    def test_huge_pages(self):
        self.lock_huge_pages()
        if free_huge_pages() < 8:
            self.skipTest("No free huge pages of 2 MiB on this host")
        vm = self.start("memory-backend-memfd,hugetlb=on,hugetlbsize=2M")
        self.works(vm)

    def test_no_huge_pages(self):
        """Where there are none the error says so, and the process does not start."""
        self.lock_huge_pages()
        if free_huge_pages():
            self.skipTest("This host has free huge pages")
        vm = self.start("memory-backend-memfd,hugetlb=on,hugetlbsize=2M,prealloc=on", wait=False)
        vm.wait(1)
        self.assertEqual(len(vm.stderr().splitlines()), 1)

    def test_mem_path(self):
        vm = self.start(extra=("-mem-path", self.shm))
        self.works(vm)

    def test_mem_prealloc(self):
        vm = self.start(memory=64, extra=("-mem-prealloc",), paused=True)
        self.assertGreater(self.resident(vm), 60 * 1024)


class Moves(MemoryCase):
    """Memory of one kind moves into memory of another: what counts is its name and length."""

    def test_between_backends(self):
        kinds = ("memory-backend-ram", "memory-backend-memfd,share=on",
                 f"memory-backend-file,mem-path={self.shm},share=on", "memory-backend-ram,prealloc=on")
        vm = self.start(kinds[0])
        vm.serial_line("READY")
        for number, kind in enumerate(kinds[1:]):
            uri = "unix:" + self.path(f"m{number}")
            following = self.start(kind, incoming=uri)
            migrate.move(vm, following, uri)
            vm.quit()
            vm = following
            vm.serial_line(r"T .* bad=0 ")

    def test_above_4g(self):
        """RAM on both sides of the hole below 4 GiB, hardly touched."""
        guest = "report=100 rate=100 mem=1M"
        src = self.start(memory=3200, guest=guest)
        src.serial_line("READY")
        uri = "unix:" + self.path("m")
        dst = self.start(memory=3200, guest=guest, incoming=uri)
        done = migrate.move(src, dst, uri)
        dst.serial_line(r"T .* bad=0 ")
        # 800,000 pages that were never touched are not sent one by one
        self.assertLess(done["ram"]["transferred"], 12 << 20)
