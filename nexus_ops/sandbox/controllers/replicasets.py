"""ReplicaSets: as many pods of a template as are wanted."""

from __future__ import annotations

import copy
import uuid
from datetime import UTC, datetime
from typing import Any

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.recorder import Recorder
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
        self._tell = Recorder(store, "replicaset-controller")
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
            self._tell(rs, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
        failure = None
        for _ in range(wanted - len(staying)):
            if failure := self._over_quota(namespace):
                self._tell(rs, "FailedCreate", f"Error creating: {failure['message']}", warning=True)
                break
            self._tell(rs, "SuccessfulCreate", f"Created pod: {self._create(rs)}")
        waits = self._report(rs, failure)
        return 5.0 if failure else waits

    def _create(self, rs: Object) -> str:
        """Make a pod; its name."""
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
        return meta["name"]

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

    def _report(self, rs: Object, failure: Object | None) -> float | None:
        """Write the status; seconds until the next ready pod has been so for minReadySeconds."""
        names = self._pods.get(rs["metadata"]["uid"], {})
        namespace = rs["metadata"]["namespace"]
        pods = [
            pod for pod in (self.store.find(PODS, namespace, name) for name in names) if pod and not is_leaving(pod)
        ]
        waits = [_until_available(pod, rs["spec"].get("minReadySeconds", 0)) for pod in pods if is_ready(pod)]
        ready, available = len(waits), sum(wait <= 0 for wait in waits)
        status: Object = {"replicas": len(pods), "observedGeneration": rs["metadata"]["generation"]}
        if pods:
            status["fullyLabeledReplicas"] = len(pods)
        if ready:
            status["readyReplicas"] = ready
        if available:
            status["availableReplicas"] = available
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
        return min((wait for wait in waits if wait > 0), default=None)


def _until_available(pod: Object, seconds: int) -> float:
    """Seconds until a ready pod counts as available; 0 or less: it does."""
    if not seconds:
        return 0.0
    ready = next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    since = datetime.fromisoformat(ready["lastTransitionTime"])
    return seconds - (datetime.now(UTC) - since).total_seconds()


def _worth(pod: Object) -> tuple[bool, bool, str]:
    """Rank of a pod among those that could go: unscheduled, then not ready, then the youngest."""
    young = pod["metadata"]["creationTimestamp"]
    return bool(pod["spec"].get("nodeName")), is_ready(pod), "".join(chr(255 - ord(c)) for c in young)
