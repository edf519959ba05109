# SPDX-License-Identifier: GPL-2.0-or-later
"""
This source tree and Python inside the outer machine, so that what usually runs on a host with KVM
runs there: `scripts/lab exec`, the demonstrations, the test suites (tests/lab/test_suites.py).

Python is the one that runs this; its library is compiled beforehand, which an emulated CPU would do
slowly, and lies where that Python looks for it. The tree is in /ferry, with the build's program and
test guests in /ferry/build.
"""

import os
import py_compile
import sys
import sysconfig

from . import programs

ROOT = "ferry"
# Of the source tree. Patterns would be shorter, and would take in whatever lies around.
FOLDERS = ("scripts", "tests/lib", "tests/guest", "tests/machine", "tests/migration")
FILES = ("VERSION", "tests/run")
BUILD_FILES = ("tests/guest/workload.elf", "tests/guest/bootrom.bin")
SUFFIXES = (".py", ".h", "")
# Parts of Python's library that nobody here needs.
LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages",
            "dist-packages", "__pycache__", "turtledemo", "pydoc_data", "distutils", "config",
            "lib-dynload"}


def interpreter():
    return os.path.realpath(sys.executable)


def _library_files(folder):
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(d for d in folders if d not in LEFT_OUT and not d.startswith("config-"))
        for file in sorted(files):
            if file.endswith(".py"):
                yield os.path.join(parent, file)


def python(archive, work):
    """The interpreter with its library, and a link that `env python3` finds."""
    program = interpreter()
    known = set()
    programs.add(archive, program, program, programs.libraries(program)[0], known)
    archive.link("usr/bin/python3", program)
    archive.link("usr/bin/env", "/bin/busybox")
    library = sysconfig.get_path("stdlib")
    compiled = os.path.join(work, f"python.{os.getpid()}.pyc")
    for path in _library_files(library):
        try:
            py_compile.compile(path, compiled, dfile=path, doraise=True, optimize=0,
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        except py_compile.PyCompileError:
            continue  # a file that is bad on purpose
        archive.file(path + "c", compiled, 0o644)
    os.unlink(compiled)
    modules = os.path.join(library, "lib-dynload")
    for file in sorted(os.listdir(modules)):
        path = os.path.join(modules, file)
        if "test" not in file and "tkinter" not in file:
            programs.add(archive, path, path, programs.libraries(path)[0], known)


def _source_files(source_dir):
    for folder in FOLDERS:
        for parent, folders, files in os.walk(os.path.join(source_dir, folder)):
            folders[:] = sorted(d for d in folders if d != "__pycache__")
            for file in sorted(files):
                if os.path.splitext(file)[1] in SUFFIXES:
                    yield os.path.relpath(os.path.join(parent, file), source_dir)
    yield from FILES


ENVIRONMENT = {"FERRY_IN_LAB": "1", "FERRY_SOURCE_DIR": f"/{ROOT}", "FERRY_BUILD_DIR": f"/{ROOT}/build",
               "FERRY_BINARY": f"/{ROOT}/build/ferry-system-x86_64",
               "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def sources(archive, source_dir, build_dir, binary):
    for path in _source_files(source_dir):
        archive.file(f"{ROOT}/{path}", os.path.join(source_dir, path))
    archive.file(f"{ROOT}/build/ferry-system-x86_64", binary, 0o755)
    for path in BUILD_FILES:
        archive.file(f"{ROOT}/build/{path}", os.path.join(build_dir, path))
