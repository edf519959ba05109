# SPDX-License-Identifier: GPL-2.0-or-later
"""A line about a migration that runs: rewritten in place on a terminal, elsewhere a line now and then."""

import shutil
import time

from place import MIB

TERMINAL_EVERY_S = 0.1
PLAIN_EVERY_S = 0.5
BAR = 20


def size(count):
    """Bytes for people."""
    if count < 10 * MIB:
        return f"{count / MIB:.1f} MiB"
    return f"{count / MIB:.0f} MiB"


def duration(ms):
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 10000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s"


class Progress:
    """Fed with what query-migrate says; thinks out speed and time left by itself."""

    def __init__(self, out):
        self.out = out
        self.terminal = out.isatty()
        self.every = TERMINAL_EVERY_S if self.terminal else PLAIN_EVERY_S
        self.begun = self.shown = time.monotonic()
        self.last = (self.begun, 0)  # time and bytes a little ago
        self.rate = 0.0
        self.visible = False

    def _measure(self, now, sent):
        if now - self.last[0] >= self.every:
            speed = (sent - self.last[1]) / (now - self.last[0])
            self.rate = speed if not self.rate else (self.rate + speed) / 2
            self.last = (now, sent)

    def update(self, info):
        ram = info.get("ram")
        now = time.monotonic()
        if not ram:
            return
        self._measure(now, ram["transferred"])
        if now - self.shown < self.every:
            return
        self.shown = now
        self._show(self._text(info, ram, now))

    def _text(self, info, ram, now):
        dirty = ram["dirty-pages-rate"] * ram.get("page-size", 4096)
        done = 1 - ram["remaining"] / max(ram["total"], 1)
        filled = round(done * BAR)
        left = "-"
        if self.rate > 0:
            gain = self.rate - dirty
            left = duration(ram["remaining"] / gain * 1e3) if gain > 0 else "as long as it writes"
        parts = [f"{now - self.begun:5.1f} s",
                 f"sent {size(ram['transferred'])} of {size(ram['total'])}",
                 f"{self.rate / MIB:.0f} MiB/s",
                 f"dirtied {dirty / MIB:.0f} MiB/s",
                 f"round {ram['dirty-sync-count']}",
                 f"remaining {size(ram['remaining'])}",
                 f"time left {left}",
                 f"pause {info['expected-downtime']} ms expected"
                 if "expected-downtime" in info else info["status"]]
        bar = f"[{'#' * filled}{'.' * (BAR - filled)}]"
        room = shutil.get_terminal_size((200, 24)).columns - 1 if self.terminal else 1000
        if len(bar) + len(" | ".join(parts)) < room:
            parts[0] = f"{bar} {parts[0]}"
        while len(" | ".join(parts)) > room and len(parts) > 2:
            parts.pop()
        return " | ".join(parts)

    def _show(self, text):
        if self.terminal:
            self.out.write("\r\x1b[K" + text)
            self.visible = True
        else:
            self.out.write("  " + text + "\n")
        self.out.flush()

    def end(self):
        """The line goes; what follows is the report."""
        if self.visible:
            self.out.write("\r\x1b[K")
            self.out.flush()
            self.visible = False
