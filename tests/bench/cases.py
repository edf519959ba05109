# SPDX-License-Identifier: GPL-2.0-or-later
"""The cases, a row each."""

from dataclasses import dataclass, replace

UNLIMITED = 1 << 40  # bytes per second: the same number for every program
MIB = 1 << 20
RECOVER_BANDWIDTH = 20 * MIB  # it must not be over too soon


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    guest: str = "idle=1 data=random"  # arguments of tests/guest's workload
    memory: int = 1024  # MiB
    transport: str = "unix"
    return_path: bool = True
    bandwidth: int = UNLIMITED
    downtime_ms: int = 300
    xbzrle: int = 0  # MiB of its cache; 0: off
    converge: bool = False  # auto-converge, and see how the guest gets on
    # Rounds without end: bytes per second from the second round on, and for how many seconds; then
    # without limit. The migration ends after that and not before.
    hold: tuple = ()
    watch: bool = False  # see the pause by the guest's signs of life too
    ask: bool = False  # ask all the time, on a second monitor
    sparse: bool = False  # memory files with nothing in them, instead of warm ones
    anonymous: bool = False  # plain memory that nobody has touched, and no workload in it
    cross: bool = False  # also between Ferry and QEMU
    quick: bool = False  # part of --quick
    postcopy: bool = False  # postcopy.py measures it; both QEMUs beside Ferry
    preempt: bool = True
    early: bool = False  # to the switch at the begin of the first round, not of the second
    kind: str = "private"  # of memory, see postcopy.py
    floor_faults: int = 0
    recover: bool = False  # the link is lost and comes back; Ferry only

    def quickly(self):
        """The same on a small guest."""
        return replace(self, memory=min(self.memory, 256), cross=False,
                       guest=self.guest.replace("mem=64M", "mem=16M"))

    def describe(self):
        if self.postcopy:
            return (f"{self.title}; {self.memory} MiB of {self.kind} memory, {self.transport}, "
                    f"postcopy-preempt {'on' if self.preempt else 'off'}, max-postcopy-bandwidth "
                    f"{RECOVER_BANDWIDTH // MIB if self.recover else 0}{' MiB/s' if self.recover else ''}")
        limit = "no bandwidth limit" if self.bandwidth == UNLIMITED else (
            f"at most {self.bandwidth // MIB} MiB/s")
        return (f"{self.title}; {self.memory} MiB, {self.transport}, "
                f"return-path {'on' if self.return_path else 'off'}, {limit}")


# Writes somewhere in 512 MiB, and times each first touch; nothing else reads its pages.
# Asynchronous page faults (apf=) cost this guest some 60 instructions in ring 0 for each page, which a
# software KVM emulates: 110 us that are none of the programs'.
POSTCOPY_GUEST = ("mem=512M rate=50000 pattern=random data=random precheck=0 vrate=0 stall=20000 "
                  "apf=0")

CASES = [
    Case("idle-unix", "random data, idle guest", cross=True, quick=True),
    Case("idle-tcp", "random data, idle guest", transport="tcp"),
    Case("idle-oneway", "random data, idle guest", return_path=False),
    Case("untouched", "64 MiB of random data, the rest never touched, idle guest",
         guest="idle=1 data=random mem=64M", sparse=True),
    Case("untouched-4g", "memory that no guest has touched, only its firmware ran", memory=4096,
         anonymous=True),
    Case("untouched-16g", "memory that no guest has touched, only its firmware ran", memory=16384,
         anonymous=True),
    Case("idle-limit10", "random data, idle guest, downtime-limit 10 ms", downtime_ms=10),
    Case("busy50k", "random data, 50,000 pages of 512 MiB written a second",
         guest="ws=512M rate=50000 pattern=random data=random precheck=0 vrate=0"),
    Case("busy50k-limit10", "random data, 50,000 pages of 512 MiB written a second, "
         "downtime-limit 10 ms",
         guest="ws=512M rate=50000 pattern=random data=random precheck=0 vrate=0",
         downtime_ms=10),
    Case("busy", "random data, 5000 pages written a second",
         guest="rate=5000 pattern=random data=random vrate=1000", cross=True, quick=True),
    Case("busy-limited", "random data, 5000 pages written a second",
         guest="rate=5000 pattern=random data=random vrate=1000", bandwidth=256 * MIB),
    # a page is written 200,000 times a second somewhere in 64 MiB
    Case("pause", "random data, 200,000 pages of 64 MiB written a second: the pause",
         guest="mem=256M ws=64M rate=200000 pattern=random data=random precheck=0 vrate=0 halt=0",
         memory=512, watch=True),
    Case("asked", "random data, 5000 pages written a second, at most 256 MiB/s; a client asks "
         "query-migrate every 5 ms",
         guest="rate=5000 pattern=random data=random vrate=1000", bandwidth=256 * MIB, ask=True),
    Case("converge-limited", "1 GiB of random data written over and over as fast as possible, "
         "auto-converge", guest="mem=1G rate=max pattern=seq data=random precheck=0 vrate=0",
         memory=1088, bandwidth=400 * MIB, converge=True),
    Case("converge", "the same without a limit",
         guest="mem=1G rate=max pattern=seq data=random precheck=0 vrate=0", memory=1088,
         converge=True),
    Case("small", "random data, idle guest: fixed costs", memory=16, quick=True),
    # Each round must be more than QEMU sends at once (a tenth of a second of the limit), else QEMU
    # finds nothing dirty behind it and ends.
    Case("xbzrle", "48 MiB written all over and over, 8 words of a page each time, xbzrle; "
         "rounds at 6 MiB/s for six seconds, then the end",
         guest="mem=48M rate=max data=sparse precheck=0 vrate=1000", memory=128,
         bandwidth=192 * MIB, xbzrle=64, hold=(6 * MIB, 6.0)),
    Case("postcopy", "50,000 pages of 512 MiB written a second; a first round at 128 MiB/s, then "
         "post-copy", guest=POSTCOPY_GUEST, memory=576, bandwidth=128 * MIB, downtime_ms=1,
         postcopy=True, floor_faults=2000),
    Case("postcopy-stall", "post-copy from the begin, as many pages of 512 MiB written as can be",
         guest=POSTCOPY_GUEST.replace("50000", "max"), memory=576, downtime_ms=1, postcopy=True,
         early=True, floor_faults=2000),
    Case("postcopy-stall-2m", "the same of 1 GiB with pages of 2 MiB",
         guest=POSTCOPY_GUEST.replace("50000", "max").replace("512M", "1G"), memory=1152, downtime_ms=1, postcopy=True,
         early=True, kind="huge", floor_faults=200),
    Case("postcopy-recover", "a link that is lost in post-copy and comes back, reconnect-interval 10 ms",
         guest=POSTCOPY_GUEST.replace("50000", "max"), memory=576, downtime_ms=1, postcopy=True,
         early=True, recover=True),
]
