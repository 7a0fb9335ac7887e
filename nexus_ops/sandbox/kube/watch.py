"""Lists and watches: selection, pages, and the stream of changes from a version on."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from nexus_ops.sandbox.kube.errors import ApiError, Cause, invalid
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.selectors import parse_fields, parse_labels
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]
BLUEPRINT = "kubernetes.io/initial-events-list-blueprint"


@dataclass(frozen=True)
class Selection:
    """Which objects a list or watch is about."""

    resource: Resource
    namespace: str | None
    matches: Callable[[Object], bool]

    @classmethod
    def parse(cls, resource: Resource, namespace: str | None, query: Any) -> Selection:
        """From a request's labelSelector and fieldSelector."""
        labels = parse_labels(query.get("labelSelector", ""))
        fields = parse_fields(query.get("fieldSelector", ""))
        return cls(resource, namespace, lambda obj: labels(obj["metadata"].get("labels") or {}) and fields(obj))

    def includes(self, obj: Object | None) -> bool:
        if obj is None:
            return False
        here = self.namespace is None or obj["metadata"].get("namespace") == self.namespace
        return here and self.matches(obj)


def list_objects(store: Store, selection: Selection, query: Any) -> Object:
    """A list, in pages when the client asks for them."""
    resource = selection.resource
    found = [obj for obj in store.list(resource.key, selection.namespace) if selection.matches(obj)]
    version, start = store.version, 0
    wanted = query.get("resourceVersion")
    if wanted and not wanted.isdigit():
        text = f'Invalid value: "{wanted}": strconv.ParseUint: parsing "{wanted}": invalid syntax'
        raise ApiError(500, f"resourceVersion: {text}", "")
    if wanted and int(wanted) > store.version:
        details: Object = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
        details["retryAfterSeconds"] = 1
        raise ApiError(504, f"Too large resource version: {wanted}, current: {store.version}", "Timeout", details)
    if token := query.get("continue"):
        version, start = _read_token(token)
    elif query.get("resourceVersionMatch") == "Exact" and wanted and int(wanted) < _oldest(store):
        raise ApiError(410, f"The provided resource version {wanted} is too old.", "Expired")
    meta: Object = {"resourceVersion": str(version)}
    limit = max(0, int(query.get("limit") or 0))
    if limit and start + limit < len(found):
        meta["continue"] = _write_token(version, start + limit)
        meta["remainingItemCount"] = len(found) - start - limit
        if query.get("labelSelector") or query.get("fieldSelector"):
            del meta["remainingItemCount"]
    items = found[start : start + limit] if limit else found[start:]
    plain = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in items]
    if resource.custom:
        plain = items
        meta.setdefault("continue", "")
    return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta, "items": plain}


def _write_token(version: int, start: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, start]).encode()).decode()


def _read_token(token: str) -> tuple[int, int]:
    try:
        version, start = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        raise ApiError(400, "continue key is not valid") from None
    return version, start


def _oldest(store: Store) -> int:
    return store.history[0].version if store.history else store.version


async def watch_events(store: Store, selection: Selection, query: Any) -> AsyncIterator[Object]:
    """Events from a version on, until timeoutSeconds are over; opens with what is there where that is asked for."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    stop = store.subscribe(queue.put_nowait)
    try:
        wanted = query.get("resourceVersion", "")
        initial = query.get("sendInitialEvents") in ("true", "1")
        if wanted in ("", "0") or initial:
            for obj in store.list(selection.resource.key, selection.namespace):
                if selection.matches(obj):
                    yield {"type": "ADDED", "object": obj}
            if initial:
                annotations = {"k8s.io/initial-events-end": "true", BLUEPRINT: _blueprint(selection.resource)}
                yield _bookmark(selection.resource, store.version, annotations)
        else:
            if (int(wanted) < _oldest(store) - 1 and len(store.history) == store.history.maxlen) or int(wanted) < 1000:
                text = f"too old resource version: {wanted} ({store.version})"
                yield {"type": "ERROR", "object": ApiError(410, text, "Expired").body()}
                return
            for event in [event for event in store.history if event.version > int(wanted)]:
                if shown := _as_seen(selection, event):
                    yield shown
        deadline = asyncio.get_running_loop().time() + float(query.get("timeoutSeconds") or 1800)
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            try:
                event = await asyncio.wait_for(queue.get(), min(left, 10))
            except TimeoutError:
                if query.get("allowWatchBookmarks") in ("true", "1"):
                    yield _bookmark(selection.resource, store.version, {})
                continue
            if shown := _as_seen(selection, event):
                yield shown
    finally:
        stop()


def _as_seen(selection: Selection, event: Event) -> Object | None:
    """An event as a watcher with a selector sees it: leaving the selection is a DELETED."""
    if event.key != selection.resource.key:
        return None
    before, now = selection.includes(event.old), selection.includes(event.object)
    if event.type == "DELETED":
        return {"type": "DELETED", "object": event.object} if before or now else None
    if now:
        return {"type": "MODIFIED" if before else "ADDED", "object": event.object}
    if before and event.old is not None:
        gone = {**event.old, "metadata": {**event.old["metadata"], "resourceVersion": str(event.version)}}
        return {"type": "DELETED", "object": gone}
    return None


def _bookmark(resource: Resource, version: int, annotations: dict[str, str]) -> Object:
    meta: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    return {"type": "BOOKMARK", "object": {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}}


def _blueprint(resource: Resource) -> str:
    """The empty list that a client fills with the initial events (KEP-3157)."""
    empty = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": {}, "items": None}
    return base64.b64encode(json.dumps(empty, separators=(",", ":")).encode() + b"\n").decode()


def check_watch(query: Any) -> None:
    """Refuse a watch that cannot be."""
    wanted = query.get("resourceVersion", "")
    if wanted and not wanted.isdigit():
        text = f'Invalid value: "{wanted}": strconv.ParseUint: parsing "{wanted}": invalid syntax'
        raise ApiError(500, f"resourceVersion: {text}", "")
    if query.get("sendInitialEvents") is not None and query.get("resourceVersionMatch") != "NotOlderThan":
        text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise invalid("ListOptions", "meta.k8s.io", "", [Cause("resourceVersionMatch", text, "FieldValueForbidden")])
    if query.get("resourceVersionMatch") and query.get("sendInitialEvents") is None:
        text = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        raise invalid("ListOptions", "meta.k8s.io", "", [Cause("resourceVersionMatch", text, "FieldValueForbidden")])
