"""What the API server refuses: wrong types, unknown fields, missing parts, names that cannot be."""

from __future__ import annotations

import re
from typing import Any

from nexus_ops.sandbox.kube.errors import Cause
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.schema import Schema, field_of, items_of, resolve

Object = dict[str, Any]
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion", "customresourcecleanup.apiextensions.k8s.io")
CONFIG_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
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
    if function := _BY_KEY.get(resource.key):
        found += function(obj, old)
    return found


def _metadata(resource: Resource, obj: Object) -> list[Cause]:
    meta = obj["metadata"]
    name = meta.get("name") or ""
    found: list[Cause] = []
    if not name:
        return [Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")]
    strict = resource.key in ("namespaces", "services")
    if not (LABEL if strict else SUBDOMAIN).match(name) and resource.group != "rbac.authorization.k8s.io":
        kind = "label" if strict else "subdomain"
        found.append(
            Cause(
                "metadata.name",
                f'Invalid value: "{name}": a lowercase RFC 1123 {kind} must consist of lower case alphanumeric characters',
            )
        )
    for key, value in (meta.get("labels") or {}).items():
        if not LABEL_VALUE.match(str(value)) or len(str(value)) > 63:
            found.append(
                Cause(
                    "metadata.labels",
                    f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric characters',
                )
            )
        del key
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


def _config_map(obj: Object, old: Object | None) -> list[Cause]:
    found = [
        Cause(
            f"data[{key}]",
            f"Invalid value: \"{key}\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        )
        for key in obj.get("data") or {}
        if not CONFIG_KEY.match(key)
    ]
    if old and old.get("immutable"):
        for part in ("data", "binaryData"):
            if obj.get(part) != old.get(part):
                found.append(
                    Cause(part, "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
                )
    return found


def _secret(obj: Object, old: Object | None) -> list[Cause]:
    found = _config_map({**obj}, old)
    if old and obj.get("type") != old.get("type"):
        found.append(Cause("type", f'Invalid value: "{obj.get("type")}": field is immutable'))
    return found


def _required(spec: Object, name: str, path: str) -> list[Cause]:
    return (
        []
        if spec.get(name) not in (None, "", [], {})
        else [Cause(f"{path}.{name}", "Required value", "FieldValueRequired")]
    )


def _pod_spec(spec: Object, path: str) -> list[Cause]:
    found = _required(spec, "containers", path)
    names: set[str] = set()
    for index, container in enumerate(spec.get("containers") or ()):
        place = f"{path}.containers[{index}]"
        found += _required(container, "name", place) + _required(container, "image", place)
        if container.get("name") in names:
            found.append(Cause(f"{place}.name", f'Duplicate value: "{container["name"]}"', "FieldValueDuplicate"))
        names.add(container.get("name", ""))
        for number, port in enumerate(container.get("ports") or ()):
            if not 0 < (port.get("containerPort") or 0) < 65536:
                text = f"Invalid value: {port.get('containerPort')}: must be between 1 and 65535, inclusive"
                found.append(Cause(f"{place}.ports[{number}].containerPort", text))
    return found


def _workload(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found: list[Cause] = []
    replicas = spec.get("replicas")
    if isinstance(replicas, int) and replicas < 0:
        found.append(Cause("spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0"))
    found += _required(spec, "selector", "spec")
    template = spec.get("template") or {}
    wanted = ((spec.get("selector") or {}).get("matchLabels")) or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if wanted and not wanted.items() <= labels.items():
        text = f"Invalid value: {labels}: `selector` does not match template `labels`"
        found.append(Cause("spec.template.metadata.labels", text))
    found += _pod_spec(template.get("spec") or {}, "spec.template.spec")
    if old and old["spec"].get("selector") != spec.get("selector"):
        found.append(Cause("spec.selector", f"Invalid value: {spec.get('selector')}: field is immutable"))
    return found


def _service(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found: list[Cause] = []
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        found.append(Cause("spec.ports", "Required value", "FieldValueRequired"))
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        place = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            found.append(Cause(f"{place}.name", "Required value", "FieldValueRequired"))
        if not isinstance(port.get("port"), int) or not 0 < port["port"] < 65536:
            found.append(
                Cause(f"{place}.port", f"Invalid value: {port.get('port')}: must be between 1 and 65535, inclusive")
            )
        if (port.get("port"), port.get("protocol")) in seen:
            found.append(Cause(place, f'Duplicate value: {{"port":{port.get("port")}}}', "FieldValueDuplicate"))
        seen.add((port.get("port"), port.get("protocol")))
    if old and old["spec"].get("clusterIP") and spec.get("clusterIP") != old["spec"]["clusterIP"]:
        found.append(Cause("spec.clusterIPs[0]", f'Invalid value: "{spec.get("clusterIP")}": may not change once set'))
    return found


def _autoscaler(obj: Object, _: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found: list[Cause] = []
    low, high = spec.get("minReplicas", 1), spec.get("maxReplicas")
    if not isinstance(high, int) or high < 1:
        found.append(Cause("spec.maxReplicas", f"Invalid value: {high or 0}: must be greater than 0"))
    elif low > high:
        found.append(
            Cause("spec.maxReplicas", f"Invalid value: {high}: must be greater than or equal to `minReplicas`")
        )
    return found


def _pod(obj: Object, _: Object | None) -> list[Cause]:
    return _pod_spec(obj.get("spec") or {}, "spec")


_BY_KEY = {
    "configmaps": _config_map,
    "secrets": _secret,
    "pods": _pod,
    "services": _service,
    "deployments.apps": _workload,
    "replicasets.apps": _workload,
    "statefulsets.apps": _workload,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
}
