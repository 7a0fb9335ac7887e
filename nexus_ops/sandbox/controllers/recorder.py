"""Events: what controllers, scheduler and kubelet say of an object, for `kubectl describe` and `kubectl get events`.

As client-go's recorder does it: an event that comes again is counted, not written anew, and all of them are gone after
an hour.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Store

Object = dict[str, Any]
EVENTS = "events"
KEPT_SECONDS = 3600.0
"""The API server's --event-ttl."""
AGAIN_SECONDS = 10.0
"""The same event within this time is not written: a controller that looks every second would fill the history."""


@dataclass
class _Told:
    """An event that was written."""

    namespace: str
    name: str
    at: float


class Recorder:
    """Writes the events of one component (`deployment-controller`, `kubelet`, …)."""

    def __init__(self, store: Store, component: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.component = component
        self._clock = clock
        self._told: dict[tuple[str, ...], _Told] = {}

    def __call__(self, about: Object, reason: str, message: str, *, warning: bool = False, container: str = "") -> None:
        """Say something of an object; `container` names the container of a pod that it is about."""
        meta, now = about["metadata"], self._clock()
        self._forget(now)
        key = (meta["uid"], reason, message, container)
        told = self._told.get(key)
        if told and now - told.at < AGAIN_SECONDS:
            return
        if told and self.store.find(EVENTS, told.namespace, told.name):
            told.at = now
            self._told[key] = self._told.pop(key)  # the longest silent one stays first
            self.store.edit(EVENTS, told.namespace, told.name, _count)
        else:
            self._write(key, now, about, warning=warning)

    def _write(self, key: tuple[str, ...], now: float, about: Object, *, warning: bool) -> None:
        meta, (_, reason, message, container) = about["metadata"], key
        # What is about something without a namespace is told in `default`, as a real server has it.
        namespace, name = meta.get("namespace") or "default", f"{meta['name']}.{uuid.uuid4().hex[:16]}"
        space = self.store.find("namespaces", None, namespace)
        if space is None or "deletionTimestamp" in space["metadata"]:
            return
        involved = {
            "kind": about["kind"], "namespace": namespace, "name": meta["name"], "uid": meta["uid"],
            "apiVersion": about["apiVersion"], "resourceVersion": meta["resourceVersion"],
        }  # fmt: skip
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        source = {"component": self.component}
        if node := (about.get("spec") or {}).get("nodeName"):
            source["host"] = node
        event = {
            "metadata": {"name": name, "namespace": namespace}, "involvedObject": involved, "reason": reason,
            "message": message, "source": source, "reportingComponent": self.component, "reportingInstance": node or "",
            "firstTimestamp": timestamp(), "lastTimestamp": timestamp(), "eventTime": None, "count": 1,
            "type": "Warning" if warning else "Normal",
        }  # fmt: skip
        self.store.create(EVENTS, event)
        self._told[key] = _Told(namespace, name, now)

    def _forget(self, now: float) -> None:
        """Take away what was last told an hour ago."""
        for key, told in list(self._told.items()):
            if now - told.at < KEPT_SECONDS:
                return
            del self._told[key]
            try:
                self.store.delete(EVENTS, told.namespace, told.name)
            except ApiError:
                pass  # gone with its namespace


def _count(event: Object) -> None:
    event["count"] += 1
    event["lastTimestamp"] = timestamp()
