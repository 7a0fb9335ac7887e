"""Objects that are applied in tests, and how they are applied."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from nexus_ops.clusters.apply import ApplyResult, apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import Kind
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import DURATION, SKEW
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.rendering import render
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
CATALOGUE = FileCatalogue(default_path().parent / "images.yaml")
IMAGE, CRASHING = (CATALOGUE.images(version).images["risk-manager"] for version in ("v1.0.0", "v1.4.0"))
SECRET, CLAIM = Kind("v1", "Secret"), Kind("v1", "PersistentVolumeClaim")
POSTGRES = Kind("postgresql.cnpg.io/v1", "Cluster")
REDIS = Kind("redis.redis.opstreelabs.in/v1beta2", "RedisCluster")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAST = DURATION + SKEW + timedelta(seconds=1)


def config(namespace: str, name: str = "c", kind: str = "ConfigMap", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "data": data}


def deployment(namespace: str, name: str = "d", image: str = IMAGE, cpu: str = "10m", replicas: int = 9) -> Object:
    amounts = {"cpu": cpu, "memory": "16Mi"}
    ports = [{"name": "http", "containerPort": 8080}]
    container = {"name": "agent", "image": image, "ports": ports, "resources": {"requests": amounts, "limits": amounts}}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }  # fmt: skip


def autoscaler(namespace: str, name: str = "d") -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 5, "metrics": [cpu]},
    }  # fmt: skip


def data_layer() -> tuple[Object, ...]:
    """The databases as the chart renders them."""
    topology = Topology.load(default_path())
    chart, folder = read_chart(default_path().parent / "helm" / "nexus-ai-defi"), default_path().parent / "helm"
    built = build_release(topology, "staging", "v1.0.0", CATALOGUE, chart, folder / "values-staging.yaml")
    return render(built, topology.primary("staging"), "shared", chart).objects


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What the condition gives once it holds."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to hold in time"
        pause.wait(0.05)
    return value


def apply(fenced: Fenced, applyset: ApplySet, *objects: Object, **options: Any) -> ApplyResult:
    return apply_rendering(fenced, objects, applyset, replicas=options.pop("replicas", {}), **options)
