"""Looking at the cluster: pods of both colours, the edge, and what Prometheus says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from nexus_ops.clusters.client import DEPLOYMENT, POD
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Observed, Pods, Works
from nexus_ops.rollouts.monitor import Health
from nexus_ops.rollouts.record import Record, moment
from nexus_ops.rollouts.routers import Seen, TrafficRouter
from nexus_ops.rollouts.verdicts import check_health
from nexus_ops.topology import Colour

PLATFORM = {"app.kubernetes.io/part-of": "nexus-ai-defi"}
ENDED = ("Succeeded", "Failed")
NAME, COLOUR = "app.kubernetes.io/name", "nexus.ai/colour"


def observe_pods(context: RolloutContext) -> dict[tuple[str, Colour], Pods]:
    """Pods wanted, ready and there, by component and colour."""
    namespace = context.cluster.namespace
    there: Counter[tuple[str, Colour]] = Counter()
    killed: dict[tuple[str, Colour], datetime] = {}
    for pod in context.client.list(POD, namespace, PLATFORM):
        if (pod.get("status") or {}).get("phase") in ENDED:
            continue  # evicted, or done: it is kept to be read, and works no more
        key: tuple[str, Colour] = (pod["metadata"]["labels"][NAME], pod["metadata"]["labels"][COLOUR])
        there[key] += 1
        if leaves := pod["metadata"].get("deletionTimestamp"):  # Kubernetes' word for the end of its grace
            killed[key] = max(datetime.fromisoformat(leaves), killed.get(key, datetime.min.replace(tzinfo=UTC)))
    found: dict[tuple[str, Colour], Pods] = {}
    for deployment in context.client.list(DEPLOYMENT, namespace, PLATFORM):
        labels, status = deployment["metadata"]["labels"], deployment.get("status") or {}
        key = (labels[NAME], labels[COLOUR])
        seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        updated = min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0))
        wanted = deployment["spec"].get("replicas", 0)
        found[key] = Pods(wanted, min(updated, wanted) if seen else 0, there[key], killed.get(key))
    for key, number in there.items():
        found.setdefault(key, Pods(there=number, killed_at=killed.get(key)))
    return found


def observe(context: RolloutContext, record: Record, router: TrafficRouter) -> tuple[Observed, Health | None]:
    """All that deciding needs, and what the verdict in it stands on.

    The edge and the metrics are looked at only where it matters: before anything has been routed to the candidate there
    is nothing to see, and a candidate whose traffic is to be taken away need not be looked at first.
    """
    observed = Observed(observe_pods(context), stable=_stable(context, record))
    if record.phase == "rolling-back":
        looked = record.applied and not record.weight
        return _with_edge(observed, router.look(record.candidate.colour)) if looked else observed, None
    if not serves(record):
        return observed, None
    health = check_health(context, record)
    observed = replace(_judged(observed, health), weight=record.weight)
    if record.observed == record.weight and _bakes(record, context.clock()):
        return observed, health  # it was seen as the bake began, and is looked at again when it ends
    return _with_edge(observed, router.look(record.candidate.colour)), health


def glance(context: RolloutContext, record: Record) -> tuple[Observed, Health | None]:
    """The same without asking at the edge: it is taken to be as it was requested.

    Enough to see whether there is anything to do; whoever does it looks for himself.
    """
    observed = Observed(observe_pods(context), record.weight, stable=_stable(context, record))
    if record.phase == "rolling-back" or not serves(record):
        return observed, None
    health = check_health(context, record)
    return _judged(observed, health), health


def serves(record: Record) -> bool:
    """Whether the candidate has traffic, and is judged by how it serves it."""
    return record.stage is not None and record.stage.watched and record.weight > 0


def _stable(context: RolloutContext, record: Record) -> Works | None:
    """What the stable copy consists of: the candidate may have a component more, or one less."""
    return context.works(record.stable.release) if record.stable else None


def _bakes(record: Record, now: datetime) -> bool:
    """Whether the present stage only waits for its time to be over."""
    return record.stage is not None and record.stage.until is not None and now < moment(record.stage.until)


def _judged(observed: Observed, health: Health) -> Observed:
    return replace(
        observed,
        verdict=health.verdict,
        verdict_reason=health.reason,
        blames=health.blames,
        requests=health.requests,
    )


def _with_edge(observed: Observed, seen: Seen) -> Observed:
    return replace(observed, weight=seen.weight, share=seen.share, weight_problem=seen.problem)
