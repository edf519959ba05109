# SPDX-License-Identifier: GPL-2.0-or-later
"""Where unpacked packages are kept, and how one process at a time fills that place."""

import contextlib
import fcntl
import os
import subprocess
import sys


class Missing(Exception):
    """Something that comes from a package cannot be had; the text says what to do."""


def say(text):
    print(f"cache: {text}", file=sys.stderr, flush=True)


def cache_dir(source_dir):
    """$XDG_CACHE_HOME/ferry/lab where that variable is set, else a folder of the build."""
    home = os.environ.get("XDG_CACHE_HOME")
    return os.path.join(home, "ferry", "lab") if home else os.path.join(source_dir, "build",
                                                                        "lab-cache")


@contextlib.contextmanager
def locked(folder):
    """One process at a time fills the cache."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that fills {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def attempt(*argv, timeout=60, **options):
    """(output, None) of a command, or (None, what it said) when it fails."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout,
                              env={**os.environ, "LC_ALL": "C"}, text=True, **options)
    except (OSError, subprocess.SubprocessError) as error:
        return None, str(error)
    if done.returncode:
        return None, done.stderr.strip() or f"status {done.returncode}"
    return done.stdout, None


def run(*argv, **options):
    """Output of a command, or None when it fails."""
    return attempt(*argv, **options)[0]
