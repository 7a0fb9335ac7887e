"""What clients ask before anything else: versions, groups, resources, and the OpenAPI documents."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from nexus_ops.sandbox.kube.resources import Resource, Resources
from nexus_ops.sandbox.kube.schema import definition_name, definitions

Object = dict[str, Any]

VERSION: Object = {
    "major": "1", "minor": "32", "gitVersion": "v1.32.0-nexus.sandbox", "gitCommit": "0" * 40, "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "none", "platform": "linux/amd64",
}  # fmt: skip


def groups(resources: Resources) -> Object:
    """/apis"""
    found = [_group(name, versions) for name, versions in resources.versions().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def group(resources: Resources, name: str) -> Object | None:
    """/apis/<group>"""
    versions = resources.versions().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions and name else None


def _group(name: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(resources: Resources, name: str, version: str) -> Object | None:
    """/api/v1 and /apis/<group>/<version>"""
    served = [resource for resource in resources if (resource.group, resource.version) == (name, version)]
    if not served:
        return None
    entries: list[Object] = []
    for resource in sorted(served, key=lambda resource: resource.plural):
        entries += _entries(resource)
    head: Object = {"kind": "APIResourceList"} | ({"apiVersion": "v1"} if name else {})
    return head | {"groupVersion": f"{name}/{version}" if name else version, "resources": entries}


def _entries(resource: Resource) -> list[Object]:
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": sorted(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    sub: Object = {"singularName": "", "namespaced": resource.namespaced, "verbs": ["get", "patch", "update"]}
    entries = [entry]
    if resource.plural == "namespaces":
        entries.append(sub | {"name": "namespaces/finalize", "kind": "Namespace", "verbs": ["update"]})
    if resource.key == "pods":
        entries.append(sub | {"name": "pods/log", "kind": "Pod", "verbs": ["get"]})
        entries.append(
            sub | {"name": "pods/eviction", "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]}
        )
    if resource.scale:
        entries.append(
            sub | {"name": f"{resource.plural}/scale", "group": "autoscaling", "version": "v1", "kind": "Scale"}
        )
    if resource.status:
        entries.append(sub | {"name": f"{resource.plural}/status", "kind": resource.kind})
    return entries


def openapi_index(resources: Resources) -> Object:
    """/openapi/v3"""
    paths: Object = {}
    for name, versions in resources.versions().items():
        for version in versions:
            path = f"apis/{name}/{version}" if name else f"api/{version}"
            digest = hashlib.sha512(json.dumps([path, len(list(resources))]).encode()).hexdigest().upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def openapi(resources: Resources, name: str, version: str) -> Object | None:
    """/openapi/v3/apis/<group>/<version>: schemas of its kinds, and that their PATCH takes fieldValidation."""
    served = [resource for resource in resources if (resource.group, resource.version) == (name, version)]
    if not served:
        return None
    paths: Object = {}
    schemas: Object = {}
    for resource in served:
        gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        prefix = f"/apis/{name}/{version}" if name else f"/api/{version}"
        space = "/namespaces/{namespace}" if resource.namespaced else ""
        own = definition_name(resource.group, resource.version, resource.kind)
        if own:
            _collect(own, schemas)
        else:
            own = ".".join([*reversed(resource.group.split(".")), version, resource.kind])
            schemas[own] = {**(resource.schema or {"type": "object"}), "x-kubernetes-group-version-kind": [gvk]}
        parameters = [{"name": key, "in": "query", "schema": {"type": "string"}} for key in ("dryRun", "fieldManager", "fieldValidation", "force")]  # fmt: skip
        paths[f"{prefix}{space}/{resource.plural}/{{name}}"] = {
            "patch": {
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": gvk,
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
            }
        }
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _collect(name: str, into: Object) -> None:
    """A definition with all that it refers to, its references written as OpenAPI has them."""
    if name in into:
        return
    into[name] = {}
    definition = copy.deepcopy(definitions()[name])
    _rewrite(definition, into)
    into[name] = definition


def _rewrite(value: Any, into: Object) -> None:
    if isinstance(value, list):
        for item in value:
            _rewrite(item, into)
    elif isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            _collect(value["$ref"], into)
            value["$ref"] = f"#/components/schemas/{value['$ref']}"
        for key, item in value.items():
            if key != "$ref":
                _rewrite(item, into)
