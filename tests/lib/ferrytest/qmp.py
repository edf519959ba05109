# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP client: commands, answers, events, and descriptors over the socket."""

import json
import select
import socket
import time

from .deadline import Timeout, scaled


class QmpError(Exception):
    """The answer to a command was an error."""

    def __init__(self, command, error):
        self.command = command
        self.error_class = error["class"]
        self.desc = error["desc"]
        super().__init__(f"{command}: {self.desc} ({self.error_class})")


class QmpClosed(Exception):
    """The other side has closed the connection."""


class Qmp:
    """
    On a connected socket. `events` has every event that came, in order; wait_event() looks at those
    that it has not returned yet. `log` is a file for the dialogue, or None.
    """

    def __init__(self, sock, log=None):
        self.sock = sock
        self.log = log
        self.buffer = b""
        self.events = []
        self._next_event = 0
        self._serial = 0
        self.greeting = None

    def close(self):
        self.sock.close()

    def _note(self, direction, line):
        if self.log and not self.log.closed:
            self.log.write(f"{time.monotonic():.3f} {direction} {line}\n")
            self.log.flush()

    def send_raw(self, data, fds=()):
        self._note(">", data)
        if isinstance(data, str):
            data = data.encode()
        self.sock.settimeout(scaled())
        if fds:
            socket.send_fds(self.sock, [data], list(fds))
        else:
            self.sock.sendall(data)

    def read_message(self, timeout=None):
        """The next message, whatever it is. Timeout after the deadline, QmpClosed at the end."""
        end = time.monotonic() + scaled(timeout)
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise Timeout("No QMP message in time")
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise QmpClosed("The QMP connection was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        self._note("<", line.decode().rstrip())
        message = json.loads(line)
        if "event" in message:
            self.events.append(message)
        return message

    def negotiate(self, oob=False):
        """Reads the greeting and enters command mode."""
        self.greeting = self.read_message()
        if "QMP" not in self.greeting:
            raise AssertionError(f"Not a greeting: {self.greeting}")
        self.execute("qmp_capabilities", {"enable": ["oob"]} if oob else None)
        return self

    def start(self, command, arguments=None, oob=False, fds=()):
        """Sends a command and returns its id; answer() waits for the answer."""
        self._serial += 1
        message = {"exec-oob" if oob else "execute": command, "id": self._serial}
        if arguments:
            message["arguments"] = arguments
        self.send_raw(json.dumps(message) + "\n", fds)
        return self._serial

    def answer(self, ident, command="?", timeout=None):
        end = time.monotonic() + scaled(timeout)
        while True:
            message = self.read_message(max(end - time.monotonic(), 0) / scaled(1))
            if "event" in message:
                continue
            if message.get("id") != ident:
                raise AssertionError(f"Expected the answer to {command} ({ident}): {message}")
            if "error" in message:
                raise QmpError(command, message["error"])
            return message["return"]

    def execute(self, command, arguments=None, oob=False, fds=(), timeout=None):
        ident = self.start(command, arguments, oob, fds)
        return self.answer(ident, command, timeout)

    def cmd(self, command, **arguments):
        """cmd("migrate", uri=...): the return value. '_' in argument names stands for '-'."""
        return self.execute(command, {k.replace("_", "-"): v for k, v in arguments.items()})

    def wait_event(self, name, timeout=None, **data):
        """The next event of this name with these data members."""
        end = time.monotonic() + scaled(timeout)
        while True:
            while self._next_event < len(self.events):
                event = self.events[self._next_event]
                self._next_event += 1
                have = event.get("data", {})
                if event["event"] == name and all(have.get(k) == v for k, v in data.items()):
                    return event
            left = end - time.monotonic()
            if left <= 0:
                raise Timeout(f"No event {name} {data or ''}: there were "
                              f"{[e['event'] for e in self.events]}")
            try:
                self.read_message(left / scaled(1))
            except Timeout:
                continue

    def drain_events(self):
        """Takes in what has arrived already and returns the names of all events so far."""
        while b"\n" in self.buffer or select.select([self.sock], [], [], 0)[0]:
            try:
                self.read_message()
            except QmpClosed:
                break
        return [e["event"] for e in self.events]
