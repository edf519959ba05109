# SPDX-License-Identifier: GPL-2.0-or-later
"""What a move was like, in plain text."""

import os

from progress import duration, size

CHART = 48  # characters
CHART_ROUNDS = 12  # the first half and the last


def row(name, text):
    print(f"  {name:<16}{text}")


def pauses(move, tolerance_ms):
    """The pause as the three saw it."""
    seen = [("source", move.source_ms), ("guest", move.guest_ms), ("third process", move.watched_ms)]
    row("pause", "   ".join(f"{who}: {'not seen' if ms is None else duration(ms)}" for who, ms in seen))
    values = [ms for _, ms in seen if ms is not None]
    spread = max(values) - min(values)
    if tolerance_ms is None:
        row("", "(on one emulated CPU each of them also waits for its turn, so they differ)")
    elif len(values) < 3:
        row("", "the third process did not see the whole switch")
    elif spread <= tolerance_ms:
        row("", f"they agree within {duration(spread)} (tolerance {duration(tolerance_ms)})")
    else:
        row("", f"THEY DISAGREE by {duration(spread)} (tolerance {duration(tolerance_ms)}; "
            f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs)")
    if move.guest_longest:
        row("", f"(guest: its clock at the switch; its longest gap, {duration(move.guest_longest / 1e6)}, "
            "came at another moment)")


def chart(rounds):
    if len(rounds) < 2:
        return
    print("\n  remaining at the begin of each round")
    top = max(max(rounds), 1)
    for number, remaining in enumerate(rounds, 1):
        if len(rounds) > CHART_ROUNDS and CHART_ROUNDS / 2 < number <= len(rounds) - CHART_ROUNDS / 2:
            if number == CHART_ROUNDS / 2 + 1:
                print(f"        |... {len(rounds) - CHART_ROUNDS} rounds more")
            continue
        bar = "#" * max(round(remaining / top * CHART), 1 if remaining else 0)
        print(f"  {number:>5} |{bar} {size(remaining)}")
    print()


def milliseconds(ns):
    return f"{ns / 1e6:+.2f} ms"


def report(move, title, tolerance_ms):
    info, ram = move.info, move.info["ram"]
    print(title)
    chart(move.rounds)
    row("whole time", duration(info["total-time"]))
    pauses(move, tolerance_ms)
    row("sent", f"{size(ram['transferred'])} in {ram['dirty-sync-count']} rounds: {ram['normal']} pages, "
        f"{ram['duplicate']} zero pages")
    row("guest wrote", f"{move.writes_before:.0f} pages/s before, {move.writes_during:.0f} during the move")
    row("its memory", f"{move.bad_words} corrupted words; {move.verified} pages verified after it")
    backwards = sum(move.back.values())
    row("its clock", "never went backwards" if not backwards else
        f"WENT BACKWARDS: {', '.join(f'{k} {v}' for k, v in move.back.items())}")
    row("time of day", f"off by {milliseconds(move.wall_before)} before, "
        f"{milliseconds(move.wall_after)} after")
    print()
