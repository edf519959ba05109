# SPDX-License-Identifier: GPL-2.0-or-later
"""auto-converge: a guest that writes faster than the link carries is slowed, and only as long as needed."""

import time

from ferrytest import migrate, scaled, wait_for
from migrationcase import MigrationCase

BUSY = "report=100 rate=max precheck=0 vrate=0 pattern=seq data=random"
RING = "kvm,dirty-ring-size=4096"
# What 32 MiB of guest never get through while they are written at full speed.
SLOW = 16 << 20


class Converge(MigrationCase):
    def busy_pair(self, **options):
        src, dst = self.pair(**{"guest": BUSY, "memory": 32, "smp": 1, **options})
        migrate.set_capabilities(src, auto_converge=True)
        self.seen = []
        return src, dst

    def look(self, vm):
        vm.check_alive()
        info = migrate.info(vm)
        self.seen.append(info.get("cpu-throttle-percentage", 0))
        return info

    def wait_throttled(self, vm, least=1):
        def look():
            return self.look(vm).get("cpu-throttle-percentage", 0) >= least
        wait_for(f"throttle of at least {least} %", look)

    def assert_lifted(self, vm):
        self.assertNotIn("cpu-throttle-percentage", migrate.info(vm))

    def writes_per_second(self, vm, seconds=0.5):
        before, begun = vm.guest.box.cpu(0)["writes"], time.monotonic()
        time.sleep(seconds)
        return (vm.guest.box.cpu(0)["writes"] - before) / (time.monotonic() - begun)

    def watch(self, src, *final):
        """Looks at the throttle until the migration has ended."""
        def look():
            info = self.look(src)
            return info if info["status"] in final else None
        return wait_for(" or ".join(final), look, 120)

    def converges(self, **options):
        src, dst = self.busy_pair(**options)
        migrate.start(src, self.uri, max_bandwidth=SLOW, downtime_limit=300)
        done = self.watch(src, "completed", "failed")
        self.assertEqual(done["status"], "completed")
        self.assertGreater(max(self.seen), 20)
        self.assertLessEqual(max(self.seen), 99)
        self.assert_lifted(src)
        dst.wait_state("running")
        self.assert_lifted(dst)
        dst.guest.check()
        throttled = [r["throttle"] for r in done["rounds"]]
        self.assertEqual(throttled[0], 0)  # the first round is the guest's
        self.assertGreater(max(throttled), 20)
        self.assertIn("throttle", [d["action"] for d in done["decisions"]])

    def test_log(self):
        self.converges()

    def test_ring(self):
        self.converges(accel=RING)

    def test_two_vcpus(self):
        self.converges(smp=2)

    def test_without_it_the_guest_is_left_alone(self):
        src, _ = self.busy_pair()
        migrate.set_capabilities(src, auto_converge=False)
        migrate.start(src, self.uri, max_bandwidth=SLOW, downtime_limit=10)
        wait_for("rounds", lambda: self.look(src)["ram"]["dirty-sync-count"] > 4 if
                 migrate.status(src) == "active" else False, 120)
        self.assertEqual(set(self.seen), {0})

    def test_a_guest_that_fits_is_left_alone(self):
        src, dst = self.busy_pair(guest="report=100 rate=1000 vrate=0 pattern=seq data=random")
        migrate.start(src, self.uri, max_bandwidth=SLOW, downtime_limit=300)
        self.watch(src, "completed")
        self.assertEqual(set(self.seen), {0})
        dst.guest.check()

    def throttled(self, **parameters):
        src, dst = self.busy_pair()
        migrate.set_parameters(src, **parameters)
        migrate.start(src, self.uri, max_bandwidth=SLOW, downtime_limit=0)
        self.wait_throttled(src, 30)
        migrate.set_parameters(src, max_bandwidth=1 << 20)  # from now on nothing ends
        return src, dst

    def test_never_above_max(self):
        src, _ = self.throttled(max_cpu_throttle=45)
        for _ in range(40):
            self.look(src)
            time.sleep(0.05)
        self.assertLessEqual(max(self.seen), 45)
        # lowered on the way
        migrate.set_parameters(src, max_cpu_throttle=20)
        wait_for("lower throttle",
                 lambda: 0 < self.look(src).get("cpu-throttle-percentage", 0) <= 20)

    def test_lifted_on_cancel(self):
        src, dst = self.throttled(cpu_throttle_initial=90)
        slow = self.writes_per_second(src)
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        self.assert_lifted(src)
        wait_for("a guest at full speed", lambda: self.writes_per_second(src) > 2 * slow)
        src.guest.check()
        dst.wait(1)

    def test_lifted_on_failure(self):
        src, dst = self.throttled()
        dst.process.kill()
        migrate.wait_status(src, "failed")
        self.assert_lifted(src)
        self.assertEqual(src.status(), "running")
        src.guest.check()
        dst.wait(-9)

    def test_stop_does_not_wait_for_a_throttled_vcpu(self):
        src, _ = self.throttled()
        for _ in range(10):
            begun = time.monotonic()
            src.cmd("stop")
            src.cmd("cont")
            self.assertLess(time.monotonic() - begun, scaled(5))

    def test_ladder(self):
        """Explicit steps: 99 % at once, and the guest's timers live."""
        src, dst = self.busy_pair()
        migrate.set_parameters(src, cpu_throttle_initial=99)
        migrate.start(src, self.uri, max_bandwidth=SLOW, downtime_limit=0)
        self.wait_throttled(src, 99)
        migrate.set_parameters(src, max_bandwidth=1 << 20)
        self.assertEqual(set(self.seen), {0, 99})
        ticks = src.guest.box.cpu(0)["ticks"]
        wait_for("ticks of the guest's timer", lambda: src.guest.box.cpu(0)["ticks"] > ticks + 5)
        src.guest.wait_ticks(1)
        src.cmd("migrate_cancel")
        migrate.wait_status(src, "cancelled")
        src.guest.check()
        dst.wait(1)

    def test_ladder_steps(self):
        src, _ = self.busy_pair()
        migrate.set_parameters(src, cpu_throttle_initial=10, cpu_throttle_increment=5,
                               max_cpu_throttle=20)
        migrate.start(src, self.uri, max_bandwidth=3 * SLOW, downtime_limit=0)
        self.wait_throttled(src, 20)
        self.assertLessEqual(set(self.seen), {0, 10, 15, 20})  # a look may come too late for one

        def look():
            steps = {r["throttle"] for r in migrate.info(src)["rounds"]}
            return steps if 20 in steps else None
        self.assertEqual(wait_for("a round with the last step", look), {0, 10, 15, 20})
