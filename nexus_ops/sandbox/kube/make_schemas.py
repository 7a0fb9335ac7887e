"""Writes schemas.json.gz: the OpenAPI definitions of the built-in kinds, from PyPI's kubernetes-validate.

Run it after an update of that package: `python -m nexus_ops.sandbox.kube.make_schemas`. Only the kinds that the
emulator serves are kept, with what they refer to, without descriptions.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

VERSION = "v1.32.0-local"
TARGET = Path(__file__).with_name("schemas.json.gz")


def wanted_kinds() -> set[tuple[str, str, str]]:
    """(group, version, kind) of every built-in kind, and what the API itself speaks."""
    from nexus_ops.sandbox.kube.resources import BUILT_IN

    return {(kind.group, kind.version, kind.kind) for kind in BUILT_IN} | {("autoscaling", "v1", "Scale")}


def without_prose(value: Any) -> Any:
    """A definition without descriptions, and with nullable types made plain (`["string", "null"]`)."""
    if isinstance(value, list):
        return [without_prose(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        if key == "description" and isinstance(item, str):
            continue
        if key == "type" and isinstance(item, list):
            result[key] = next(kind for kind in item if kind != "null")
        elif key == "$ref" and isinstance(item, str):
            result[key] = item.rsplit("/", 1)[1]
        else:
            result[key] = without_prose(item)
    return result


def references(value: Any) -> set[str]:
    """Names of the definitions that a definition refers to."""
    if isinstance(value, list):
        return set().union(*map(references, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(references, value.values()))


def main() -> None:
    import kubernetes_validate

    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / VERSION
    everything = without_prose(json.loads((folder / "_definitions.json").read_text())["$defs"])
    wanted = wanted_kinds()
    queue = [
        name
        for name, definition in everything.items()
        for gvk in definition.get("x-kubernetes-group-version-kind", [])
        if (gvk["group"], gvk["version"], gvk["kind"]) in wanted
    ]
    kept: dict[str, Any] = {}
    while queue:
        name = queue.pop()
        if name not in kept:
            kept[name] = everything[name]
            queue.extend(references(everything[name]))
    data = json.dumps(dict(sorted(kept.items())), separators=(",", ":")).encode()
    TARGET.write_bytes(gzip.compress(data, mtime=0))
    print(f"{TARGET.name}: {len(kept)} definitions, {TARGET.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
