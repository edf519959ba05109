# SPDX-License-Identifier: GPL-2.0-or-later
"""No page is lost: both memories are compared while neither side runs."""

from ferrytest.deadline import wait_for
from labcase import LabCase, long, migrate
from labmachine import fields

# Writes memory in several ways: processes come and go, files are written, tmpfs grows.
JOB = ("ticker 50 500 & vectors 1000 & while :; do dd if=/dev/urandom of=/tmp/x bs=4k count=200 "
       "2>/dev/null; cp /tmp/x /tmp/y; rm /tmp/y; done &")


class Memory(LabCase):
    def moves_exactly(self, moves, job=JOB, smp=2, **options):
        """
        Each destination is paused when the guest arrives. What may differ then are clock pages of
        KVM's own, which it writes when a vCPU's state is loaded.
        """
        options = {"smp": smp, "shared": True, **options}
        src = self.machine(job=job, **options).wait_up()
        src.ticks(2)
        for _ in range(moves):
            dst, uri = self.destination(paused=True, **options)
            migrate.set_capabilities(src, return_path=True)
            migrate.start(src, uri, downtime_limit=2000)
            done = migrate.wait_status(src, "completed")
            dst.wait_state("paused")
            said = self.sh(f"/lab/bin/pagediff {src.ram_path} {dst.ram_path}", 60, check=False)
            pages = [fields(line) for line in said.splitlines() if line.startswith("PAGE")]
            self.assertIn("compared ", said)
            self.assertLessEqual(len(pages), smp, said)
            for page in pages:
                self.assertLess(int(page["count"]), 64, said)
            self.note(f"{done['ram']['dirty-sync-count']} rounds, {done['ram']['normal']} pages, "
                      f"{done['total-time']} ms, {len(pages)} pages differ")
            self.check_tracking(src, options.get("accel", ""))
            src.quit()
            dst.cmd("cont")
            dst.mailbox = src.mailbox
            self.check_well(dst)
            src = dst
        return src

    def check_tracking(self, vm, accel):
        """The backend that was asked for has found the pages."""
        info = vm.cmd("x-query-dirty-tracking")
        self.assertEqual(info["ring-size"] > 0, "ring" in accel, info)
        self.assertEqual(info["ring-entries"] > 0, "ring" in accel, info)
        if info["ring-size"]:
            self.note(f"{info['ring-entries']} entries, {info['ring-full-exits']} times full")

    def test_dirty_log(self):
        self.moves_exactly(1)

    def test_dirty_ring(self):
        """A ring that is small enough to fill up again and again."""
        self.moves_exactly(1, accel="kvm,dirty-ring-size=1024")

    @long
    def test_dirty_log_again(self):
        self.moves_exactly(3)

    @long
    def test_dirty_ring_again(self):
        self.moves_exactly(3, accel="kvm,dirty-ring-size=1024")

    @long
    def test_one_cpu(self):
        self.moves_exactly(4, smp=1)


class Rates(LabCase):
    """How fast each vCPU writes memory, from its own dirty ring."""

    # one program stays on the second CPU and writes 8 MiB of tmpfs again and again
    JOB = ("ticker 20 500 & taskset 2 sh -c 'while :; do dd if=/dev/zero of=/tmp/x bs=64k count=128 "
           "conv=notrunc 2>/dev/null; done' &")

    def test_each_vcpu(self):
        vm = self.machine(job=self.JOB, smp=2, accel="kvm,dirty-ring-size=4096").wait_up()
        if "calc-dirty-rate" not in [one["name"] for one in vm.cmd("query-commands")]:
            self.skipTest("This Ferry has no calc-dirty-rate")
        vm.ticks(2)
        vm.cmd("calc-dirty-rate", calc_time=2, mode="dirty-ring")
        rate = wait_for("the dirty rate", lambda: (
            have := vm.cmd("query-dirty-rate"))["status"] == "measured" and have, 30)
        rates = {one["id"]: one["dirty-rate"] for one in rate["vcpu-dirty-rate"]}
        self.note(f"MiB per second: {rates}, all: {rate['dirty-rate']}")
        self.assertEqual(set(rates), {0, 1})
        self.assertGreater(rates[1], 0)
        self.assertGreater(rates[1], 2 * rates[0])
        self.check_well(vm)
        vm.quit()


class Workload(LabCase):
    """The guest of the other tests, which counts its own bad words, at full speed of ring 0."""

    def moves(self, accel, moves):
        options = {"kernel": "/lab/workload.elf", "append": "rate=max pattern=random report=200",
                   "machine": "pit=on,pic=on,rtc=on", "smp": 2, "memory": 32, "accel": accel,
                   "shared": True}
        src = self.machine(**options)
        src.line("READY ", timeout=40)
        for _ in range(moves):
            dst, uri = self.destination(**options)
            self.move(src, dst, uri, downtime_limit=5000)
            start = 0
            for _ in range(3):
                match = dst.line("T ", start)
                start = match.end()
            self.assertEqual(fields(match.group(0))["bad"], "0", match.group(0))
            self.assertNotRegex(dst.serial(), r"(?m)^(BAD|PANIC|DEV bad)")
            src = dst
        return src

    @long
    def test_dirty_log(self):
        self.moves("kvm", 3)

    def test_dirty_ring(self):
        self.moves("kvm,dirty-ring-size=1024", 1)

    @long
    def test_dirty_ring_again(self):
        self.moves("kvm,dirty-ring-size=1024", 3)
