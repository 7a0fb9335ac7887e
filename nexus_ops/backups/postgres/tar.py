"""The tar that BASE_BACKUP sends: scanned while it passes, and unpacked from any bundle on.

PostgreSQL writes plain ustar headers (src/port/tar.c): names of at most 99 bytes, files, folders and symbolic links. Bundles
are multiples of 512 bytes, so that no header is ever cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nexus_ops.errors import PermanentError

BLOCK = 512


class BadTar(PermanentError):
    """A stream that is no tar of PostgreSQL's."""


@dataclass(frozen=True)
class Member:
    """One header."""

    name: str
    kind: str
    """`0` file, `2` symbolic link, `5` folder."""
    size: int
    link: str = ""


@dataclass(frozen=True)
class Piece:
    """Where the bytes after a cut belong: the file that goes on there, from which position, and what is left of it."""

    name: str
    at: int
    left: int


def parse_header(block: bytes) -> Member | None:
    """The member of a header; None for the zero blocks at the end."""
    if not any(block):
        return None
    expected = int(block[148:156].split(b"\0")[0].strip() or b"0", 8)
    if expected != sum(block[:148]) + sum(block[156:]) + 8 * 32:
        raise BadTar("a header's checksum does not fit.")
    size = block[124:136]
    length = int.from_bytes(size[1:], "big") if size[0] & 0x80 else int(size.split(b"\0")[0].strip() or b"0", 8)
    name, link = (_text(block[at : at + 100]) for at in (0, 157))
    kind = chr(block[156] or 48)
    if name.startswith("/") or ".." in name.split("/"):
        raise BadTar(f"it holds a path that leads elsewhere: {name!r}.")
    return Member(name.rstrip("/"), kind, length if kind == "0" else 0, link)


class TarScanner:
    """Follows a tar as it passes: `feed` it bytes, and `piece` says what a cut at this point would cut through.

    `begin(member)` is called for each header, `data(view)` for the bytes of the last one.
    """

    def __init__(
        self, begin: Callable[[Member], object], data: Callable[[memoryview], object], piece: Piece | None = None
    ) -> None:
        """`piece`: the bytes begin in the middle of a file, as the bundle's entry says."""
        self._begin, self._data = begin, data
        self._name = piece.name if piece else ""
        self._at = piece.at if piece else 0
        self._left = piece.left if piece else 0
        self._padding = -(self._at + self._left) % BLOCK if piece else 0
        self._header = bytearray()
        self.ended = False
        """Whether the zero blocks came that end it."""

    @property
    def piece(self) -> Piece | None:
        """The file, or its padding, that goes on here."""
        return Piece(self._name, self._at, self._left) if self._left or self._padding else None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._left:
                part = view[: self._left]
                self._data(part)
                self._left -= len(part)
                self._at += len(part)
            elif self._padding:
                part = view[: self._padding]
                self._padding -= len(part)
            else:
                part = view[: BLOCK - len(self._header)]
                self._header += part
                if len(self._header) == BLOCK:
                    self._member(parse_header(bytes(self._header)))
                    self._header.clear()
            view = view[len(part) :]

    def _member(self, member: Member | None) -> None:
        if member is None:
            self.ended = True
            return
        self._name, self._at, self._left = member.name, 0, member.size
        self._padding = -member.size % BLOCK
        self._begin(member)


def _text(field: bytes) -> str:
    # Any bytes are a name to PostgreSQL; Latin-1 keeps each as it is, and JSON can hold them.
    return field.split(b"\0")[0].decode("latin-1")
