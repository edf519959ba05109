# SPDX-License-Identifier: GPL-2.0-or-later
"""
Every option with every kind of nonsense: empty, huge, negative, beyond 64 bits, broken JSON, control
characters, the same key twice. Each is refused with one line and status 1 and leaves nothing behind,
or is a value like others and the program runs and ends in order. What must be said about particular
values is in test_options.py.
"""

import concurrent.futures
import os
import re
import signal
import subprocess
import time
import unittest

from ferry_cli import BINARY, NAME, run
from ferrytest import TestCase, is_sanitized, scaled

HUGE = "x" * 100000
VALUES = [
    "", " ", ",", ",,", "=", "=,=", "-1", "0", "2147483648", "4294967296", "9223372036854775808",
    "18446744073709551616", "1e308", "0x", "1k", "nan", "\x01\x7f", "a\nb", "\x1b[2J", "\xff", HUGE,
    HUGE + "=1", "a=" + HUGE, "id=a,id=a", "id=a,id=b", "id=1", "size=-1", "size=1E", "path=",
    "{", "{}", "[]", "null", '{"a"', '{"a":1,"a":2}', '{"id":"\\u0000"}', "{" * 2000, '"' + HUGE,
    "%s%n%p", "--", "-M", "none", "on", "off", "unix:", "tcp:", "fd:", "fd:-1", "fd:999", "file:",
    "exec", "unix:" + HUGE, "tcp:[::", "tcp:x:99999999",
]
# Long: what belongs to them is one of these kinds, whose first of it is enough under sanitizers.
FEWER = VALUES[::4]
# They end the program or leave it to itself; nothing is read behind them.
NOT_HERE = {"-h", "-help", "--help", "-version", "--version", "-daemonize"}


def options_with_argument():
    """From the list that -help prints."""
    found = []
    for line in run("-help").stdout.splitlines():
        m = re.match(r"(-[\w-]+) \S", line)
        if m and m[1] not in NOT_HERE:
            found.append(m[1])
    return sorted(set(found))


def heeds_sigterm(pid):
    """Whether a process has come so far that it ends in order when it is told to."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            masks = re.findall(r"^Sig(?:Blk|Cgt):\s*([0-9a-f]+)", f.read(), re.M)
    except OSError:
        return False
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


class HostileOptions(TestCase):
    def attempt(self, option, value, folder):
        """What is wrong with how it went, or None."""
        argv = [BINARY, "-nodefaults", "-display", "none", "-M", "none", "-accel", "qtest", option,
                value.encode("latin-1")]
        with subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as process:
            end = time.monotonic() + scaled()
            try:
                said = process.communicate(timeout=scaled(0.25))[1]
            except subprocess.TimeoutExpired:
                # on a busy host it may not have come far
                while (process.poll() is None and not heeds_sigterm(process.pid) and
                       time.monotonic() < end):
                    time.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                said = process.communicate(timeout=scaled())[1]
                if process.returncode == 0:
                    return None
                if process.returncode != 1 or b"terminating on signal" in said:
                    return f"it ran and ended with {process.returncode}: {said[:300]}"
        if process.returncode == 0:
            return f"it ended by itself: {said[:300]}"
        if process.returncode != 1:
            return f"status {process.returncode}: {said[:300]}"
        lines = [line for line in said.split(b"\n") if b": warning: " not in line]
        if len(lines) != 2 or lines[1]:
            return f"not one line: {said[:300]}"
        if not lines[0].startswith(NAME.encode() + b": "):
            return f"nobody says it: {said[:300]}"
        if len(lines[0]) > 1200 or re.search(rb"[\x00-\x1f\x7f]", lines[0]):
            return f"{len(lines[0])} bytes, or not printable: {said[:300]}"
        return None

    def test_every_option(self):
        options = options_with_argument()
        self.assertGreater(len(options), 30, options)
        before = set(os.listdir("/proc/self/fd"))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            jobs = {}
            for option in options:
                for value in (FEWER if is_sanitized() else VALUES):
                    jobs[option, value] = pool.submit(self.attempt, option, value, self.folder())
        for (option, value), job in jobs.items():
            with self.subTest(option=option, value=value[:40]):
                self.assertIsNone(job.result())
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)


if __name__ == "__main__":
    unittest.main()
