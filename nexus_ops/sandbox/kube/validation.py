"""What the API server refuses: wrong types, unknown fields, missing parts, names that cannot be."""

from __future__ import annotations

import re
from typing import Any

from nexus_ops.sandbox.kube.errors import Cause
from nexus_ops.sandbox.kube.kinds import kind_problems
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.schema import Schema, field_of, items_of, resolve

Object = dict[str, Any]
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion", "customresourcecleanup.apiextensions.k8s.io")
NAME_PART = re.compile(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$")
ANNOTATIONS_SIZE = 256 << 10
LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float),
}  # fmt: skip


def wrong_types(value: Any, schema: Schema, path: str = "") -> list[tuple[str, str, Any]]:
    """(path, wanted type, value) of every part that has another type than its schema says."""
    if value is None:
        return []
    wanted = schema.get("type")
    if schema.get("x-kubernetes-int-or-string") or "oneOf" in schema:
        return [] if isinstance(value, str | int | float) and not isinstance(value, bool) else [(path, "string", value)]
    if isinstance(wanted, str) and wanted in TYPES:
        fits = isinstance(value, TYPES[wanted]) and not (wanted in ("integer", "number") and isinstance(value, bool))
        if wanted == "integer" and isinstance(value, float) and value.is_integer():
            fits = True
        if not fits:
            return [(path, wanted, value)]
    found: list[tuple[str, str, Any]] = []
    if isinstance(value, dict):
        for key, item in value.items():
            found += wrong_types(item, field_of(schema, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        inner = items_of(schema)
        for index, item in enumerate(value):
            found += wrong_types(item, inner, f"{path}[{index}]")
    return found


def prune(value: Any, schema: Schema, path: str = "") -> tuple[Any, list[str]]:
    """The value without fields that its schema does not know, and the paths of those."""
    if isinstance(value, list):
        inner, items, unknown = items_of(schema), [], []
        for index, item in enumerate(value):
            kept, more = prune(item, inner, f"{path}[{index}]")
            items.append(kept)
            unknown += more
        return items, unknown
    properties = schema.get("properties")
    if not isinstance(value, dict):
        return value, []
    keep_all = schema.get("x-kubernetes-preserve-unknown-fields") or (properties is None)
    result: Object = {}
    unknown: list[str] = []
    for key, item in value.items():
        place = f"{path}.{key}" if path else key
        known = properties is not None and key in properties
        if not known and not keep_all and not schema.get("additionalProperties"):
            unknown.append(place)
            continue
        result[key], more = prune(item, field_of(schema, key), place)
        unknown += more
    return result, unknown


def drop_empty(value: Any, schema: Schema) -> Any:
    """A built-in object as the server stores it: empty lists and maps of free keys are left out (Go's omitempty)."""
    if isinstance(value, list):
        inner = items_of(schema)
        return [drop_empty(item, inner) for item in value]
    if not isinstance(value, dict):
        return value
    result: Object = {}
    for key, item in value.items():
        part = field_of(schema, key)
        if key == "managedFields":
            result[key] = item  # empty ones mean something: a reset
            continue
        free = part.get("type") == "array" or ("additionalProperties" in part and not part.get("properties"))
        if item is not None and not (free and item in ([], {}) and key not in schema.get("required", ())):
            result[key] = drop_empty(item, part)
    return result


def violations(value: Any, schema: Schema, path: str) -> list[Cause]:
    """What a custom resource's structural schema refuses."""
    found: list[Cause] = []
    if value is None:
        return []
    wanted = schema.get("type")
    if wanted in TYPES and not schema.get("x-kubernetes-int-or-string"):
        ok = isinstance(value, TYPES[wanted]) and not (wanted in ("integer", "number") and isinstance(value, bool))
        if not ok:
            kind = next((name for name, types in TYPES.items() if type(value) in types), "null")
            text = f'Invalid value: "{kind}": {path} in body must be of type {wanted}: "{kind}"'
            return [Cause(path, text, "FieldValueTypeInvalid")]
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{item}"' for item in schema["enum"])
        found.append(
            Cause(path, f'Unsupported value: "{value}": supported values: {allowed}', "FieldValueNotSupported")
        )
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(Cause(path, f"Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            text = f"Invalid value: {value}: {path} in body should be greater than or equal to {schema['minimum']}"
            found.append(Cause(path, text))
        if "maximum" in schema and value > schema["maximum"]:
            text = f"Invalid value: {value}: {path} in body should be less than or equal to {schema['maximum']}"
            found.append(Cause(path, text))
    if isinstance(value, dict):
        for name in schema.get("required") or ():
            if name not in value:
                found.append(Cause(f"{path}.{name}" if path else name, "Required value", "FieldValueRequired"))
        for key, item in value.items():
            found += violations(item, field_of(schema, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += violations(item, items_of(schema), f"{path}[{index}]")
    return found


def problems(resource: Resource, obj: Object, old: Object | None) -> list[Cause]:
    """What is wrong with an object that decodes well."""
    found = _metadata(resource, obj) + _finalizers(obj["metadata"], old)
    if resource.custom and resource.schema:
        body = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
        found += violations(body, resolve(resource.schema), "")
    return found + kind_problems(resource.key, obj, old)


def _metadata(resource: Resource, obj: Object) -> list[Cause]:
    meta = obj["metadata"]
    name = meta.get("name") or ""
    if not name:
        return [Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")]
    strict = resource.key in ("namespaces", "services")
    form = (LABEL if strict else SUBDOMAIN).match(name) or resource.group == "rbac.authorization.k8s.io"
    found = _name(name, 63 if strict else 253, "label" if strict else "subdomain", form=bool(form))
    prefix = (meta.get("generateName") or "").rstrip("-")
    if prefix and not form and not SUBDOMAIN.match(prefix):
        found.append(Cause("metadata.generateName", f'Invalid value: "{meta["generateName"]}": no prefix of a name'))
    for key, value in (meta.get("labels") or {}).items():
        found += _qualified("metadata.labels", key)
        if len(str(value)) > 63:
            found.append(Cause("metadata.labels", f'Invalid value: "{value}": must be no more than 63 characters'))
        if not LABEL_VALUE.match(str(value)):
            text = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
            found.append(Cause("metadata.labels", f'Invalid value: "{value}": {text}'))
    annotations = meta.get("annotations") or {}
    for key in annotations:
        found += _qualified("metadata.annotations", key.lower())
    if sum(len(key) + len(str(value)) for key, value in annotations.items()) > ANNOTATIONS_SIZE:
        text = f"Too long: may not be more than {ANNOTATIONS_SIZE} bytes"
        found.append(Cause("metadata.annotations", text, "FieldValueTooLong"))
    return found + _owners(meta.get("ownerReferences") or [])


def _name(name: str, most: int, kind: str, *, form: bool) -> list[Cause]:
    found: list[Cause] = []
    if not form:
        text = f"a lowercase RFC 1123 {kind} must consist of lower case alphanumeric characters"
        found.append(Cause("metadata.name", f'Invalid value: "{name}": {text}'))
    if len(name) > most:
        found.append(Cause("metadata.name", f'Invalid value: "{name}": must be no more than {most} characters'))
    return found


def _qualified(place: str, key: str) -> list[Cause]:
    """Keys of labels and annotations: a name, with a DNS subdomain and a slash before it if one likes."""
    prefix, slash, name = key.rpartition("/")
    if NAME_PART.match(name) and len(name) <= 63 and (not slash or SUBDOMAIN.match(prefix)):
        return []
    text = "name part must consist of alphanumeric characters, '-', '_' or '.'"
    if prefix.count("/"):
        text = "a qualified name must consist of alphanumeric characters, '-', '_' or '.'"
    return [Cause(place, f'Invalid value: "{key}": {text}')]


def _owners(owners: list[Object]) -> list[Cause]:
    found = [
        Cause(f"metadata.ownerReferences.{part}", f'Invalid value: "": {part} must not be empty')
        for owner in owners
        for part in ("apiVersion", "kind", "name", "uid")
        if not owner.get(part)
    ]
    if sum(bool(owner.get("controller")) for owner in owners) > 1:
        found.append(
            Cause("metadata.ownerReferences", "Invalid value: Only one reference can have Controller set to true")
        )
    return found


def _finalizers(meta: Object, old: Object | None) -> list[Cause]:
    names: list[str] = meta.get("finalizers") or []
    text = 'Invalid value: "{}": name is neither a standard finalizer name nor is it fully qualified'
    found = [
        Cause(f"metadata.finalizers[{index}]", text.format(name))
        for index, name in enumerate(names)
        if "/" not in name and name not in STANDARD_FINALIZERS
    ]
    if old and old["metadata"].get("deletionTimestamp"):
        new = [name for name in names if name not in (old["metadata"].get("finalizers") or [])]
        if new:
            shown = ", ".join(f'"{name}"' for name in new)
            what = "no new finalizers can be added if the object is being deleted, found new finalizers"
            text = f"Forbidden: {what} []string{{{shown}}}"
            found += [Cause("metadata.finalizers", text, "FieldValueForbidden")] * 2
    return found
