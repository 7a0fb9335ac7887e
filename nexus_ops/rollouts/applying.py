"""Putting a candidate's objects into the cluster, and what autoscalers may do while a rollout lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from nexus_ops.clusters.apply import THREADS, apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.readiness import Failed, Waiting
from nexus_ops.clusters.settled import unsettled
from nexus_ops.releases.rendering import Part
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Works
from nexus_ops.rollouts.observe import observe_pods
from nexus_ops.rollouts.record import Copy, Record
from nexus_ops.topology import Colour


def sizes_of(context: RolloutContext, candidate: Copy, stable: Copy | None) -> dict[str, int]:
    """Pods of each component: as many as the stable colour is seen to have, at least what is declared."""
    components = context.release(candidate.release).components
    pods = observe_pods(context)
    seen = {
        name: pods[name, stable.colour].wanted if stable and (name, stable.colour) in pods else 0 for name in components
    }
    return {name: max(seen[name], int(component["replicas"])) for name, component in components.items()}


def drain_seconds_of(context: RolloutContext, record: Record) -> dict[str, int]:
    """How long the pods of each component may take to drain: as both releases declare, the longer of the two."""
    copies = [record.candidate, *([record.stable] if record.stable else [])]
    declared: dict[str, int] = {}
    for copy in copies:
        for name, component in context.release(copy.release).components.items():
            declared[name] = max(declared.get(name, 0), int(component["drain_seconds"]))
    most = record.settings.drain_seconds
    return declared if most is None else {name: min(seconds, most) for name, seconds in declared.items()}


def apply_candidate(context: RolloutContext, fenced: Fenced, record: Record) -> None:
    """Apply the shared part and the candidate's own: request work at its full size, all other at zero."""
    candidate = record.candidate
    works = context.works(candidate.release)
    first = {
        f"{name}-{candidate.colour}": number if works[name] == "request" else 0
        for name, number in record.replicas.items()
    }
    parts: tuple[tuple[Part, dict[str, int]], ...] = (("shared", {}), (candidate.colour, first))
    for part, replicas in parts:
        _apply(context, fenced, candidate.release, part, replicas, adopt=record.settings.adopt)


def restore_shared(context: RolloutContext, fenced: Fenced, stable: Copy) -> None:
    """Apply the shared part of the release that serves again, over that of a candidate which has failed."""
    _apply(context, fenced, stable.release, "shared", {}, adopt=False)


def _apply(
    context: RolloutContext, fenced: Fenced, release: str, part: Part, replicas: Mapping[str, int], *, adopt: bool
) -> None:
    rendering = context.rendering(release, part)
    applyset = ApplySet(f"applyset-{part}", context.cluster.ops_namespace)
    result = apply_rendering(fenced, rendering.objects, applyset, replicas=replicas, adopt=adopt)
    context.report(
        f"  {part}: {len(result.changed)} changed, {len(result.unchanged)} as they were, {len(result.pruned)} pruned"
    )
    for name in result.kept_back:
        context.report(f"  {part}: {name} left the release but holds data: not deleted")
    left = unsettled(context.client, rendering.objects)
    for name, state in left.items():
        if isinstance(state, Failed):
            context.report(f"  {part}: {name} will not become ready: {state.why}")
    if waiting := [name for name, state in left.items() if isinstance(state, Waiting)]:
        context.report(f"  {part}: their controllers are still at work, no need to wait: {', '.join(waiting)}")


def pin_floors(context: RolloutContext, fenced: Fenced, record: Record) -> None:
    """While the rollout lasts, no autoscaler takes away what it counts on."""
    copies = [record.candidate, *([record.stable] if record.stable else [])]
    floors = {
        f"{name}-{copy.colour}": record.replicas[name]
        for copy in copies
        for name in context.works(copy.release)
        if name in record.replicas  # one that the candidate does not have any more is left as it is
    }
    _set_floors(context, fenced, floors)


def scale_components(
    context: RolloutContext, fenced: Fenced, colour: Colour, targets: Mapping[str, int], works: Works
) -> None:
    """Set the replicas of a colour's components. A worker's share is its autoscaler's floor, too, or it would undo it."""
    floors = {name: number for name, number in targets.items() if number and works[name] == "worker"}
    _set_floors(context, fenced, {f"{name}-{colour}": number for name, number in floors.items()})
    space = context.cluster.namespace
    at_once(lambda name: fenced.scale(f"{name}-{colour}", space, targets[name]), targets)


def free_floors(context: RolloutContext, fenced: Fenced, record: Record) -> None:
    """The autoscalers' own lower bounds again, as the releases say."""
    copies = [*([record.candidate] if record.applied else []), *([record.stable] if record.stable else [])]
    scalers = [
        scaler
        for copy in copies
        for scaler in context.rendering(copy.release, copy.colour).of_kind("HorizontalPodAutoscaler")
    ]
    _set_floors(context, fenced, {scaler["metadata"]["name"]: scaler["spec"]["minReplicas"] for scaler in scalers})


def _set_floors(context: RolloutContext, fenced: Fenced, floors: Mapping[str, int]) -> None:
    at_once(lambda name: fenced.pin_floor(name, context.cluster.namespace, floors[name]), floors)


def at_once(change: Callable[[str], object], names: Iterable[str]) -> None:
    """Make a change to several objects concurrently; the first error is raised when all have ended."""
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(change, name) for name in names]:
            done.result()
