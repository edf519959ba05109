# SPDX-License-Identifier: GPL-2.0-or-later
"""
QEMU's rules for what a stream may leave out or reorder (rules.py): each edited stream into QEMU 7.2
and into Ferry, side by side.
"""

import re

from ferrytest import Timeout, migrate, wait_for
from ferrytest.machine import Dead
from ferrytest.qmp import QmpClosed
from interopcase import FERRY, INSTALLED, InteropCase
from rules import CRASHED, RULES, Edit, Refused

# Small: most of the memory is never touched. It has asked for everything KVM offers guests.
GUEST = "report=100 rate=500 mem=512K"


class Rules(InteropCase):
    options = {"guest": GUEST, "smp": 1}

    def good(self):
        """A whole stream of a running guest, from QEMU."""
        path = self.path("good")
        src = self.machine(INSTALLED, **self.options)
        src.guest.wait_ticks(1)
        src.cmd("migrate", uri=f"exec:cat >{path}")
        migrate.wait_status(src, "completed")
        src.quit()
        with open(path, "rb") as f:
            return Edit(f.read())

    def start(self, who, path):
        return self.machine(who, incoming=f"exec:cat {path}", wait=False, **self.options)

    def outcome(self, vm, who):
        """The run state in which the guest is when the stream was taken, or Refused."""
        try:
            vm.connect()
            wait_for(f"incoming migration of {vm.name}", lambda: self.arrived(vm))
            return vm.status()
        except Timeout:
            if who == FERRY:
                raise
            # a QEMU whose guest has just ended may end, and may not: it then says nothing any more
            vm.kill()
            return CRASHED
        except (Dead, QmpClosed, ConnectionError, BrokenPipeError):
            vm.wait(None)
            return Refused(vm.stderr()) if vm.process.returncode else CRASHED

    @staticmethod
    def arrived(vm):
        vm.check_alive()
        return migrate.status(vm) == "completed"

    def matches(self, wanted, got):
        if isinstance(wanted, Refused) and isinstance(got, Refused):
            return re.search(wanted.says, got.says)
        if wanted == CRASHED:
            # not looked at too soon, ended, or ended by an assertion
            return got in ("running", CRASHED) or "Assertion" in getattr(got, "says", "")
        return wanted == got

    def check(self, rule, good):
        path = self.path("edited")
        edited = rule.edit(good.copy())
        with open(path, "wb") as f:
            f.write(edited if isinstance(edited, bytes) else edited.bytes())
        machines = {who: self.start(who, path) for who in (INSTALLED, FERRY)}
        for who, wanted in ((INSTALLED, rule.qemu), (FERRY, rule.ferry)):
            got = self.outcome(machines[who], who)
            if not self.matches(wanted, got):
                self.fail(f"{who}: {got}, and {wanted} was expected")
        if rule.ferry == "running" and not rule.unwell:
            self.check_well(machines[FERRY])
        for vm in machines.values():
            if vm.alive():
                vm.kill()

    def test_table(self):
        good = self.good()
        for rule in RULES:
            with self.subTest(rule.name):
                self.check(rule, good)

    def test_stricter_or_equal(self):
        """Ferry takes nothing that QEMU refuses, and refuses nothing more, without a reason."""
        for rule in RULES:
            with self.subTest(rule.name):
                both = [isinstance(x, Refused) for x in (rule.qemu, rule.ferry)]
                equal = all(both) or rule.qemu == rule.ferry
                self.assertNotEqual(equal, bool(rule.why))
                if both == [True, False]:
                    self.assertIn("no stricter: ", rule.why)
