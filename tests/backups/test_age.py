"""The age format: the community's test vectors (C2SP/CCTV, 0BSD), and pyrage on the other side of everything we write."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_ops.backups.age import CHUNK
from nexus_ops.backups.encryption import BadKey, Identity, Recipients

pyrage: Any = pytest.importorskip("pyrage")
VECTORS = ZipFile(Path(__file__).with_name("age_vectors.zip"))
OURS = pyrage.x25519.Identity.generate()
OTHER = pyrage.x25519.Identity.generate()
SIZES = st.one_of(st.integers(0, 100), st.sampled_from([at + by for at in (CHUNK, 2 * CHUNK) for by in (-1, 0, 1)]))


@pytest.mark.parametrize("name", sorted(VECTORS.namelist()))
def test_vector(name: str) -> None:
    head, _, file = VECTORS.read(name).partition(b"\n\n")
    said = [line.split(": ", 1) for line in head.decode().splitlines()]
    facts = dict(said)
    if facts.get("compressed") == "zlib":
        file = zlib.decompress(file)
    identity = Identity.parse("\n".join(value for key, value in said if key == "identity"), "vector")
    if facts["expect"] == "success":
        assert hashlib.sha256(identity.decrypt(file)).hexdigest() == facts["payload"]
    elif facts["expect"] == "no match":
        with pytest.raises(BadKey):
            identity.decrypt(file)
    else:
        with pytest.raises(ValueError, match="does not decrypt"):
            identity.decrypt(file)


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(0, 255), st.booleans())
def test_pyrage_reads_what_we_write_and_the_other_way_round(size: int, filling: int, two: bool) -> None:
    data = bytes([filling]) * size
    keys = [OTHER, OURS] if two else [OURS]
    ours = Recipients([str(key.to_public()) for key in keys]).encrypt(data)
    assert all(pyrage.decrypt(bytes(ours), [key]) == data for key in keys)
    theirs = pyrage.encrypt(data, [key.to_public() for key in keys])
    assert Identity.parse(str(OURS), "here").decrypt(theirs) == data


def test_the_same_bytes_twice_have_nothing_in_common() -> None:
    """A key and a nonce of their own each: otherwise whoever sees two could tell what differs."""
    one, two = (bytes(Recipients([str(OURS.to_public())]).encrypt(bytes(CHUNK))) for _ in range(2))
    assert sum(left == right for left, right in zip(one[-CHUNK:], two[-CHUNK:], strict=True)) < CHUNK // 100


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_bit_may_change(data: st.DataObject) -> None:
    file = bytearray(Recipients([str(OURS.to_public())]).encrypt(b"orders" * 20))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((ValueError, BadKey)):
        Identity.parse(str(OURS), "here").decrypt(file)
