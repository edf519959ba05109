# SPDX-License-Identifier: GPL-2.0-or-later
"""The bounded reader: the one place where stream bytes are taken.

Everything else in this package asks a Reader for integers, strings and ranges, so "is there
enough left" is checked here and nowhere else.  A failure is a StreamError that carries the
absolute offset at which the reader stood; nothing else may escape the package on bad input.
"""

PAGE_SIZE = 4096


class StreamError(Exception):
    """Bad input.  `offset` is absolute in the parsed bytes, `reason` one sentence without it."""

    def __init__(self, offset, reason):
        super().__init__(offset, reason)
        self.offset = offset
        self.reason = reason

    def __str__(self):
        return "offset 0x%x: %s" % (self.offset, self.reason)


class Truncated(StreamError):
    """The input ended inside something; what there is was well formed up to then."""


class Reader:
    """A cursor over `data` limited to [pos, end).  Offsets are always those of `data`."""

    __slots__ = ("data", "pos", "end", "outer")

    def __init__(self, data, pos=0, end=None):
        self.data = data
        self.pos = pos
        self.end = len(data) if end is None else end
        # Set for a reader over a part whose length was declared: running out there means the
        # declaration was wrong, not that the input was cut.
        self.outer = end is None or end == len(data)

    def left(self):
        return self.end - self.pos

    def need(self, count, what):
        """Raise unless `count` bytes are left; `what` names them in the message."""
        if count > self.end - self.pos:
            kind = Truncated if self.outer else StreamError
            raise kind(self.pos, "%s needs %d bytes but only %d are left"
                       % (what, count, self.end - self.pos))

    def raw(self, count, what):
        self.need(count, what)
        start = self.pos
        self.pos += count
        return bytes(self.data[start:self.pos])

    def skip(self, count, what):
        """Step over `count` bytes and return the offset of the first."""
        self.need(count, what)
        start = self.pos
        self.pos += count
        return start

    def u8(self, what):
        self.need(1, what)
        self.pos += 1
        return self.data[self.pos - 1]

    def uint(self, size, what):
        self.need(size, what)
        start = self.pos
        self.pos += size
        return int.from_bytes(self.data[start:self.pos], "big")

    def be16(self, what):
        return self.uint(2, what)

    def be32(self, what):
        return self.uint(4, what)

    def be64(self, what):
        return self.uint(8, what)

    def peek(self, count):
        """Up to `count` bytes without moving; shorter at the end."""
        return bytes(self.data[self.pos:min(self.pos + count, self.end)])

    def text(self, count, what):
        start = self.pos
        raw = self.raw(count, what)
        try:
            value = raw.decode("ascii")
        except UnicodeDecodeError:
            value = ""
        if not value.isprintable() or not value:
            raise StreamError(start, "%s is not printable text: %s" % (what, raw[:32].hex(" ")))
        return value

    def pstr(self, what):
        """A string with its length in one byte before it."""
        start = self.pos
        length = self.u8(what)
        if length == 0:
            raise StreamError(start, "%s is empty" % what)
        return self.text(length, what)
