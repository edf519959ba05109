# SPDX-License-Identifier: GPL-2.0-or-later
"""
Starts the program for the tests of this folder.

run() is for command lines that end by themselves. Machine is for one that runs: it has a QMP
connection and is ended and checked when its `with` block ends.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BINARY = os.environ["FERRY_BINARY"]
SOURCE_DIR = os.environ["FERRY_SOURCE_DIR"]
NAME = os.path.basename(BINARY)
SLOW = 1 if os.environ.get("FERRY_SANITIZERS", "none") == "none" else 4
# Enough for any step of any test here; a test that needs it all has failed.
TIMEOUT = 20 * SLOW


def run(*args, timeout=TIMEOUT, **kwargs):
    """Runs the program to its end; stdout and stderr are text."""
    return subprocess.run([BINARY, *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout, check=False, **kwargs)


class QmpError(Exception):
    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.klass = error["class"]
        self.desc = error["desc"]


class Qmp:
    """A QMP client; events are kept in .events until somebody looks."""

    def __init__(self, path, negotiate=True):
        deadline = time.monotonic() + TIMEOUT
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.sock.settimeout(TIMEOUT)
        self.file = self.sock.makefile("rb")
        self.events = []
        self.greeting = self.read()
        if negotiate:
            self.cmd("qmp_capabilities")

    def close(self):
        self.file.close()
        self.sock.close()

    def read(self):
        line = self.file.readline()
        if not line:
            raise EOFError("QMP connection closed")
        return json.loads(line)

    def cmd(self, name, **arguments):
        request = {"execute": name}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self.read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(answer["error"])
            else:
                return answer["return"]

    def event(self, name):
        """The first event of this name, waiting for it."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            answer = self.read()
            if "event" in answer:
                self.events.append(answer)


class Machine:
    """A running program with a QMP connection (.qmp) and a folder of its own (.dir)."""

    def __init__(self, *args, qmp=True, env=None, pass_fds=(), expect_status=0):
        self.dir = tempfile.mkdtemp(prefix="ferry-test-")
        self.qmp_path = os.path.join(self.dir, "qmp")
        self.expect_status = expect_status
        self.stderr_path = os.path.join(self.dir, "stderr")
        command = [BINARY, "-display", "none", *[a.replace("%dir", self.dir) for a in args]]
        if qmp:
            command += ["-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        with open(self.stderr_path, "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=err, env=env,
                                            pass_fds=pass_fds)
        self.qmp = None
        try:
            if qmp:
                self.qmp = Qmp(self.qmp_path)
        except BaseException:
            self.kill()
            text = self.stderr()
            shutil.rmtree(self.dir)
            raise RuntimeError(f"the program did not come up: {text}") from None

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, tb):
        try:
            if self.process.poll() is None and exc_type is None:
                self.process.send_signal(signal.SIGTERM)
            status = self.wait() if exc_type is None else self.kill()
            if exc_type is None and status != self.expect_status:
                raise AssertionError(f"ended with status {status}: {self.stderr()}")
        finally:
            if self.qmp:
                self.qmp.close()
            shutil.rmtree(self.dir, ignore_errors=True)

    def wait(self):
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end: {self.stderr()}") from None

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        return self.process.wait()

    def stderr(self):
        with open(self.stderr_path, encoding="utf-8", errors="replace") as f:
            return f.read()


def leaked(text):
    """What a sanitizer has to say, if anything."""
    found = re.search(r"(ERROR: \w+Sanitizer|runtime error:).*", text)
    return found[0] if found else None
