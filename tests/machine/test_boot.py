# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests come up, with every number of CPUs and every kind of serial port, and do their work."""

import os
import re
import select
import socket
import subprocess
import time
import unittest

from ferrytest import DEVSTATE, TestCase, Timeout, ferry_binary, have_kvm, scaled
from ferrytest.machine import guest_image

DEVICES = "pit=on,pic=on,rtc=on,isa-serial=on"
GUEST = "report=100 rate=2000"


def read_until(fd, pattern, timeout=None):
    """Reads from a descriptor until the text has a match; all of the text."""
    text = ""
    end = time.monotonic() + scaled(timeout)
    while not re.search(pattern, text):
        left = end - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise Timeout(f"No '{pattern}' in: {text!r}")
        data = os.read(fd, 65536)
        if not data:
            raise Timeout(f"End of file before '{pattern}': {text!r}")
        text += data.decode(errors="replace")
    return text


@unittest.skipUnless(have_kvm(), "No /dev/kvm")
class Cpus(TestCase):
    def check(self, smp):
        vm = self.ferry(guest=f"report=100 rate=5000 pattern=random data=mixed {DEVSTATE}",
                        ram="shm", smp=smp, memory=32, machine=DEVICES)
        self.assertEqual(vm.guest.wait_ready()["cpus"], smp)
        vm.guest.wait_work()
        vm.guest.wait_ticks(2)
        vm.serial_line("DEV ok")
        vm.guest.check()
        self.assertEqual(vm.guest.header("dev_bad"), 0)
        self.assertEqual(len(vm.cmd("query-cpus-fast")), smp)
        vm.cmd("stop")
        vm.guest.verify_from_outside(step=17)

    def test_1(self):
        self.check(1)

    def test_2(self):
        self.check(2)

    def test_4(self):
        self.check(4)

    def test_16(self):
        self.check(16)


@unittest.skipUnless(have_kvm(), "No /dev/kvm")
class Serial(TestCase):
    def start(self, serial, *extra, **options):
        return self.ferry(*extra, guest=GUEST, machine=DEVICES, serial=serial, **options)

    def test_file(self):
        path = self.path("out")
        vm = self.start(f"file:{path}")
        vm.serial_path = path
        vm.serial_line("READY")
        vm.serial_line("T seq=2 ")

    def test_unix_server(self):
        path = self.path("ser")
        vm = self.start(f"unix:{path},server=on,wait=off")
        with vm.connect_to(path) as sock:
            read_until(sock.fileno(), "T seq=")
            # typing works too: verify now
            sock.sendall(b"v")
            self.assertIn(" bad=0 ", read_until(sock.fileno(), "VERIFIED .*\n"))
        with vm.connect_to(path) as sock:  # a second client, after the first has gone
            read_until(sock.fileno(), "T seq=")

    def test_unix_client(self):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path("ser"))
            listener.listen(1)
            listener.settimeout(scaled())
            self.start(f"unix:{self.path('ser')}")
            sock = listener.accept()[0]
            read_until(sock.fileno(), "READY(.|\n)*T seq=2")
            sock.close()

    def test_tcp(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(scaled())
            self.start(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
            sock = listener.accept()[0]
            read_until(sock.fileno(), "T seq=2")
            sock.close()

    def test_wait_for_a_client(self):
        """wait=on: nothing runs before somebody has connected, then no line is missed."""
        path = self.path("ser")
        vm = self.start(f"unix:{path},server=on,wait=on", wait=False)
        sock = vm.connect_to(path)
        self.assertIn("INIT ", read_until(sock.fileno(), "READY"))
        vm.connect()
        sock.close()

    def test_pty(self):
        vm = self.start("pty")
        wanted = re.compile(r"/dev/pts/\d+")
        (serial,) = [c for c in vm.cmd("query-chardev") if c["label"] == "serial0"]
        path = wanted.search(serial["filename"]).group(0)
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        try:
            read_until(fd, "T seq=")
        finally:
            os.close(fd)

    def test_null(self):
        vm = self.start("null", ram="shm")
        vm.guest.box  # the file is there
        self.wait_mailbox(vm)

    def wait_mailbox(self, vm):
        from ferrytest import wait_for
        wait_for("guest", lambda: vm.guest.box.alive() and vm.guest.header("seq") > 2)

    def test_none(self):
        """Without a serial port the guest works as well."""
        vm = self.start(None, ram="shm")
        self.wait_mailbox(vm)

    def test_chardev_with_logfile(self):
        log = self.path("log")
        vm = self.start("chardev:c0", "-chardev", f"null,id=c0,logfile={log}")
        vm.serial_path = log
        vm.serial_line("READY")

    def test_stdio(self):
        """As a person starts it, with the terminal for the port."""
        process = subprocess.Popen(
            [ferry_binary(), "-M", f"microvm,{DEVICES}", "-accel", "kvm", "-cpu", "host", "-m", "16",
             "-nodefaults", "-display", "none", "-serial", "stdio", "-kernel",
             guest_image("workload.elf"), "-append", GUEST + " exit=reset", "-no-reboot"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            read_until(process.stdout.fileno(), "T seq=")
            process.stdin.write(b"r")
            process.stdin.flush()
            read_until(process.stdout.fileno(), "BYE")
            self.assertEqual(process.wait(scaled()), 0)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()

    def test_output_that_nobody_reads(self):
        """The guest goes on, its output waits."""
        left, right = socket.socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        right.set_inheritable(True)
        vm = self.ferry("-chardev", f"socket,id=c0,fd={right.fileno()}", guest="report=5 rate=2000",
                        machine=DEVICES, serial="chardev:c0", ram="shm", pass_fds=[right.fileno()])
        right.close()
        self.wait_mailbox(vm)
        time.sleep(1)
        vm.guest.wait_alive()
        self.assertEqual(vm.status(), "running")
        left.close()


@unittest.skipUnless(have_kvm(), "No /dev/kvm")
class Firmware(TestCase):
    def test_bootrom(self):
        vm = self.ferry(bios=guest_image("bootrom.bin"), ram="shm", memory=2,
                        machine="pit=off,pic=off,rtc=off,isa-serial=on")
        vm.serial_line("BOOT")
        vm.serial_line(r"TICK \d\d\d bad=0")

    def test_without_a_kernel(self):
        """The firmware finds nothing to boot and stays; so does the process."""
        vm = self.ferry(machine=DEVICES)
        time.sleep(0.3)
        self.assertEqual(vm.status(), "running")

    def test_paused_at_the_start(self):
        vm = self.ferry(guest=GUEST, machine=DEVICES, ram="shm", paused=True)
        self.assertEqual(vm.status(), "prelaunch")
        time.sleep(0.3)
        self.assertEqual(vm.serial(), "")
        vm.cmd("cont")
        vm.guest.wait_ready()
        vm.guest.check()

    def test_cpu_models(self):
        for cpu in ("host", "max", "qemu64"):
            with self.subTest(cpu=cpu):
                vm = self.ferry(guest=GUEST, machine=DEVICES, ram="shm", cpu=cpu)
                vm.guest.wait_ready()
                vm.guest.check()

    def test_kernel_that_is_none(self):
        path = self.path("kernel")
        for content in (b"", b"\x7fELF", b"not a kernel at all" * 1000):
            with self.subTest(content=content[:20]):
                with open(path, "wb") as f:
                    f.write(content)
                vm = self.ferry("-kernel", path, wait=False)
                vm.wait(1)
                self.assertIn("kernel", vm.stderr())
                self.assertEqual(len(vm.stderr().splitlines()), 1)
