"""The three patches besides server-side apply: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge."""

from __future__ import annotations

import copy
from typing import Any

from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.schema import Schema, field_of, items_of


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null deletes, maps are merged, all else is replaced."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any, schema: Schema) -> Any:
    """Kubernetes' strategic merge: lists with a merge key are merged by it; `$patch` and its like are honoured."""
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    retain = patch.get("$retainKeys")
    if isinstance(retain, list):
        result = {key: value for key, value in result.items() if key in retain}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            result[name] = [item for item in result.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            part = field_of(schema, key)
            result[key] = _merge_value(result.get(key), value, part)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.split("/", 1)[1]
            _reorder(result, name, order, field_of(schema, name))
    return result


def _merge_value(target: Any, value: Any, schema: Schema) -> Any:
    if isinstance(value, dict):
        return strategic_merge(target, value, schema)
    if not isinstance(value, list) or "merge" not in schema.get("x-kubernetes-patch-strategy", ""):
        return value
    merge_key = schema.get("x-kubernetes-patch-merge-key")
    if not merge_key:
        return [*(target or []), *(item for item in value if item not in (target or []))]
    return _merge_list(list(target or []), value, merge_key, items_of(schema))


def _merge_list(target: list[Any], patch: list[Any], key: str, schema: Schema) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    result = target
    for item in patch:
        if key not in item:
            raise ApiError(500, f"map: {item} does not contain declared merge key: {key}", "")
        index = next((i for i, there in enumerate(result) if there.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [there for there in result if there.get(key) != item[key]]
        elif index is None:
            result = [*result, strategic_merge({}, item, schema)]
        else:
            result = [*result[:index], strategic_merge(result[index], item, schema), *result[index + 1 :]]
    return _patched_first(result, [item[key] for item in patch], [item.get(key) for item in target], key)


def _patched_first(merged: list[Any], patched: list[Any], there: list[Any], key: str) -> list[Any]:
    """Patched items in the patch's order, the others where they stood; a new item comes before those that follow."""
    items = {item.get(key): item for item in merged}
    ours = [name for name in dict.fromkeys(patched) if name in items]
    rest = [name for name in items if name not in ours]
    result: list[Any] = []
    while ours and rest:
        later = ours[0] in there and there.index(ours[0]) > there.index(rest[0])
        result.append((rest if later else ours).pop(0))
    return [items[name] for name in [*result, *ours, *rest]]


def _reorder(result: dict[str, Any], name: str, order: list[Any], schema: Schema) -> None:
    key = schema.get("x-kubernetes-patch-merge-key")
    if not key or not isinstance(result.get(name), list):
        return
    rank = {item[key]: position for position, item in enumerate(order) if isinstance(item, dict)}
    result[name] = sorted(result[name], key=lambda item: rank.get(item.get(key), len(rank)))


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902, with the API server's leniency: `replace` of a missing map key adds it."""
    if not isinstance(operations, list):
        raise ApiError(400, "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    document = {"": copy.deepcopy(target)}
    for operation in operations:
        try:
            _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise ApiError(
                422,
                "the server rejected our request due to an error in our request",
                details={},
            ) from None
    return document[""]


def _operate(document: dict[str, Any], operation: dict[str, Any]) -> None:
    kind, path = operation["op"], operation["path"]
    if kind == "add":
        _set(document, path, operation["value"], insert=True)
    elif kind == "replace":
        _set(document, path, operation["value"], insert=False)
    elif kind == "remove":
        _pop(document, path)
    elif kind == "move":
        _set(document, path, _pop(document, operation["from"]), insert=True)
    elif kind == "copy":
        _set(document, path, copy.deepcopy(_get(document, operation["from"])), insert=True)
    elif kind == "test":
        try:
            found = _get(document, path)
        except (KeyError, IndexError):
            found = None
        if found != operation.get("value"):
            raise ValueError("test failed")
    else:
        raise ValueError(f"unknown operation {kind}")


def _parts(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _get(document: dict[str, Any], path: str) -> Any:
    place: Any = document
    for part in _parts(path):
        place = place[int(part)] if isinstance(place, list) else place[part]
    return place


def _set(document: dict[str, Any], path: str, value: Any, *, insert: bool) -> None:
    *parents, last = _parts(path)
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if not isinstance(place, list):
        place[last] = value
    elif last == "-":
        place.append(value)
    elif not 0 <= int(last) <= len(place) - (0 if insert else 1):
        raise IndexError("index out of bounds")
    elif insert:
        place.insert(int(last), value)
    else:
        place[int(last)] = value


def _pop(document: dict[str, Any], path: str) -> Any:
    *parents, last = _parts(path)
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    return place.pop(int(last) if isinstance(place, list) else last)
