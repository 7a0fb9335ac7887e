"""The one way to change a cluster: every write passes here, and carries the fence.

What moves traffic, scales, deletes or records carries the resourceVersion that was read and the token of the lease in
the annotation nexus.ai/fence. A live object with a higher fence was written by a later driver: this one stops.
"""

from __future__ import annotations

import copy
from typing import Any, cast

from nexus_ops.clusters.client import AUTOSCALER, CONFIG_MAP, DEPLOYMENT, ClusterClient, Kind
from nexus_ops.clusters.errors import Conflict, FenceLost
from nexus_ops.clusters.lease import HeldLease

Object = dict[str, Any]
FENCE = "nexus.ai/fence"
RELEASE, ROLLOUT = "nexus-release", "nexus-rollout"
ROUTED = "nexus.ai/routed"
TRIES = 5


def fence_of(obj: Object | None) -> int:
    """The fence that an object carries; 0 when none."""
    return int(((obj or {}).get("metadata", {}).get("annotations") or {}).get(FENCE, 0))


class Fenced:
    """Writes to a cluster under a held lease."""

    def __init__(self, client: ClusterClient, lease: HeldLease) -> None:
        self.client = client
        self.lease = lease

    @property
    def token(self) -> int:
        return self.lease.token

    def apply_release(self, obj: Object) -> Object:
        """Apply what a release owns of an object: all but replicas and the autoscaler's floor."""
        self.lease.check()
        return self.client.apply(release_part(obj), manager=RELEASE)

    def create_workload(self, obj: Object, replicas: int) -> Object:
        """Apply a Deployment that may not exist yet, with its first replicas set by the rollout.

        Created with the replicas by the rollout, taken over by the release without them, then given up by the
        rollout but for the replicas: nobody's fields conflict, and no pod appears that was not asked for.
        """
        meta = obj["metadata"]
        if self.client.get(DEPLOYMENT, meta["name"], meta.get("namespace")) is None:
            self.lease.check()
            whole = copy.deepcopy(release_part(obj))
            whole["spec"]["replicas"] = replicas
            whole["metadata"].setdefault("annotations", {})[FENCE] = str(self.token)
            self.client.apply(whole, manager=ROLLOUT, force=True)
        applied = self.apply_release(obj)
        owners = {entry["manager"]: entry for entry in applied["metadata"].get("managedFields") or ()}
        mine = owners.get(ROLLOUT, {}).get("fieldsV1", {})
        if "f:template" in mine.get("f:spec", {}):
            # Even when the replicas are right already: applying them alone is what gives the rest up.
            return self._set(
                DEPLOYMENT,
                meta["name"],
                meta["namespace"],
                lambda live: {"spec": {"replicas": live["spec"]["replicas"]}},
                always=True,
            )
        return applied

    def scale(self, name: str, namespace: str, replicas: int) -> Object:
        """Set a Deployment's replicas."""
        return self._set(DEPLOYMENT, name, namespace, {"spec": {"replicas": replicas}})

    def pin_floor(self, name: str, namespace: str, replicas: int) -> Object:
        """Set an autoscaler's lower bound, within its upper one."""

        def body(live: Object) -> Object:
            return {"spec": {"minReplicas": max(1, min(replicas, live["spec"]["maxReplicas"]))}}

        return self._set(AUTOSCALER, name, namespace, body)

    def apply_routed(self, obj: Object) -> Object:
        """Apply a routed object as it is given (weights included), against the version that was read."""
        meta = obj["metadata"]
        for _ in range(TRIES):
            live = self.client.get(Kind.of(obj), meta["name"], meta.get("namespace"))
            body = copy.deepcopy(obj)
            if live is not None:
                self._check(live)
                body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
            body["metadata"].setdefault("annotations", {})[FENCE] = str(self.token)
            self.lease.check()
            try:
                return self.client.apply(body, manager=ROLLOUT, force=True)
            except Conflict:
                continue  # its controller wrote a status, or another driver took over: the fence will tell
        raise Conflict(f"{obj['kind']} {meta['name']} changes faster than it can be written.", target=self.client.name)

    def delete(self, kind: Kind, name: str, namespace: str | None) -> None:
        """Delete an object as it was read; read again when its controller wrote a status meanwhile."""
        for _ in range(TRIES):
            live = self.client.get(kind, name, namespace)
            if live is None:
                return
            self._check(live)
            self.lease.check()
            try:
                return self.client.delete(kind, name, namespace, version=live["metadata"]["resourceVersion"])
            except Conflict:
                continue
        raise Conflict(f"{kind.kind} {name} changes faster than it can be deleted.", target=self.client.name)

    def write_config_map(self, name: str, namespace: str, change: Any) -> Object:
        """Compare-and-swap of a ConfigMap's data: `change(data) -> data`, run again when somebody was faster."""
        for _ in range(TRIES):
            live = self.client.get(CONFIG_MAP, name, namespace)
            if live is not None:
                self._check(live)
            obj = copy.deepcopy(live) if live else _config_map(name, namespace)
            obj["data"] = change(dict(obj.get("data") or {}))
            obj["metadata"].setdefault("annotations", {})[FENCE] = str(self.token)
            if live is not None and obj == live:
                return live
            self.lease.check()
            try:
                if live is None:
                    return self.client.create(obj, manager=ROLLOUT)
                return self.client.replace(obj, manager=ROLLOUT)
            except Conflict:
                continue
        raise Conflict(f"ConfigMap {name} changes faster than it can be written.", target=self.client.name)

    def _set(self, kind: Kind, name: str, namespace: str, fields: Any, *, always: bool = False) -> Object:
        """Apply a few fields of an existing object, against the version that was read; `always`: even if it has them."""
        for _ in range(TRIES):
            live = self.client.get(kind, name, namespace)
            if live is None:
                raise Conflict(f"{kind.kind} {name} is gone.", target=self.client.name)
            self._check(live)
            wanted = cast(Object, fields(live) if callable(fields) else fields)
            same = fence_of(live) == self.token and all(live["spec"].get(k) == v for k, v in wanted["spec"].items())
            if same and not always:
                return live
            meta = {
                "name": name, "namespace": namespace, "resourceVersion": live["metadata"]["resourceVersion"],
                "annotations": {FENCE: str(self.token)},
            }  # fmt: skip
            self.lease.check()
            try:
                body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **wanted}
                return self.client.apply(body, manager=ROLLOUT, force=True)
            except Conflict:
                continue
        raise Conflict(f"{kind.kind} {name} changes faster than it can be written.", target=self.client.name)

    def _check(self, live: Object) -> None:
        if fence_of(live) > self.token:
            raise FenceLost(
                f"{live['kind']} {live['metadata']['name']} was written by a later driver (fence {fence_of(live)}, ours "
                f"{self.token}).",
                target=self.client.name,
                todo="Nothing to do here: the later driver goes on.",
            )


def release_part(obj: Object) -> Object:
    """What the release applies of an object: the rollout owns replicas and the autoscaler's floor."""
    owned = {"Deployment": "replicas", "HorizontalPodAutoscaler": "minReplicas"}.get(obj["kind"])
    if owned is None or owned not in obj["spec"]:
        return obj
    return {**obj, "spec": {key: value for key, value in obj["spec"].items() if key != owned}}


def is_routed(obj: Object) -> bool:
    """Whether only the traffic router writes this object."""
    return (obj["metadata"].get("labels") or {}).get(ROUTED) == "true"


def _config_map(name: str, namespace: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}
