"""Who owns which field: the managedFields entries that updates leave and server-side apply works with (KEP-555)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from nexus_ops.sandbox.kube import fields as f
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.schema import Schema, resolve, schema_of

Object = dict[str, Any]
BEFORE = "before-first-apply"
"""Who owns what an object without entries has when it is first applied."""


@dataclass(frozen=True)
class Conflict:
    """A field that an apply would change although somebody else owns it."""

    manager: str
    operation: str
    version: str
    path: f.Path
    time: str
    subresource: str

    def owner(self) -> str:
        """As the API server words it."""
        if self.operation == "Apply":
            return f'"{self.manager}"'
        extra = f' with subresource "{self.subresource}"' if self.subresource else ""
        return f'"{self.manager}"{extra} using {self.version}'


def track_update(
    old: Object | None,
    new: Object,
    resource: Resource,
    manager: str,
    subresource: str | None,
    now: str,
    unowned: Collection[f.Path] = (),
) -> None:
    """Write into `new` who owns what after an update by `manager`."""
    if old is not None and not old["metadata"].get("managedFields"):
        return  # an object without entries stays without, until somebody applies it
    schema = resolve(schema_of(resource))
    was = f.flatten(old, schema) if old else {}
    now_is = f.flatten(new, schema)
    relevant = _relevance(subresource)
    changed = {path for path in f.changed_paths(was, now_is, built_in=not resource.custom) if relevant(path)}
    changed -= set(unowned)
    gone = {path for path in was if path not in now_is}
    entries = [dict(entry) for entry in new["metadata"].get("managedFields") or ()]
    result: list[Object] = []
    own: Object | None = None
    for entry in entries:
        mine = (
            entry["manager"] == manager
            and entry["operation"] == "Update"
            and entry.get("subresource", "") == (subresource or "")
        )
        paths = f.from_fields(entry["fieldsV1"])
        kept = paths - gone - (set() if mine else _leaves(changed, now_is))
        if mine:
            kept |= changed
            own = entry
        if kept != paths:
            entry = {**entry, "fieldsV1": f.to_fields(kept)}
            if mine:
                entry["time"] = now
        if kept:
            result.append(entry)
    if own is None and changed:
        result.append(_entry(manager, "Update", resource.api_version, changed, now, subresource))
    new["metadata"]["managedFields"] = result


def _leaves(paths: Iterable[f.Path], flat: dict[f.Path, Any]) -> set[f.Path]:
    return {path for path in paths if flat.get(path) not in (f.CONTAINER, f.ITEM)}


def _relevance(subresource: str | None) -> Any:
    if subresource == "status":
        return lambda path: path[0] == "f:status"
    return lambda path: path[0] != "f:status"


def _entry(
    manager: str, operation: str, version: str, paths: Iterable[f.Path], now: str, subresource: str | None
) -> Object:
    entry: Object = {
        "manager": manager,
        "operation": operation,
        "apiVersion": version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": f.to_fields(paths),
    }
    return {**entry, "subresource": subresource} if subresource else entry


def apply(
    live: Object | None,
    applied: Object,
    resource: Resource,
    manager: str,
    *,
    force: bool,
    now: str,
    subresource: str | None = None,
) -> tuple[Object, list[Object]]:
    """Server-side apply: the merged object and its managedFields; 409 with the conflicts otherwise."""
    schema = resolve(schema_of(resource))
    wanted = {path: value for path, value in f.flatten(applied, schema).items() if subresource or path[0] != "f:status"}
    owned = f.applied_paths(wanted)
    entries: list[Object] = list(live["metadata"].get("managedFields") or ()) if live else []
    was = f.flatten(live, schema) if live else {}
    if live is not None and not entries:
        there = {path for path in was if path[0] != "f:status"}
        entries.append(_entry(BEFORE, "Update", resource.api_version, there, now, None))
    mine = [entry for entry in entries if _is(entry, manager, subresource)]
    others = [entry for entry in entries if not _is(entry, manager, subresource)]
    differing = {
        path for path in owned if path in was and was[path] is not f.ITEM and _differs(was[path], wanted[path])
    }
    conflicts = _conflicts(others, differing)
    if conflicts and not force:
        raise conflict_error(conflicts)
    kept = [_without(entry, differing) for entry in others]
    before: set[f.Path] = set().union(*(f.from_fields(entry["fieldsV1"]) for entry in mine)) if mine else set()
    still: set[f.Path] = set().union(*(f.from_fields(entry["fieldsV1"]) for entry in kept)) if kept else set()
    dropped = _droppable(before - owned, still | owned)
    base = f.take_out(copy.deepcopy(live), schema, dropped) if live else {}
    merged = f.merge(base, copy.deepcopy(applied), schema)
    result = [entry for entry in kept if entry["fieldsV1"]]
    if owned:
        same = bool(mine) and before == owned and not differing
        time = mine[0]["time"] if same else now
        result.insert(0, _entry(manager, "Apply", resource.api_version, owned, time, subresource))
    return merged, result


def _differs(live: Any, wanted: Any) -> bool:
    if live is f.CONTAINER or wanted is f.CONTAINER or wanted is f.ITEM:
        return False
    return live != wanted


def _droppable(paths: set[f.Path], held: set[f.Path]) -> set[f.Path]:
    """Paths that nobody holds: neither themselves nor through something below them."""
    prefixes = {path[:length] for path in held for length in range(1, len(path) + 1)}
    return {path for path in paths if path not in prefixes}


def _is(entry: Object, manager: str, subresource: str | None) -> bool:
    return (
        entry["manager"] == manager
        and entry["operation"] == "Apply"
        and entry.get("subresource", "") == (subresource or "")
    )


def _without(entry: Object, paths: set[f.Path]) -> Object:
    return {**entry, "fieldsV1": f.to_fields(f.from_fields(entry["fieldsV1"]) - paths)}


def _conflicts(others: list[Object], differing: set[f.Path]) -> list[Conflict]:
    found: list[Conflict] = []
    for entry in others:
        paths = f.from_fields(entry["fieldsV1"]) & differing
        found += [
            Conflict(
                entry["manager"],
                entry["operation"],
                entry["apiVersion"],
                path,
                entry.get("time", ""),
                entry.get("subresource", ""),
            )
            for path in sorted(paths)
        ]
    return found


def conflict_error(conflicts: list[Conflict]) -> ApiError:
    """409 with one cause per field, worded by owner."""
    by_owner: dict[str, list[Conflict]] = {}
    for conflict in conflicts:
        by_owner.setdefault(conflict.owner(), []).append(conflict)
    parts: list[str] = []
    for owner, group in by_owner.items():
        if len(group) == 1:
            parts.append(f"conflict with {owner}: {f.describe(group[0].path)}")
        else:
            parts.append(f"conflicts with {owner}:" + "".join(f"\n- {f.describe(c.path)}" for c in group))
    number = len(conflicts)
    message = f"Apply failed with {number} conflict{'s' if number > 1 else ''}: " + "\n".join(parts)
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {conflict.owner()}"
            + (f" at {conflict.time}" if conflict.operation == "Update" else ""),
            "field": f.describe(conflict.path),
        }
        for conflict in conflicts
    ]
    return ApiError(409, message, details={"causes": causes})


def schema_for(resource: Resource) -> Schema:
    """The resolved schema of a resource type."""
    return resolve(schema_of(resource))
