"""The schemas of what is stored: how a value's parts are typed, merged and owned.

A schema is an OpenAPI object with Kubernetes' markers (x-kubernetes-list-type and its like). Built-in kinds come
from schemas.json.gz, custom resources carry their own. An unknown part has the empty schema: its maps are
granular, its lists atomic, as structured-merge-diff's deduced type has it.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib import resources as package
from typing import Any, Literal

from nexus_ops.sandbox.kube.resources import Resource

Schema = dict[str, Any]
ListType = Literal["atomic", "set", "map"]

KEY_DEFAULTS = {"protocol": "TCP"}
"""Defaults of list keys, which the definitions leave out."""

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


@cache
def definitions() -> dict[str, Schema]:
    """The definitions of the built-in kinds, by name."""
    data = package.files("nexus_ops.sandbox.kube").joinpath("schemas.json.gz").read_bytes()
    return json.loads(gzip.decompress(data))


@cache
def _by_kind() -> dict[tuple[str, str, str], str]:
    return {
        (gvk["group"], gvk["version"], gvk["kind"]): name
        for name, definition in definitions().items()
        for gvk in definition.get("x-kubernetes-group-version-kind", ())
    }


def definition_name(group: str, version: str, kind: str) -> str | None:
    """The name of a built-in kind's definition."""
    return _by_kind().get((group, version, kind))


def schema_of(resource: Resource) -> Schema:
    """The schema of a resource type's objects."""
    if resource.custom:
        own = resource.schema or {"x-kubernetes-preserve-unknown-fields": True}
        return {**own, "properties": {**own.get("properties", {}), **_type_and_metadata()}}
    return {"$ref": definition_name(resource.group, resource.version, resource.kind)}


def _type_and_metadata() -> dict[str, Schema]:
    return {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"$ref": OBJECT_META}}


def resolve(schema: Schema) -> Schema:
    """The schema itself, with a reference followed (its markers beside the reference win)."""
    if "$ref" not in schema:
        return schema
    target = definitions().get(schema["$ref"], {})
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def field_of(schema: Schema, key: str) -> Schema:
    """The schema of a map's or object's entry (schema resolved)."""
    properties = schema.get("properties")
    if properties and key in properties:
        return resolve(properties[key])
    additional = schema.get("additionalProperties")
    return resolve(additional) if isinstance(additional, dict) else {}


def items_of(schema: Schema) -> Schema:
    """The schema of a list's items (schema resolved)."""
    return resolve(schema.get("items") or {})


def list_type(schema: Schema) -> ListType:
    """How a list is merged by server-side apply."""
    return schema.get("x-kubernetes-list-type", "atomic")


def list_keys(schema: Schema) -> list[str]:
    """The keys that identify an item of a list of type map."""
    return schema.get("x-kubernetes-list-map-keys", [])


def item_key(item: Any, schema: Schema) -> tuple[tuple[str, Any], ...]:
    """The identity of an item of a list of type map; absent keys take the schema's default."""
    keys: list[tuple[str, Any]] = []
    for key in list_keys(schema):
        value = item.get(key) if isinstance(item, dict) else None
        if value is None:
            value = field_of(items_of(schema), key).get("default", KEY_DEFAULTS.get(key))
        if value is not None:
            keys.append((key, value))
    return tuple(sorted(keys))


def is_atomic_map(schema: Schema) -> bool:
    """Whether a map is owned as a whole."""
    return schema.get("x-kubernetes-map-type") == "atomic"
