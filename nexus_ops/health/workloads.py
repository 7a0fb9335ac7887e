"""The platform's own pods: ready, restarted, of the release that the rollout's record says serves; and autoscalers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from nexus_ops.clusters.client import AUTOSCALER, DEPLOYMENT, POD
from nexus_ops.clusters.readiness import Failed, check_ready
from nexus_ops.health.model import STATES, Finding, State, worst
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.plan import read_ledger
from nexus_ops.rollouts.record import Copy, Record
from nexus_ops.topology import Colour

Object = dict[str, Any]
PLATFORM = {"app.kubernetes.io/part-of": "nexus-ai-defi"}
NAME, COLOUR = "app.kubernetes.io/name", "nexus.ai/colour"
ENDED = ("Succeeded", "Failed")
RECENT = timedelta(minutes=15)
"""A restart so long ago still counts."""
MOST = 3
"""So many problems are told; the numbers count all."""


class Component(NamedTuple):
    """One component in one colour."""

    state: State
    why: str
    ready: int
    wanted: int


def copies_of(record: Record | None) -> tuple[Copy, ...]:
    """What may serve: the one copy when the rollout is over, both while it runs."""
    if record is None:
        return ()
    copies = (record.serving,) if record.finished else (record.stable, record.candidate)
    return tuple(copy for copy in copies if copy is not None)


def look_at_workloads(context: RolloutContext) -> Finding:
    """Every component of the release that serves."""
    copies = copies_of(read_ledger(context).record)
    if not copies:
        todo = f"Launch the job `deploy` with cluster `{context.cluster.name}`, if it is to serve."
        return Finding("unknown", "nothing is deployed here, as far as the rollout's record says", todo)
    deployments = context.client.list(DEPLOYMENT, context.cluster.namespace, PLATFORM)
    pods = context.client.list(POD, context.cluster.namespace, PLATFORM)
    releases: dict[Colour, Mapping[str, str]] = {copy.colour: context.release(copy.release).images for copy in copies}
    return judge_workloads(deployments, pods, copies, releases, context.clock())


def judge_workloads(
    deployments: Iterable[Object],
    pods: Iterable[Object],
    copies: tuple[Copy, ...],
    images: Mapping[Colour, Mapping[str, str]],
    now: datetime,
) -> Finding:
    """Each component must serve in one of the copies; its pods must run the release's images. Pure.

    `images`: by colour, then by component. A component that has no ready pod, or never will have enough, has failed.
    """
    pods = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ENDED]
    found = {(obj["metadata"]["labels"][NAME], obj["metadata"]["labels"][COLOUR]): obj for obj in deployments}
    best: list[Component] = []
    for component in sorted({name for of_colour in images.values() for name in of_colour}):
        seen = [
            _component(component, copy.colour, found.get((component, copy.colour)), pods, now)
            for copy in copies
            if component in images[copy.colour]
        ]
        best.append(min(seen, key=lambda one: (STATES.index(one.state), -one.ready)))
    foreign = _foreign(pods, images)
    restarts, recent = _restarts(pods, now)
    problems = [one.why for one in sorted(best, key=lambda one: -STATES.index(one.state)) if one.state != "healthy"]
    problems += foreign[:MOST]
    problems += [f"{recent} restarts in the last {RECENT.seconds // 60} minutes"] if recent else []
    state = worst([*(one.state for one in best), "degraded" if foreign or recent else "healthy"])
    ready, wanted = sum(one.ready for one in best), sum(one.wanted for one in best)
    serving = " and ".join(f"{copy.version} ({copy.colour})" for copy in copies)
    why = f"{ready} of {wanted} pods ready of {serving}, {restarts} restarts"
    if problems:
        why += f": {'; '.join(problems[:MOST])}" + (f"; and {len(problems) - MOST} more" if problems[MOST:] else "")
    todo = "" if state == "healthy" else "Read the pods' logs; the job `rollback` goes back to the release before."
    numbers = {
        "pods ready": ready, "pods wanted": wanted, "components in trouble": sum(one.state != "healthy" for one in best),
        "restarts": restarts, "recent restarts": recent, "pods of another image": len(foreign),
    }  # fmt: skip
    return Finding(state, why, todo, numbers)


def _component(name: str, colour: Colour, deployment: Object | None, pods: list[Object], now: datetime) -> Component:
    if deployment is None:
        return Component("failed", f"{name}-{colour} does not exist", 0, 0)
    wanted, ready = deployment["spec"].get("replicas", 0), (deployment.get("status") or {}).get("readyReplicas", 0)
    if not wanted:
        return Component("failed", f"{name}-{colour} is scaled to zero", 0, 0)
    selected = (deployment["spec"]["selector"].get("matchLabels") or {}).items()
    own = [pod for pod in pods if selected <= (pod["metadata"].get("labels") or {}).items()]
    trouble = check_ready(deployment, own, wanted, now=now)
    if trouble is None:
        return Component("healthy", "", min(ready, wanted), wanted)
    state: State = "failed" if isinstance(trouble, Failed) or not ready else "degraded"
    return Component(state, f"{name}-{colour}: {trouble.why}", min(ready, wanted), wanted)


def _foreign(pods: Iterable[Object], images: Mapping[Colour, Mapping[str, str]]) -> list[str]:
    """Pods of a colour that serves which do not run the image of its release. Others may add containers of theirs."""
    problems: list[str] = []
    for pod in pods:
        labels = pod["metadata"]["labels"]
        image = images.get(labels[COLOUR], {}).get(labels[NAME])
        digests = {container["image"].rpartition("@")[2] for container in pod["spec"]["containers"]}
        if image is not None and image.rpartition("@")[2] not in digests:
            problems.append(f"pod {pod['metadata']['name']} does not run the release's image")
    return problems


def _restarts(pods: Iterable[Object], now: datetime) -> tuple[int, int]:
    """Restarts of all containers, and how many containers were restarted lately."""
    total = recent = 0
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            total += container.get("restartCount", 0)
            ended = ((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt")
            recent += ended is not None and now - datetime.fromisoformat(ended) < RECENT
    return total, recent


def look_at_autoscalers(context: RolloutContext) -> Finding:
    """The platform's HorizontalPodAutoscalers."""
    return judge_autoscalers(context.client.list(AUTOSCALER, context.cluster.namespace, PLATFORM))


def judge_autoscalers(scalers: Iterable[Object]) -> Finding:
    """One that wants no more than it may have is healthy; at its limit, or unable to measure, is degraded. Pure.

    One whose target has no replicas rests; where both bounds are the same, a rollout has pinned it.
    """
    at_limit, blind, active = list[str](), list[str](), 0
    for scaler in scalers:
        name, spec, status = scaler["metadata"]["name"], scaler["spec"], scaler.get("status") or {}
        conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
        scaling = conditions.get("ScalingActive") or {}
        if scaling.get("reason") == "ScalingDisabled" or not status.get("currentReplicas"):
            continue
        active += 1
        if status.get("desiredReplicas", 0) >= spec["maxReplicas"] > spec.get("minReplicas", 1):
            at_limit.append(f"{name} is at its maximum of {spec['maxReplicas']}")
        if scaling.get("status") == "False":
            blind.append(f"{name} cannot measure ({scaling.get('reason')})")
    numbers = {"active": active, "at their limit": len(at_limit), "unable to measure": len(blind)}
    if not active:
        return Finding("unknown", "no autoscaler is active", "", numbers)
    if problems := [*at_limit, *blind]:
        todo = "Raise the maximum in topology.yaml, or find out what the load is; metrics-server gives the measures."
        return Finding("degraded", "; ".join(problems), todo, numbers)
    return Finding("healthy", f"{active} active, none at its limit", "", numbers)
