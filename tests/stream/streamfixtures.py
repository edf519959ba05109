# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the stream tests: where the fixtures are, and loading them once.

FERRY_STREAM_FIXTURES may name one more directory of captured streams (plain or xz); the tests
that go over all fixtures then take those too.
"""

import functools
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
FIXTURES = os.path.join(HERE, "fixtures")
SCRIPTS = os.path.join(HERE, "..", "..", "scripts")

sys.path.insert(0, SCRIPTS)

import streamdecode  # noqa: E402

# Captures of a connection that was cut; they end inside a section.
CUT = {"live-pcrec-1.0.fwd", "live-q10-pcrec-1.0.fwd"}


def fixtures():
    """(name without .xz, path) of every captured stream."""
    found = {}
    for folder in (FIXTURES, os.environ.get("FERRY_STREAM_FIXTURES")):
        for name in sorted(os.listdir(folder)) if folder else ():
            if name.removesuffix(".xz").endswith((".bin", ".fwd", ".ret", ".file")):
                found.setdefault(name.removesuffix(".xz"), os.path.join(folder, name))
    return sorted(found.items())


@functools.lru_cache(maxsize=4)
def data(name):
    return bytes(streamdecode.read_file(os.path.join(FIXTURES, name + ".xz")))


def load(name, **options):
    return streamdecode.parse(data(name), **options)


def without_description(raw):
    where = streamdecode.framing.find_description(raw)
    return raw if where is None else raw[:where]
