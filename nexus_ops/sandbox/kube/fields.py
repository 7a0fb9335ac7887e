"""Field sets: which parts of an object a manager owns (metadata.managedFields, FieldsV1).

A path is a tuple of elements as FieldsV1 writes them: `f:name`, `k:{"port":80}`, `v:"x"`. `flatten` takes an
object apart by its schema; sets of its paths are what owners have, and what apply and update compare.
Source: sigs.k8s.io/structured-merge-diff, KEP-555.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nexus_ops.sandbox.kube.schema import Schema, field_of, is_atomic_map, item_key, items_of, list_type

Path = tuple[str, ...]

CONTAINER = object()
"""Value of a path that is a container with entries of its own."""
ITEM = object()
"""Value of a path that is an item of a list of type map."""

UNOWNED = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace"),
    ("f:metadata", "f:uid"), ("f:metadata", "f:creationTimestamp"), ("f:metadata", "f:resourceVersion"),
    ("f:metadata", "f:generation"), ("f:metadata", "f:selfLink"), ("f:metadata", "f:managedFields"),
    ("f:metadata", "f:deletionTimestamp"), ("f:spec", "f:finalizers"), ("f:metadata", "f:deletionGracePeriodSeconds"),
}  # fmt: skip
"""What the server itself looks after: nobody's."""

ALWAYS_THERE = {
    ("f:spec",), ("f:status",), ("f:spec", "f:strategy"), ("f:spec", "f:template"),
    ("f:spec", "f:template", "f:metadata"), ("f:spec", "f:template", "f:spec"), ("f:spec", "f:scaleTargetRef"),
    ("f:spec", "f:names"), ("f:spec", "f:podSelector"), ("f:spec", "f:containers"), ("f:spec", "f:template", "f:spec", "f:containers"),
}  # fmt: skip
"""Structs that exist in an empty object already: a manager that creates one owns its fields, not the struct."""


def compact(value: Any) -> str:
    """JSON as FieldsV1 has it."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def key_element(key: Iterable[tuple[str, Any]]) -> str:
    return "k:" + compact(dict(key))


def flatten(value: Any, schema: Schema) -> dict[Path, Any]:
    """Every path of an object with its value: leaves as they are, containers and keyed items as markers."""
    result: dict[Path, Any] = {}
    _flatten(value, schema, (), result)
    for path in UNOWNED:
        result.pop(path, None)
    return {path: v for path, v in result.items() if path[:2] != ("f:metadata", "f:managedFields")}


def _flatten(value: Any, schema: Schema, path: Path, result: dict[Path, Any]) -> None:
    if isinstance(value, dict) and not is_atomic_map(schema):
        if path:
            result[path] = CONTAINER if value else {}
        for key, item in value.items():
            _flatten(item, field_of(schema, key), (*path, f"f:{key}"), result)
    elif isinstance(value, list) and (kind := list_type(schema)) != "atomic":
        if path:
            result[path] = CONTAINER  # an empty one, unlike an empty map, is owned by nobody
        for item in value:
            if kind == "set":
                result[(*path, "v:" + compact(item))] = item
            else:
                place = (*path, key_element(item_key(item, schema)))
                if is_atomic_map(items_of(schema)):
                    result[place] = item
                    continue
                result[place] = ITEM
                for key, part in item.items() if isinstance(item, dict) else ():
                    _flatten(part, field_of(items_of(schema), key), (*place, f"f:{key}"), result)
    else:
        result[path] = value


def applied_paths(flat: dict[Path, Any]) -> set[Path]:
    """What an apply of this object owns: leaves and items, not the containers that lead to them."""
    return {path for path, value in flat.items() if value is not CONTAINER}


def changed_paths(old: dict[Path, Any], new: dict[Path, Any], *, built_in: bool) -> set[Path]:
    """What an update from old to new sets: every path that is new or has another value."""
    return {
        path
        for path, value in new.items()
        if (path not in old and not (built_in and (value is CONTAINER or value == {}) and path in ALWAYS_THERE))
        or (path in old and value is not CONTAINER and old[path] != value)
    }


def to_fields(paths: Iterable[Path]) -> dict[str, Any]:
    """FieldsV1 of a set of paths."""
    root: dict[str, Any] = {}
    ordered = sorted(paths)
    inner = {path[:length] for path in ordered for length in range(1, len(path))}
    for path in ordered:
        node = root
        for element in path:
            node = node.setdefault(element, {})
        if path in inner:
            node["."] = {}
    return root


def from_fields(fields: dict[str, Any], prefix: Path = ()) -> set[Path]:
    """The set of paths that FieldsV1 stands for."""
    result: set[Path] = set()
    for element, inner in fields.items():
        if element == ".":
            result.add(prefix)
        elif inner:
            result |= from_fields(inner, (*prefix, element))
        else:
            result.add((*prefix, element))
    return result


def describe(path: Path) -> str:
    """A path as conflicts name it: `.spec.ports[port=80,protocol="TCP"].targetPort`."""
    text = ""
    for element in path:
        kind, name = element[:2], element[2:]
        if kind == "f:":
            text += f".{name}"
        elif kind == "k:":
            text += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in json.loads(name).items()) + "]"
        else:
            text += f"[={name}]"
    return text


def take_out(value: Any, schema: Schema, paths: set[Path], path: Path = ()) -> Any:
    """The value without the given paths; containers that become empty by it go too."""
    if isinstance(value, dict) and not is_atomic_map(schema):
        result: dict[str, Any] = {}
        for key, item in value.items():
            place = (*path, f"f:{key}")
            inner = take_out(item, field_of(schema, key), paths, place)
            emptied = inner in ({}, []) and item not in ({}, [])
            if place in paths and (inner in ({}, []) or not isinstance(inner, dict | list) or inner == item):
                continue
            if not emptied:
                result[key] = inner
        return result
    if isinstance(value, list) and (kind := list_type(schema)) != "atomic":
        kept: list[Any] = []
        for item in value:
            if kind == "set":
                if (*path, "v:" + compact(item)) not in paths:
                    kept.append(item)
                continue
            place = (*path, key_element(item_key(item, schema)))
            if place not in paths:
                kept.append(take_out(item, items_of(schema), paths, place))
        return kept
    return value


def merge(live: Any, applied: Any, schema: Schema) -> Any:
    """The live value with an applied configuration laid over it, by the schema's rules."""
    if isinstance(live, dict) and isinstance(applied, dict) and not is_atomic_map(schema):
        return {
            **live,
            **{
                key: merge(live[key], item, field_of(schema, key)) if key in live else item
                for key, item in applied.items()
            },
        }
    if isinstance(live, list) and isinstance(applied, list) and list_type(schema) != "atomic":
        return _merge_items(live, applied, schema)
    return applied


def _merge_items(live: list[Any], applied: list[Any], schema: Schema) -> list[Any]:
    """Items of both, each merged with its like, in the order that structured-merge-diff finds (typed/merge.go).

    Live items that are not applied stay before the shared items that they preceded; what is shared takes the
    applied order.
    """

    def identity(item: Any) -> Any:
        return compact(item) if list_type(schema) == "set" else item_key(item, schema)

    there, wanted = {identity(item): item for item in live}, {identity(item): item for item in applied}
    left, right = list(there), list(wanted)
    shared = [key for key in right if key in there]
    result: list[Any] = []
    done: set[Any] = set()

    def take(key: Any) -> None:
        item = wanted[key]
        result.append(merge(there[key], item, items_of(schema)) if key in there else item)
        done.add(key)
        if shared and shared[0] == key:
            shared.pop(0)

    while left or right:
        if left and right and left[0] == right[0]:
            left.pop(0)
            take(right.pop(0))
        elif left and right and left[0] in wanted and shared and shared[0] != left[0]:
            left.pop(0)  # shared, and its turn comes with the applied order
        elif left and left[0] not in wanted:
            result.append(there[left.pop(0)])
        else:
            if left and left[0] in done:
                left.pop(0)
            if right:
                take(right.pop(0))
    return result
