"""What is live in a cluster beside what a release states: what applying it would change."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_ops.clusters.client import Kind
from nexus_ops.clusters.fence import is_routed, release_part
from nexus_ops.releases.diff import Change, diff_live
from nexus_ops.releases.model import Release
from nexus_ops.releases.waves import Object, identity
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.record import Copy


def changes_to_live(context: RolloutContext, release: Release, serving: Copy) -> tuple[Change, ...]:
    """What a release would change in the shared part and in the colour that serves.

    Only what a release owns is compared: replicas, floors and weights are the rollout's.
    """
    now, wanted = (
        [obj for part in ("shared", serving.colour) for obj in context.rendering(digest, part).objects]
        for digest in (serving.release, release.digest)
    )
    known = {identity(obj): obj for obj in [*now, *wanted]}
    return diff_live(live_of(context, known.values()), [release_part(obj) for obj in wanted if not is_routed(obj)])


def live_of(context: RolloutContext, objects: Iterable[Object]) -> list[Object]:
    """What is live of these objects; routed ones are left out."""
    found = (
        context.client.get(Kind.of(obj), obj["metadata"]["name"], obj["metadata"].get("namespace"))
        for obj in objects
        if not is_routed(obj)
    )
    return [obj for obj in found if obj is not None]
