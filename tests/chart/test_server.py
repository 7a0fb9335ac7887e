"""The rendering as an API server and Prometheus take it: the sandbox's, which is measured against a real one."""

from __future__ import annotations

import copy
import gzip
import json
from importlib import resources

import pytest
from platform_chart import PARTS, Object, objects_of, of_kind, one

from nexus_ops.releases.waves import rank
from nexus_ops.sandbox.kube.registry import Registry, Request
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.prometheus import targets


@pytest.fixture
def registry() -> Registry:
    """An empty cluster that knows the custom kinds."""
    made = Registry(Store())
    definitions = made.store.resources.by_key("customresourcedefinitions.apiextensions.k8s.io")
    for entry in (resources.files("nexus_ops.releases") / "schemas").iterdir():
        if entry.name.endswith(".json.gz"):
            made.create(Request(definitions, None, None, "test"), json.loads(gzip.decompress(entry.read_bytes())))
    return made


def apply(registry: Registry, obj: Object) -> Object:
    """Server-side apply with strict validation, by the release's manager."""
    meta = obj["metadata"]
    served = registry.store.resources
    resource = next(r for r in served if (r.api_version, r.kind) == (obj["apiVersion"], obj["kind"]))
    request = Request(resource, meta.get("namespace"), meta["name"], "nexus-release", validation="Strict")
    return registry.apply(request, copy.deepcopy(obj))[0]


def test_a_server_takes_every_object_and_applying_it_again_changes_nothing(registry: Registry) -> None:
    """An object that comes back changed by each apply would never be reported as unchanged."""
    objects = sorted((obj for part in PARTS for obj in objects_of(part)), key=rank)
    first = [apply(registry, obj)["metadata"]["resourceVersion"] for obj in objects]
    again = [apply(registry, obj)["metadata"]["resourceVersion"] for obj in objects]
    assert first == again


def test_prometheus_finds_each_pod_of_a_colour_once_and_with_its_job(registry: Registry) -> None:
    store = registry.store
    for obj in sorted((*objects_of("shared"), *objects_of("green")), key=rank):
        apply(registry, obj)
    for number, service in enumerate(
        (*of_kind(objects_of("shared"), "Service"), *of_kind(objects_of("green"), "Service"))
    ):
        address = {"ip": f"10.0.0.{number}", "targetRef": {"kind": "Pod", "name": f"pod-{number}"}}
        subset = {"addresses": [address], "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}]}
        store.create("endpoints", {"metadata": {"name": service, "namespace": "nexus-agents"}, "subsets": [subset]})
    monitor = one(objects_of("shared"), "ServiceMonitor", "nexus-agents")
    found = targets(store, monitor, monitor["spec"]["endpoints"][0])
    assert {group["labels"]["service"] for group in found} == set(of_kind(objects_of("green"), "Service"))
    assert {group["labels"]["job"] for group in found} == {"nexus-agents"}
    assert len({tuple(group["targets"]) for group in found}) == len(found) == 7
