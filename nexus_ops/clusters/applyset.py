"""What belongs together and is pruned together: one colour, or the shared part (KEP-3659).

A set's parent ConfigMap lists what it may own: the union of old and new before anything is applied, the new and what
was kept back after the pruning. A driver killed in between leaves nothing unknown behind.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nexus_ops.clusters.client import CONFIG_MAP, ClusterClient, Kind
from nexus_ops.clusters.errors import Refused
from nexus_ops.clusters.fence import Fenced
from nexus_ops.releases.waves import WAVES, wave_of

Object = dict[str, Any]
Identity = tuple[str, str, str, str]
"""Kind, API group, namespace and name (releases.waves.identity)."""
PREFIX = "applyset.kubernetes.io"
PART_OF = f"{PREFIX}/part-of"
TOOLING = "nexus-ops/v1"
HELM_RELEASE = "meta.helm.sh/release-name"
NEVER_PRUNED = {
    ("Namespace", ""), ("CustomResourceDefinition", "apiextensions.k8s.io"), ("PersistentVolumeClaim", ""),
    ("Secret", ""), ("Cluster", "postgresql.cnpg.io"), ("RedisCluster", "redis.redis.opstreelabs.in"),
}  # fmt: skip
"""Kinds (with group) that hold data or much else: reported, never deleted."""


@dataclass(frozen=True)
class ApplySet:
    """One set: its parent ConfigMap, and the id that marks its members."""

    name: str
    namespace: str

    @property
    def id(self) -> str:
        """As KEP-3659 has it: applyset-<base64(sha256(name.namespace.kind.group))>-v1."""
        text = f"{self.name}.{self.namespace}.ConfigMap."
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"applyset-{digest}-v1"


def inventory(client: ClusterClient, applyset: ApplySet) -> list[Identity]:
    """What the set may own, as its parent says; empty when there is no parent yet.

    A parent that cannot be understood is an error: read as an empty set, nothing that left it would ever be pruned.
    """
    parent = client.get(CONFIG_MAP, applyset.name, applyset.namespace)
    if parent is None:
        return []
    try:
        return [(kind, group, space, name) for kind, group, space, name in json.loads(parent["data"]["inventory"])]
    except (KeyError, TypeError, ValueError) as error:
        message = "its inventory cannot be read; restore it, or delete the ConfigMap and look for left-over objects"
        target = f"{client.name}/ConfigMap/{applyset.name}"
        raise Refused(target, {"reason": "BrokenApplySet", "message": message}) from error


def write_inventory(fenced: Fenced, applyset: ApplySet, members: Iterable[Identity]) -> None:
    """Write what the set may own, in our own words and in the KEP's, so that kubectl leaves the set alone."""
    listed = sorted(set(members))
    kinds = sorted({f"{kind}.{group}" if group else kind for kind, group, _, _ in listed})
    spaces = sorted({space for _, _, space, _ in listed} - {"", applyset.namespace})
    fenced.write_config_map(
        applyset.name,
        applyset.namespace,
        lambda _: {"id": applyset.id, "inventory": json.dumps(listed)},
        labels={f"{PREFIX}/id": applyset.id},
        annotations={
            f"{PREFIX}/tooling": TOOLING,
            f"{PREFIX}/contains-group-kinds": ",".join(kinds),
            f"{PREFIX}/additional-namespaces": ",".join(spaces),
        },
    )


def mark(obj: Object, applyset: ApplySet) -> Object:
    """The object as a member of the set."""
    meta = obj["metadata"]
    return {**obj, "metadata": {**meta, "labels": {**(meta.get("labels") or {}), PART_OF: applyset.id}}}


def foreign_owner(live: Object, applyset: ApplySet) -> str | None:
    """Who else a live object belongs to. What carries our label is ours, whatever an owner before us left on it."""
    owner = (live["metadata"].get("labels") or {}).get(PART_OF)
    if owner == applyset.id:
        return None
    if helm := (live["metadata"].get("annotations") or {}).get(HELM_RELEASE):
        return f"the Helm release {helm}"
    return f"the apply-set {owner}" if owner else None


@dataclass(frozen=True)
class Pruned:
    """What pruning did, by identity."""

    deleted: tuple[Identity, ...]
    kept_back: tuple[Identity, ...]
    """Left the set but hold data, and are still there: a person decides."""


def prune(fenced: Fenced, applyset: ApplySet, gone: Iterable[Identity]) -> Pruned:
    """Delete what left the set and is still marked as the set's; what needs others goes before them."""
    deleted: list[Identity] = []
    kept: list[Identity] = []
    for member in sorted(gone, key=_last_wave_first):
        kind, group, namespace, name = member
        served = served_kind(fenced.client, kind, group)
        live = fenced.client.get(served, name, namespace or None) if served else None
        if served is None or live is None or (live["metadata"].get("labels") or {}).get(PART_OF) != applyset.id:
            continue
        if (kind, group) in NEVER_PRUNED:
            kept.append(member)
        else:
            fenced.delete(served, name, namespace or None)
            deleted.append(member)
    return Pruned(tuple(deleted), tuple(kept))


def served_kind(client: ClusterClient, kind: str, group: str) -> Kind | None:
    """The kind in a version that the cluster serves now; None when it knows no such kind any more."""
    candidates = (Kind(version, kind) for version in client.versions(group))
    return next((candidate for candidate in candidates if client.serves(candidate)), None)


def _last_wave_first(member: Identity) -> tuple[int, Identity]:
    return -WAVES.index(wave_of({"kind": member[0]})), member
