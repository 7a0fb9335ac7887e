"""Reading an RDB as it streams: its checksum, and every key with the bytes that RESTORE takes.

A value's bytes in an RDB are those of DUMP, without the footer. So nothing is decoded here: a value is only measured, and
with the RDB's own version and a CRC-64 behind it any server of that version or newer takes it by RESTORE, whatever
the topology. No scratch server is needed, and none of a newer version can make payloads that an older target refuses.

The format: https://github.com/valkey-io/valkey/blob/unstable/src/rdb.h and rdb.c; versions up to Redis 7.2 (11) and Valkey 9 (80).
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

from nexus_ops.errors import PermanentError

NEWEST_REDIS, NEWEST_VALKEY = 11, 80
"""The newest RDB versions whose every type is known here."""
_STRING = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})
"""Types whose value is one string: strings, and what is packed into one."""
_STRINGS = {1: 1, 2: 1, 4: 2, 14: 1}
"""Types that are a count of elements, and how many strings an element has: list, set, hash, quicklist."""
_ZSET, _ZSET_2, _QUICKLIST_2, _HASH_2 = 3, 5, 18, 22
_STREAMS = (15, 19, 21)
_NAMES = {
    0: "string", 1: "list", 2: "set", 3: "zset", 4: "hash", 5: "zset", 9: "hash", 10: "list", 11: "set", 12: "zset", 13: "hash",
    14: "list", 15: "stream", 16: "hash", 17: "zset", 18: "list", 19: "stream", 20: "set", 21: "stream", 22: "hash",
}  # fmt: skip
_FUNCTION, _IDLE, _FREQ, _AUX, _RESIZE, _EXPIRE_MS, _EXPIRE, _SELECT, _EOF = 245, 248, 249, 250, 251, 252, 253, 254, 255
_SLOT_INFO = 244


class BrokenRdb(PermanentError):
    """The bytes are no whole RDB."""


class UnknownRdb(PermanentError):
    """An RDB that is newer than what is known here, or has values of a module."""


class Key(NamedTuple):
    """A key with all that RESTORE needs."""

    db: int
    name: bytes
    type: str
    expires: int
    """Milliseconds since the epoch; 0: never."""
    payload: bytes
    idle: int
    """Seconds since it was used, -1 where the server does not evict by that."""
    frequency: int
    """Its counter of uses, -1 likewise."""


class Size(NamedTuple):
    """What the RDB says of a database before its keys: exact at the moment of the snapshot."""

    db: int
    keys: int
    expiring: int


class Library(NamedTuple):
    """A library of functions, as FUNCTION LOAD takes it."""

    code: bytes


class _More(Exception):
    """The buffer ends within what is being read."""


def crc64() -> Callable[[bytes | memoryview, int], int]:
    """CRC-64 as Redis computes it (Jones), continued from an earlier value."""
    anycrc = importlib.import_module("anycrc")  # untyped
    made = anycrc.CRC(width=64, poly=0xAD93D23594C935A9, init=0, refin=True, refout=True, xorout=0)
    return cast("Callable[[bytes | memoryview, int], int]", made.calc)


class Checksum:
    """Checks an RDB that passes by, without reading its keys: magic, version, end, and the CRC-64 of all of it."""

    def __init__(self) -> None:
        self._crc, self._update = 0, crc64()
        self._tail = b""
        self._head = b""
        self.size = 0

    def update(self, chunk: bytes | memoryview) -> None:
        self.size += len(chunk)
        if len(self._head) < 9:
            self._head = (self._head + bytes(chunk[:9]))[:9]
        # All but the last eight bytes, which may be the checksum itself, count.
        ending = self._tail + bytes(chunk[-8:])
        counted = ending[:-8] if len(chunk) < 8 else self._tail
        for part in (counted, chunk[:-8]):
            if part:
                self._crc, self._last = self._update(part, self._crc), bytes(part[-1:])
        self._tail = ending[-8:]

    _last = b""

    def finish(self, target: str) -> int:
        """The RDB's version; `BrokenRdb` when it is not whole. A stored checksum of zero means that the server has them off."""
        version = version_of(self._head, target)
        stored = int.from_bytes(self._tail, "little")
        if self._last != bytes([_EOF]):
            raise BrokenRdb("the RDB has no end.", target=target)
        if stored and stored != self._crc:
            raise BrokenRdb("the RDB does not match its own checksum.", target=target)
        return version


def version_of(head: bytes, target: str) -> int:
    """The version of an RDB by its first nine bytes: REDIS0011, or VALKEY080."""
    magic = next((magic for magic in (b"REDIS", b"VALKEY") if head.startswith(magic)), None)
    digits = head[len(magic) : 9] if magic else b""
    if not digits.isdigit():
        raise BrokenRdb("this is no RDB: it does not begin with REDIS or VALKEY and a version.", target=target)
    return int(digits)


def walk(chunks: Iterable[bytes], target: str) -> Iterator[Key | Size | Library]:
    """Everything in an RDB, in its order. Memory: a chunk, and the largest value.

    Its checksum has been checked when the iteration ends; a caller that must not act on a broken one checks it first
    (`Checksum`). `target` names the RDB in errors.
    """
    source = iter(chunks)
    buffer, position, crc, update = b"", 0, 0, crc64()

    def more(buffer: bytes, wanted: int) -> bytes:
        """The buffer with what follows: up to so many bytes in all, where there are so many."""
        parts, size = [buffer], len(buffer)
        while size < wanted and (chunk := next(source, None)) is not None:
            parts.append(chunk)
            size += len(chunk)
        if size == len(buffer) < wanted:
            raise BrokenRdb("the RDB ends in the middle.", target=target)
        return b"".join(parts)

    buffer = more(buffer, 9)
    version = _known_version(buffer[:9], target)
    footer, position, db = struct.pack("<H", version), 9, 0
    while True:
        try:
            found, after, new_db = _item(buffer, position, db, footer, update, target)
            if after > len(buffer):
                raise _More
        except (_More, IndexError, struct.error):
            crc = update(buffer[:position], crc)
            left = len(buffer) - position
            buffer, position = more(buffer[position:], max(left * 2, left + 1)), 0
            continue
        if found is None:
            crc = update(buffer[:after], crc)
            stored = int.from_bytes(more(buffer[after:], 8)[:8], "little")
            if stored and stored != crc:
                raise BrokenRdb("the RDB does not match its own checksum.", target=target)
            return
        position, db = after, new_db
        if not isinstance(found, bool):
            yield found


def _known_version(head: bytes, target: str) -> int:
    version = version_of(head, target)
    newest = NEWEST_VALKEY if head.startswith(b"VALKEY") else NEWEST_REDIS
    if version > newest:
        raise UnknownRdb(
            f"its format is version {version}; known here: up to {newest}.",
            target=target,
            todo="Load it as a file into a server of its own version (docs/backups.md, by hand).",
        )
    return version


def _item(
    data: bytes, at: int, db: int, footer: bytes, crc: Callable[[bytes | memoryview, int], int], target: str
) -> tuple[Key | Size | Library | bool | None, int, int]:
    """What begins at a position, where it ends, and the database after it; None at the RDB's end, False for what says nothing."""
    expires, idle, frequency = 0, -1, -1
    while True:
        code = data[at]
        at += 1
        if code == _EXPIRE_MS:
            (expires,) = struct.unpack_from("<q", data, at)
            at += 8
        elif code == _EXPIRE:
            expires = 1000 * struct.unpack_from("<i", data, at)[0]
            at += 4
        elif code == _IDLE:
            idle, at = _length(data, at)
        elif code == _FREQ:
            frequency = data[at]
            at += 1
        else:
            break
    if code == _EOF:
        return None, at, db
    if code == _SELECT:
        db, at = _length(data, at)
        return False, at, db
    if code == _RESIZE:
        keys, at = _length(data, at)
        expiring, at = _length(data, at)
        return Size(db, keys, expiring), at, db
    if code == _AUX:
        return False, _skip_string(data, _skip_string(data, at)), db
    if code == _SLOT_INFO:
        return False, _skip_lengths(data, at, 3), db
    if code == _FUNCTION:
        library, at = _string(data, at)
        return Library(library), at, db
    if code not in _NAMES:
        raise UnknownRdb(
            f"it holds a value of type {code}, which is not known here: a module's, or a newer server's.",
            target=target,
            todo="Load it as a file into a server that has the module (docs/backups.md, by hand).",
        )
    name, start = _string(data, at)
    end = _skip_value(code, data, start)
    if end > len(data):
        raise _More
    payload = b"%c%b%b" % (code, data[start:end], footer)
    payload += crc(payload, 0).to_bytes(8, "little")
    return Key(db, name, _NAMES[code], expires, payload, idle, frequency), end, db


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length, and where it ends."""
    first = data[at]
    kind = first >> 6
    if kind == 0:
        return first, at + 1
    if kind == 1:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    if first == 0x80:
        return struct.unpack_from(">I", data, at + 1)[0], at + 5
    if first == 0x81:
        return struct.unpack_from(">Q", data, at + 1)[0], at + 9
    raise BrokenRdb("a length in the RDB is none.")


def _skip_lengths(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        _, at = _length(data, at)
    return at


def _skip_string(data: bytes, at: int) -> int:
    first = data[at]
    if first < 0xC0:
        length, at = _length(data, at)
        return at + length
    if first <= 0xC2:
        return at + 1 + (1 << (first & 3))
    if first == 0xC3:
        compressed, at = _length(data, at + 1)
        return _length(data, at)[1] + compressed
    raise BrokenRdb("a string in the RDB is none.")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    """A string's bytes, unpacked, and where it ends."""
    first, end = data[at], _skip_string(data, at)
    if end > len(data):
        raise _More
    if first < 0xC0:
        length, at = _length(data, at)
        return data[at : at + length], end
    if first <= 0xC2:
        return str(int.from_bytes(data[at + 1 : end], "little", signed=True)).encode(), end
    compressed, at = _length(data, at + 1)
    length, at = _length(data, at)
    return _unpack_lzf(data[at : at + compressed], length), end


def _unpack_lzf(data: bytes, length: int) -> bytes:
    """LZF (http://oldhome.schmorp.de/marc/liblzf.html): runs of literals, and references back."""
    out, at = bytearray(), 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        size = control >> 5
        if size == 7:
            size += data[at]
            at += 1
        start = len(out) - ((control & 0x1F) << 8 | data[at]) - 1
        at += 1
        for place in range(start, start + size + 2):
            out.append(out[place])
    if len(out) != length:
        raise BrokenRdb("a compressed string in the RDB does not unpack.")
    return bytes(out)


def _skip_value(code: int, data: bytes, at: int) -> int:
    """Where the value of a type ends; beyond the data when that is too short."""
    if code in _STRING:
        return _skip_string(data, at)
    if code in _STREAMS:
        return _skip_stream(code, data, at)
    count, at = _length(data, at)
    if code in _STRINGS:
        for _ in range(count * _STRINGS[code]):
            at = _skip_string(data, at)
    elif code == _ZSET_2:
        for _ in range(count):
            at = _skip_string(data, at) + 8
    elif code == _ZSET:
        for _ in range(count):  # a score as text; 253 to 255 are nan and the infinities
            at = _skip_string(data, at)
            at += 1 if data[at] >= 253 else 1 + data[at]
    elif code == _QUICKLIST_2:
        for _ in range(count):
            at = _skip_string(data, _length(data, at)[1])
    elif code == _HASH_2:
        for _ in range(count):
            at = _skip_string(data, _skip_string(data, at)) + 8
    return at


def _skip_stream(code: int, data: bytes, at: int) -> int:
    """A stream: its packed entries, its ids, and its groups with their consumers and what each has pending."""
    newer, newest = code >= 19, code >= 21
    nodes, at = _length(data, at)
    for _ in range(2 * nodes):
        at = _skip_string(data, at)
    at = _skip_lengths(data, at, 8 if newer else 3)
    groups, at = _length(data, at)
    for _ in range(groups):
        at = _skip_lengths(data, _skip_string(data, at), 3 if newer else 2)
        pending, at = _length(data, at)
        for _ in range(pending):
            at = _length(data, at + 24)[1]
        consumers, at = _length(data, at)
        for _ in range(consumers):
            at = _skip_string(data, at) + (16 if newest else 8)
            own, at = _length(data, at)
            at += 16 * own
    return at
