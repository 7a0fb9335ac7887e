"""Stand-in for the operators of the data layer: CloudNativePG's Clusters, and the RedisClusters of the OT operator.

There is one real PostgreSQL and one real Valkey in a sandbox cluster, whatever number of instances is declared: all of them
are called ready while it answers, and none while it does not. The fields are those that the real operators write.
"""

from __future__ import annotations

from typing import Any, ClassVar

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.workloads import is_leaving
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.sandbox.processes import answers

Object = dict[str, Any]
LOOK_AGAIN = 2.0
"""Seconds between looks at a server."""
HEALTHY, WAITING = "Cluster in healthy state", "Waiting for the instances to become active"


class Operator:
    """Keeps the status of the objects of one kind, by whether the server on a port answers."""

    name: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, store: Store, port: int) -> None:
        self.store = store
        self.port = port

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        return [(meta["namespace"], meta["name"])] if event.key == self.kind and event.type != "DELETED" else []

    def reconcile(self, namespace: str, name: str) -> float | None:
        found = self.store.find(self.kind, namespace, name)
        if found is None or is_leaving(found):
            return None
        before = found.get("status") or {}
        status = {**before, **self.status(found, answers(self.port))}
        if status != before:
            self.store.edit(self.kind, namespace, name, lambda obj: obj.update(status=status), subresource="status")
        return LOOK_AGAIN

    def status(self, found: Object, ready: bool) -> Object:
        """What is said of an object whose server answers, or does not."""
        raise NotImplementedError


class PostgresOperator(Operator):
    """Keeps the status of CloudNativePG's Clusters."""

    name = "cloudnative-pg"
    kind = "clusters.postgresql.cnpg.io"

    def status(self, found: Object, ready: bool) -> Object:
        wanted, name = found["spec"].get("instances", 1), found["metadata"]["name"]
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": timestamp(),
                     "reason": "ClusterIsReady" if ready else "ClusterIsNotReady",
                     "message": "Cluster is Ready" if ready else "Cluster Is Not Ready"}  # fmt: skip
        was = next(iter((found.get("status") or {}).get("conditions") or ()), None)
        if was and was["status"] == condition["status"]:
            condition = was
        return {
            "instances": wanted,
            "readyInstances": wanted if ready else 0,
            "phase": HEALTHY if ready else WAITING,
            "currentPrimary": f"{name}-1",
            "targetPrimary": f"{name}-1",
            "instanceNames": [f"{name}-{number + 1}" for number in range(wanted)],
            "conditions": [condition],
        }


class RedisOperator(Operator):
    """Keeps the status of RedisClusters."""

    name = "redis-operator"
    kind = "redisclusters.redis.redis.opstreelabs.in"

    def status(self, found: Object, ready: bool) -> Object:
        size = found["spec"].get("clusterSize", 1)
        return {
            "state": "Ready" if ready else "Failed",
            "reason": "RedisCluster is ready" if ready else "RedisCluster does not answer",
            "readyLeaderReplicas": size if ready else 0,
            "readyFollowerReplicas": size if ready else 0,
        }
