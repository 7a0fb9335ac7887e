"""An asset's numbers over time, of one partition. The UI's own plots put the partitions of an asset into one line."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

LOOKS = 100
"""Materializations that are looked back on; of the snapshots of health, eight hours."""
Wanted = Mapping[str, Sequence[str]]
"""By title of a picture, the metadata keys of its lines."""


def over_time(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str, wanted: Wanted, now: Mapping[str, Any]
) -> dg.MarkdownMetadataValue:
    """Pictures of what was materialized before, and of `now`: the metadata of the materialization that is being made."""
    from nexus_ops.charts import COLOURS, Line, chart, markdown, plain

    looks = [*_before(instance, asset, partition), (datetime.now(UTC).timestamp(), now)]
    began, span = looks[0][0], looks[-1][0] - looks[0][0]
    charts: dict[str, str] = {}
    for title, keys in wanted.items():
        lines = [
            Line(name, colour, points)
            for key, name, colour in zip(keys, _names(keys), COLOURS, strict=False)
            if (
                points := [
                    (time - began, value) for time, found in looks if (value := _number(found.get(key))) is not None
                ]
            )
        ]
        if lines:
            charts[title] = chart(lines, plain, lambda seconds: _clock(began + seconds, span))
    return dg.MetadataValue.md(markdown(charts))


def _names(keys: Sequence[str]) -> list[str]:
    """What tells `postgresql/rto_seconds` from its like: the last part, or the first where that is the same."""
    last = [key.rpartition("/")[2] for key in keys]
    return last if len(set(last)) == len(keys) else [key.partition("/")[0] for key in keys]


def _before(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> list[tuple[float, Mapping[str, Any]]]:
    """(time, metadata) of each materialization of the partition, oldest first."""
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition])
    records = instance.fetch_materializations(wanted, limit=LOOKS).records
    return [
        (one.timestamp, one.asset_materialization.metadata) for one in reversed(records) if one.asset_materialization
    ]


def _number(value: Any) -> float | None:
    """A metadata value that is a number, or the plain number."""
    plain = getattr(value, "value", value)
    return float(plain) if isinstance(plain, int | float) and not isinstance(plain, bool) else None


def _clock(seconds: float, span: float) -> str:
    """Times of a day within a day, days beyond; UTC."""
    shape = "%H:%M:%S" if span < 600 else "%H:%M" if span < 86400 else "%d %b"
    return datetime.fromtimestamp(seconds, UTC).strftime(shape)
