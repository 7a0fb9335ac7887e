"""The pods that operators make of custom resources: how many, where, and what each asks for.

A release's capacity is also that of its databases and of its monitoring, whose pods are in no Deployment. What counts
is what the resources themselves say; sidecars that an operator adds on its own account are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class OperatedPods:
    """Equal pods that an operator will make: their number, and the part of their spec that is known."""

    copies: int
    pod: Object


def operated_pods(obj: Object) -> Iterator[OperatedPods]:
    """The pods of a custom resource; none for a kind that stands for no pods."""
    spec: Object = obj.get("spec") or {}
    match obj.get("apiVersion", "").partition("/")[0], obj["kind"]:
        case "postgresql.cnpg.io", "Cluster":
            yield OperatedPods(spec["instances"], _pod(spec.get("affinity"), spec))
        case "redis.redis.opstreelabs.in", "RedisCluster":
            exporter = spec.get("redisExporter") or {}
            beside = (exporter,) if exporter.get("enabled") else ()
            for role in ("redisLeader", "redisFollower"):
                own: Object = spec.get(role) or {}
                resources = own if "resources" in own else spec.get("kubernetesConfig") or {}
                yield OperatedPods(own.get("replicas") or spec["clusterSize"], _pod(own, resources, *beside))
        case "monitoring.coreos.com", "Prometheus":
            yield OperatedPods((spec.get("replicas") or 1) * (spec.get("shards") or 1), _pod(spec, spec))
        case "monitoring.coreos.com", "Alertmanager":
            yield OperatedPods(spec.get("replicas") or 1, _pod(spec, spec))
        case _:
            return


def _pod(placed: Object | None, *containers: Object) -> Object:
    """A pod on the nodes that `placed` selects, of containers with these resources."""
    return {
        "nodeSelector": (placed or {}).get("nodeSelector") or {},
        "containers": [{"resources": container.get("resources") or {}} for container in containers],
    }
