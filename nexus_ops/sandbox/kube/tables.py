"""Tables for `kubectl get`: the columns that a real server prints for the kinds that people look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nexus_ops.sandbox.kube.resources import Resource

Object = dict[str, Any]
Column = tuple[str, str, Callable[[Object], Any]]


def age(obj: Object) -> str:
    """How old an object is, as kubectl says it."""
    created = obj["metadata"].get("creationTimestamp")
    if not created:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 7200:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 172800 else f"{seconds // 86400}d"


def _status(pod: Object) -> str:
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for container in status.get("containerStatuses") or ():
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason"):
            return waiting["reason"]
    return status.get("phase", "Unknown")


def _ready(pod: Object) -> str:
    containers = pod.get("status", {}).get("containerStatuses") or ()
    return f"{sum(c.get('ready', False) for c in containers)}/{len(pod['spec']['containers'])}"


def _restarts(pod: Object) -> str:
    return str(sum(c.get("restartCount", 0) for c in pod.get("status", {}).get("containerStatuses") or ()))


def _ports(service: Object) -> str:
    return ",".join(f"{p['port']}/{p.get('protocol', 'TCP')}" for p in service["spec"].get("ports") or ()) or "<none>"


def _count(path: str) -> Callable[[Object], int]:
    def read(obj: Object) -> int:
        place: Any = obj
        for part in path.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        return place or 0

    return read


def _text(path: str) -> Callable[[Object], str]:
    def read(obj: Object) -> str:
        place: Any = obj
        for part in path.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        return "" if place is None else str(place)

    return read


NAME: Column = ("Name", "string", lambda obj: obj["metadata"]["name"])
AGE: Column = ("Age", "string", age)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "pods": (("Ready", "string", _ready), ("Status", "string", _status), ("Restarts", "string", _restarts)),
    "deployments.apps": (
        ("Ready", "string", lambda d: f"{d.get('status', {}).get('readyReplicas', 0)}/{d['spec'].get('replicas', 0)}"),
        ("Up-to-date", "integer", _count("status.updatedReplicas")),
        ("Available", "integer", _count("status.availableReplicas")),
    ),
    "replicasets.apps": (
        ("Desired", "integer", _count("spec.replicas")),
        ("Current", "integer", _count("status.replicas")),
        ("Ready", "integer", _count("status.readyReplicas")),
    ),
    "services": (
        ("Type", "string", _text("spec.type")),
        ("Cluster-IP", "string", _text("spec.clusterIP")),
        ("External-IP", "string", lambda _: "<none>"),
        ("Port(s)", "string", _ports),
    ),
    "namespaces": (("Status", "string", _text("status.phase")),),
    "nodes": (
        ("Status", "string", lambda _: "Ready"),
        ("Roles", "string", lambda _: "<none>"),
    ),
    "configmaps": (("Data", "string", lambda c: str(len(c.get("data") or {}) + len(c.get("binaryData") or {}))),),
    "secrets": (("Type", "string", _text("type")), ("Data", "integer", lambda s: len(s.get("data") or {}))),
    "leases.coordination.k8s.io": (("Holder", "string", _text("spec.holderIdentity")),),
    "horizontalpodautoscalers.autoscaling": (
        (
            "Reference",
            "string",
            lambda h: f"{h['spec']['scaleTargetRef']['kind']}/{h['spec']['scaleTargetRef']['name']}",
        ),
        ("MinPods", "string", lambda h: str(h["spec"].get("minReplicas", 1))),
        ("MaxPods", "integer", _count("spec.maxReplicas")),
        ("Replicas", "integer", _count("status.currentReplicas")),
    ),
}


def table(resource: Resource, objects: list[Object], version: str, include: str) -> Object:
    """The Table of objects; `include` is includeObject (None, Metadata, Object)."""
    columns = (NAME, *COLUMNS.get(resource.key, ()), AGE)
    rows: list[Object] = []
    for obj in objects:
        row: Object = {"cells": [read(obj) for _, _, read in columns]}
        if include == "Object":
            row["object"] = obj
        elif include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(row)
    definitions = [
        {"name": name, "type": kind, "format": "name" if name == "Name" else "", "description": "", "priority": 0}
        for name, kind, _ in columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions,
        "rows": rows,
    }
