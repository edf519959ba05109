# SPDX-License-Identifier: GPL-2.0-or-later
"""
What the tests of whole Ferry processes are written with. Python's standard library only.

    case.py       TestCase: temporary folders, cleaning up, logs when a case fails
    deadline.py   waiting: every wait has a deadline
    machine.py    Ferry: a VMM process with its sockets and files
    qemu.py       Qemu: the same with QEMU 7.2 or 10.0, to move guests to and fro
    qmp.py        Qmp: a QMP client
    qtest.py      QTest: a qtest client
    guest.py      Guest: what the workload guest says on its serial port and in its mailbox
    loop.py       Loop: block devices over files
    load.py       Disk, Peer: the workload guest's virtio devices under load
    relay.py      Relay: a link between two processes that can be cut, stalled and slowed down
    migrate.py    moving a guest from one Ferry to another

Environment: FERRY_BINARY, FERRY_BUILD_DIR and FERRY_SOURCE_DIR come from tests/run.
FERRY_TEST_TIMEOUT_FACTOR multiplies every deadline (sanitized builds: 4 unless set).
FERRY_TEST_KEEP=1 keeps the temporary folders. FERRY_REQUIRE_PEERS=1: a QEMU that is missing fails
cases instead of skipping them.
"""

from .case import TestCase
from .deadline import DEADLINE, PROMPT, Timeout, scaled, wait_for
from .guest import DEVSTATE, Guest
from .machine import QEMU, Ferry, ferry_binary, have_kvm, is_sanitized
from .qmp import Qmp, QmpError
from .qtest import QTest, QTestError
from .relay import Relay

__all__ = ["DEADLINE", "DEVSTATE", "Ferry", "Guest", "PROMPT", "QEMU", "QTest", "QTestError",
           "Qmp", "QmpError", "Relay", "TestCase", "Timeout", "ferry_binary", "have_kvm", "is_sanitized",
           "scaled", "wait_for"]
