"""Tables for `kubectl get`: the server's side of printing, with human ages and the columns of custom resources."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nexus_ops.sandbox.kube.resources import Resource

Object = dict[str, Any]
STEP = re.compile(
    r"""\.?([A-Za-z_][\w-]*)|\['([^']+)'\]|\[(\d+)\]|\[\?\(@\.([\w.]+)\s*==\s*["']([^"']*)["']\)\]|\[\*\]"""
)


@dataclass(frozen=True)
class Column:
    """A column of a table: wide ones (priority 1) are shown by `-o wide` only."""

    name: str
    read: Callable[[Object], Any]
    type: str = "string"
    priority: int = 0
    format: str = ""

    def definition(self) -> Object:
        return {
            "name": self.name, "type": self.type, "format": self.format, "description": "", "priority": self.priority,
        }  # fmt: skip


def human(seconds: float) -> str:
    """A duration as kubectl says it (apimachinery's duration.HumanDuration)."""
    if seconds < -1:
        return "<invalid>"
    total = max(0, int(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 8 * 365 else f"{days // 365}y"


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"


def since(time: str | None) -> str:
    """How long ago a time was."""
    if not time:
        return "<unknown>"
    return human((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def at(obj: Any, path: str, default: Any = None) -> Any:
    """The value at `a.b.c`."""
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, dict) else None
    return default if obj is None else obj


def find(obj: Any, path: str) -> Any:
    """The value at a JSONPath as custom resources' columns have it: names, indexes, and filters by equality."""
    place, position = obj, 0
    while position < len(path):
        step = STEP.match(path, position)
        if step is None or place is None:
            return None
        position = step.end()
        name, index, field, wanted = step[1] or step[2], step[3], step[4], step[5]
        if name:
            place = place.get(name) if isinstance(place, dict) else None
        elif not isinstance(place, list):
            return None
        elif field:
            place = next((item for item in place if str(at(item, field)) == wanted), None)
        else:
            number = int(index or 0)
            place = place[number] if number < len(place) else None
    return place


NAME = Column("Name", lambda obj: obj["metadata"]["name"], format="name")
AGE = Column("Age", lambda obj: since(obj["metadata"].get("creationTimestamp")))
CREATED = Column("Created At", lambda obj: obj["metadata"].get("creationTimestamp"), type="date")


def _custom_columns(resource: Resource) -> tuple[Column, ...]:
    def reader(path: str, kind: str) -> Callable[[Object], Any]:
        def read(obj: Object) -> Any:
            value = find(obj, path)
            if kind == "date":
                return since(value) if value else None
            return str(value) if value is not None and kind == "string" and not isinstance(value, str) else value

        return read

    if not resource.columns:
        return NAME, Column("Age", AGE.read, type="date")
    found = [
        Column(
            column["name"], reader(column["jsonPath"], column["type"]), column["type"], column.get("priority", 0),
            column.get("format", ""),
        )
        for column in resource.columns
    ]  # fmt: skip
    return NAME, *found


def columns_of(resource: Resource) -> tuple[Column, ...]:
    """The columns of a resource type."""
    from nexus_ops.sandbox.kube.printers import COLUMNS

    return _custom_columns(resource) if resource.custom else COLUMNS.get(resource.key, (NAME, CREATED))


def partial(obj: Object) -> Object:
    """The metadata of an object, as PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def table(resource: Resource, objects: list[Object], meta: Object, include: str) -> Object:
    """The Table of objects; `include` is includeObject (None, Metadata, Object), `meta` the list's metadata."""
    columns = columns_of(resource)
    rows: list[Object] = []
    for obj in objects:
        shown: Object | None = None
        if include == "Object":
            shown = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
        elif include == "Metadata":
            shown = partial(obj)
        rows.append({"cells": [column.read(obj) for column in columns], "object": shown})
    definitions = [column.definition() for column in columns]
    return {
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": definitions,
        "rows": rows,
    }  # fmt: skip
