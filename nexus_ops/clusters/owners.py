"""Who set which field of a live object, and when: `metadata.managedFields`, read as people name fields.

The format is structured-merge-diff's fieldsV1 (https://kubernetes.io/docs/reference/using-api/server-side-apply/):
`f:name` is a member, `k:{"name":"agent"}` the item of a list with these keys, `v:…` an item by its value, `.` the thing
itself. Paths are spelt as releases.diff spells them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nexus_ops.releases.diff import ABSENT, item, key_of, member

Object = dict[str, Any]
OURS = "nexus-"
"""What the field managers of nexus-ops begin with."""
SYSTEM = ("kube-", "cloud-controller-manager")
"""Controllers of Kubernetes itself: what they set is how it works, not somebody's change."""


@dataclass(frozen=True)
class Owner:
    """A field manager, and when it last changed what it manages of the object."""

    manager: str
    time: datetime | None

    def __str__(self) -> str:
        return f"{self.manager} at {self.time:%Y-%m-%d %H:%M:%S} UTC" if self.time else self.manager


@dataclass(frozen=True)
class Owned:
    """A field (its value included) or a whole item that a manager owns."""

    owner: Owner
    path: str
    value: Any


def owned_fields(live: Object) -> Iterator[Owned]:
    """Every field that somebody owns of an object; those set through a subresource (status, scale) are left out."""
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("subresource"):
            continue
        time = entry.get("time")
        owner = Owner(entry.get("manager", ""), datetime.fromisoformat(time) if time else None)
        for path, value in _leaves("", entry.get("fieldsV1") or {}, live):
            yield Owned(owner, path, value)


def others(live: Object) -> list[Owned]:
    """What neither nexus-ops nor Kubernetes itself owns of an object."""
    return [owned for owned in owned_fields(live) if not owned.owner.manager.startswith((OURS, *SYSTEM))]


def who_set(path: str, owned: list[Owned]) -> Owner | None:
    """Who of these set a field, the last one first: the field itself, a part of it, or what it is a part of."""
    found = [one for one in owned if _related(path, one.path)]
    exact = [one for one in found if not _within(path, one.path)] or found
    dated = sorted(exact, key=lambda one: one.owner.time.timestamp() if one.owner.time else 0.0)
    return dated[-1].owner if dated else None


def added_by_others(live: Object, after: Object) -> list[Owned]:
    """Fields of a live object that others added: also `after` an apply, neither they nor a part of them are ours."""
    ours = {one.path for one in owned_fields(after) if one.owner.manager.startswith(OURS)}
    foreign = [one for one in others(live) if not any(path == one.path or _within(path, one.path) for path in ours)]
    paths = {one.path for one in foreign}
    whole = [one for one in foreign if not any(_within(one.path, path) for path in paths)]
    return list({one.path: one for one in whole}.values())


def _related(path: str, other: str) -> bool:
    return path == other or _within(path, other) or _within(other, path)


def _within(path: str, parent: str) -> bool:
    """Whether a path leads to a part of what another leads to."""
    return path.startswith(parent) and path[len(parent) : len(parent) + 1] in (".", "[")


def _leaves(path: str, fields: Object, value: Any) -> Iterator[tuple[str, Any]]:
    """The paths of a set of fields with their live values; a field that is not live any more is left out."""
    for key, inner in fields.items():
        if key == ".":
            yield path, value
            continue
        kind, _, name = key.partition(":")
        place, found = _member(path, name, value) if kind == "f" else _item(path, kind, name, value)
        if found is ABSENT:
            continue
        if inner:
            yield from _leaves(place, inner, found)
        else:
            yield place, found


def _member(path: str, name: str, value: Any) -> tuple[str, Any]:
    return member(path, name), value.get(name, ABSENT) if isinstance(value, dict) else ABSENT


def _item(path: str, kind: str, text: str, value: Any) -> tuple[str, Any]:
    """A list's item by its keys (`k`), value (`v`) or place (`i`)."""
    wanted = json.loads(text)
    for place, found in enumerate(value if isinstance(value, list) else ()):
        by_key = kind == "k" and isinstance(found, dict) and wanted.items() <= found.items()
        if by_key or (kind == "v" and found == wanted) or (kind == "i" and place == wanted):
            name = key_of(path, value, value)
            return item(path, str(found[name]) if name else str(place)), found
    return path, ABSENT
