# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting. Nothing in a test waits without a deadline, and a wait that fails says for what."""

import os
import time


def _factor():
    given = os.environ.get("FERRY_TEST_TIMEOUT_FACTOR")
    if given:
        return float(given)
    return 1.0 if os.environ.get("FERRY_SANITIZERS", "none") in ("", "none") else 4.0


FACTOR = _factor()
# Seconds, before scaled(). Longer than any deadline of the product's own that is not set by the test
# (30 s at a source): else both end at the same time, and it is chance which of them is seen.
DEADLINE = 60.0
# For what happens at once, as opposed to when a deadline of the product's (20 s and more) has ended it.
# However slow the machine is, that is never more; so scaled(PROMPT) is the same for every build.
PROMPT = 12.0 / FACTOR


class Timeout(AssertionError):
    """Something did not happen in time."""


def scaled(seconds=None):
    """A time limit as it is for this build."""
    return (DEADLINE if seconds is None else seconds) * FACTOR


def wait_for(what, look, timeout=None, pause=0.005):
    """Calls look() until it returns something true, and returns that."""
    limit = scaled(timeout)
    end = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise Timeout(f"No {what} within {limit:.0f} s")
        time.sleep(pause)
