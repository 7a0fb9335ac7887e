"""The order in which a rendering's objects are applied: what others need comes first."""

from __future__ import annotations

from typing import Any, Literal

Object = dict[str, Any]
Wave = Literal["namespace", "crds", "config", "data", "services", "routes", "workloads"]
WAVES: tuple[Wave, ...] = ("namespace", "crds", "config", "data", "services", "routes", "workloads")

_BY_KIND: dict[str, Wave] = {
    "Namespace": "namespace",
    "CustomResourceDefinition": "crds",
    "Cluster": "data", "ObjectStore": "data", "ScheduledBackup": "data", "Database": "data", "RedisCluster": "data",
    "PersistentVolumeClaim": "data",
    "Service": "services", "ServiceMonitor": "services", "PodMonitor": "services",
    "Gateway": "routes", "GatewayClass": "routes", "HTTPRoute": "routes", "Ingress": "routes", "ReferenceGrant": "routes",
    "Deployment": "workloads", "StatefulSet": "workloads", "DaemonSet": "workloads", "Job": "workloads",
    "CronJob": "workloads", "HorizontalPodAutoscaler": "workloads", "Pod": "workloads",
    "Prometheus": "workloads", "Alertmanager": "workloads",
}  # fmt: skip


def wave_of(obj: Object) -> Wave:
    """The wave of an object; what is not listed is configuration."""
    return _BY_KIND.get(obj["kind"], "config")


def identity(obj: Object) -> tuple[str, str, str, str]:
    """Kind, API group, namespace and name: what an object is the same by."""
    group = obj["apiVersion"].rpartition("/")[0]
    return obj["kind"], group, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def rank(obj: Object) -> tuple[int, tuple[str, str, str, str]]:
    """Sort key: wave, then identity, so that the same objects always come in the same order."""
    return WAVES.index(wave_of(obj)), identity(obj)


def in_waves(objects: list[Object]) -> list[tuple[Wave, list[Object]]]:
    """The objects by wave, in order; empty waves are left out."""
    ordered = sorted(objects, key=rank)
    return [(wave, found) for wave in WAVES if (found := [obj for obj in ordered if wave_of(obj) == wave])]
