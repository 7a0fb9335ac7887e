"""The objects of an emulated cluster: what etcd and the registry of a real API server do together.

Single-threaded and synchronous: HTTP handlers and controllers share it within one event loop. Objects that are
handed out are shared and must not be changed; `edit` takes a copy, lets a function change it, and writes it.
"""

from __future__ import annotations

import copy
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.errors import ApiError, already_exists, not_found, stale
from nexus_ops.sandbox.kube.ownership import track_update
from nexus_ops.sandbox.kube.resources import Resource, Resources

Object = dict[str, Any]
HISTORY = 20_000


@dataclass(frozen=True)
class Event:
    """One change: what a watch sees. `old` is the object before it, None when it was created."""

    type: str
    key: str
    version: int
    object: Object
    old: Object | None


class Store:
    """All objects, their versions, and the recent history of changes."""

    def __init__(self) -> None:
        self.resources = Resources()
        self.version = 1000
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.dry_run = False
        """While True, writes give their answer and change nothing."""
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._subscribers: list[Callable[[Event], None]] = []
        self._dependents: dict[str, set[tuple[str, str, str]]] = {}

    # ------------------------------------------------------------------ reading

    def get(self, key: str, namespace: str | None, name: str) -> Object:
        """One object, or ApiError 404."""
        found = self._objects.get(key, {}).get((namespace or "", name))
        if found is None:
            resource = self.resources.by_key(key)
            raise not_found(resource.plural, resource.group, name)
        return found

    def find(self, key: str, namespace: str | None, name: str) -> Object | None:
        """One object, or None."""
        return self._objects.get(key, {}).get((namespace or "", name))

    def list(self, key: str, namespace: str | None = None, labels: dict[str, str] | None = None) -> list[Object]:
        """Objects by namespace (None: all) and equal labels, ordered by namespace and name."""
        found = self._objects.get(key, {})
        return [
            found[place]
            for place in sorted(found)
            if (namespace is None or place[0] == namespace)
            and (not labels or labels.items() <= (found[place]["metadata"].get("labels") or {}).items())
        ]

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back at every change, in order; returns what ends it."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    # ------------------------------------------------------------------ writing

    def create(
        self,
        key: str,
        obj: Object,
        *,
        manager: str | None = None,
        apply_fields: Any = None,
        unowned: Collection[tuple[str, ...]] = (),
    ) -> Object:
        """Store a new object; 409 when it is there. `manager` is recorded as owner of its fields but `unowned`."""
        resource = self.resources.by_key(key)
        obj = copy.deepcopy(obj)
        meta = obj.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        place = (meta.get("namespace") or "" if resource.namespaced else "", meta["name"])
        if place in self._objects.get(key, {}):
            raise already_exists(resource.plural, resource.group, meta["name"])
        for unset in (
            "resourceVersion",
            "managedFields",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ):
            meta.pop(unset, None)
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
        obj["kind"], obj["apiVersion"] = resource.kind, resource.api_version
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=timestamp())
        if resource.generation:
            meta["generation"] = 1
        if apply_fields is not None:
            meta["managedFields"] = apply_fields
        elif manager is not None:
            track_update(None, obj, resource, manager, None, timestamp(), unowned)
        if not meta.get("managedFields"):
            meta.pop("managedFields", None)
        return self._put(key, place, obj, None, "ADDED")

    def update(
        self,
        key: str,
        obj: Object,
        *,
        manager: str | None = None,
        subresource: str | None = None,
        fields: list[Object] | None = None,
    ) -> Object:
        """Store a changed object; 409 when its resourceVersion is set and not the newest.

        With the subresource `status` only the status is taken, otherwise all but the status. An object that does
        not change keeps its resourceVersion. `fields` replaces metadata.managedFields (server-side apply).
        """
        resource = self.resources.by_key(key)
        meta = obj["metadata"]
        place = (meta.get("namespace") or "" if resource.namespaced else "", meta["name"])
        old = self.get(key, place[0], meta["name"])
        self._check_version(resource, old, meta)
        new = self._with_server_fields(resource, old, copy.deepcopy(obj), subresource)
        if fields is not None:
            new["metadata"]["managedFields"] = fields
        elif manager is not None:
            track_update(old, new, resource, manager, subresource, timestamp())
        if not new["metadata"].get("managedFields"):
            new["metadata"].pop("managedFields", None)
        if _same(old, new):
            return old
        if "deletionTimestamp" in new["metadata"] and _held(old) and not _held(new):
            self._remove(key, place, copy.deepcopy(old))
            return new
        return self._put(key, place, new, old, "MODIFIED")

    def edit(
        self,
        key: str,
        namespace: str | None,
        name: str,
        change: Callable[[Object], None],
        *,
        manager: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """Read an object, let `change` alter a copy, and store that."""
        obj = copy.deepcopy(self.get(key, namespace, name))
        change(obj)
        return self.update(key, obj, manager=manager, subresource=subresource)

    def delete(
        self,
        key: str,
        namespace: str | None,
        name: str,
        *,
        grace_seconds: int | None = None,
        propagation: str | None = None,
    ) -> tuple[Object, bool]:
        """Delete an object, or mark it when finalizers or a grace period hold it; (object, gone)."""
        resource = self.resources.by_key(key)
        old = self.get(key, namespace, name)
        place = (namespace or "" if resource.namespaced else "", name)
        grace = self._grace(key, old, grace_seconds)
        new = copy.deepcopy(old)
        if propagation == "Foreground" and self._dependents.get(old["metadata"]["uid"]):
            finalizers: list[str] = new["metadata"].setdefault("finalizers", [])
            if "foregroundDeletion" not in finalizers:
                finalizers.append("foregroundDeletion")
        if propagation == "Orphan":
            self._release_dependents(old["metadata"]["uid"])
        if not grace and not _held(new):
            return self._remove(key, place, new), True
        meta = new["metadata"]
        if "deletionTimestamp" not in meta or (grace_seconds == 0 and meta.get("deletionGracePeriodSeconds")):
            meta["deletionTimestamp"] = timestamp(ahead=grace)  # when it is to be gone at the latest
            if key != "namespaces":
                meta["deletionGracePeriodSeconds"] = grace
            if resource.generation and "generation" in meta:
                meta["generation"] += 1
            if key == "namespaces":
                new["status"] = {**new.get("status", {}), "phase": "Terminating"}
            new = self._put(key, place, new, old, "MODIFIED")
            if propagation == "Foreground":
                self._delete_dependents(meta["uid"])
        return new, False

    def finish(self, key: str, namespace: str | None, name: str) -> None:
        """Take away an object whose grace period is over (the kubelet's last word)."""
        obj = self.find(key, namespace, name)
        if obj is not None and not _held(obj):
            self._remove(key, (namespace or "", name), copy.deepcopy(obj))

    # ------------------------------------------------------------------ inside

    @staticmethod
    def _grace(key: str, obj: Object, asked: int | None) -> int:
        if key != "pods":
            return 0
        if asked is not None:
            return asked
        if not obj["spec"].get("nodeName"):
            return 0
        return obj["spec"].get("terminationGracePeriodSeconds", 30)

    def _check_version(self, resource: Resource, old: Object, meta: Object) -> None:
        wanted = meta.get("resourceVersion")
        name = meta["name"]
        if (uid := meta.get("uid")) and uid != old["metadata"]["uid"]:
            space = f"{meta.get('namespace')}/" if resource.namespaced else ""
            path = f"/registry/{resource.plural}/{space}{name}"
            what = (
                f"StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: "
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            )
            raise stale(resource.plural, resource.group, name, what)
        if not wanted:
            return
        if not str(wanted).isdigit():
            raise ApiError(500, f'strconv.ParseUint: parsing "{wanted}": invalid syntax', "")
        if wanted != old["metadata"]["resourceVersion"]:
            raise stale(resource.plural, resource.group, name)

    @staticmethod
    def _with_server_fields(resource: Resource, old: Object, new: Object, subresource: str | None) -> Object:
        """The new object with what only the server may set taken from the old one."""
        if subresource == "status":
            merged = copy.deepcopy(old)
            if "status" in new:
                merged["status"] = new["status"]
            if "managedFields" in new["metadata"]:
                merged["metadata"]["managedFields"] = new["metadata"]["managedFields"]
            return merged
        if resource.status and not (resource.key == "namespaces" and subresource == "finalize"):
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        was, now = old["metadata"], new["metadata"]
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            now.pop(name, None)
            if name in was:
                now[name] = was[name]
        now["resourceVersion"] = was["resourceVersion"]
        now.pop("selfLink", None)
        if "managedFields" not in now and "managedFields" in was:
            now["managedFields"] = was["managedFields"]
        new = {"kind": resource.kind, "apiVersion": resource.api_version, **new}
        if "generation" in was and any(
            old.get(part) != new.get(part) for part in {*old, *new} - {"metadata", "status"}
        ):
            now["generation"] = was["generation"] + 1
        return new

    def _put(self, key: str, place: tuple[str, str], obj: Object, old: Object | None, kind: str) -> Object:
        if self.dry_run:
            return obj
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._objects.setdefault(key, {})[place] = obj
        self._index(key, place, old, obj)
        if key == "customresourcedefinitions.apiextensions.k8s.io":
            self.resources.add_definition(obj)
        self._publish(Event(kind, key, self.version, obj, old))
        return obj

    def _remove(self, key: str, place: tuple[str, str], obj: Object) -> Object:
        if self.dry_run:
            return obj
        old = self._objects[key].pop(place)
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._index(key, place, old, None)
        if key == "customresourcedefinitions.apiextensions.k8s.io":
            resource_key = f"{obj['spec']['names']['plural']}.{obj['spec']['group']}"
            for space, name in list(self._objects.get(resource_key, {})):
                self._remove(resource_key, (space, name), copy.deepcopy(self._objects[resource_key][(space, name)]))
            self.resources.remove_definition(obj)
        self._publish(Event("DELETED", key, self.version, obj, old))
        self._collect_garbage(obj)
        return obj

    def _publish(self, event: Event) -> None:
        self.history.append(event)
        for subscriber in list(self._subscribers):
            subscriber(event)

    def _index(self, key: str, place: tuple[str, str], old: Object | None, new: Object | None) -> None:
        """Keep the table from an owner's uid to what it owns."""
        for owner in _owners(old):
            self._dependents.get(owner["uid"], set()).discard((key, *place))
        for owner in _owners(new):
            self._dependents.setdefault(owner["uid"], set()).add((key, *place))

    def _collect_garbage(self, gone: Object) -> None:
        """What the garbage collector does when an owner is gone, and for an owner waiting for its dependents."""
        self._delete_dependents(gone["metadata"]["uid"])
        self._dependents.pop(gone["metadata"]["uid"], None)
        for owner in _owners(gone):
            if self._dependents.get(owner["uid"]):
                continue
            for key, objects in self._objects.items():
                for place, obj in list(objects.items()):
                    if obj["metadata"]["uid"] == owner["uid"] and "foregroundDeletion" in _finalizers(obj):
                        freed = copy.deepcopy(obj)
                        freed["metadata"]["finalizers"].remove("foregroundDeletion")
                        self.update(key, {**freed, "metadata": {**freed["metadata"]}})
                        del place

    def _delete_dependents(self, uid: str) -> None:
        for key, namespace, name in list(self._dependents.get(uid, ())):
            if self.find(key, namespace, name) is not None:
                self.delete(key, namespace, name)

    def _release_dependents(self, uid: str) -> None:
        for key, namespace, name in list(self._dependents.get(uid, ())):

            def release(obj: Object) -> None:
                owners = [owner for owner in _owners(obj) if owner["uid"] != uid]
                del obj["metadata"]["ownerReferences"]
                if owners:
                    obj["metadata"]["ownerReferences"] = owners

            self.edit(key, namespace, name, release)


def _owners(obj: Object | None) -> Iterable[Object]:
    return (obj or {"metadata": {}})["metadata"].get("ownerReferences") or ()


def _finalizers(obj: Object) -> list[str]:
    return obj["metadata"].get("finalizers") or []


def _held(obj: Object) -> bool:
    """Whether finalizers keep a deleted object (a namespace has its own in the spec)."""
    return bool(_finalizers(obj) or (obj.get("kind") == "Namespace" and (obj.get("spec") or {}).get("finalizers")))


def _same(old: Object, new: Object) -> bool:
    """Whether two objects differ in nothing but the times of their owners' entries."""
    if old == new:
        return True
    return _without_times(old) == _without_times(new)


def _without_times(obj: Object) -> Object:
    meta = dict(obj["metadata"])
    entries = [{k: v for k, v in entry.items() if k != "time"} for entry in meta.get("managedFields", ())]
    meta["managedFields"] = sorted(entries, key=lambda entry: (entry["manager"], entry["operation"], str(entry)))
    return {**obj, "metadata": meta}
