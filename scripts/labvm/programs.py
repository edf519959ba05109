# SPDX-License-Identifier: GPL-2.0-or-later
"""
Programs and what they need to run in another file system: `ldd` says which libraries. Those of an
unpacked package that this host lacks are fetched, one generation of dependencies at a time, until
`ldd` misses none.
"""

import os
import re
import shutil
import subprocess

from .packages import Missing, depends, is_installed, run

LIBRARY_DIRS = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib")
GENERATIONS = 4


def libraries(program, roots=()):
    """({name in the other file system: path here}, [missing names])"""
    dirs = [os.path.join(root, d) for root in roots for d in LIBRARY_DIRS]
    env = {**os.environ, "LC_ALL": "C"}
    if dirs:
        env["LD_LIBRARY_PATH"] = ":".join(d for d in dirs if os.path.isdir(d))
    done = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, env=env)
    if "not a dynamic executable" in done.stdout or "statically linked" in done.stdout:
        return {}, []
    found, missing = {}, []
    for line in done.stdout.splitlines():
        match = re.match(r"\s*(\S+) => (/\S+)|\s*(/\S+) \(0x|\s*(\S+) => not found", line)
        if not match:
            continue
        name, path, loader, lost = match.groups()
        if lost:
            missing.append(lost)
        elif loader:
            found[loader] = loader
        else:
            found["/lib/x86_64-linux-gnu/" + os.path.basename(name)] = path
    if not found and not missing:
        raise Missing(f"ldd cannot look into {program}: {done.stdout.strip()}")
    return found, missing


def packaged(packages, package, path):
    """(program, its libraries) of a package in the cache."""
    roots = [packages.get(package)]
    program = os.path.join(roots[0], path)
    if not os.path.exists(program):
        raise Missing(f"The package {package} has no {path}")
    found, missing = libraries(program, roots)
    generation, seen = [package], {package}
    for _ in range(GENERATIONS):
        if not missing:
            return program, found
        generation = [d for p in generation for d in depends(p) if d not in seen]
        generation = [d for d in dict.fromkeys(generation)]
        seen.update(generation)
        for wanted in generation:
            if not is_installed(wanted):
                roots.append(packages.get(wanted))
        found, missing = libraries(program, roots)
    raise Missing(f"{package} needs {', '.join(missing)}, which no package it depends on has")


def add(archive, name, program, found, known=None):
    """Puts a program and its libraries into an archive; `known` are the libraries it has already."""
    known = set() if known is None else known
    archive.file(name, program, 0o755)
    for library, path in found.items():
        if library not in known:
            known.add(library)
            archive.file(library, path, 0o755)


def compiled(source, folder, key, *flags):
    """A static program from one C file; made again when key changes."""
    cc = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not cc:
        raise Missing("The lab needs a C compiler (Debian package gcc)")
    os.makedirs(folder, exist_ok=True)
    name = os.path.splitext(os.path.basename(source))[0]
    out = os.path.join(folder, f"{name}-{key}")
    if not os.path.exists(out):
        made = subprocess.run([*cc.split(), "-O2", "-g", "-std=gnu17", "-D_GNU_SOURCE", "-Wall",
                               "-Wextra", "-Werror", "-static", *flags, "-o", out + ".new", source],
                              stderr=subprocess.PIPE, text=True, timeout=120)
        if made.returncode:
            raise Missing(f"Cannot compile {source}:\n{made.stderr}")
        run("strip", out + ".new")
        os.rename(out + ".new", out)
    return out
