# SPDX-License-Identifier: GPL-2.0-or-later
"""
The program with a command line of the test's own, which ferrytest's Ferry does not give.

run() is for command lines that end by themselves. Machine is for one that runs: it has a QMP
connection and is ended and checked when its `with` block ends.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from ferrytest import Qmp, ferry_binary, scaled, wait_for

BINARY = ferry_binary()
NAME = os.path.basename(BINARY)
SOURCE_DIR = os.environ["FERRY_SOURCE_DIR"]


def run(*args, **kwargs):
    """Runs the program to its end; stdout and stderr are text."""
    return subprocess.run([BINARY, *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=scaled(), check=False, **kwargs)


class Machine:
    """A running program with a QMP connection (.qmp) and a folder of its own (.dir)."""

    def __init__(self, *args, qmp=True, env=None, pass_fds=(), expect_status=0):
        self.dir = tempfile.mkdtemp(prefix="ferry-test-")
        self.qmp_path = os.path.join(self.dir, "qmp")
        self.expect_status = expect_status
        self.qmp = None
        command = [BINARY, "-display", "none", *[a.replace("%dir", self.dir) for a in args]]
        if qmp:
            command += ["-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        with open(self.dir + "/stderr", "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=err, env=env,
                                            pass_fds=pass_fds)
        try:
            if qmp:
                self.qmp = Qmp(wait_for("QMP socket", self._connect)).negotiate()
        except BaseException:
            self.kill()
            shutil.rmtree(self.dir)
            raise

    def _connect(self):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.qmp_path)
            return sock
        except OSError:
            sock.close()
        if self.process.poll() is not None:
            raise RuntimeError(f"the program did not come up: {self.stderr()}")
        return None

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, tb):
        try:
            if exc_type is not None:
                self.kill()
                return
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            status = self.wait()
            if status != self.expect_status:
                raise AssertionError(f"ended with status {status}: {self.stderr()}")
        finally:
            if self.qmp:
                self.qmp.close()
            shutil.rmtree(self.dir, ignore_errors=True)

    def wait(self):
        try:
            return self.process.wait(scaled())
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end: {self.stderr()}") from None

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        return self.process.wait()

    def stderr(self):
        with open(self.dir + "/stderr", encoding="utf-8", errors="replace") as f:
            return f.read()


def leaked(text):
    """What a sanitizer has to say, if anything."""
    found = re.search(r"(ERROR: \w+Sanitizer|runtime error:).*", text)
    return found[0] if found else None
