"""Applying a rendering: wave after wave, concurrently within a wave, and pruning what the set no longer holds.

An apply-set (KEP-3659) is one colour, or the shared part. Its parent ConfigMap lists what it may own: the union of old
and new before anything is applied, exactly the new after the pruning, so that a driver killed in between leaves
nothing unknown behind.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from nexus_ops.clusters.client import CONFIG_MAP, Kind
from nexus_ops.clusters.errors import Refused
from nexus_ops.clusters.fence import Fenced, is_routed
from nexus_ops.releases.waves import identity, in_waves

Object = dict[str, Any]
Identity = tuple[str, str, str, str]
PART_OF = "applyset.kubernetes.io/part-of"
NEVER_PRUNED = {
    ("Namespace", ""), ("CustomResourceDefinition", "apiextensions.k8s.io"), ("PersistentVolumeClaim", ""),
    ("Secret", ""), ("Cluster", "postgresql.cnpg.io"), ("RedisCluster", "redis.redis.opstreelabs.in"),
}  # fmt: skip
"""Kinds (with group) that hold data or much else: reported, never deleted."""
THREADS = 8


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


@dataclass
class ApplyResult:
    """What an apply did, by object name."""

    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    kept_back: list[str] = field(default_factory=list)
    """Members that would be pruned but hold data: a person decides."""


def apply_rendering(
    fenced: Fenced,
    objects: Iterable[Object],
    applyset: ApplySet,
    *,
    replicas: Mapping[str, int],
    adopt: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> ApplyResult:
    """Apply all objects of a set (but routed ones, which are the router's), then prune what left it.

    `replicas` are the first replicas of Deployments that do not exist yet, by name. An object of a Helm release or of
    another set is refused unless `adopt`.
    """
    wanted = [_marked(obj, applyset) for obj in objects]
    before = inventory(fenced, applyset)
    names = [identity(obj) for obj in wanted]
    _write_inventory(fenced, applyset, {*before, *names})
    result = ApplyResult()
    with ThreadPoolExecutor(THREADS) as pool:
        for wave, members in in_waves([obj for obj in wanted if not is_routed(obj)]):
            report(f"{wave}: {len(members)} objects")
            for obj, changed in pool.map(lambda obj: _apply(fenced, obj, applyset, replicas, adopt), members):
                (result.changed if changed else result.unchanged).append(_name(identity(obj)))
    for gone in sorted(set(before) - set(names)):
        _prune(fenced, gone, applyset, result)
    _write_inventory(fenced, applyset, set(names))
    return result


def inventory(fenced: Fenced, applyset: ApplySet) -> list[Identity]:
    """What the set may own, as its parent says; empty when there is no parent yet."""
    parent = fenced.client.get(CONFIG_MAP, applyset.name, applyset.namespace)
    if parent is None:
        return []
    return [tuple(entry) for entry in json.loads(parent["data"]["inventory"])]


def _write_inventory(fenced: Fenced, applyset: ApplySet, members: set[Identity]) -> None:
    text = json.dumps(sorted(members))
    fenced.write_config_map(applyset.name, applyset.namespace, lambda _: {"id": applyset.id, "inventory": text})


def _marked(obj: Object, applyset: ApplySet) -> Object:
    meta = obj["metadata"]
    return {**obj, "metadata": {**meta, "labels": {**(meta.get("labels") or {}), PART_OF: applyset.id}}}


def _apply(
    fenced: Fenced, obj: Object, applyset: ApplySet, replicas: Mapping[str, int], adopt: bool
) -> tuple[Object, bool]:
    meta = obj["metadata"]
    live = fenced.client.get(Kind.of(obj), meta["name"], meta.get("namespace"))
    if live is not None and not adopt:
        _refuse_foreign(fenced, live, applyset)
    if obj["kind"] == "Deployment":
        applied = fenced.create_workload(obj, replicas.get(meta["name"], 0))
    else:
        applied = fenced.apply_release(obj)
    changed = live is None or applied["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]
    return obj, changed


def _refuse_foreign(fenced: Fenced, live: Object, applyset: ApplySet) -> None:
    labels = live["metadata"].get("labels") or {}
    owner = labels.get(PART_OF)
    helm = (live["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name")
    if helm or (owner and owner != applyset.id):
        whose = f"the Helm release {helm}" if helm else f"the apply-set {owner}"
        message = f"it belongs to {whose}; adopt it explicitly, or remove it there first"
        name = f"{fenced.client.name}/{live['kind']}/{live['metadata']['name']}"
        raise Refused(name, {"reason": "Foreign", "message": message})


def _prune(fenced: Fenced, gone: Identity, applyset: ApplySet, result: ApplyResult) -> None:
    kind, group, namespace, name = gone
    if (kind, group) in NEVER_PRUNED:
        result.kept_back.append(_name(gone))
        return
    served = _kind_of(fenced, kind, group)
    live = fenced.client.get(served, name, namespace or None) if served else None
    if served and live and (live["metadata"].get("labels") or {}).get(PART_OF) == applyset.id:
        fenced.delete(served, name, namespace or None)
        result.pruned.append(_name(gone))


def _kind_of(fenced: Fenced, kind: str, group: str) -> Kind | None:
    """The kind as the cluster serves it now (its preferred version)."""
    if not group:
        return Kind("v1", kind)
    try:
        found = fenced.client.request("GET", f"/apis/{group}").json()
    except Refused:
        return None
    return Kind(found["preferredVersion"]["groupVersion"], kind)


def _name(key: Identity) -> str:
    return f"{key[0]}/{key[3]}"
