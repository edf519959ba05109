# SPDX-License-Identifier: GPL-2.0-or-later
"""
A QMP server that says what a test wants: well-behaved machines, and hostile ones.

FakeMachine plays a machine with a migration that goes through given states. Hostile hands each
connection to a function of the test's.
"""

import contextlib
import json
import os
import socket
import threading
import time

FERRY = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
                             "package": "ferry-0.1.0"}, "capabilities": ["oob"]}}
QEMU = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
                            "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}

RAM = {"transferred": 10 << 20, "remaining": 6 << 20, "total": 16 << 20, "duplicate": 0,
       "skipped": 0, "normal": 100, "normal-bytes": 409600, "dirty-pages-rate": 5120,
       "mbps": 838.8608, "dirty-sync-count": 2, "postcopy-requests": 0, "page-size": 4096,
       "multifd-bytes": 0, "pages-per-second": 100, "precopy-bytes": 1, "downtime-bytes": 0,
       "postcopy-bytes": 0, "dirty-sync-missed-zero-copy": 0}


def ram(**changes):
    return {**RAM, **{k.replace("_", "-"): v for k, v in changes.items()}}


def a_round(number, start, remaining, **changes):
    """A round of 100 ms at 100 MiB/s; start in ms."""
    return {"number": number, "start": start * 1000, "duration": 100000, "bytes": 10 << 20,
            "dirtied-pages": remaining, "remaining-pages": remaining, "bandwidth": 100 << 20,
            "throttle": 0, "expected-downtime": remaining * 40,
            **{k.replace("_", "-"): v for k, v in changes.items()}}


class Refusal(Exception):
    """Raised by a command of a FakeMachine: the answer is this error."""

    def __init__(self, desc, error_class="GenericError"):
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class


class Server:
    """Listens on a UNIX socket and serves one client at a time, as a chardev does."""

    def __init__(self, path):
        self.path = path
        self._stopping = False
        self._socket = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket.bind(path)
        self._socket.listen(10)
        self._client = None
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopping:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._client = client
            with client, contextlib.suppress(OSError, ValueError):
                self.serve(client)

    def serve(self, client):
        raise NotImplementedError

    def close(self):
        self._stopping = True
        for sock in (self._socket, self._client):
            if sock:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


class Hostile(Server):
    """function(client) for each connection."""

    def __init__(self, path, function):
        self.function = function
        super().__init__(path)

    def serve(self, client):
        self.function(client)


class FakeMachine(Server):
    """
    commands: name to what it returns, or to a function of its arguments that returns it or raises
    Refusal. `states` is what query-migrate says once `migrate` was executed, one after the other (a
    state may be a number of seconds to stay in the one before); the last one stays. A state's
    "run-state" is what query-status says meanwhile. `log` has all commands with their arguments, but
    those that begin with query and those that it does not know.
    """

    def __init__(self, path, greeting=None, commands=None, states=(), started=False,
                 cancelled=None, capabilities=("return-path", "auto-converge"), run_state="running"):
        self.greeting = greeting or FERRY
        self.log = []
        self.states = list(states)
        self.run_state = run_state
        self.info = {}
        self._hold_until = 0
        self.started = started
        self.cancelled = cancelled if cancelled is not None else {"status": "cancelled"}
        self.lock = threading.Lock()
        self.commands = {
            "qmp_capabilities": {},
            "query-status": lambda: {"running": self.run_state == "running",
                                     "singlestep": False, "status": self.run_state},
            "query-name": {"name": "web1"},
            "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000001"},
            "query-commands": lambda: [{"name": n} for n in self.commands],
            "query-migrate": self._query_migrate,
            "query-migrate-capabilities": [{"capability": c, "state": False} for c in capabilities],
            "migrate-set-capabilities": {}, "migrate-set-parameters": {},
            "migrate": self._migrate, "migrate_cancel": self._cancel,
            "stop": self._stop, "cont": self._cont, "quit": {},
            **(commands or {}),
        }
        super().__init__(path)

    def _query_migrate(self):
        if self.started and self.states and time.monotonic() >= self._hold_until:
            state = self.states.pop(0)
            if isinstance(state, (int, float)):
                self._hold_until = time.monotonic() + state
            else:
                self.info = dict(state)
                self.run_state = self.info.pop("run-state", self.run_state)
        return self.info

    def _migrate(self, **_):
        self.started = True
        return {}

    def _cancel(self):
        self.states = [self.cancelled]
        self._hold_until = 0
        return {}

    def _stop(self):
        self.run_state = "paused"
        return {}

    def _cont(self):
        self.run_state = "running"
        return {}

    def arguments(self, command):
        """Those of the only execution of a command."""
        (found,) = [a for c, a in self.log if c == command]
        return found

    def _answer(self, request):
        name, arguments = request["execute"], request.get("arguments", {})
        if name in self.commands and not name.startswith("query-") and name != "qmp_capabilities":
            self.log.append((name, arguments))
        try:
            if name not in self.commands:
                raise Refusal(f"The command {name} has not been found", "CommandNotFound")
            result = self.commands[name]
            if callable(result):
                result = result(**{k.replace("-", "_"): v for k, v in arguments.items()})
            return {"return": result}
        except Refusal as refusal:
            return {"error": {"class": refusal.error_class, "desc": refusal.desc}}

    def serve(self, client):
        with client.makefile("rwb") as stream:
            stream.write(json.dumps(self.greeting).encode() + b"\r\n")
            stream.flush()
            for line in stream:
                request = json.loads(line)
                # something that comes in between, as it does
                stream.write(b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}\r\n')
                with self.lock:
                    answer = self._answer(request)
                stream.write(json.dumps({**answer, "id": request.get("id")}).encode() + b"\r\n")
                stream.flush()
                if request["execute"] == "quit":
                    return
