# SPDX-License-Identifier: GPL-2.0-or-later
"""
Archives of the kind the kernel unpacks as its first file system ("newc" cpio). Several of them one
after the other count as one, later files replacing earlier ones; that is how a freshly built program
gets in without making everything anew. They are not compressed: an emulated machine copies faster
than it unpacks.
"""

import os
import shutil
import stat

ALIGN = 4
BLOCK = 512


class Archive:
    """Names have no leading slash; folders on the way to a file are made."""

    def __init__(self, path):
        self.path = path
        self.out = open(path + ".new", "wb")
        self.number = 0
        self.known = {""}

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is None:
            self._entry("TRAILER!!!", 0, 0)
            self._pad(BLOCK)
        self.out.close()
        if kind is None:
            os.rename(self.path + ".new", self.path)
        else:
            os.unlink(self.path + ".new")

    def _pad(self, size):
        self.out.write(bytes(-self.out.tell() % size))

    def _entry(self, name, mode, size, device=(0, 0)):
        self.number += 1
        encoded = name.encode() + b"\0"
        numbers = (self.number, mode, 0, 0, 1, 0, size, 0, 0, *device, len(encoded), 0)
        self.out.write(b"070701" + b"".join(b"%08x" % n for n in numbers) + encoded)
        self._pad(ALIGN)

    def folder(self, name):
        parent, _, _ = name.rpartition("/")
        if parent not in self.known:
            self.folder(parent)
        if name not in self.known:
            self.known.add(name)
            self._entry(name, stat.S_IFDIR | 0o755, 0)

    def _place(self, name):
        name = name.strip("/")
        self.folder(name.rpartition("/")[0])
        return name

    def file(self, name, path, mode=None):
        """A copy of what path is, links followed."""
        name = self._place(name)
        with open(path, "rb") as source:
            info = os.fstat(source.fileno())
            self._entry(name, stat.S_IFREG | (info.st_mode & 0o777 if mode is None else mode),
                        info.st_size)
            shutil.copyfileobj(source, self.out, 1 << 20)
        self._pad(ALIGN)

    def text(self, name, text, mode=0o644):
        name = self._place(name)
        data = text.encode()
        self._entry(name, stat.S_IFREG | mode, len(data))
        self.out.write(data)
        self._pad(ALIGN)

    def link(self, name, target):
        name = self._place(name)
        data = target.encode()
        self._entry(name, stat.S_IFLNK | 0o777, len(data))
        self.out.write(data)
        self._pad(ALIGN)

    def console(self):
        """What the kernel opens for init's output."""
        self.folder("dev")
        self._entry("dev/console", stat.S_IFCHR | 0o600, 0, (5, 1))


def concatenate(path, parts):
    """One archive from several."""
    with open(path, "wb") as out:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
