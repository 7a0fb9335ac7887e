"""Manifests, ids, places and positions print what they parse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from backup_scene import AT, PLACE, manifest
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.backups.lsn import Lsn, segment_name, segment_start, segments_between
from nexus_ops.backups.manifest import BackupId, BadManifest, Bundle, Entry, Manifest, Place, Postgres, Stream
from nexus_ops.errors import PermanentError

SIZES = st.integers(0, 1 << 62)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23)).map(lambda t: t.replace(tzinfo=UTC))
IDS = st.builds(
    BackupId, TIMES.map(lambda t: t.replace(microsecond=0)), st.text("0123456789abcdef", min_size=6, max_size=6)
)
POSITIONS = st.integers(0, (1 << 64) - 1).map(Lsn)
BUNDLES = st.builds(
    Bundle,
    key=IDS.map(lambda i: f"bundles/{i}/base/000001.zst.age"),
    raw_size=SIZES,
    raw_sha256=HASHES,
    stored_size=SIZES,
    stored_sha256=HASHES,
    entries=st.lists(st.builds(Entry, name=st.text(), offset=SIZES, size=SIZES, at=SIZES), max_size=2).map(tuple),
)
STREAMS = st.builds(
    Stream,
    name=st.from_regex(r"[a-z0-9._-]+", fullmatch=True),
    content=st.sampled_from(["tar", "copy", "rdb"]),
    compression=st.sampled_from(["zstd", "none"]),
    size=SIZES,
    bundles=st.lists(BUNDLES, max_size=3).map(tuple),
)
POSTGRES = st.builds(
    Postgres,
    system_id=st.text("0123456789", min_size=1),
    version=st.integers(90000, 200000),
    timeline=st.integers(1, 100),
    begin=POSITIONS,
    end=POSITIONS,
    databases=st.lists(st.text()).map(tuple),
)


@given(IDS)
def test_an_id_reads_as_it_prints(backup: BackupId) -> None:
    assert BackupId.parse(str(backup)) == backup


@given(IDS, IDS)
def test_ids_sort_as_their_text_does(one: BackupId, other: BackupId) -> None:
    """Keys are listed as text: the newest must be the last."""
    assert (one < other) == (str(one) < str(other))


@given(POSITIONS)
def test_a_position_reads_as_it_prints(position: Lsn) -> None:
    assert Lsn.parse(str(position)) == position


@given(st.integers(1, 0xFFFFFFFF), POSITIONS, st.sampled_from([1 << 20, 16 << 20, 1 << 30]))
def test_a_segment_holds_the_position_that_names_it(timeline: int, position: Lsn, size: int) -> None:
    found, start = segment_start(segment_name(timeline, position, size), size)
    assert found == timeline
    assert start <= position < start + size


def test_the_segments_of_a_range() -> None:
    """The end is not included, unless nothing lies between."""
    megabytes = 16 << 20
    assert segments_between(1, 0, 2 * megabytes, megabytes) == [f"{1:08X}{0:08X}{n:08X}" for n in (0, 1)]
    assert segments_between(1, megabytes + 40, megabytes + 40, megabytes) == [f"{1:08X}{0:08X}{1:08X}"]


@given(st.sampled_from(["a", "production-us-west-2"]), st.sampled_from(["postgresql", "redis"]))
def test_a_place_reads_as_it_prints(cluster: str, system: str) -> None:
    place = Place.parse(f"backups/{cluster}/{system}")
    assert str(place) == f"backups/{cluster}/{system}"
    backup = BackupId.new(AT)
    assert place.of_manifest(place.manifest(backup, "0" * 64)) == (backup, "0" * 64)


@given(IDS, TIMES, st.lists(STREAMS, max_size=3), POSTGRES, st.dictionaries(st.text(), SIZES), st.lists(st.text()), IDS)
def test_a_manifest_reads_as_it_prints(
    backup: BackupId,
    ended: datetime,
    streams: list[Stream],
    postgres: Postgres,
    counts: dict[str, int],
    warnings: list[str],
    parent: BackupId,
) -> None:
    wrote = manifest(
        backup, ended=ended, streams=streams, postgres=postgres, counts=counts, warnings=warnings, parent=parent
    )
    read = Manifest.parse(wrote.to_bytes())
    assert read == wrote
    assert read.to_bytes() == wrote.to_bytes()
    assert read.digest == wrote.digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "document"),
        (b"[]", "document"),
        (b'{"format": 2}', "format"),
        (manifest(BackupId.new(AT)).to_bytes().replace(b'"kind"', b'"sort"'), "kind"),
        (manifest(BackupId.new(AT)).to_bytes().replace(b"20260131T", b"20261331T"), "id"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_place(text: bytes, problem: str) -> None:
    with pytest.raises(BadManifest, match=rf"no manifest of format 1: {problem}"):
        Manifest.parse(text)


@pytest.mark.parametrize(
    "text", ["", "latest", "20260131T020000Z", "20260131T020000Z-A1B2C3", "20261331T020000Z-a1b2c3"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="is no backup's id"):
        BackupId.parse(text)


@pytest.mark.parametrize("text", ["backups/x", "backups/X/redis", "backups/x/mysql", "x/redis", "backups/../redis"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="is no place of backups"):
        Place.parse(text)


def test_sizes_add_up() -> None:
    bundle = Bundle(
        key=f"bundles/{BackupId.new(AT)}/base/000001", raw_size=10, raw_sha256="0" * 64, stored_size=4, stored_sha256="0" * 64
    )  # fmt: skip
    stream = Stream(name="base", content="tar", compression="zstd", size=10, bundles=(bundle, bundle))
    whole = manifest(BackupId.new(AT), streams=(stream, stream), ended=AT + timedelta(seconds=90), started=AT)
    assert (whole.size, whole.stored_size, whole.seconds, whole.place) == (20, 16, 90, PLACE)
