"""The age format (https://c2sp.org/age), version 1, with X25519 recipients: what `age` and pyrage write and read, in memory.

The ciphers are OpenSSL's (PyPI's cryptography). They are some times as fast as pyrage's, and other threads work meanwhile:
with pyrage a backup waits for its encryption. Keys stay pyrage's business; here they are 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

VERSION = b"age-encryption.org/v1\n"
X25519_INFO = b"age-encryption.org/v1/X25519"
CHUNK = 1 << 16
"""Plain bytes of a chunk; each is authenticated alone, and by its number."""
TAG = 16
FILE_KEY, NONCE, SHARE = 16, 16, 32
COLUMNS = 64
MOST_HEADER = 1 << 16
"""Bytes of a header that are looked at: some hundred recipients."""


class NoMatch(Exception):
    """None of the identities is a recipient of it."""


def encrypt(
    data: bytes | bytearray | memoryview, recipients: Sequence[bytes], room: bytearray | None = None
) -> memoryview:
    """The age file of some bytes, for X25519 public keys of 32 bytes each; in `room`, which grows if it has to."""
    key, nonce = os.urandom(FILE_KEY), os.urandom(NONCE)
    header = VERSION + b"".join(_stanza(key, recipient) for recipient in recipients) + b"---"
    before = header + b" " + _encoded(_mac(key, header)) + b"\n" + nonce
    plain = memoryview(data)
    chunks = max(1, -(-len(plain) // CHUNK))
    size = len(before) + len(plain) + chunks * TAG
    room = bytearray() if room is None else room
    room.extend(bytes(max(0, size - len(room))))
    out = memoryview(room)[:size]
    out[: len(before)] = before
    sealed, cipher = out[len(before) :], _cipher(_derived(key, nonce, b"payload"))
    for number in range(chunks):
        piece = plain[number * CHUNK : (number + 1) * CHUNK]
        at = number * (CHUNK + TAG)
        cipher.encrypt_into(_counted(number, chunks), piece, None, sealed[at : at + len(piece) + TAG])
    return out


def decrypt(data: bytes | bytearray | memoryview, identities: Sequence[X25519PrivateKey]) -> bytearray:
    """The plain bytes of an age file; `NoMatch` where it is for others, ValueError where it is not as it was written."""
    from cryptography.exceptions import InvalidTag

    whole = memoryview(data)
    header = _Header.parse(bytes(whole[:MOST_HEADER]))
    key = _file_key(header, identities)
    if not hmac.compare_digest(header.mac, _mac(key, header.signed)):
        raise ValueError("the header is not as it was written")
    nonce, sealed = bytes(whole[header.size : header.size + NONCE]), whole[header.size + NONCE :]
    chunks = -(-len(sealed) // (CHUNK + TAG))
    last = len(sealed) - (chunks - 1) * (CHUNK + TAG)
    if len(nonce) < NONCE or not chunks or last < TAG or (last == TAG and chunks > 1):
        raise ValueError("it is cut short")
    out = bytearray(len(sealed) - chunks * TAG)
    plain, cipher = memoryview(out), _cipher(_derived(key, nonce, b"payload"))
    try:
        for number in range(chunks):
            piece = sealed[number * (CHUNK + TAG) : (number + 1) * (CHUNK + TAG)]
            at = number * CHUNK
            cipher.decrypt_into(_counted(number, chunks), piece, None, plain[at : at + len(piece) - TAG])
    except InvalidTag:
        raise ValueError("the content is not as it was written") from None
    return out


@dataclass(frozen=True)
class _Header:
    """What stands before the content."""

    stanzas: tuple[tuple[list[bytes], bytes], ...]
    """Arguments and body."""
    signed: bytes
    mac: bytes
    size: int

    @classmethod
    def parse(cls, data: bytes) -> _Header:
        """Strictly as the format has it: there is one way only to write a header."""
        if not data.startswith(VERSION):
            raise ValueError("it is no age file")
        lines, stanzas, size = _lines(data[len(VERSION) :]), list[tuple[list[bytes], bytes]](), len(VERSION)
        for line in lines:
            if line.startswith(b"--- "):
                signed, mac = data[: size + 3], _decoded(line[4:])
                return cls(tuple(stanzas), signed, mac, size + len(line) + 1)
            size += len(line) + 1
            arguments = line.split(b" ")[1:]
            visible = all(argument and all(33 <= letter <= 126 for letter in argument) for argument in arguments)
            if not line.startswith(b"-> ") or not visible:
                raise ValueError("a recipient's line is not one")
            body = b""
            for coded in lines:
                size += len(coded) + 1
                part = _decoded(coded)
                body += part
                if len(coded) < COLUMNS:
                    break
                if len(coded) > COLUMNS:
                    raise ValueError("a recipient's body has a line that is too long")
            stanzas.append((arguments, body))
        raise ValueError("its header has no end")


def _lines(data: bytes) -> Iterator[bytes]:
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        yield data[at:end]
        at = end + 1


def _stanza(key: bytes, recipient: bytes) -> bytes:
    """The file key for one recipient."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    own = X25519PrivateKey.generate()
    share = own.public_key().public_bytes_raw()
    shared = own.exchange(X25519PublicKey.from_public_bytes(recipient))
    wrapped = _cipher(_derived(shared, share + recipient, X25519_INFO)).encrypt(bytes(12), key, None)
    return b"-> X25519 " + _encoded(share) + b"\n" + _encoded(wrapped) + b"\n"


def _file_key(header: _Header, identities: Sequence[X25519PrivateKey]) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    if len(header.stanzas) > 1 and any(arguments[0] == b"scrypt" for arguments, _ in header.stanzas):
        raise ValueError("a passphrase stands alone")
    found: bytes | None = None
    for arguments, body in header.stanzas:
        if arguments[0] != b"X25519":
            continue
        share = _decoded(arguments[1]) if len(arguments) == 2 else b""
        if len(share) != SHARE or len(body) != FILE_KEY + TAG:
            raise ValueError("a recipient's line is not one")
        for identity in identities:
            salt = share + identity.public_key().public_bytes_raw()
            shared = identity.exchange(X25519PublicKey.from_public_bytes(share))  # ValueError for a share of low order
            try:
                found = found or _cipher(_derived(shared, salt, X25519_INFO)).decrypt(bytes(12), body, None)
            except InvalidTag:
                pass  # it is for another identity: the next one is tried, and none at all is NoMatch
    if found is None:
        raise NoMatch
    return found


def _cipher(key: bytes):
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _mac(key: bytes, header: bytes) -> bytes:
    return hmac.digest(_derived(key, b"", b"header"), header, "sha256")


def _counted(number: int, chunks: int) -> bytes:
    """A chunk's nonce: its number, and whether it is the last."""
    return number.to_bytes(11, "big") + bytes([number == chunks - 1])


def _encoded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    """Base64 without padding, in the one way to write it."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("a part of its header is not base64") from None
    if _encoded(data) != text:
        raise ValueError("a part of its header is not base64 as it is written")
    return data
