# SPDX-License-Identifier: GPL-2.0-or-later
"""
Block devices for tests: loop devices over files. They need root and losetup; a case that cannot
have them is skipped.

    loop = Loop(case, path)                  # /dev/loopN over the file, until the case is over
    loop.device, loop.number
    loop.resized()                           # the file has another length: so has the device
"""

import os
import subprocess
import unittest


def _losetup(*args):
    try:
        return subprocess.run(["losetup", *args], capture_output=True, text=True, timeout=30,
                              check=False)
    except FileNotFoundError:
        raise unittest.SkipTest("losetup is not there, so there are no loop devices") from None


class Loop:
    def __init__(self, case, path, read_only=False, block_size=512, direct=False):
        if os.geteuid() or not os.path.exists("/dev/loop-control"):
            raise unittest.SkipTest("Loop devices need root and the kernel's loop driver")
        args = ["--find", "--show", "--sector-size", str(block_size)]
        args += ["--read-only"] if read_only else []
        args += ["--direct-io=on"] if direct else []
        result = _losetup(*args, path)
        if result.returncode:
            raise unittest.SkipTest(f"No loop device can be made here: {result.stderr.strip()}")
        self.path, self.device = path, result.stdout.strip()
        case.addCleanup(_losetup, "--detach", self.device)
        if not os.path.exists(self.device):
            raise unittest.SkipTest(f"{self.device} has no file in /dev here")

    def resized(self):
        """The device has the length that its file has now."""
        result = _losetup("--set-capacity", self.device)
        if result.returncode:
            raise AssertionError(result.stderr)

    def set_read_only(self, read_only):
        """The kernel refuses writes from now on, also of those who have it open, or no more."""
        subprocess.run(["blockdev", "--setro" if read_only else "--setrw", self.device], check=True)

    def settle(self):
        """What was written to the device through the page cache is in the file."""
        fd = os.open(self.device, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
