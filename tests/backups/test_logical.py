"""Logical backups: one snapshot, every kind of object, other versions, single tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backup_scene import NAME, PLACE, Keys, Writer, contents
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.backups.bundles import MEGABYTE, Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.manifest import Manifest
from nexus_ops.backups.postgres.connection import NotAllowed
from nexus_ops.backups.postgres.drill import drill_logical
from nexus_ops.backups.postgres.logical import PAGE, back_up_logical, slices_of
from nexus_ops.backups.postgres.logical_restore import restore_logical
from nexus_ops.backups.postgres.programs import Instance
from nexus_ops.backups.postgres.restore import NotEmpty
from nexus_ops.backups.reading import BundleReader, DamagedBundle
from nexus_ops.errors import PermanentError
from nexus_ops.storage import ObjectStore

ServerOf = Callable[[int], Instance]


def take(server: Instance, store: ObjectStore, keys: Keys, database: str = "nexus", **options: object) -> Manifest:
    return back_up_logical(
        Catalogue(store, PLACE),
        server.dsn,
        Packing((keys.public,), bundle_bytes=MEGABYTE),
        database=database,
        now=datetime.now(UTC),
        **options,  # pyright: ignore[reportArgumentType]
    ).manifest


@given(st.integers(0, 1 << 40), st.integers(PAGE, 1 << 30))
def test_slices_are_the_whole_table_once(size: int, slice_bytes: int) -> None:
    slice_bytes = max(slice_bytes, size // 1000)
    slices = slices_of("t", "a", "", size, slice_bytes)
    assert slices[0].first == 0
    assert slices[-1].after is None, "rows that came after the table was measured are in the last one"
    assert all(one.after == other.first for one, other in itertools.pairwise(slices))


@pytest.mark.parametrize(("source", "target"), [(15, 18), (16, 16)])
def test_a_database_comes_back_also_in_a_later_version(
    server_of: ServerOf, files: ObjectStore, keys: Keys, source: int, target: int
) -> None:
    server, other = server_of(source), server_of(target)
    with Writer(server):
        manifest = take(server, files, keys)
    assert manifest.counts["nexus.public.trades"] == 60000
    assert manifest.counts[f'nexus."{NAME}"."{NAME}"'] == 1000
    assert manifest.warnings == ()
    name = f"scratch_{source}"
    reader = BundleReader(files, manifest, keys.identity)
    counts = restore_logical(reader, other.dsn, database=name)
    assert {f"nexus.{table}": rows for table, rows in counts.items()} == manifest.counts
    found, expected = contents(other, name), contents(server)
    assert {**found, "databases": ()} == {**expected, "databases": ()}
    with other.connect(name) as link:
        assert link.execute("SELECT count(*) FROM log").fetchone() == (manifest.counts["nexus.public.log"],)
    with pytest.raises(NotEmpty, match=f"/{name}: the target is not empty"):
        restore_logical(reader, other.dsn, database=name)


def test_one_table_is_backed_up_and_restored_alone(server_of: ServerOf, files: ObjectStore, keys: Keys) -> None:
    server = server_of(16)
    table = f'"{NAME}"."{NAME}"'
    whole = take(server, files, keys)
    counts = restore_logical(
        BundleReader(files, whole, keys.identity), server.dsn, database="scratch_rows", tables=[table], roles=False
    )
    assert counts == {table: 1000}
    with server.connect("scratch_rows") as link:
        assert link.execute("SELECT count(*) FROM trades").fetchone() == (0,)
    single = take(server, files, keys, tables=["public.trades"])
    assert set(single.counts) == {"nexus.public.trades"}
    restore_logical(BundleReader(files, single, keys.identity), server.dsn, database="scratch_table")
    with server.connect("scratch_table") as link:
        assert link.execute("SELECT count(*), max(id) FROM trades").fetchone() == (60000, 60000)
        assert link.execute("INSERT INTO trades (pair) VALUES ('x') RETURNING id").fetchone() == (60001,)
    with pytest.raises(PermanentError, match=r"has no table public\.nothing"):
        restore_logical(
            BundleReader(files, whole, keys.identity), server.dsn, database="scratch_x", tables=["public.nothing"]
        )


def test_an_empty_database_and_a_name_that_is_not_ascii(server_of: ServerOf, files: ObjectStore, keys: Keys) -> None:
    server = server_of(16)
    for name in ("nothing", NAME):
        manifest = take(server, files, keys, database=name)
        assert manifest.counts == {}
        restored = restore_logical(
            BundleReader(files, manifest, keys.identity), server.dsn, database=f"scratch {name}", roles=False
        )
        assert restored == {}


def test_a_damaged_bundle_fails_the_drill(server_of: ServerOf, files: ObjectStore, keys: Keys, tmp_path: Path) -> None:
    catalogue = Catalogue(files, PLACE)
    good = take(server_of(16), files, keys)
    report = drill_logical(catalogue, good.id, keys.identity, tmp_path, now=datetime.now(UTC))
    assert report.drill.findings == ()
    assert report.counts == good.counts
    bad = take(server_of(16), files, keys)
    bundle = bad.stream("data-1").bundles[0]
    files.put(f"{PLACE}/{bundle.key}", b"nonsense")
    report = drill_logical(catalogue, bad.id, keys.identity, tmp_path, now=datetime.now(UTC))
    assert bundle.key in report.drill.findings[0]
    assert catalogue.latest_verified().id == good.id
    with pytest.raises(DamagedBundle, match=bundle.key):
        restore_logical(BundleReader(files, bad, keys.identity), server_of(16).dsn, database="scratch_bad")
    with server_of(16).connect() as link:
        assert link.execute("SELECT 1 FROM pg_database WHERE datname = 'scratch_bad'").fetchone() is None


def test_a_role_without_grants_is_told_what_is_missing(server_of: ServerOf, files: ObjectStore, keys: Keys) -> None:
    server = server_of(16)
    dsn = f"host={server.socket} user=trader dbname=nexus"
    with pytest.raises(NotAllowed, match="the role lacks a grant"):
        back_up_logical(Catalogue(files, PLACE), dsn, Packing((keys.public,)), database="nexus", now=datetime.now(UTC))
    assert Catalogue(files, PLACE).list().backups == ()
