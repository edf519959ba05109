#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Show what is in a migration stream.

FILE is a captured stream, plain or xz: the forward direction, a return path, a multifd or preempt
channel, or the connection of a recovery; which one is found from its first bytes.  Without an
option the records and the checks are listed.  Bad input is one line on standard error with the
offset, after what could be decoded.

Exit status: 0 all well, 1 bad or inconsistent input (or streams that differ), 2 wrong usage.
"""

import argparse
import json
import os
import signal
import sys
from fnmatch import fnmatchcase

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import streamdecode  # noqa: E402
from streamdecode import compare, memory, report  # noqa: E402


def options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--sections", action="store_true", help="list every record")
    parser.add_argument("--ram", action="store_true",
                        help="RAM blocks and page statistics per section; with --diff, compare "
                             "the final memory too")
    parser.add_argument("--fields", metavar="SECTION", action="append", default=[],
                        help="fields of a device: cpu, ioapic#1, virtio-blk, all, or a pattern")
    parser.add_argument("--json", action="store_true", help="everything but page content, as JSON")
    parser.add_argument("--vmdesc", action="store_true", help="the stream's own description")
    parser.add_argument("--memory", metavar="OUTDIR", help="write final RAM, one file per block")
    parser.add_argument("--diff", metavar="OTHER", help="compare devices with another stream")
    parser.add_argument("--ignore", metavar="PATTERN", action="append", default=[],
                        help="with --diff: leave out 'section field' lines that match")
    parser.add_argument("--with", metavar="FILE", action="append", default=[], dest="others",
                        help="a further connection of the same migration, for its memory")
    parser.add_argument("--kind", choices=sorted(streamdecode.KINDS),
                        help="what FILE is, instead of finding out")
    return parser.parse_args()


class Failure(Exception):
    """One line for standard error."""


def load(path, **more):
    try:
        return streamdecode.load(path, partial=True, **more)
    except OSError as err:
        raise Failure("%s: %s" % (path, err.strerror)) from None
    except streamdecode.StreamError as err:
        raise Failure("%s: %s" % (path, err)) from None


def complain(text):
    sys.stdout.flush()
    print("stream-decode: %s" % text, file=sys.stderr)


def show(lines):
    for line in lines:
        print(line)


def select(stream, wanted):
    """The sections with fields (or bitmap records) that a name or pattern means."""
    shown = [section for section in stream.sections if section.step == "full"
             or any(item["record"] != "eos" for item in section.items)]
    found = [section for section in shown
             if wanted == "all" or wanted in (section.name, section.idstr.rpartition("/")[2])
             or fnmatchcase(section.name, wanted)]
    if not found:
        raise Failure("there is no device section '%s'" % wanted)
    return found


def write_memory(stream, others, args):
    os.makedirs(args.memory, exist_ok=True)
    result = memory.reconstruct(stream, others, args.memory)
    for block in result.blocks.values():
        block.data.flush()
        print("%s: 0x%x bytes, %d pages never arrived" % (block.path, block.length,
                                                         block.missing()))


def diff(stream, others, args):
    other = load(args.diff)
    if other.error:
        complain("%s: %s" % (args.diff, other.error))
    found = compare.compare(stream, other, args.ignore, args.ram, others)
    for one in found:
        print("%s: %s | %s" % one)
    print("%d differences" % len(found))
    return not found and not other.error


def run(args):
    stream = load(args.file, kind=args.kind)
    others = [load(path, earlier=stream) for path in args.others]
    good = True
    if args.json:
        print(report.as_json(stream, args.file))
    if args.sections:
        show(report.sections(stream))
    if args.ram and not args.diff:
        show(report.ram(stream))
    for wanted in args.fields:
        for section in select(stream, wanted):
            show(report.fields(section))
    if args.vmdesc:
        if stream.description is None:
            raise Failure("%s: the stream carries no vmdescription" % args.file)
        print(json.dumps(stream.description, indent=1))
    if args.memory:
        write_memory(stream, others, args)
    if args.diff:
        good = diff(stream, others, args)
    if not (args.json or args.sections or args.ram or args.fields or args.vmdesc or args.memory
            or args.diff):
        show(report.summary(stream, args.file))
    for path, one in zip([args.file] + args.others, [stream] + others):
        for where, text in one.problems:
            complain("%s: offset 0x%x: %s" % (path, where, text))
        if one.error:
            complain("%s: %s" % (path, one.error))
        good = good and not one.error and not one.problems
    return 0 if good else 1


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    args = options()
    try:
        return run(args)
    except Failure as err:
        complain(err)
    except streamdecode.StreamError as err:
        complain("%s: %s" % (args.file, err))
    except OSError as err:
        complain("%s: %s" % (err.filename or args.file, err.strerror))
    return 1


if __name__ == "__main__":
    sys.exit(main())
