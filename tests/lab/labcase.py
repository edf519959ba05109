# SPDX-License-Identifier: GPL-2.0-or-later
"""
The base of the lab's cases: the outer machine that they share, inner machines that end with the
case, and everybody's last lines when a case fails.

A case that takes longer than its `limit` kills the outer machine; whatever waits then fails at once,
and the next case gets a new one.
"""

import os
import re
import sys
import time
import unittest

SOURCE_DIR = os.environ.get("FERRY_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
sys.path[0:0] = [os.path.join(SOURCE_DIR, "scripts"), os.path.join(SOURCE_DIR, "tests", "lib")]
os.environ.setdefault("FERRY_TEST_TIMEOUT_FACTOR", "3")

from ferrytest import migrate  # noqa: E402
from ferrytest.deadline import scaled  # noqa: E402
from labvm import packages, session  # noqa: E402
from labvm.runner import LONG  # noqa: E402
from labmachine import FERRY, NEWER_QEMU, QEMU, Machine, fields  # noqa: E402

# QEMU lets its guests have nested virtualization, Ferry does not; otherwise both mean the same.
HOST_CPU = {FERRY: "host", QEMU: "host,-svm", NEWER_QEMU: "host,-svm"}
# What QEMU 10 sends on microvm and no older one, nor Ferry, takes.
EXTRA = {FERRY: (), QEMU: (), NEWER_QEMU: ("-global", "migration.send-switchover-start=off")}

LIMIT = scaled(133.0)  # seconds, of a case: 400; a quiet host needs a tenth of it


def long(thing):
    """Marks a case or a class that the short set leaves out."""
    setattr(thing, LONG, True)
    return thing


def _failures(result):
    return len(result.failures) + len(result.errors) if result is not None else 0


class LabCase(unittest.TestCase):
    maxDiff = None
    limit = LIMIT

    def run(self, result=None):
        if result is None:
            result = self.defaultTestResult()
        self._result, self._before = result, _failures(result)
        self.machines = []
        self._links = 0
        self.outer = self.folder = None
        self._marks = []
        try:
            return super().run(result)
        finally:
            if _failures(result) > self._before:
                self._show_logs()
            if self.outer:
                self.outer.deadline(None, "")
                self._tell_marks()

    def setUp(self):
        short = ".".join(self.id().split(".")[-2:])
        try:
            self.outer = session.outer()
        except packages.Missing as missing:
            raise unittest.SkipTest(str(missing)) from None
        self.outer.deadline(self.limit, f"{short} took longer than its {self.limit:.0f} s")
        self.log_dir = os.path.join(session.run_dir(), short)
        os.makedirs(self.log_dir, exist_ok=True)
        self.folder = "/tmp/" + re.sub(r"\W", "-", short)[-40:]
        self.outer.link.run(f"rm -rf {self.folder}; mkdir -p {self.folder}")
        self.addCleanup(self._clean)
        self.mark(None)

    def tearDown(self):
        """Before the machines are ended: what KVM did last, when the case has failed."""
        if _failures(self._result) > self._before and self.outer.alive:
            try:
                with open(self.log("kvm-trace"), "w", encoding="utf-8") as f:
                    f.write(self.outer.trace())
            except AssertionError as error:
                print(f"No trace of KVM: {error}", file=sys.stderr)

    def _clean(self):
        if self.outer.alive:
            self.outer.link.run(f"rm -rf {self.folder}", check=False)

    def _show_logs(self):
        print(f"---- {self.id()}; logs in {getattr(self, 'log_dir', '?')}", file=sys.stderr)
        for vm in self.machines:
            print(vm.report(), file=sys.stderr)
        if self.outer:
            print(self.outer.report(), file=sys.stderr, flush=True)

    # ---- what cases are made of ----

    def note(self, text):
        """A figure worth knowing, for people and the log."""
        print(f"{self.id().split('.')[-1]}: {text}", file=sys.stderr, flush=True)
        with open(self.log("notes"), "a", encoding="utf-8") as f:
            f.write(text + "\n")

    def mark(self, what):
        """What has just ended; the log then has the seconds of each part, beside the CPU's."""
        self._marks.append((what, time.monotonic(), self.outer.cpu_seconds()))

    def _tell_marks(self):
        """A line `seconds` in the notes: by the clock, and what the emulator computed of it."""
        if not self._marks:
            return
        self.mark("end")
        parts = [f"{what} {now - then:.1f} ({cpu - before:.1f})" for (_, then, before), (what, now, cpu)
                 in zip(self._marks, self._marks[1:])]
        (_, begun, before), (_, now, cpu) = self._marks[0], self._marks[-1]
        self.note(f"seconds (of CPU): {now - begun:.1f} ({cpu - before:.1f}); {', '.join(parts)}")

    def log(self, name):
        return os.path.join(self.log_dir, name)

    def sh(self, command, deadline=20.0, **options):
        """Runs a command in the outer machine."""
        return self.outer.link.run(command, deadline, **options)

    def need_newer(self):
        if "yes" not in self.sh(f"[ ! -e {NEWER_QEMU} ] || echo yes"):
            self.skipTest(f"There is no newer QEMU than {QEMU}")

    def initrd(self, kind):
        """Path in the outer machine of an inner guest's file system."""
        if kind == "inner":
            return "/lab/inner.cpio"
        path = "/lab/inner-stress.cpio"
        self.sh(f"[ -e {path} ] || cat /lab/inner.cpio /lab/stress.cpio >{path}", 60)
        return path

    def machine(self, *extra, **options):
        return Machine(self, *extra, **options)

    def adopt(self, vm):
        self.machines.append(vm)
        self.addCleanup(vm.end)

    def uri(self):
        """A new address for a migration."""
        self._links += 1
        return f"unix:{self.folder}/link{self._links}"

    def destination(self, *extra, return_path=True, capabilities=None, **options):
        """(machine that waits for a guest, its address)"""
        uri = self.uri()
        vm = self.machine(*extra, incoming="defer", **options)
        migrate.set_capabilities(vm, return_path=return_path, **(capabilities or {}))
        vm.cmd("migrate-incoming", uri=uri)
        return vm, uri

    def move(self, src, dst, uri, return_path=True, **parameters):
        """Moves a guest and ends the source; what the source's query-migrate said."""
        migrate.set_capabilities(src, return_path=return_path)
        done = migrate.move(src, dst, uri, **parameters)
        dst.mailbox = src.mailbox
        src.quit()
        return done

    def check_vectors(self, vm, cpus=2):
        """The program `vectors` found all registers as they were, on each CPU."""
        for cpu in range(cpus):
            # by the second line it has compared what the move has carried
            at = vm.line(rf"VECTORS \d+ cpu={cpu} ").end()
            line = vm.line(rf"VECTORS \d+ cpu={cpu} ", at).group(0)
            self.assertEqual(fields(line)["bad"], "0", line)

    def check_well(self, vm, clocks=True):
        """The guest goes on, programs start in it, and neither it nor Linux has seen anything bad."""
        tick = vm.ticks(2)
        vm.shell_ticks(1)
        self.assertEqual(vm.complaints(), [])
        if clocks:
            self.assertEqual((tick["mono_back"], tick["tsc_back"], tick["real_back"]),
                             ("0", "0", "0"), tick)
        return tick


__all__ = ["EXTRA", "FERRY", "HOST_CPU", "LabCase", "NEWER_QEMU", "QEMU", "long", "migrate"]
