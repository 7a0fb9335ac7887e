"""What is large: 50,000 tables, and 2 GB of rows while they change. In `make soak`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backup_scene import PLACE, Keys

from nexus_ops.backups.bundles import Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.postgres.drill import drill_logical, drill_physical
from nexus_ops.backups.postgres.logical import back_up_logical
from nexus_ops.backups.postgres.physical import back_up
from nexus_ops.backups.postgres.programs import Instance, Programs, initialise
from nexus_ops.storage import ObjectStore

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]
TABLES = 50_000
SETTINGS = {"fsync": "off", "autovacuum": "off", "max_locks_per_transaction": "1024", "max_wal_size": "8GB"}


@pytest.fixture
def large(tmp_path: Path) -> Instance:
    data = tmp_path / "data"
    initialise(Programs.find(16), data)
    return Instance(Programs.find(16), data, superuser="postgres", settings=SETTINGS)


def test_fifty_thousand_tables(large: Instance, files: ObjectStore, keys: Keys, tmp_path: Path) -> None:
    catalogue, packing = Catalogue(files, PLACE), Packing((keys.public,))
    with large as server:
        with server.connect() as link:
            for first in range(0, TABLES, 500):
                names = range(first, first + 500)
                link.execute("".join(f"CREATE TABLE t{n} AS SELECT {n} AS n;" for n in names))
        physical = back_up(catalogue, server.dsn, packing, now=datetime.now(UTC)).manifest
        logical = back_up_logical(catalogue, server.dsn, packing, database="postgres", now=datetime.now(UTC)).manifest
    assert len(logical.counts) == TABLES
    assert set(logical.counts.values()) == {1}
    for drill, manifest in ((drill_physical, physical), (drill_logical, logical)):
        report = drill(catalogue, manifest.id, keys.identity, tmp_path, now=datetime.now(UTC))
        assert report.drill.findings == ()
        assert len(report.counts) == TABLES


def test_two_gigabytes(large: Instance, files: ObjectStore, keys: Keys, tmp_path: Path) -> None:
    catalogue, packing = Catalogue(files, PLACE), Packing((keys.public,))
    take: list[Callable[[str], object]] = [
        lambda dsn: back_up(catalogue, dsn, packing, now=datetime.now(UTC)),
        lambda dsn: back_up_logical(catalogue, dsn, packing, database="postgres", now=datetime.now(UTC)),
    ]
    with large as server:
        with server.connect() as link:
            link.execute(
                "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 8) AS x FROM generate_series(1, 6500000) n"
            )
            assert link.execute("SELECT pg_total_relation_size('big')").fetchone()[0] > 1.9e9
        for one in take:
            one(server.dsn)
    physical, logical = catalogue.list().backups
    for drill, listed in ((drill_physical, physical), (drill_logical, logical)):
        report = drill(catalogue, listed.id, keys.identity, tmp_path, now=datetime.now(UTC))
        assert report.drill.findings == ()
        assert report.counts["postgres.public.big"] == 6_500_000
