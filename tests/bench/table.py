# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians, ratios, and how they are printed."""

import statistics

# key, heading, digits after the point
COLUMNS = [
    ("whole_ms", "whole ms", 0),
    ("post_ms", "post ms", 0),
    ("pause_ms", "pause ms", 2),
    ("seen_ms", "seen ms", 2),
    ("predicted", "predicted", 2),
    ("claimed_ms", "claimed", 0),
    ("cpu_ms", "CPU ms", 0),
    ("cpu_source_ms", "source", 0),
    ("cpu_destination_ms", "dest", 0),
    ("prepare_ms", "prepare", 0),
    ("sent_mib", "sent MiB", 1),
    ("used_mib", "dest MiB", 0),
    ("rounds", "rounds", 0),
    ("work", "work/s", 0),
    ("worst", "worst/s", 0),
    ("changed_ns", "ns/page", 0),
    ("asked_p99_ms", "p99 ms", 2),
    ("asked_max_ms", "max ms", 2),
    ("first_work", "1st s", 0),
    ("faults", "faults", 0),
    ("stall_p50_us", "p50 us", 0),
    ("stall_p99_us", "p99 us", 0),
    ("back_ms", "back ms", 1),
]
RATIOS = ("whole_ms", "post_ms", "pause_ms", "seen_ms", "cpu_ms", "work", "worst", "changed_ns", "first_work",
          "stall_p50_us", "stall_p99_us")
NAME = 18
WIDTH = 10


def median(samples):
    """Of each figure, over the runs."""
    keys = samples[0] if samples else {}
    return {key: statistics.median(s[key] for s in samples if key in s) for key in keys}


def spread(samples, key):
    values = [s[key] for s in samples]
    return min(values), max(values)


def ratio(ours, theirs):
    return {key: ours[key] / theirs[key] for key in RATIOS if theirs.get(key) and key in ours}


def ratios(rows):
    """Of one case: name -> figure -> ours/theirs."""
    found = {}
    ferry = rows.get("ferry->ferry", {}).get("median")
    for name, other in (("Ferry/QEMU", "qemu->qemu"), ("Ferry/QEMU 10", "qemu10->qemu10"),
                        ("Ferry/floor", "floor")):
        theirs = rows.get(other, {}).get("median")
        if ferry and theirs:
            found[name] = ratio(ferry, theirs)
    return found


def times(value):
    """A ratio, with two digits that say something."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def line(name, cells):
    return f"  {name:<{NAME}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)


def row(name, figures, columns):
    cells = []
    for key, _, digits in columns:
        cells.append(f"{figures[key]:.{digits}f}" if key in figures else "")
    return line(name, cells)


def print_case(case, rows):
    print(f"\n{case.name}: {case.describe()}")
    columns = [c for c in COLUMNS if any(c[0] in (r["median"] or {}) for r in rows.values())]
    print(line("", [heading for _, heading, _ in columns]))
    for name, result in rows.items():
        if result["median"]:
            print(row(name, result["median"], columns))
        if result["error"]:
            print(f"  {name:<{NAME}}FAILED: {result['error']}")
    for name, values in ratios(rows).items():
        print(line(name, [f"{times(values[key])} x" if key in values else "" for key, _, _ in columns]))
    key = "post_ms" if case.postcopy else "whole_ms"
    spreads = [f"{name} {low:.0f}-{high:.0f}" for name, result in rows.items()
               if result["samples"] and key in result["samples"][0]
               for low, high in [spread(result["samples"], key)]]
    others = [s["others"] for result in rows.values() for s in result["samples"] if "others" in s]
    if spreads:
        print(f"  {key.replace('_', ' ')}, least-most: {', '.join(spreads)}")
    if others:
        print(f"  CPU taken by other processes meanwhile: {statistics.median(others):.0%} "
              f"(most: {max(others):.0%})")


# ---- docs/performance.md ----

# of these, what a case has
DOC_COLUMNS = ("whole_ms", "post_ms", "pause_ms", "seen_ms", "predicted", "cpu_ms", "cpu_source_ms", "cpu_destination_ms", "sent_mib",
               "used_mib", "asked_p99_ms", "asked_max_ms", "work", "worst",
               "first_work", "faults", "stall_p50_us", "stall_p99_us", "back_ms")
DOC_BEGIN = "<!-- figures: written by tests/bench/run --doc -->\n"
DOC_POSTCOPY = "<!-- post-copy figures: written by tests/bench/run --doc -->\n"
DOC_VIRTIO = "<!-- figures of disks and networks: written by tests/bench/run --doc -->\n"
DOC_END = "<!-- end of figures -->\n"


def _doc_case(case):
    heads = {key: heading for key, heading, _ in COLUMNS}
    digits = {key: places for key, _, places in COLUMNS}
    columns = [k for k in DOC_COLUMNS
               if any(k in (row["median"] or {}) for row in case["rows"].values())]
    lines = [f"**{case['name']}**: {case['what']}", "",
             "| | " + " | ".join(heads[k] for k in columns) + " |",
             "|---|" + "--:|" * len(columns)]
    for name, row in case["rows"].items():
        if row["error"]:
            lines.append(f"| {name} | failed: {row['error']} |" + " |" * (len(columns) - 1))
        elif row["median"]:
            lines.append(f"| {name} | " + " | ".join(
                f"{row['median'][k]:.{digits[k]}f}" if k in row["median"] else "" for k in columns)
                + " |")
    for name, values in case["ratios"].items():
        lines.append(f"| *{name}* | " + " | ".join(
            f"*{times(values[k])}*" if k in values else "" for k in columns) + " |")
    others = [s["others"] for row in case["rows"].values() for s in row["samples"] if "others" in s]
    if others:
        lines += ["", f"Other processes took {statistics.median(others):.0%} of the CPUs meanwhile."]
    return "\n".join(lines) + "\n"


def write_doc(path, head, runs, cases, others=(), virtio=()):
    """Puts the figures between their marks in a Markdown file; those of post-copy and of virtio have
    marks of their own, and what was not measured stays."""
    programs = "; ".join(head["programs"].values())
    intro = (f"{head['date']}, medians of {runs} runs. {head['cpus']} CPUs ({head['cpu']}"
             f"{', itself a virtual machine' if head['virtual'] else ''}), {head['memory_mib'] / 1024:.0f} GiB, "
             f"Linux {head['kernel']}, KVM: {head['kvm']}. {programs}.\n\n")
    groups = [(DOC_BEGIN, [_doc_case(c) for c in cases if not c["postcopy"]] + list(others)),
              (DOC_POSTCOPY, [_doc_case(c) for c in cases if c["postcopy"]]),
              (DOC_VIRTIO, list(virtio))]
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for mark, parts in groups:
        if parts:
            begin = text.index(mark) + len(mark)
            text = text[:begin] + intro + "\n".join(parts) + text[text.index(DOC_END, begin):]
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
