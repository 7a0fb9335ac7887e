"""Positions in PostgreSQL's write-ahead log, and the names of its segments.

An LSN prints as two hexadecimal halves (`pg_lsn` in PostgreSQL's documentation); a segment's name is timeline, high
part and segment number (xlog_internal.h, XLogFileName).
"""

from __future__ import annotations

import re

from nexus_ops.errors import PermanentError

_LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.IGNORECASE)
_SEGMENT = re.compile(r"[0-9A-F]{24}")


class Lsn(int):
    """A byte position in the log."""

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """`16/B374D848` as PostgreSQL prints it."""
        found = _LSN.fullmatch(text)
        if not found:
            raise PermanentError(f"{text!r} is no position in a write-ahead log.", todo="Write it as 16/B374D848.")
        return cls(int(found[1], 16) << 32 | int(found[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    __repr__ = __str__
    __format__ = lambda self, spec: format(str(self), spec)  # noqa: E731 - or f-strings print an int


def segment_name(timeline: int, position: int, segment_bytes: int) -> str:
    """The name of the WAL file that holds a position."""
    number = position // segment_bytes
    each = 0x100000000 // segment_bytes
    return f"{timeline:08X}{number // each:08X}{number % each:08X}"


def segment_start(name: str, segment_bytes: int) -> tuple[int, Lsn]:
    """Timeline and first position of a WAL file."""
    if not _SEGMENT.fullmatch(name):
        raise PermanentError(f"{name!r} is no name of a WAL file.")
    timeline, high, low = (int(name[at : at + 8], 16) for at in (0, 8, 16))
    return timeline, Lsn((high << 32) + low * segment_bytes)


def segments_between(timeline: int, begin: int, end: int, segment_bytes: int) -> list[str]:
    """The WAL files that hold the positions from `begin` up to `end`, that one not included."""
    first, last = begin // segment_bytes, max(begin, end - 1) // segment_bytes
    return [segment_name(timeline, number * segment_bytes, segment_bytes) for number in range(first, last + 1)]
