"""The one way to change a cluster: every write passes here, and carries the fence.

What moves traffic, scales, deletes or records carries the resourceVersion that was read and the token of the lease in
the annotation nexus.ai/fence. A live object with a higher fence was written by a later driver: this one stops.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from nexus_ops.clusters.client import AUTOSCALER, CONFIG_MAP, DEPLOYMENT, ClusterClient, Kind
from nexus_ops.clusters.errors import Conflict, FenceLost, FieldConflict
from nexus_ops.clusters.lease import FENCE, HeldLease, fence_of

Object = dict[str, Any]
Admit = Callable[[Object], bool]
"""Asked about a live object before a release is applied over it: raises when it is somebody else's; True when it is taken
over, with the fields that others own."""
RELEASE, ROLLOUT = "nexus-release", "nexus-rollout"
CREATION = "nexus-create-"
"""A Deployment is created under a field manager of this name and the token, and given up by it at once."""
ROUTED = "nexus.ai/routed"
PATIENCE = 15.0
"""Seconds for which a write is tried again that somebody else's was faster than."""


class Fenced:
    """Writes to a cluster under a held lease."""

    def __init__(self, client: ClusterClient, lease: HeldLease) -> None:
        self.client = client
        self.lease = lease

    @property
    def token(self) -> int:
        return self.lease.token

    def apply_release(
        self, obj: Object, *, admit: Admit = lambda _: False, seen: Mapping[str, Object] | None = None
    ) -> tuple[Object, bool]:
        """Apply what a release owns of an object (all but replicas and the autoscaler's floor); what it is then, and
        whether that changed anything.

        Against the version that was read: a driver that was paused in between is refused once a later one wrote.
        `seen`: what was live of its kind and namespace just now, by name; without it the object is read.
        """
        meta = obj["metadata"]
        for attempt in self._tries():
            if seen is not None and not attempt:
                live = seen.get(meta["name"])
            else:
                live = self.client.get(Kind.of(obj), meta["name"], meta.get("namespace"))
            body, before, taken = release_part(obj), "", False
            if live is not None:
                self._check(live)
                taken, before = admit(live), live["metadata"]["resourceVersion"]
                body = {**body, "metadata": {**meta, "resourceVersion": before}}
            self.lease.check()
            try:
                applied = self._apply_over_own(body, taken=taken)
                return applied, applied["metadata"]["resourceVersion"] != before
            except Conflict:
                continue  # its controller wrote a status, or another driver took over: the lease and the fence tell
        raise Conflict(f"{obj['kind']} {meta['name']} changes faster than it can be written.", target=self.client.name)

    def _apply_over_own(self, body: Object, *, taken: bool) -> Object:
        """Apply as the release. Fields that a creation still owns are of a Deployment whose making was cut short."""
        try:
            return self.client.apply(body, manager=RELEASE, force=taken)
        except FieldConflict as conflict:
            if not all(f'"{CREATION}' in cause.get("message", "") for cause in conflict.causes):
                raise
            return self.client.apply(body, manager=RELEASE, force=True)

    def apply_workload(self, obj: Object, replicas: int, *, admit: Admit = lambda _: False) -> tuple[Object, bool]:
        """Apply a Deployment that may not exist yet, with its first replicas set by the rollout.

        Created whole under a name of this driver's own, taken over by the release (all but the replicas) and by the
        rollout (the replicas), then given up under the first name: nobody's fields conflict, no pod appears that was
        not asked for, and a creation that comes too late conflicts with what a later driver has made.
        """
        meta = obj["metadata"]
        name, namespace = meta["name"], meta["namespace"]
        live = self.client.get(DEPLOYMENT, name, namespace)
        new = live is None
        if live is None:
            try:
                self.lease.check()
                self.client.apply(self._whole(obj, replicas), manager=f"{CREATION}{self.token}")
            except FieldConflict:
                new = False  # made by somebody else meanwhile: the lease, the fence and the owner tell what it is
        elif _managers(live) & {RELEASE}:
            self._finish_making(live)
        else:  # its creator was killed at once: what it alone owns of another version must not stay
            for creator in _creators(live):
                self._rewrite(
                    DEPLOYMENT, name, namespace, creator, lambda now: self._whole(obj, now["spec"]["replicas"])
                )
        applied, changed = self.apply_release(obj, admit=admit)
        return self._finish_making(applied), changed or new

    def _finish_making(self, live: Object) -> Object:
        """The replicas become the rollout's, and the creators give up: what others own, too, is theirs."""
        name, namespace = live["metadata"]["name"], live["metadata"]["namespace"]
        if creators := _creators(live):
            self._set(DEPLOYMENT, name, namespace, {"spec": {"replicas": live["spec"]["replicas"]}}, always=True)
            for creator in creators:
                live = self._rewrite(DEPLOYMENT, name, namespace, creator, lambda _: {"metadata": {}})
        return live

    def _whole(self, obj: Object, replicas: int) -> Object:
        """A Deployment as it is created: the release's part, the replicas and the fence."""
        whole = copy.deepcopy(release_part(obj))
        whole["spec"]["replicas"] = replicas
        whole["metadata"].setdefault("annotations", {})[FENCE] = str(self.token)
        return whole

    def scale(self, name: str, namespace: str, replicas: int) -> Object:
        """Set a Deployment's replicas."""
        return self._set(DEPLOYMENT, name, namespace, {"spec": {"replicas": replicas}})

    def stamp(self, name: str, namespace: str) -> None:
        """Put our fence on a Deployment and leave it as it is: what an earlier driver has on its way is refused then."""
        if self.client.get(DEPLOYMENT, name, namespace) is not None:
            self._set(DEPLOYMENT, name, namespace, lambda live: {"spec": {"replicas": live["spec"]["replicas"]}})

    def pin_floor(self, name: str, namespace: str, replicas: int) -> Object:
        """Set an autoscaler's lower bound, within its upper one."""

        def body(live: Object) -> Object:
            return {"spec": {"minReplicas": max(1, min(replicas, live["spec"]["maxReplicas"]))}}

        return self._set(AUTOSCALER, name, namespace, body)

    def apply_routed(self, obj: Object) -> Object:
        """Apply a routed object as it is given (weights included), against the version that was read."""
        meta = obj["metadata"]
        for _ in self._tries():
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
        for _ in self._tries():
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

    def write_config_map(
        self,
        name: str,
        namespace: str,
        change: Callable[[dict[str, str]], Mapping[str, str]],
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Object:
        """Compare-and-swap of a ConfigMap's data: `change(data) -> data`, run again when somebody was faster."""
        for _ in self._tries():
            live = self.client.get(CONFIG_MAP, name, namespace)
            if live is not None:
                self._check(live)
            obj = copy.deepcopy(live) if live else _config_map(name, namespace)
            obj["data"] = dict(change(dict(obj.get("data") or {})))
            obj["metadata"].setdefault("annotations", {}).update({**(annotations or {}), FENCE: str(self.token)})
            if labels:
                obj["metadata"].setdefault("labels", {}).update(labels)
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

        def body(live: Object) -> Object | None:
            wanted = cast(Object, fields(live) if callable(fields) else fields)
            same = fence_of(live) == self.token and all(live["spec"].get(k) == v for k, v in wanted["spec"].items())
            return None if same and not always else {"metadata": {"annotations": {FENCE: str(self.token)}}, **wanted}

        return self._rewrite(kind, name, namespace, ROLLOUT, body)

    def _rewrite(
        self, kind: Kind, name: str, namespace: str, manager: str, body: Callable[[Object], Object | None]
    ) -> Object:
        """Apply `body(live)` to an existing object under a manager's name, against the version that was read."""
        for _ in self._tries():
            live = self.client.get(kind, name, namespace)
            if live is None:
                raise Conflict(f"{kind.kind} {name} is gone.", target=self.client.name)
            self._check(live)
            wanted = body(live)
            if wanted is None:
                return live
            version = live["metadata"]["resourceVersion"]
            meta = {**wanted["metadata"], "name": name, "namespace": namespace, "resourceVersion": version}
            self.lease.check()
            try:
                whole = {**wanted, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
                return self.client.apply(whole, manager=manager, force=True)
            except Conflict:
                continue
        raise Conflict(f"{kind.kind} {name} changes faster than it can be written.", target=self.client.name)

    def _tries(self) -> Iterator[int]:
        """Tries of a compare-and-swap, with growing pauses: a controller may be writing statuses just now."""
        deadline, attempt = time.monotonic() + PATIENCE, 0
        while not attempt or time.monotonic() < deadline:
            yield attempt
            attempt += 1
            self.client.pause(random.uniform(0, min(0.02 * 2**attempt, 0.5)))

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


def _managers(obj: Object) -> set[str]:
    return {entry["manager"] for entry in obj["metadata"].get("managedFields") or ()}


def _creators(obj: Object) -> list[str]:
    """The managers under whose names an object was created and that have not given it up yet."""
    return sorted(manager for manager in _managers(obj) if manager.startswith(CREATION))


def is_routed(obj: Object) -> bool:
    """Whether only the traffic router writes this object."""
    return (obj["metadata"].get("labels") or {}).get(ROUTED) == "true"


def _config_map(name: str, namespace: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}
