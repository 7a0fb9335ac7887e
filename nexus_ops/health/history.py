"""Snapshots kept as Parquet in the object store: one file each, written once, below the cluster and the day.

    health/production-us-west-2/2026-11-24/20261124T193500.123456Z.parquet

A row per probe and number, so that any reader of Parquet can plot it (docs/health.md); a probe without numbers has one
row, whose number is empty.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nexus_ops.errors import PermanentError
from nexus_ops.health.model import Result, Snapshot
from nexus_ops.storage import ObjectStore

PREFIX = "health"
FORMAT = "%Y%m%dT%H%M%S.%fZ"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STALE = timedelta(minutes=15)
COLUMNS = ("cluster", "taken", "state", "probe", "critical", "probe_state", "why", "todo", "seconds", "number", "value")


@dataclass(frozen=True)
class SnapshotKey:
    """Where a snapshot is kept: `SnapshotKey.parse(str(key)) == key`."""

    cluster: str
    taken: datetime

    def __str__(self) -> str:
        taken = self.taken.astimezone(UTC)
        return f"{PREFIX}/{self.cluster}/{taken:%Y-%m-%d}/{taken.strftime(FORMAT)}.parquet"

    @classmethod
    def parse(cls, text: str) -> SnapshotKey:
        """The key of its path; a path of another shape is a `PermanentError`."""
        parts = text.removesuffix(".parquet").split("/")
        try:
            key = cls(parts[1], datetime.strptime(parts[3], FORMAT).replace(tzinfo=UTC))
        except (IndexError, ValueError):
            key = None
        if key is None or str(key) != text:
            raise PermanentError(
                "this is no snapshot's key.", target=text, todo="Keep other files out of this folder of the store."
            )
        return key


def save(store: ObjectStore, snapshot: Snapshot) -> SnapshotKey:
    """Keep a snapshot; its key."""
    key = SnapshotKey(snapshot.cluster, snapshot.taken)
    store.put(str(key), to_parquet(snapshot), create=True)
    return key


def load(store: ObjectStore, key: SnapshotKey) -> Snapshot:
    """A snapshot that was kept."""
    return from_parquet(store.get(str(key)))


def newest(store: ObjectStore, cluster: str, now: datetime) -> SnapshotKey | None:
    """The newest snapshot of today or yesterday (UTC); None when there is none. Older ones are stale anyhow."""
    days = (now.astimezone(UTC), now.astimezone(UTC) - timedelta(days=1))
    found = (store.list(f"{PREFIX}/{cluster}/{day:%Y-%m-%d}") for day in days)
    return next((SnapshotKey.parse(keys[-1]) for keys in found if keys), None)


@dataclass(frozen=True)
class Freshness:
    """Whether the newest snapshot is young enough to be believed."""

    fresh: bool
    why: str
    minutes: float | None
    """The age of the newest snapshot; None when there is none of today or yesterday."""


def judge_freshness(taken: datetime | None, now: datetime) -> Freshness:
    """Stale after 15 minutes: then three snapshots in a row have been missed. Pure."""
    if taken is None:
        return Freshness(False, "there is no snapshot of today or yesterday", None)
    minutes = (now - taken).total_seconds() / 60
    why = f"the newest snapshot is {minutes:.1f} minutes old; after {STALE.seconds // 60} it is stale"
    return Freshness(now - taken <= STALE, why, round(minutes, 2))


def to_parquet(snapshot: Snapshot) -> bytes:
    """A snapshot as a Parquet file."""
    from arro3.core import Array, DataType, Table
    from arro3.io import write_parquet

    text, flag, real, whole = DataType.utf8(), DataType.bool(), DataType.float64(), DataType.int64()
    types = (text, whole, text, text, flag, text, text, text, real, text, real)
    columns = zip(COLUMNS, types, zip(*_rows(snapshot), strict=True), strict=True)
    table = Table.from_pydict({name: Array(list(values), kind) for name, kind, values in columns})
    table = table.set_column(1, "taken", table.column("taken").cast(DataType.timestamp("us", tz="UTC")))
    file = io.BytesIO()
    write_parquet(table, file, compression="zstd(3)", key_value_metadata={"format": "1"})
    return file.getvalue()


def _rows(snapshot: Snapshot) -> Iterator[tuple[Any, ...]]:
    """The rows of a snapshot; a snapshot without any probe has none to write, and is an error."""
    if not snapshot.results:
        raise PermanentError("a snapshot without probes says nothing, and is not kept.", target=snapshot.cluster)
    taken = (snapshot.taken - EPOCH) // timedelta(microseconds=1)
    for result in snapshot.results:
        head = (snapshot.cluster, taken, snapshot.state, result.probe, result.critical, result.state)
        for number, value in result.numbers.items() or ((None, None),):
            yield *head, result.why, result.todo, result.seconds, number, value


def from_parquet(data: bytes) -> Snapshot:
    """The snapshot of its Parquet file."""
    from arro3.io import read_parquet

    table = read_parquet(io.BytesIO(data)).read_all()
    rows: list[dict[str, Any]] = [
        dict(zip(COLUMNS, values, strict=True))
        for values in zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True)
    ]
    results: dict[str, Result] = {}
    for row in rows:
        before = results.get(row["probe"])
        numbers = dict(before.numbers) if before else {}
        if row["number"] is not None:
            numbers[row["number"]] = row["value"]
        results[row["probe"]] = Result(
            row["probe"], row["critical"], row["probe_state"], row["why"], row["todo"], row["seconds"], numbers
        )
    return Snapshot(rows[0]["cluster"], rows[0]["taken"], tuple(results.values()))
