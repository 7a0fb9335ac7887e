"""ReplicaSets: as many pods of a template as are wanted."""

from __future__ import annotations

import copy
import uuid
from typing import Any

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.workloads import (
    PODS,
    REPLICA_SETS,
    is_leaving,
    is_ready,
    owner_key,
    owner_reference,
)
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]


class ReplicaSetController:
    """Creates the pods that are missing and deletes those too many: first the ones that do not serve."""

    name = "replicaset"

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pods: dict[str, dict[str, None]] = {}
        """Names of the pods by the uid of the set that owns them."""

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        if event.key == REPLICA_SETS and event.type != "DELETED":
            return [(meta["namespace"], meta["name"])]
        if event.key == PODS and (key := owner_key(event.object, "ReplicaSet")):
            uid = next(o["uid"] for o in meta["ownerReferences"] if o["kind"] == "ReplicaSet")
            names = self._pods.setdefault(uid, {})
            if event.type == "DELETED":
                names.pop(meta["name"], None)
            else:
                names[meta["name"]] = None
            return [key]
        return []

    def reconcile(self, namespace: str, name: str) -> float | None:
        rs = self.store.get(REPLICA_SETS, namespace, name)
        if is_leaving(rs):
            return None
        names = self._pods.get(rs["metadata"]["uid"], {})
        pods = [pod for pod in (self.store.find(PODS, namespace, pod) for pod in names) if pod is not None]
        staying = [pod for pod in pods if not is_leaving(pod)]
        wanted = rs["spec"]["replicas"]
        for pod in sorted(staying, key=_worth)[: max(0, len(staying) - wanted)]:
            self.store.delete(PODS, namespace, pod["metadata"]["name"])
        failure = None
        for _ in range(wanted - len(staying)):
            if failure := self._over_quota(namespace):
                break
            self._create(rs)
        self._report(rs, failure)
        return 5.0 if failure else None

    def _create(self, rs: Object) -> None:
        template = rs["spec"]["template"]
        meta = copy.deepcopy(template.get("metadata") or {})
        meta |= {
            "name": f"{rs['metadata']['name']}-{uuid.uuid4().hex[:5]}",
            "generateName": rs["metadata"]["name"] + "-",
            "namespace": rs["metadata"]["namespace"],
            "ownerReferences": [owner_reference(rs)],
        }
        spec = copy.deepcopy(template["spec"])
        spec.setdefault("serviceAccountName", "default")
        self.store.create(
            PODS, {"metadata": meta, "spec": spec, "status": {"phase": "Pending", "qosClass": "Burstable"}}
        )

    def _over_quota(self, namespace: str) -> Object | None:
        """What a ResourceQuota says against another pod (counts of pods only)."""
        for quota in self.store.list("resourcequotas", namespace):
            limit = (quota["spec"].get("hard") or {}).get("pods")
            if limit is not None and len(self.store.list(PODS, namespace)) >= int(limit):
                name = quota["metadata"]["name"]
                return {
                    "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                    "lastTransitionTime": timestamp(),
                    "message": f"pods is forbidden: exceeded quota: {name}, requested: pods=1, used: pods={limit}, limited: pods={limit}",
                }  # fmt: skip
        return None

    def _report(self, rs: Object, failure: Object | None) -> None:
        names = self._pods.get(rs["metadata"]["uid"], {})
        namespace = rs["metadata"]["namespace"]
        pods = [
            pod for pod in (self.store.find(PODS, namespace, name) for name in names) if pod and not is_leaving(pod)
        ]
        ready = sum(is_ready(pod) for pod in pods)
        status: Object = {"replicas": len(pods), "observedGeneration": rs["metadata"]["generation"]}
        if pods:
            status["fullyLabeledReplicas"] = len(pods)
        if ready:
            status |= {"readyReplicas": ready, "availableReplicas": ready}
        if failure:
            status["conditions"] = [failure]
        if status != rs.get("status"):
            self.store.edit(
                REPLICA_SETS,
                namespace,
                rs["metadata"]["name"],
                lambda obj: obj.update(status=status),
                subresource="status",
            )


def _worth(pod: Object) -> tuple[bool, bool, str]:
    """Rank of a pod among those that could go: unscheduled, then not ready, then the youngest."""
    young = pod["metadata"]["creationTimestamp"]
    return bool(pod["spec"].get("nodeName")), is_ready(pod), "".join(chr(255 - ord(c)) for c in young)
