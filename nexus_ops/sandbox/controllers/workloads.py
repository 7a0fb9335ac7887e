"""Deployments: from a template to ReplicaSets, as kube-controller-manager does it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from datetime import UTC, datetime
from typing import Any

from nexus_ops.sandbox.controllers.progress import Progress, progress
from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.recorder import Recorder
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]
DEPLOYMENTS, REPLICA_SETS, PODS = "deployments.apps", "replicasets.apps", "pods"
REVISION = "deployment.kubernetes.io/revision"


def owner_key(obj: Object, kind: str) -> Key | None:
    """Namespace and name of the controlling owner of this kind."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner["kind"] == kind and owner.get("controller"):
            return obj["metadata"].get("namespace", ""), owner["name"]
    return None


def owner_reference(obj: Object) -> Object:
    return {
        "apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


def is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions") or ())


def is_leaving(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def template_hash(template: Object) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def share(value: Any, total: int, *, up: bool) -> int:
    """An absolute number of pods from `25%` or a number."""
    if isinstance(value, str) and value.endswith("%"):
        part = int(value[:-1]) * total / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value)


def revision_of(rs: Object) -> int:
    return int((rs["metadata"].get("annotations") or {}).get(REVISION, 0))


class DeploymentController:
    """Keeps one ReplicaSet per template, moves replicas to the newest by the strategy, and reports."""

    name = "deployment"

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tell = Recorder(store, "deployment-controller")

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        if event.key == DEPLOYMENTS and event.type != "DELETED":
            return [(meta["namespace"], meta["name"])]
        if event.key == REPLICA_SETS and (key := owner_key(event.object, "Deployment")):
            return [key]
        return []

    def reconcile(self, namespace: str, name: str) -> float | None:
        deployment = self.store.get(DEPLOYMENTS, namespace, name)
        if is_leaving(deployment):
            return None
        sets = [rs for rs in self.store.list(REPLICA_SETS, namespace) if self._owns(deployment, rs)]
        wanted = template_hash(deployment["spec"]["template"])
        newest = next((rs for rs in sets if _hash_of(rs) == wanted), None)
        older = [rs for rs in sets if rs is not newest]
        created = newest is None and not deployment["spec"].get("paused")
        if not deployment["spec"].get("paused"):
            if newest is None:
                newest = self._create(deployment, wanted, older)
            newest = self._renew(deployment, newest, older)
            self._scale(deployment, newest, older)
            self._forget(deployment, older)
            sets = [rs for rs in self.store.list(REPLICA_SETS, namespace) if self._owns(deployment, rs)]
        return self._report(deployment, sets, wanted, created=created)

    def _renew(self, deployment: Object, newest: Object, older: list[Object]) -> Object:
        """A template that comes back takes the next revision, as `kubectl rollout undo` shows it."""
        last = max((revision_of(rs) for rs in older), default=0)
        pause = deployment["spec"].get("minReadySeconds", 0)
        if revision_of(newest) > last and newest["spec"].get("minReadySeconds", 0) == pause:
            return newest
        meta = newest["metadata"]

        def change(obj: Object) -> None:
            revision = max(last + 1, revision_of(newest))
            obj["metadata"].setdefault("annotations", {})[REVISION] = str(revision)
            obj["spec"].pop("minReadySeconds", None)
            obj["spec"].update({"minReadySeconds": pause} if pause else {})

        return self.store.edit(REPLICA_SETS, meta["namespace"], meta["name"], change)

    def _forget(self, deployment: Object, older: list[Object]) -> None:
        """Drop the oldest sets beyond revisionHistoryLimit that have no pods any more."""
        idle = [rs for rs in older if not rs["spec"]["replicas"] and not rs.get("status", {}).get("replicas")]
        beyond = len(idle) - deployment["spec"].get("revisionHistoryLimit", 10)
        for rs in sorted(idle, key=revision_of)[: max(0, beyond)]:
            self.store.delete(REPLICA_SETS, rs["metadata"]["namespace"], rs["metadata"]["name"])

    @staticmethod
    def _owns(deployment: Object, rs: Object) -> bool:
        uid = deployment["metadata"]["uid"]
        return any(owner["uid"] == uid for owner in rs["metadata"].get("ownerReferences") or ())

    def _create(self, deployment: Object, wanted: str, older: list[Object]) -> Object:
        meta, spec = deployment["metadata"], deployment["spec"]
        revision = 1 + max(map(revision_of, older), default=0)
        template = copy.deepcopy(spec["template"])
        template.setdefault("metadata", {}).setdefault("labels", {})["pod-template-hash"] = wanted
        selector = copy.deepcopy(spec["selector"])
        selector.setdefault("matchLabels", {})["pod-template-hash"] = wanted
        return self.store.create(
            REPLICA_SETS,
            {
                "metadata": {
                    "name": f"{meta['name']}-{wanted}",
                    "namespace": meta["namespace"],
                    "labels": template["metadata"]["labels"],
                    "annotations": {REVISION: str(revision)},
                    "ownerReferences": [owner_reference(deployment)],
                },
                "spec": {
                    "replicas": 0,
                    "selector": selector,
                    "template": template,
                    **({"minReadySeconds": pause} if (pause := spec.get("minReadySeconds")) else {}),
                },
            },
        )

    def _scale(self, deployment: Object, newest: Object, older: list[Object]) -> None:
        """Replicas of the newest up and of the older down, within maxSurge and maxUnavailable."""
        total = deployment["spec"]["replicas"]
        running = [rs for rs in older if rs["spec"]["replicas"]]
        strategy = deployment["spec"]["strategy"]
        if not running:
            return self._set(deployment, newest, total)
        if strategy["type"] == "Recreate":
            for rs in running:
                self._set(deployment, rs, 0)
            return None
        rolling = strategy["rollingUpdate"]
        surge = share(rolling["maxSurge"], total, up=True)
        unavailable = share(rolling["maxUnavailable"], total, up=False)
        now = newest["spec"]["replicas"] + sum(rs["spec"]["replicas"] for rs in running)
        room = total + (surge or (0 if unavailable else 1)) - now
        self._set(deployment, newest, min(total, newest["spec"]["replicas"] + max(room, 0)))
        self._shrink(deployment, newest, running, total - unavailable)
        return None

    def _shrink(self, deployment: Object, newest: Object, running: list[Object], needed: int) -> None:
        """Older sets down: first what does not serve, then what serves beyond `needed`.

        A set's status may lag behind its spec, so that no more of it counts as serving than its spec keeps.
        """

        def serving(rs: Object) -> int:
            return min(rs["spec"]["replicas"], rs.get("status", {}).get("availableReplicas", 0))

        now = newest["spec"]["replicas"] + sum(rs["spec"]["replicas"] for rs in running)
        room = now - needed - (newest["spec"]["replicas"] - serving(newest))
        spare = serving(newest) + sum(map(serving, running)) - needed
        for rs in sorted(running, key=lambda rs: rs["metadata"]["creationTimestamp"]):
            idle = min(rs["spec"]["replicas"] - serving(rs), max(room, 0))
            step = max(0, min(spare, serving(rs), room - idle))
            room, spare = room - idle - step, spare - step
            self._set(deployment, rs, rs["spec"]["replicas"] - idle - step)

    def _set(self, deployment: Object, rs: Object, replicas: int) -> None:
        before = rs["spec"]["replicas"]
        if before != replicas:
            meta = rs["metadata"]
            self.store.edit(
                REPLICA_SETS, meta["namespace"], meta["name"], lambda obj: obj["spec"].update(replicas=replicas)
            )
            way = "up" if replicas > before else "down"
            what = f"Scaled {way} replica set {meta['name']} from {before} to {replicas}"
            self._tell(deployment, "ScalingReplicaSet", what)

    def _report(self, deployment: Object, sets: list[Object], wanted: str, *, created: bool) -> float | None:
        """Write the status; seconds until the progress deadline, if one is running."""
        spec, old = deployment["spec"], deployment.get("status") or {}
        counts = {
            "replicas": sum(rs.get("status", {}).get("replicas", 0) for rs in sets),
            "readyReplicas": sum(rs.get("status", {}).get("readyReplicas", 0) for rs in sets),
            "availableReplicas": sum(rs.get("status", {}).get("availableReplicas", 0) for rs in sets),
            "updatedReplicas": sum(rs.get("status", {}).get("replicas", 0) for rs in sets if _hash_of(rs) == wanted),
        }
        asked = sum(rs["spec"].get("replicas", 0) for rs in sets)
        missing = max(0, asked - counts["availableReplicas"])
        status: Object = {"observedGeneration": deployment["metadata"]["generation"]}
        status |= {key: value for key, value in counts.items() if value}
        if missing:
            status["unavailableReplicas"] = missing
        needed = spec["replicas"] - share(
            (spec["strategy"].get("rollingUpdate") or {}).get("maxUnavailable", 0), spec["replicas"], up=False
        )
        available = counts["availableReplicas"] >= needed
        newest = next((rs["metadata"]["name"] for rs in sets if _hash_of(rs) == wanted), None)
        said = progress(deployment, counts, newest, datetime.now(UTC), created=created)
        status["conditions"] = self._conditions(deployment, old, said, available, sets)
        if status != old:
            revision = max(map(revision_of, sets), default=0)

            def change(obj: Object) -> None:
                obj["status"] = status

            if revision and deployment["metadata"].get("annotations", {}).get(REVISION) != str(revision):
                self.store.edit(
                    DEPLOYMENTS, deployment["metadata"]["namespace"], deployment["metadata"]["name"],
                    lambda obj: obj["metadata"].setdefault("annotations", {}).update({REVISION: str(revision)}),
                )  # fmt: skip
            self.store.edit(
                DEPLOYMENTS, deployment["metadata"]["namespace"], deployment["metadata"]["name"], change,
                subresource="status",
            )  # fmt: skip

        return said.due if said else None

    @staticmethod
    def _conditions(
        deployment: Object, old: Object, gets_on: Progress | None, available: bool, sets: list[Object]
    ) -> list[Object]:
        failure = next(
            (c for rs in sets for c in rs.get("status", {}).get("conditions") or () if c["type"] == "ReplicaFailure"),
            None,
        )
        served = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if not available:
            served = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        said: dict[str, tuple[str, str, str]] = {"Available": served}
        if gets_on:
            said["Progressing"] = (gets_on.status, gets_on.reason, gets_on.message)
        if failure:
            said["ReplicaFailure"] = ("True", failure["reason"], failure["message"])
        before = {c["type"]: c for c in old.get("conditions") or ()}
        first = ["Progressing"] if deployment["spec"].get("paused") else []
        order = [kind for kind in dict.fromkeys([*before, *first, *said]) if kind in said]
        result: list[Object] = []
        for kind in order:
            status, reason, message = said[kind]
            was = before.get(kind)
            moved = kind == "Progressing" and gets_on is not None and gets_on.moved
            if was and (was["status"], was["reason"]) == (status, reason) and not moved:
                result.append(was)
            else:
                since = was["lastTransitionTime"] if was and was["status"] == status else timestamp()
                result.append(
                    {"type": kind, "status": status, "lastUpdateTime": timestamp(), "lastTransitionTime": since,
                     "reason": reason, "message": message}
                )  # fmt: skip
        return result


def _hash_of(rs: Object) -> str | None:
    return rs["metadata"]["labels"].get("pod-template-hash")
