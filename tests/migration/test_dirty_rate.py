# SPDX-License-Identifier: GPL-2.0-or-later
"""
calc-dirty-rate, and limits of vCPUs: what is refused (in QEMU 10.0's words), that the figures are the
guest's, and that a limit slows who writes and nobody else.
"""

import time
import unittest

from ferrytest import migrate, wait_for
from migrationcase import MigrationCase

RING = "kvm,dirty-ring-size=4096"
# 4,000 pages a second are 15 MiB/s.
STEADY = "report=100 rate=4000 vrate=0 pattern=seq data=random"
FULL = "report=100 rate=max precheck=0 vrate=0 pattern=seq data=random"


class Dirty(MigrationCase):
    def steady(self, **options):
        vm = self.vm(**{"guest": STEADY, "memory": 64, "smp": 1, **options})
        vm.guest.wait_ready()
        return vm

    def ring(self, **options):
        vm = self.steady(accel=RING, **options)
        if not vm.cmd("x-query-dirty-tracking")["ring-size"]:
            raise unittest.SkipTest("This host's KVM has no dirty ring")
        return vm

    def measure(self, vm, **arguments):
        vm.cmd("calc-dirty-rate", **{"calc-time": 1, **arguments})
        if "calc-time-unit" not in arguments:  # of milliseconds they may be over
            self.assertEqual(vm.cmd("query-dirty-rate")["status"], "measuring")

        def look():
            info = vm.cmd("query-dirty-rate")
            return info if info["status"] == "measured" else None
        return wait_for("dirty rate", look)

    def measure_steady(self, vm, **arguments):
        """Of the 15 MiB/s; a busy host keeps the guest from some of it at times, and not for ever."""
        def look():
            info = self.measure(vm, **arguments)
            return info if 5 <= info["dirty-rate"] <= 30 else None
        return wait_for("a rate of about 15 MiB/s", look)


class Rate(Dirty):
    def test_sampling(self):
        vm = self.steady()
        info = self.measure_steady(vm, sample_pages=16384)
        self.assertEqual((info["mode"], info["sample-pages"], info["calc-time"],
                          info["calc-time-unit"]), ("page-sampling", 16384, 1, "second"))
        self.assertLess(abs(info["start-time"] - time.time()), 30)
        vm.guest.check()

    def test_bitmap(self):
        vm = self.steady()
        info = self.measure_steady(vm, mode="dirty-bitmap")
        self.assertEqual((info["mode"], info["sample-pages"]), ("dirty-bitmap", 0))
        self.assertNotIn("vcpu-dirty-rate", info)
        vm.guest.box.put("rate", 0)
        time.sleep(0.3)
        self.assertLessEqual(self.measure(vm, mode="dirty-bitmap")["dirty-rate"], 1)

    def test_ring(self):
        vm = self.ring(smp=2)
        info = self.measure_steady(vm, mode="dirty-ring")
        self.assertEqual([v["id"] for v in info["vcpu-dirty-rate"]], [0, 1])
        self.assertLessEqual(abs(sum(v["dirty-rate"] for v in info["vcpu-dirty-rate"]) -
                                 info["dirty-rate"]), 2)

    def test_beside_a_migration(self):
        """Neither takes pages from the other."""
        for accel, mode in (("kvm", "dirty-bitmap"), (RING, "dirty-ring")):
            with self.subTest(accel=accel):
                src, dst = self.pair(guest=STEADY, memory=32, accel=accel)
                src.cmd("calc-dirty-rate", **{"calc-time": 2, "mode": mode})
                migrate.start(src, self.uri, max_bandwidth=8 << 20)
                migrate.wait_status(src, "active")
                wait_for("measured", lambda: src.cmd("query-dirty-rate")["status"] == "measured")
                migrate.set_parameters(src, max_bandwidth=1 << 30)
                migrate.finish(src, dst)
                dst.guest.check()
                src, dst = self.pair(guest=STEADY, memory=32, accel=accel)
                migrate.start(src, self.uri, max_bandwidth=8 << 20)
                migrate.wait_status(src, "active")
                src.cmd("calc-dirty-rate", **{"calc-time": 1, "mode": mode})
                migrate.set_parameters(src, max_bandwidth=1 << 30)
                migrate.finish(src, dst)
                dst.guest.check()

    def test_ends_with_the_process(self):
        vm = self.steady()
        vm.cmd("calc-dirty-rate", **{"calc-time": 60})
        begun = time.monotonic()
        vm.quit()
        self.assertLess(time.monotonic() - begun, 30)

    def test_unstarted(self):
        vm = self.vm(accel="qtest", guest=None)
        self.assertEqual(vm.cmd("query-dirty-rate"), {
            "status": "unstarted", "sample-pages": 0, "mode": "page-sampling",
            "calc-time-unit": "second", "start-time": 0, "calc-time": 0})
        info = self.measure(vm, **{"calc-time": 60, "calc-time-unit": "millisecond"})
        self.assertEqual((info["dirty-rate"], info["calc-time"]), (0, 0))
        self.assertEqual(vm.cmd("query-dirty-rate", **{"calc-time-unit": "millisecond"})["calc-time"],
                         60)

    def test_refused(self):
        vm = self.vm(accel="qtest", guest=None)
        out = "Calculation time is out of range [50ms, 60000ms]."
        for desc, arguments in (
                ("Parameter 'calc-time' is missing", {}),
                (out, {"calc-time": 0}), (out, {"calc-time": 61}), (out, {"calc-time": -1}),
                (out, {"calc-time": 49, "calc-time-unit": "millisecond"}),
                (out, {"calc-time": 60001, "calc-time-unit": "millisecond"}),
                ("sample-pages is out of range[128, 16384].", {"calc-time": 1, "sample-pages": 127}),
                ("sample-pages is out of range[128, 16384].", {"calc-time": 1, "sample-pages": 16385}),
                ("sample-pages is out of range[128, 16384].", {"calc-time": 1, "sample-pages": -1}),
                ("sample-pages is used only in page-sampling mode",
                 {"calc-time": 1, "sample-pages": 512, "mode": "dirty-bitmap"}),
                ("mode dirty-ring is not enabled, use other method instead.",
                 {"calc-time": 1, "mode": "dirty-ring"})):
            with self.subTest(arguments=arguments):
                self.refused(desc, vm, "calc-dirty-rate", **arguments)
        self.assertEqual(vm.cmd("query-dirty-rate")["status"], "unstarted")
        vm.cmd("calc-dirty-rate", **{"calc-time": 60})
        self.refused("the dirty rate is already being measured.", vm, "calc-dirty-rate",
                     **{"calc-time": 1})

    def test_bitmap_refused_with_the_ring(self):
        self.refused("mode dirty-bitmap is not enabled, use other method instead.", self.ring(),
                     "calc-dirty-rate", **{"calc-time": 1, "mode": "dirty-bitmap"})


class Limit(Dirty):
    def writes(self, vm, cpu, seconds=1.0):
        before, begun = vm.guest.box.cpu(cpu)["writes"], time.monotonic()
        time.sleep(seconds)
        return (vm.guest.box.cpu(cpu)["writes"] - before) / (time.monotonic() - begun)

    def test_limit(self):
        """A vCPU that writes at full speed keeps to its limit; another is not touched."""
        vm = self.ring(guest=FULL, smp=2)
        vm.cmd("set-vcpu-dirty-limit", **{"cpu-index": 0, "dirty-rate": 8})
        # a busy host may let neither of them run for a while, or the one that measures
        limited = wait_for("a vCPU at its limit", lambda: (
            w := self.writes(vm, 0, 2)) and 8 * 256 * 0.2 < w < 8 * 256 * 1.3 and w)
        wait_for("a vCPU without a limit", lambda: self.writes(vm, 1) > limited * 3)
        wait_for("a rate that is told", lambda: vm.cmd(
            "query-vcpu-dirty-limit")[0]["current-rate"] <= 11, pause=0.2)
        (info,) = vm.cmd("query-vcpu-dirty-limit")
        self.assertEqual((info["cpu-index"], info["limit-rate"]), (0, 8))
        ticks = vm.guest.box.cpu(0)["ticks"]
        wait_for("ticks of its timer", lambda: vm.guest.box.cpu(0)["ticks"] > ticks + 5)
        vm.cmd("cancel-vcpu-dirty-limit", **{"cpu-index": 0})
        wait_for("a vCPU at full speed", lambda: self.writes(vm, 0) > limited * 3)
        self.assertEqual(vm.cmd("query-vcpu-dirty-limit"), [])
        vm.guest.check()

    def test_who_writes_less_is_left_alone(self):
        vm = self.ring()
        free = self.writes(vm, 0, 2)
        vm.cmd("set-vcpu-dirty-limit", **{"dirty-rate": 100})
        wait_for("a vCPU as fast as before", lambda: self.writes(vm, 0, 2) > free * 0.7)

    def test_set_and_cancel(self):
        vm = self.ring(smp=2)

        def limits():
            return {i["cpu-index"]: i["limit-rate"] for i in vm.cmd("query-vcpu-dirty-limit")}
        vm.cmd("set-vcpu-dirty-limit", **{"dirty-rate": 20, "cpu-index": 1})
        self.assertEqual(limits(), {1: 20})
        vm.cmd("set-vcpu-dirty-limit", **{"dirty-rate": 30})
        self.assertEqual(limits(), {0: 30, 1: 30})
        vm.cmd("set-vcpu-dirty-limit", **{"dirty-rate": 0, "cpu-index": 1})
        self.assertEqual(limits(), {0: 30})
        vm.cmd("set-vcpu-dirty-limit", **{"dirty-rate": -1, "cpu-index": 1})
        self.assertEqual(limits(), {0: 30, 1: (1 << 64) - 1})
        vm.cmd("cancel-vcpu-dirty-limit")
        self.assertEqual(limits(), {})
        for index in (-1, 2, 1 << 40):
            for command, more in (("set-vcpu-dirty-limit", {"dirty-rate": 1}),
                                  ("cancel-vcpu-dirty-limit", {})):
                self.refused("incorrect cpu index specified", vm, command,
                             **{"cpu-index": index, **more})
        vm.guest.check()

    def test_needs_the_ring(self):
        vm = self.steady()
        self.refused("dirty page limit feature requires KVM with accelerator property "
                     "'dirty-ring-size' set'", vm, "set-vcpu-dirty-limit", **{"dirty-rate": 1})
        self.assertEqual(vm.cmd("query-vcpu-dirty-limit"), [])
        self.assertEqual(vm.cmd("cancel-vcpu-dirty-limit"), {})

    def test_migration(self):
        """The capability: a guest too fast for its link gets there, and keeps no limit."""
        src, dst = self.pair(guest=FULL, memory=32, smp=1, accel=RING)
        migrate.set_capabilities(src, dirty_limit=True)
        src.cmd("set-vcpu-dirty-limit", **{"dirty-rate": 500})
        migrate.start(src, self.uri, max_bandwidth=16 << 20, downtime_limit=300,
                      **{"vcpu-dirty-limit": 4})
        slept = []

        def look():
            info = migrate.info(src)
            if info["status"] == "active":
                slept.append(info["dirty-limit-throttle-time-per-round"])
                if slept[-1] and not any(slept[:-1]):  # once: later it might just have ended
                    self.refused("can't set dirty page rate limit while migration is running", src,
                                 "set-vcpu-dirty-limit", **{"dirty-rate": 1})
                    self.refused("can't cancel dirty page rate limit while migration is running", src,
                                 "cancel-vcpu-dirty-limit")
            return info if info["status"] in migrate.FINAL else None
        done = wait_for("the end", look, 120)
        self.assertEqual(done["status"], "completed", done.get("error-desc"))
        self.assertGreater(max(slept), 1000)
        self.assertIn("throttle", [d["action"] for d in done["decisions"]])
        dst.wait_state("running")
        dst.guest.check()

    def test_lifted_by_a_cancel(self):
        src, dst = self.pair(guest=FULL, memory=32, smp=1, accel=RING)
        migrate.set_capabilities(src, dirty_limit=True)
        migrate.start(src, self.uri, max_bandwidth=16 << 20, downtime_limit=0,
                      **{"vcpu-dirty-limit": 1})
        wait_for("limit", lambda: migrate.info(src).get("dirty-limit-throttle-time-per-round"))
        migrate.set_parameters(src, max_bandwidth=1 << 18)  # from now on nothing ends
        slow = self.writes(src, 0)
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        dst.wait(1)
        wait_for("a vCPU at full speed", lambda: self.writes(src, 0) > slow * 3)
        src.guest.check()
