"""Namespaces: what appears in a new one, and how one ends."""

from __future__ import annotations

import copy
from typing import Any

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store

ROOT_CA = {"ca.crt": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"}
ROOT_CA_NOTE = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of "
    "Kubernetes clusters."
)


class NamespaceController:
    """Gives a new namespace its default service account and certificate bundle; empties one that is deleted."""

    name = "namespace"

    def __init__(self, store: Store) -> None:
        self.store = store

    def keys(self, event: Event) -> list[Key]:
        if event.key == "namespaces":
            return [("", event.object["metadata"]["name"])] if event.type != "DELETED" else []
        space = event.object["metadata"].get("namespace")
        if space and (event.type == "DELETED" or "deletionTimestamp" in event.object["metadata"]):
            owner = self.store.find("namespaces", None, space)
            return [("", space)] if owner and "deletionTimestamp" in owner["metadata"] else []
        return []

    def reconcile(self, namespace: str, name: str) -> float | None:
        found = self.store.get("namespaces", None, name)
        if "deletionTimestamp" in found["metadata"]:
            self._end(name, found)
        else:
            self._furnish(name)
        return None

    def _furnish(self, name: str) -> None:
        if self.store.find("serviceaccounts", name, "default") is None:
            self.store.create("serviceaccounts", {"metadata": {"name": "default", "namespace": name}})
        if self.store.find("configmaps", name, "kube-root-ca.crt") is None:
            meta = {
                "name": "kube-root-ca.crt",
                "namespace": name,
                "annotations": {"kubernetes.io/description": ROOT_CA_NOTE},
            }
            self.store.create("configmaps", {"metadata": meta, "data": ROOT_CA}, manager="kube-controller-manager")

    def _end(self, name: str, namespace: dict[str, Any]) -> None:
        for resource in {resource.key: resource for resource in self.store.resources if resource.namespaced}.values():
            for obj in self.store.list(resource.key, name):
                if "deletionTimestamp" not in obj["metadata"]:
                    self.store.delete(resource.key, name, obj["metadata"]["name"], grace_seconds=None)
        left = {
            f"{resource.plural}.{resource.group}": self.store.list(resource.key, name)
            for resource in self.store.resources
            if resource.namespaced
        }
        remaining = {key: objects for key, objects in left.items() if objects}
        changed = copy.deepcopy(namespace)
        if remaining:
            changed["status"] = {"phase": "Terminating", "conditions": _conditions(remaining)}
            self.store.update("namespaces", changed, subresource="status")
        else:
            changed["spec"]["finalizers"] = []
            self.store.update("namespaces", changed, subresource="finalize")


def _conditions(remaining: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What still keeps a namespace, as the namespace controller says it."""
    parts = ", ".join(f"{key} has {len(objects)} resource instances" for key, objects in sorted(remaining.items()))
    held: dict[str, int] = {}
    for objects in remaining.values():
        for obj in objects:
            for finalizer in obj["metadata"].get("finalizers") or ():
                held[finalizer] = held.get(finalizer, 0) + 1
    finalizers = ", ".join(f"{name} in {number} resource instances" for name, number in sorted(held.items()))

    def condition(kind: str, status: bool, reason: str, message: str) -> dict[str, Any]:
        return {
            "type": kind, "status": str(status), "lastTransitionTime": timestamp(), "reason": reason, "message": message,
        }  # fmt: skip

    return [
        condition("NamespaceDeletionDiscoveryFailure", False, "ResourcesDiscovered", "All resources successfully discovered"),
        condition("NamespaceDeletionGroupVersionParsingFailure", False, "ParsedGroupVersions", "All legacy kube types successfully parsed"),
        condition("NamespaceDeletionContentFailure", False, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        condition("NamespaceContentRemaining", True, "SomeResourcesRemain", f"Some resources are remaining: {parts}"),
        condition(
            "NamespaceFinalizersRemaining", bool(held), "SomeFinalizersRemain" if held else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {finalizers}" if held else "All content-preserving finalizers finished",
        ),
    ]  # fmt: skip
