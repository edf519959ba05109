# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians, ratios, and how they are printed."""

import statistics

# key, heading, digits after the point
COLUMNS = [
    ("whole_ms", "whole ms", 0),
    ("pause_ms", "pause ms", 2),
    ("claimed_ms", "claimed", 0),
    ("cpu_ms", "CPU ms", 0),
    ("cpu_source_ms", "source", 0),
    ("cpu_destination_ms", "dest", 0),
    ("prepare_ms", "prepare", 0),
    ("sent_mib", "sent MiB", 1),
    ("used_mib", "dest MiB", 0),
    ("rounds", "rounds", 0),
]
RATIOS = ("whole_ms", "pause_ms", "cpu_ms")
NAME = 18
WIDTH = 9


def median(samples):
    """Of each figure, over the runs."""
    return {key: statistics.median(s[key] for s in samples) for key in samples[0]} if samples else {}


def spread(samples, key):
    values = [s[key] for s in samples]
    return min(values), max(values)


def ratio(ours, theirs):
    return {key: ours[key] / theirs[key] for key in RATIOS if theirs.get(key) and key in ours}


def ratios(rows):
    """Of one case: name -> figure -> ours/theirs."""
    found = {}
    ferry = rows.get("ferry->ferry", {}).get("median")
    for name, other in (("Ferry/QEMU", "qemu->qemu"), ("Ferry/floor", "floor")):
        theirs = rows.get(other, {}).get("median")
        if ferry and theirs:
            found[name] = ratio(ferry, theirs)
    return found


def line(name, cells):
    return f"  {name:<{NAME}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)


def row(name, figures):
    cells = []
    for key, _, digits in COLUMNS:
        cells.append(f"{figures[key]:.{digits}f}" if key in figures else "")
    return line(name, cells)


def print_case(case, rows):
    print(f"\n{case.name}: {case.describe()}")
    print(line("", [heading for _, heading, _ in COLUMNS]))
    for name, result in rows.items():
        if result["median"]:
            print(row(name, result["median"]))
        if result["error"]:
            print(f"  {name:<{NAME}}FAILED: {result['error']}")
    for name, values in ratios(rows).items():
        print(line(name, [f"{values[key]:.2f} x" if key in values else "" for key, _, _ in COLUMNS]))
    spreads = [f"{name} {low:.0f}-{high:.0f}" for name, result in rows.items() if result["samples"]
               for low, high in [spread(result["samples"], "whole_ms")]]
    others = [s["others"] for result in rows.values() for s in result["samples"] if "others" in s]
    if spreads:
        print(f"  whole ms, least-most: {', '.join(spreads)}")
    if others:
        print(f"  CPU taken by other processes meanwhile: {statistics.median(others):.0%} "
              f"(most: {max(others):.0%})")
