"""What a cluster has beside what a release states: what applying it would change, and what somebody else has changed.

The API server itself is asked, object by object, by a dry run (clusters.dry_run). What belongs to a rollout or to an
autoscaler is no drift: replicas, the autoscaler's floor, and how a routed object shares traffic between the colours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from nexus_ops.clusters.apply import THREADS
from nexus_ops.clusters.applyset import NEVER_PRUNED, PART_OF, ApplySet, inventory, mark, served_kind
from nexus_ops.clusters.dry_run import dry_run, without_server_fields
from nexus_ops.clusters.fence import RELEASE, ROLLOUT, is_routed, release_part
from nexus_ops.clusters.owners import added_by_others, others, who_set
from nexus_ops.errors import OperationError, TemporaryError
from nexus_ops.releases.credentials import is_secret, is_secret_file
from nexus_ops.releases.diff import ABSENT, Change, FieldChange, fields, markdown, without_version
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part
from nexus_ops.releases.waves import Object, identity
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.record import Copy, Record

ROUTED_BY = {"gateway-api": "HTTPRoute", "service-selector": "Service", "alb": "Ingress"}
"""The kind of the one routed object that each router writes. The others are rendered, and never applied."""
ROUTERS = re.compile(
    r"\.backendRefs\b|^spec\.selector\b|^metadata\.annotations(\[\"(nexus\.ai/fence|alb\.ingress\.kubernetes\.io/actions)|$)"
)
"""What the router decides of a routed object: who gets how much, and its fence."""
NO_DRIFT = re.compile(
    r"^metadata\.(finalizers|annotations|ownerReferences)\b|^status\b|restartedAt|^spec\.(replicas|minReplicas)$"
)
"""What may be added to an object without anybody having changed what it does: notes of tools, a restart by hand, sizes."""
HIDDEN = "(hidden: it looks like a secret)"


class RolloutRuns(TemporaryError):
    """While a rollout runs, what is live is on its way from one release to another."""


@dataclass(frozen=True)
class Comparison:
    """A release beside what is live of it in one cluster."""

    cluster: str
    version: str
    release: str
    """Its digest."""
    seen: int
    """How many objects were compared."""
    changes: tuple[Change, ...]

    @property
    def same(self) -> bool:
        return not self.changes

    def summary(self) -> str:
        """One sentence."""
        if self.same:
            return f"{self.seen} objects are as {self.version} states them"
        first = self.changes[0]
        rest = f" and {len(self.changes) - 1} more" if self.changes[1:] else ""
        by = next((field.by for change in self.changes for field in change.fields if field.by), "")
        said = f"; {by}" if by else ""
        return f"{len(self.changes)} of {self.seen} objects differ from {self.version}: {first.kind} {first.name}{rest}{said}"

    def to_markdown(self, *, most: int = 20) -> str:
        """A page: before (`-`) is what is live, after (`+`) what the release states."""
        return f"{self.summary()}." + ("" if self.same else f"\n\n{markdown(self.changes, most=most)}")


def drift_of(context: RolloutContext, record: Record | None) -> Comparison | None:
    """What serves, beside what is live; None where nothing serves. `RolloutRuns` while it is being changed."""
    if record is None or (record.finished and record.serving is None):
        return None
    if not record.finished or record.serving is None:
        raise RolloutRuns(
            f"a rollout of {record.candidate.version} runs, drift is told when it is over.", target=context.cluster.name
        )
    return changes_to_live(context, context.release(record.serving.release), record.serving)


def changes_to_live(context: RolloutContext, release: Release, serving: Copy) -> Comparison:
    """What a release would change in the shared part and in the colour that serves."""
    parts: tuple[Part, ...] = ("shared", serving.colour)
    wanted = [
        (obj, part)
        for part in parts
        for obj in context.rendering(release.digest, part).objects
        if not is_routed(obj) or obj["kind"] == ROUTED_BY.get(release.router)
    ]
    context.client.version()  # a cluster that is away costs one wait, not one for each object
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            changes = list(pool.map(lambda one: _change(context, *one), wanted))
            leaving = list(pool.map(lambda part: list(_leaving(context, release, part)), parts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = (change for change in (*changes, *(change for of_part in leaving for change in of_part)) if change)
    return Comparison(context.cluster.name, release.version, release.digest, len(wanted), tuple(found))


def drift_page(context: RolloutContext, serving: Copy) -> str:
    """What serves beside what is live, for a plan. That it cannot be seen is said, and keeps nobody from rolling back."""
    try:
        return changes_to_live(context, context.release(serving.release), serving).to_markdown(most=5)
    except OperationError as error:
        return f"It could not be seen: {error}"


def _applyset(context: RolloutContext, part: Part) -> ApplySet:
    return ApplySet(f"applyset-{part}", context.cluster.ops_namespace)


def _change(context: RolloutContext, obj: Object, part: Part) -> Change | None:
    """How an object would change, or already has."""
    kind, _, namespace, name = identity(obj)
    routed = is_routed(obj)
    body = obj if routed else mark(release_part(obj), _applyset(context, part))
    seen = dry_run(context.client, body, manager=ROLLOUT if routed else RELEASE)
    refused = f"the server would refuse it: {seen.refused}" if seen.refused else ""
    if seen.live is None or seen.after is None:
        return Change(kind, namespace, name, "added" if seen.live is None else "changed", note=refused)
    found = tuple(
        _shown(field) for field in _fields(seen.live, seen.after) if not (routed and ROUTERS.search(field.path))
    )
    if not found:
        return None
    # The colour that serves is not applied again by the next deploy, which takes the other one.
    stops = seen.conflicts and part == "shared" and not routed
    note = (
        f"fields in conflict: {seen.conflicts}; a deploy is refused until they are given up, or are in the release"
        if stops
        else ""
    )
    return Change(kind, namespace, name, "changed", found, note)


def _fields(live: Object, after: Object) -> Iterator[FieldChange]:
    """What applying would set back or change, and what others have added, which it would leave."""
    foreign, told = others(live), list[str]()
    for field in fields(*(without_version(without_server_fields(state)) for state in (live, after))):
        told.append(field.path)
        owner = None if field.before is ABSENT else who_set(field.path, foreign)
        yield replace(field, by=f"set by {owner}") if owner else field
    if live["kind"] == "Namespace":
        return  # shared with whatever else is in it
    for one in added_by_others(live, after):
        if not NO_DRIFT.search(one.path) and not any(one.path.startswith(path) for path in told):
            yield FieldChange(
                one.path, one.value, one.value, by=f"added by {one.owner}, stays when a release is applied"
            )


def _leaving(context: RolloutContext, release: Release, part: Part) -> Iterator[Change]:
    """What the part has in the cluster and the release has not: it would be pruned, or is kept because it holds data."""
    client, applyset = context.client, _applyset(context, part)
    stated = {identity(obj) for obj in context.rendering(release.digest, part).objects}
    for kind, group, namespace, name in sorted(set(inventory(client, applyset)) - stated):
        served = served_kind(client, kind, group)
        live = client.get(served, name, namespace or None) if served else None
        if live is not None and (live["metadata"].get("labels") or {}).get(PART_OF) == applyset.id:
            kept = "it holds data, and is never deleted by a release: a person decides"
            yield Change(kind, namespace, name, "removed", note=kept if (kind, group) in NEVER_PRUNED else "")


def _shown(field: FieldChange) -> FieldChange:
    """A field as it may be shown: what somebody put into the cluster by hand may hold a secret."""
    words = re.findall(r"[^.\[\]\"]+", field.path)
    name = next((word for word in reversed(words) if word != "value"), "")
    return replace(field, before=_masked(name, field.before), after=_masked(name, field.after))


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        of = str(value.get("name", ""))
        return {key: _masked(of if key == "value" else key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(name, inner) for inner in value]
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", name)
    return HIDDEN if isinstance(value, str) and (is_secret(snake, value) or is_secret_file(snake, value)) else value
