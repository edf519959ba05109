# SPDX-License-Identifier: GPL-2.0-or-later
"""
The outer machine that the tests of this process share: one boot, many tests. It is made when it is
first asked for, and made anew when it has died since, so that one test that kills it does not take
the others with it.

Logs are in build/lab/<number of the run>; the last few runs are kept, build/lab/last is a link.
"""

import atexit
import os
import shutil

from .image import Images
from .outer import Outer

KEPT = 5

_outer = None
_boots = 0
_settings = {}
_run_dir = None


def configure(**settings):
    """source_dir, build_dir, binary; smp and memory of the outer machine; with_tree (tree.py)."""
    _settings.update(settings)


def defaults():
    here = os.path.dirname(os.path.abspath(__file__))
    source = os.environ.get("FERRY_SOURCE_DIR", os.path.dirname(os.path.dirname(here)))
    build = os.environ.get("FERRY_BUILD_DIR", os.path.join(source, "build"))
    binary = os.environ.get("FERRY_BINARY", os.path.join(build, "ferry-system-x86_64"))
    return {"source_dir": source, "build_dir": build, "binary": binary, **_settings}


def run_dir():
    """Folder for this run's logs."""
    global _run_dir
    if _run_dir is None:
        parent = os.path.join(os.path.abspath(defaults()["build_dir"]), "lab")
        os.makedirs(parent, exist_ok=True)
        runs = sorted((int(d) for d in os.listdir(parent) if d.isdigit()))
        for old in runs[:-KEPT + 1]:
            shutil.rmtree(os.path.join(parent, str(old)), ignore_errors=True)
        number = runs[-1] + 1 if runs else 1
        while True:
            _run_dir = os.path.join(parent, str(number))
            try:
                os.mkdir(_run_dir)
                break
            except FileExistsError:  # another run began just now
                number += 1
        last = os.path.join(parent, "last")
        try:
            os.symlink(str(number), f"{last}.{number}")
            os.replace(f"{last}.{number}", last)
        except OSError:
            pass
    return _run_dir


def outer():
    """The outer machine, up and running. Raises packages.Missing or link.LinkDown."""
    global _outer, _boots
    if _outer is None or not _outer.alive:
        if _outer:
            _outer.end()
        settings = defaults()
        folder = run_dir()
        if _boots:
            folder = os.path.join(folder, f"boot{_boots + 1}")
            os.mkdir(folder)
        _boots += 1
        images = Images(settings["source_dir"], settings["build_dir"], settings["binary"],
                        settings.get("with_tree", False))
        emulator, kernel, initrd = images.make(folder)
        append = f"tsc_early_khz={images.tsc_khz()} {settings.get('append', '')}"
        _outer = Outer(emulator, kernel, initrd, folder, smp=settings.get("smp", 1),
                       memory=settings.get("memory", 3072), append=append)
        _outer.boot()
    return _outer


def current():
    """The outer machine if there is one, alive or not."""
    return _outer


def end():
    global _outer
    if _outer:
        _outer.end()
    _outer = None


atexit.register(end)
