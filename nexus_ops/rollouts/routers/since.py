"""When the present weight of a routed object was set: an annotation, which a later driver's stamp leaves as it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

Object = dict[str, Any]
SINCE = "nexus.ai/weight-since"
"""UTC, ISO 8601."""


def stamp(obj: Object, live: Object | None, *, same: bool, now: datetime) -> None:
    """Write it on an object that is about to be applied: now, unless the live object has the same weights already."""
    kept = since_of(live) if live and same else ""
    obj["metadata"].setdefault("annotations", {})[SINCE] = kept or now.isoformat()


def since_of(obj: Object) -> str:
    """The moment that stands on a live object; empty when none does."""
    return (obj["metadata"].get("annotations") or {}).get(SINCE, "")
