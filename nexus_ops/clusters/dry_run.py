"""What applying an object would make of it, as the API server itself says (`dryRun=All`).

A comparison of manifests guesses at defaults, at other spellings of an amount, and at what admission does; the server
does not. It runs the whole request and stores nothing, so that no lease is needed and no fence is carried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.clusters.errors import FieldConflict, Refused

Object = dict[str, Any]
SERVERS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
"""Metadata that only the server writes."""


@dataclass(frozen=True)
class DryRun:
    """An object as it is live, and as it would be after applying."""

    live: Object | None
    """None: it does not exist."""
    after: Object | None
    """None: the server refuses, or the namespace does not exist yet."""
    conflicts: int = 0
    """Fields that belong to another manager with another value: applying without force is refused because of them."""
    refused: str = ""
    """The server's own word for why."""


def dry_run(client: ClusterClient, obj: Object, *, manager: str) -> DryRun:
    """Ask what applying would do, others' fields included. What cannot be asked is an error, a refusal is an answer."""
    meta, kind = obj["metadata"], Kind.of(obj)
    if not client.serves(kind):
        return DryRun(None, None, refused=f"the cluster knows no {kind.api_version} {kind.kind}")
    live = client.get(kind, meta["name"], meta.get("namespace"))
    try:
        return DryRun(live, client.apply(obj, manager=manager, dry_run=True))
    except FieldConflict as conflict:
        forced = client.apply(obj, manager=manager, force=True, dry_run=True)
        return DryRun(live, forced, conflicts=len(conflict.causes))
    except Refused as error:
        if live is None and error.reason == "NotFound":
            return DryRun(None, None)  # its namespace is to be made, too: nothing more can be said of it
        return DryRun(live, None, refused=str(error.status.get("message") or error.reason))


def without_server_fields(obj: Object) -> Object:
    """What is said about an object, without what the server notes down about it."""
    meta = {key: value for key, value in obj["metadata"].items() if key not in SERVERS}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": meta}
