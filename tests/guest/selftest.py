#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the test guests: do they run, move, and see what they must see.

    selftest.py --vmm qemu-system-x86_64 --guests BUILD/tests/guest [--only NAME] [--keep] [-v]

Any VMM with QEMU's command line and QMP will do; --dest-vmm names another one for the destination
of migrations. --accel tcg works for the cases that do not need KVM. Exit status 0: all passed.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from guest_mailbox import DEFINES, MASK, Mailbox, check, file_offset, mix

ARGS = None


class Failure(Exception):
    pass


def wait_for(what, fn, timeout=20.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        got = fn()
        if got:
            return got
        time.sleep(0.005)
    raise Failure("No %s within %.0f s" % (what, timeout))


def connect(path):
    """A socket, or None as long as nobody listens."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


def drain(sock):
    try:
        while sock.recv(4096):
            pass
    except OSError:
        pass


class Vm:
    """A running VMM with its serial output, QMP and, if `shm`, its memory as a Mailbox."""

    count = 0
    running = []

    def __init__(self, tmp, append="", mem=32, smp=1, shm=True, incoming=None, bios=None, vmm=None,
                 machine="pit=on,pic=on,rtc=on,isa-serial=on", cpu=None, extra=()):
        Vm.count += 1
        self.name = os.path.join(tmp, "vm%d" % Vm.count)
        self.ser = None
        self.serial_text = ""
        self.ram = None
        argv = [vmm or ARGS.vmm, "-M", "microvm,accel=%s,%s" % (ARGS.accel, machine), "-m", str(mem),
                "-smp", str(smp), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-chardev", "socket,id=s0,path=%s.ser,server=on,wait=off,logfile=%s.log"
                % (self.name, self.name), "-serial", "chardev:s0",
                "-qmp", "unix:%s.qmp,server=on,wait=off" % self.name]
        cpu = cpu or ARGS.cpu
        if cpu:
            argv += ["-cpu", cpu]
        if bios:
            argv += ["-bios", bios]
        else:
            argv += ["-kernel", os.path.join(ARGS.guests, "workload.elf"), "-append", append]
        if shm:
            self.ram = "/dev/shm/guest-selftest-%d-%d" % (os.getpid(), Vm.count)
            argv += ["-object", "memory-backend-file,id=ram0,size=%dM,mem-path=%s,share=on"
                     % (mem, self.ram), "-machine", "memory-backend=ram0"]
        if incoming:
            argv += ["-incoming", incoming]
        argv += list(extra)
        self.err = open(self.name + ".err", "w+b")
        self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err)
        Vm.running.append(self)
        self.qmp = wait_for("QMP socket", lambda: self._dead() or connect(self.name + ".qmp"))
        self.qmp_file = self.qmp.makefile("rw")
        json.loads(self.qmp_file.readline())
        self.events = []
        self.cmd("qmp_capabilities")

    def _dead(self):
        if self.proc.poll() is not None:
            self.err.seek(0)
            raise Failure("The VMM ended: " + self.err.read().decode(errors="replace"))
        return False

    def cmd(self, name, **arguments):
        self.qmp_file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.qmp_file.flush()
        while True:
            line = self.qmp_file.readline()
            if not line:
                self._dead()
                raise Failure("QMP closed")
            reply = json.loads(line)
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise Failure("%s: %s" % (name, reply["error"]["desc"]))
            else:
                return reply["return"]

    def monitor(self, line):
        return self.cmd("human-monitor-command", **{"command-line": line})

    def serial(self):
        try:
            with open(self.name + ".log", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def line(self, pattern, timeout=20.0, start=0):
        """Waits for a complete serial line that matches."""
        def look():
            self._dead()
            text = self.serial()[start:]
            return re.search("^" + pattern + ".*\n", text, re.M)
        return wait_for("line '%s'" % pattern, look, timeout)

    def send(self, text):
        if not self.ser:
            self.ser = wait_for("serial socket", lambda: connect(self.name + ".ser"))
            # what comes back must be taken, or the port blocks; the log has it all the same
            threading.Thread(target=drain, args=(self.ser,), daemon=True).start()
        self.ser.send(text.encode())

    @property
    def box(self):
        return Mailbox.open(self.ram)

    def end(self):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(5)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        if self.ser:
            self.ser.close()
            self.ser = None
        if self.ram and os.path.exists(self.ram):
            os.unlink(self.ram)


def last_tick(text):
    found = re.findall(r"^T (.*)\n", text, re.M)
    return dict((k, int(v)) for k, v in (f.split("=") for f in found[-1].split())) if found else {}


def no_bad(vm):
    text = vm.serial()
    for item in ARGS.allow or ():
        text = re.sub(r"^(DEV )bad( n=\d+) %s:\S+\n" % item, r"\1ok\2\n", text, flags=re.M)
    for word in ("BAD ", "PANIC", "DEV bad", "ARG bad"):
        if word in text:
            raise Failure("Serial says: " + re.search(".*" + word + ".*", text).group(0))


def verified(vm, timeout=30.0):
    """Has every page verified through the mailbox and returns the number of bad words."""
    box = vm.box
    want = box.header["verify_req"] + 1
    box.command("v")
    wait_for("verification", lambda: vm._dead() or box.header["verify_done"] == want, timeout)
    return box.header["verify_bad"]


def migrate(src, dst, uri, timeout=60.0, **params):
    if params:
        src.cmd("migrate-set-parameters", **{k.replace("_", "-"): v for k, v in params.items()})
    src.cmd("migrate", uri=uri)

    def done():
        info = src.cmd("query-migrate")
        if info["status"] == "failed":
            raise Failure("Migration failed: %s" % info.get("error-desc"))
        return info if info["status"] == "completed" else None
    info = wait_for("completed migration", done, timeout)
    wait_for("loaded destination", lambda: dst.cmd("query-status")["status"] in ("running", "paused"), 10)
    return info


# ---- cases ----

def case_boot(tmp):
    vm = Vm(tmp, "report=200", mem=16)
    try:
        vm.line("READY cpus=1")
        vm.line("T seq=3")
        if verified(vm):
            raise Failure("Fresh pages are bad")
        no_bad(vm)
        vm.cmd("stop")
        n, complaints = check(vm.box, step=7)
        if complaints or not n:
            raise Failure("Checked from outside: %r" % complaints)
    finally:
        vm.end()


def case_smp(tmp):
    for n in (2, 4, 16):
        vm = Vm(tmp, "report=200 data=mixed pattern=random rate=20000", mem=48, smp=n)
        try:
            vm.line("READY cpus=%d" % n)
            vm.line("T seq=3")
            before = vm.box.cpus()
            time.sleep(0.3)
            for a, b in zip(before, vm.box.cpus()):
                if a["clock_ns"] == b["clock_ns"] or a["ticks"] == b["ticks"]:
                    raise Failure("vCPU %d shows no sign of life" % a["index"])
            if verified(vm):
                raise Failure("Pages are bad")
            no_bad(vm)
        finally:
            vm.end()


def case_modes(tmp):
    """Each data kind, pattern and timer, with a check from outside."""
    for append in ("data=zero pattern=hot", "data=text timer=oneshot", "data=sparse timer=tsc",
                   "data=mixed x2apic=1", "idle=1 timer=pit", "halt=0 rate=max precheck=0",
                   "pv=0", "mem=4M ws=1M untouched=1", "untouched=1"):
        vm = Vm(tmp, "report=100 " + append, mem=16, smp=2)
        try:
            vm.line("READY")
            vm.line("T seq=3")
            if verified(vm):
                raise Failure("%s: pages are bad" % append)
            no_bad(vm)
            vm.cmd("stop")
            _, complaints = check(vm.box, step=11)
            if complaints:
                raise Failure("%s: checked from outside: %r" % (append, complaints))
        finally:
            vm.end()


def case_corruption(tmp):
    """A poked word, a poked generation, a poked untouched page and a lost page are all seen."""
    vm = Vm(tmp, "report=200 mem=8M rate=100", mem=32)
    try:
        vm.line("READY")
        box = vm.box
        h = box.header
        page = h["pages_init"] - 5
        at = file_offset(box.page_addr(page)) + 8 * 77
        old = box.memory[at]
        vm.cmd("stop")
        box.memory[at] = old ^ 0x10
        vm.cmd("cont")
        m = vm.line(r"BAD cpu=0 page=%d word=77 " % page, 10)
        if " n=1 kind=word" not in m.group(0):
            raise Failure("Unexpected: " + m.group(0))
        rec = box.bad()[0]
        if rec["expected"] ^ rec["got"] != 0x10:
            raise Failure("The log shows another word")
        # a page put back to what it was a while ago
        vm.cmd("stop")
        page = 3
        at = file_offset(box.page_addr(page))
        saved = bytes(box.memory[at:at + 4096])
        gen_at = file_offset(h["gen_addr"]) + 4 * page
        gen = box.memory[gen_at]
        vm.cmd("cont")
        box.put("rate", 50000)
        wait_for("rewrite", lambda: box.memory[gen_at] != gen)
        box.put("rate", 0)
        time.sleep(0.1)
        vm.cmd("stop")
        box.memory[at:at + 4096] = saved
        vm.cmd("cont")
        vm.line(r"BAD cpu=0 page=3 word=0 .* n=512 kind=word", 10)
        # a generation: all words of the page, and the sum
        vm.cmd("stop")
        gen_at = file_offset(h["gen_addr"]) + 4 * 100
        box.memory[gen_at] = box.memory[gen_at] ^ 1
        vm.cmd("cont")
        vm.line(r"BAD cpu=0 page=100 ", 10)
        vm.line(r"BAD cpu=0 page=0 .* kind=sum", 10)
        # untouched memory
        vm.cmd("stop")
        at = file_offset(box.page_addr(h["pages_total"] - 9))
        box.memory[at + 16] = 1
        vm.cmd("cont")
        start = len(vm.serial())
        box.command("u")
        m = vm.line(r"UNTOUCHED pages=%d bad=1" % (h["pages_total"] - h["pages_init"]), 10, start)
        if verified(vm):
            raise Failure("Bad pages were not repaired")
        total = box.cpu(0)["bad_words"]
        vm.line(r"T .* bad=%d " % total)
    finally:
        vm.end()


def case_commands(tmp):
    vm = Vm(tmp, "report=200 exit=reset poll=20", mem=16)
    try:
        vm.line("READY")
        vm.send("v")
        vm.line("VERIFIED pages=%d bad=0" % vm.box.header["pages_init"])
        vm.send("p")
        vm.line("PAUSED")
        writes = vm.box.cpu(0)["writes"]
        time.sleep(0.2)
        if vm.box.cpu(0)["writes"] != writes:
            raise Failure("Still writing after 'p'")
        vm.send("g")
        vm.line("GOING")
        # mailbox through QMP, without shared memory
        dump = os.path.join(tmp, "dump")
        vm.cmd("pmemsave", val=DEFINES["MAILBOX_ADDR"], size=DEFINES["MAILBOX_SIZE"], filename=dump)
        with open(dump, "rb") as f:
            if Mailbox.from_dump(f.read()).header["pages_init"] != vm.box.header["pages_init"]:
                raise Failure("pmemsave shows another mailbox")
        vm.send("q")
        vm.proc.wait(10)
        if "BYE" not in vm.serial():
            raise Failure("No BYE")
    finally:
        vm.end()
    vm = Vm(tmp, "report=200 run=500", mem=16)
    try:
        vm.proc.wait(10)
        if "BYE" not in vm.serial():
            raise Failure("No BYE after run=")
    finally:
        vm.end()


def case_migrate(tmp):
    for smp, append in ((1, "rate=5000"), (2, "data=mixed pattern=random rate=20000"),
                        (4, "devstate=1 devms=100 data=sparse rate=5000"), (2, "devstate=1 devms=100 timer=tsc x2apic=1"),
                        (1, "devstate=1 devms=100 timer=oneshot"), (16, "data=mixed")):
        sock = "unix:%s/m%d" % (tmp, smp)
        append = "report=200 " + append
        src = Vm(tmp, append, mem=48, smp=smp)
        dst = Vm(tmp, append, mem=48, smp=smp, incoming=sock, vmm=ARGS.dest_vmm)
        try:
            src.line("READY")
            src.line("T seq=4")
            info = migrate(src, dst, sock, max_bandwidth=200 << 20)
            start = src.box.header["seq"]
            wait_for("signs of life", lambda: dst.box.header["seq"] > start + 2)
            dst.line("T ")
            if "devstate" in append:
                dst.line(r"DEV .*\nT(?:.*\n)*DEV .*\nT(?:.*\n)*DEV")
            bad = verified(dst)
            if bad:
                raise Failure("%d bad words after the move: %r" % (bad, dst.box.bad()[:4]))
            no_bad(src)
            no_bad(dst)
            cpus = dst.box.cpus()
            if any(c["back"] or c["tsc_back"] or c["bad_words"] for c in cpus):
                raise Failure("Time went backwards: %r" % cpus)
            if ARGS.verbose:
                print("   smp=%d downtime=%s ms, guest saw %s us" % (
                    smp, info.get("downtime"), [c["gap_max_ns"] // 1000 for c in cpus]))
        finally:
            src.end()
            dst.end()


def case_postcopy(tmp):
    sock = "unix:%s/pc" % tmp
    append = "report=200 rate=20000 pattern=random data=mixed"
    src = Vm(tmp, append, mem=48, smp=2, shm=False)
    dst = Vm(tmp, append, mem=48, smp=2, shm=False, incoming=sock, vmm=ARGS.dest_vmm)
    try:
        for vm in (src, dst):
            vm.cmd("migrate-set-capabilities",
                   capabilities=[{"capability": "postcopy-ram", "state": True}])
        src.line("READY")
        src.cmd("migrate-set-parameters", **{"max-bandwidth": 8 << 20, "max-postcopy-bandwidth": 0})
        src.cmd("migrate", uri=sock)
        wait_for("active", lambda: src.cmd("query-migrate")["status"] == "active")
        time.sleep(0.5)
        src.cmd("migrate-start-postcopy")
        wait_for("completed", lambda: src.cmd("query-migrate")["status"] == "completed", 60)
        dst.line("T ")
        dst.send("v")
        m = dst.line("VERIFIED", 30)
        if " bad=0 total=0" not in m.group(0):
            raise Failure(m.group(0))
        no_bad(dst)
    finally:
        src.end()
        dst.end()


def case_devstate(tmp):
    vm = Vm(tmp, "report=200 devstate=1 devms=200", mem=16, smp=2)
    try:
        vm.line("READY")
        m = vm.line("DEV items")
        if ARGS.verbose:
            print("  ", m.group(0).strip())
        vm.line("DEV ok n=2")
        vm.line("T seq=10")
        no_bad(vm)
    finally:
        vm.end()


def case_devlost(tmp):
    """Device registers changed behind the guest's back are reported, each by its name."""
    pokes = (("serial", (0x3ff, 0)), ("serial", (0x3fc, 3)), ("serial", (0x3fa, 2)), ("rtc-index", (0x70, 0)),
             ("rtc-index", (0x71, 0)), ("fwcfg", (0x510, 0)), ("pic", (0x21, 0xfa)), ("pic", (0xa1, 0xff)),
             ("pic", (0xa0, 0x0a)), ("pic", (0x4d0, 0)), ("pit", (0x43, 0x54)),
             ("pit-half", (0x43, 0xb4)), ("pit-tick", (0x43, 0x30)))
    vm = Vm(tmp, "report=200 devstate=1 devms=100", mem=16,
            machine="pit=on,pic=on,rtc=on,isa-serial=on,kernel-irqchip=split")
    try:
        vm.line("READY")
        items = vm.line("DEV items=").group(0).strip().split("=")[1].split(",")
        vm.line("DEV ok")
        for item, (port, value) in pokes:
            if item not in items:
                raise Failure("No item %s: %s" % (item, items))
            start = len(vm.serial())
            if port == 0x510:
                vm.monitor("o/h 0x%x 0x%x" % (port, value))
            else:
                vm.monitor("o/b 0x%x 0x%x" % (port, value))
            m = vm.line(r"DEV bad.* %s:" % item, 5, start)
            if ARGS.verbose:
                print("   port %x = %x: %s" % (port, value, m.group(0).strip()))
            if item != "pit-tick":
                vm.line("DEV ok", 5, start + len(m.group(0)))
    finally:
        vm.end()


def case_streamlost(tmp):
    """vCPU state changed on its way through a saved stream is reported, each by its name."""
    path = os.path.join(tmp, "stream")
    append = "report=200 devstate=1 devms=100 apf=0"
    src = Vm(tmp, append, mem=16)
    try:
        src.line("READY")
        src.line("DEV ok n=2")
        src.cmd("stop")
        src.cmd("migrate", uri="exec:cat > " + path)
        wait_for("completed", lambda: src.cmd("query-migrate")["status"] == "completed")
    finally:
        src.end()
    with open(path, "rb") as f:
        stream = f.read()
    tail = len(stream) - (64 << 10)  # device state is behind the memory, numbers are big endian

    def value(i, high=0):
        """The x87 or SSE register `i` of whatever generation is in the stream; see devstate.c."""
        for gen in range(1, 1 << 20):
            v = mix((gen << 20 | i) * 0x9B05688C1F83D9AB & MASK) | high
            at = stream.find(v.to_bytes(8, "big"), tail)
            if at >= 0:
                return at
        return -1

    def constant(v):
        return stream.find(v.to_bytes(8, "big"), tail)

    places = (("fpu", value(16 + 5)), ("fpu", value(32 + 15)), ("fpu", value(0, 1 << 63)),
              ("msr", constant(0x7FFF12345000)), ("msr", constant(0x523456789000)),
              ("dr", constant(0x44440000)))
    for item, at in places:
        if at < 0:
            raise Failure("State of %s is not in the stream" % item)
        with open(path + ".bad", "wb") as f:
            f.write(stream[:at + 5] + bytes([stream[at + 5] ^ 0x10]) + stream[at + 6:])
        dst = Vm(tmp, append, mem=16, incoming="exec:cat %s.bad" % path, vmm=ARGS.dest_vmm)
        try:
            wait_for("loaded stream", lambda: dst.cmd("query-status")["status"] == "paused")
            dst.cmd("cont")
            m = dst.line("DEV bad.* %s:" % item, 5)
            if ARGS.verbose:
                print("   ", m.group(0).strip())
        finally:
            dst.end()


def case_bootrom(tmp):
    rom = os.path.join(ARGS.guests, "bootrom.bin")
    machine = "pit=off,pic=off,rtc=off,isa-serial=on"
    sock = "unix:%s/rom" % tmp
    src = Vm(tmp, mem=16, bios=rom, machine=machine)
    dst = Vm(tmp, mem=16, bios=rom, machine=machine, incoming=sock, vmm=ARGS.dest_vmm)
    try:
        src.line("BOOT")
        src.line("TICK 40 ")
        migrate(src, dst, sock)
        n = int(dst.line(r"TICK (\d+) bad=0").group(1))
        dst.line("TICK %d bad=0" % (n + 60))
        # and it sees a wrong word
        box = dst.box
        dst.cmd("stop")
        box.memory[0x14004] ^= 0xff
        box.memory[0x18008] ^= 0xff
        dst.cmd("cont")
        dst.line(r"TICK \d+ bad=2")
    finally:
        src.end()
        dst.end()


CASES = [(n[5:], f) for n, f in list(globals().items()) if n.startswith("case_")]


def main():
    global ARGS
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--vmm", default="qemu-system-x86_64")
    p.add_argument("--dest-vmm")
    p.add_argument("--accel", default="kvm")
    p.add_argument("--cpu", default="host,-arch-capabilities")
    p.add_argument("--guests", required=True)
    p.add_argument("--only", action="append")
    p.add_argument("--allow", action="append", help="device state item that may be lost")
    p.add_argument("--keep", action="store_true", help="leave logs behind")
    p.add_argument("-v", "--verbose", action="store_true")
    ARGS = p.parse_args()
    if ARGS.allow is None and "qemu" in os.path.basename(ARGS.vmm):
        # 7.2 stops without emptying the ring of coalesced port writes: the last index is lost
        ARGS.allow = ["rtc-index"]
    failed = 0
    for name, fn in CASES:
        if ARGS.only and name not in ARGS.only:
            continue
        tmp = tempfile.mkdtemp(prefix="guest-")
        t0 = time.monotonic()
        try:
            fn(tmp)
            print("ok   %-12s %.1f s" % (name, time.monotonic() - t0), flush=True)
        except (Failure, OSError, subprocess.TimeoutExpired) as e:
            failed += 1
            print("FAIL %-12s %s" % (name, e), flush=True)
        finally:
            for vm in Vm.running:  # what a failure left behind
                vm.end()
            Vm.running.clear()
            if ARGS.keep:
                print("     logs in", tmp)
            else:
                shutil.rmtree(tmp, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
