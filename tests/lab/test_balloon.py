# SPDX-License-Identifier: GPL-2.0-or-later
"""
The balloon of a stock Linux across a move: what the guest has given back stays given back, and what
it gives back, reports or names as free is not sent.
"""

import re

from devicecase import DeviceCase, Devices, Disk, MEMORY
from ferrytest import wait_for
from labcase import long
from labmachine import fields

MIB = 1 << 20
FREED = 48    # MiB of which the guest has made use once
KEPT = 8
LARGER = 256  # MiB of a guest: with less than 64 of them free, Linux reports nothing
MOST = 0.75   # of that counts as seen: the kernel uses some of it again, and keeps some for itself
HINT_BANDWIDTH = 8 * MIB  # the guest answers before what it names as free has been sent


class Balloon(DeviceCase):
    def wait_size(self, vm, mib):
        wait_for(f"the balloon of {vm.name} at {mib} MiB",
                 lambda: vm.cmd("query-balloon")["actual"] == mib * MIB, 30, 0.1)

    @long
    def test_moves(self):
        """Inflated, moved, deflated."""
        devices = Devices(Disk(self.image()), user=False, tap=False, console=False, rng=False,
                          balloon=True)
        vm = self.working(devices)
        self.wait_size(vm, MEMORY)
        vm.cmd("balloon", value=(MEMORY - 40) * MIB)
        self.wait_size(vm, MEMORY - 40)
        vm, _done = self.move_on(vm, devices)
        self.wait_size(vm, MEMORY - 40)
        vm.cmd("balloon", value=MEMORY * MIB)
        self.wait_size(vm, MEMORY)
        self.conclude(vm, devices)


class Wire(DeviceCase):
    """Memory of which the guest makes no use any more, and what of it goes over the wire."""

    def used_once(self, balloon=""):
        """
        (guest that has filled FREED MiB with something and freed them, its devices). A file of KEPT
        MiB stays, whose content is compared after each move.
        """
        devices = Devices(user=False, tap=False, console=False, rng=False, balloon=balloon or True)
        vm = self.machine(devices=devices, memory=LARGER, job="ticker 20 500 & virtio up").wait_up()
        vm.line("DEVICES ", timeout=40)
        vm.type(f"mkdir /m; mount -t tmpfs -o size={FREED + KEPT + 1}M none /m; "
                f"head -c {KEPT * MIB} /dev/urandom >/m/kept; md5sum /m/kept >/m/sum; "
                f"for i in $(seq {FREED // KEPT}); do cat /m/kept; done >/m/once; echo FILLED $(stat -c %s /m/once); "
                "rm /m/once; echo ONCE")
        vm.line("ONCE", timeout=60)
        self.assertIn(f"FILLED {FREED * MIB}\n", vm.serial())
        self.mark("fill")
        return vm, devices

    def sent(self, src, devices, **parameters):
        """Moves it; (destination, MiB of pages that were sent with their content)."""
        dst, uri = self.destination(devices=devices, memory=LARGER)
        done = self.move(src, dst, uri, **parameters)
        self.mark("move")
        self.check_well(dst)
        dst.type("echo 'KEPT' $(md5sum -c /m/sum)")
        self.assertIn("/m/kept: OK", dst.line("KEPT ", timeout=30).group(0))
        self.mark("check")
        ram = done["ram"]
        self.note(f"{ram['normal'] * 4 // 1024} MiB of pages, {ram['transferred'] // MIB} MiB on the "
                  f"wire, {done['total-time']} ms, downtime {done['downtime']} ms")
        self.assertGreaterEqual(ram["transferred"], ram["normal-bytes"])
        return dst, ram["normal-bytes"] / MIB

    def use_again(self, vm):
        """What the guest had freed is good memory."""
        vm.type(f"MEMTESTER_TEST_MASK=1 memtester {FREED}M 1 >/tmp/mem; echo AGAIN status=$?")
        self.assertEqual(fields(vm.line("AGAIN ", timeout=60).group(0))["status"], "0")
        self.check_well(vm)
        self.mark("use")

    def resident(self, vm):
        """MiB of the guest's memory that its host holds."""
        said = self.sh(["cat", f"/proc/{vm.channel.pid}/status"])
        return int(re.search(r"RssAnon:\s+(\d+) kB", said).group(1)) / 1024

    @long
    def test_inflated(self):
        """The same guest moves with an empty balloon and with a full one."""
        vm, devices = self.used_once()
        vm, before = self.sent(vm, devices)
        held = self.resident(vm)
        vm.cmd("balloon", value=(LARGER - FREED) * MIB)
        wait_for("the balloon", lambda: vm.cmd("query-balloon")["actual"] == (LARGER - FREED) * MIB,
                 30, 0.2)
        self.assertLess(self.resident(vm), held - FREED * MOST)
        vm, after = self.sent(vm, devices)
        self.assertLess(after, before - FREED * MOST)
        self.assertEqual(vm.cmd("query-balloon")["actual"], (LARGER - FREED) * MIB)
        # what comes back is good memory
        vm.cmd("balloon", value=LARGER * MIB)
        wait_for("the balloon", lambda: vm.cmd("query-balloon")["actual"] == LARGER * MIB, 30, 0.2)
        self.use_again(vm)

    @long
    def test_reported(self):
        """A guest that reports its free pages by itself, beside one that does not."""
        vm, devices = self.used_once()
        held = self.resident(vm)
        vm, plain = self.sent(vm, devices)
        vm.quit()
        vm, devices = self.used_once("free-page-reporting=on")
        wait_for("reports of free pages", lambda: self.resident(vm) < held - FREED * MOST, 30, 0.5)
        self.note(f"resident {held:.0f} MiB, with reports {self.resident(vm):.0f} MiB")
        vm, reported = self.sent(vm, devices)
        self.assertLess(reported, plain - FREED * MOST)

    @long
    def test_hints(self):
        """A guest that is asked during the first round, beside one that is not."""
        vm, plain = self.sent(*self.used_once(), max_bandwidth=HINT_BANDWIDTH)
        vm.quit()
        vm, hinted = self.sent(*self.used_once("free-page-hint=on"), max_bandwidth=HINT_BANDWIDTH)
        self.assertLess(hinted, plain - FREED * MOST)
        self.use_again(vm)
