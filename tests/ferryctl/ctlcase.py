# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of ferryctl have in common: running it, in a pipe or in a terminal."""

import json
import os
import re
import shutil
import subprocess
import threading
import unittest

from ferrytest import TestCase, scaled, wait_for
from ferrytest.machine import build_dir
from fakeqmp import FakeMachine, Hostile

BINARY = os.path.join(build_dir(), "tools", "ferryctl", "ferryctl")

DONE, FAILED, USAGE, REFUSED, CANCELLED, UNREACHABLE, LEFT_RUNNING = range(7)

# What must never reach a terminal: control characters but for the end of a line.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Result:
    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err

    @property
    def lines(self):
        """Of --json."""
        return [json.loads(line) for line in self.out.splitlines()]

    def of_type(self, kind):
        return [line for line in self.lines if line["type"] == kind]

    @property
    def end(self):
        assert self.lines[-1]["type"] == "end", self.out
        return self.lines[-1]


class CtlCase(TestCase):
    def setUp(self):
        self.servers = []
        self.sock = self.path("web1.qmp")
        self.env = {**os.environ, "XDG_RUNTIME_DIR": self.tmp, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
        self.env.pop("FERRY_SOCKET", None)

    def fake(self, path=None, **options):
        server = FakeMachine(path or self.sock, **options)
        self.addCleanup(server.close)
        return server

    def hostile(self, function):
        server = Hostile(self.sock, function)
        self.addCleanup(server.close)
        return server

    def start(self, *args, socket=True, env=None):
        """Starts it with pipes."""
        command = [BINARY, *(["-s", self.sock] if socket else []), *args]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env={**self.env, **(env or {})},
                                   cwd=self.tmp)
        self.addCleanup(self._reap, process)
        return process

    @staticmethod
    def _reap(process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def finish(self, process):
        try:
            out, err = process.communicate(timeout=scaled(70))  # beyond its own --timeout
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.fail(f"ferryctl did not end: {out} {err}")
        self.assertNotIn(b"Sanitizer", err)
        self.assertNotIn(b"runtime error", err)
        result = Result(process.returncode, out.decode(), err.decode())
        for text in (result.out, result.err):
            self.assertIsNone(CONTROL.search(text), repr(text))
        return result

    def ctl(self, *args, expect=DONE, **options):
        """Runs it to its end; the exit status must be this one."""
        result = self.finish(self.start(*args, **options))
        self.assertEqual(result.status, expect, f"{args}: {result.out}{result.err}")
        return result

    def wait_line(self, process, text):
        """Reads lines until one has this text in it."""
        seen = []
        patience = threading.Timer(scaled(), process.kill)
        patience.start()
        try:
            while True:
                line = process.stdout.readline().decode()
                seen.append(line)
                if not line:
                    self.fail(f"no '{text}' in {seen}")
                if text in line:
                    return line
        finally:
            patience.cancel()


class Terminal:
    """ferryctl in a terminal of a given size, by way of tmux."""

    def __init__(self, case, command, columns=100, rows=30, env=None):
        self.case = case
        # each has a server of its own: one that is just ending takes no session
        folder = case.folder()
        self.socket = f"{folder}/tmux"
        self.status_path = f"{folder}/exit-status"
        self.modes_path = f"{folder}/stty"
        script = f"{folder}/in-terminal"
        with open(script, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\ntrap : INT\n")  # Ctrl-C is for ferryctl
            for name in ("XDG_RUNTIME_DIR", "LANG", "LC_ALL"):
                f.write(f"export {name}='{case.env[name]}'\n")
            for name, value in (env or {}).items():
                f.write(f"export {name}='{value}'\n")
            f.write(f"echo before\n{command}\necho $? >{self.status_path}.new\n"
                    f"mv {self.status_path}.new {self.status_path}\nstty -a >{self.modes_path}\n"
                    "echo after\nexec sleep 1000\n")
        os.chmod(script, 0o755)
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), script)
        case.addCleanup(self.close)

    def tmux(self, *args):
        env = {k: v for k, v in self.case.env.items() if k != "TMUX"}
        return subprocess.run(["tmux", "-u", "-S", self.socket, *args], env=env, check=True,
                              capture_output=True, text=True, timeout=scaled()).stdout

    def screen(self):
        """The lines that are visible."""
        return self.tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def wait(self, pattern):
        """Until this can be seen; the screen."""
        def look():
            lines = self.screen()
            return lines if re.search(pattern, "\n".join(lines), re.M) else None
        try:
            return wait_for(f"'{pattern}' on the terminal", look, pause=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is:\n" + "\n".join(self.screen())) from None

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def status(self):
        """The exit status, once it has ended."""
        def look():
            try:
                with open(self.status_path, encoding="utf-8") as f:
                    return f.read()
            except FileNotFoundError:
                return None
        return int(wait_for("end of ferryctl", look, pause=0.05))

    def close(self):
        try:
            self.tmux("kill-server")
        except subprocess.CalledProcessError:
            pass


def need(program):
    if not shutil.which(program):
        raise unittest.SkipTest(f"No {program}")


__all__ = ["BINARY", "CANCELLED", "CONTROL", "CtlCase", "DONE", "FAILED", "LEFT_RUNNING", "REFUSED",
           "Result", "Terminal", "UNREACHABLE", "USAGE", "need"]
