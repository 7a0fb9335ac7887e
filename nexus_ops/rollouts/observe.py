"""Looking at the cluster: pods of both colours, the edge, and what Prometheus says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from nexus_ops.clusters.client import DEPLOYMENT, POD
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.machine import Observed, Pods
from nexus_ops.rollouts.monitor import Health, check_health
from nexus_ops.rollouts.record import Record
from nexus_ops.rollouts.routers import Seen, TrafficRouter
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

    The edge and the metrics are looked at only where the present stage does: before the switch nothing has been routed to
    the candidate, and there is nothing to see.
    """
    stage = record.stage
    pods = observe_pods(context)
    if record.phase == "rolling-back":
        if not record.applied:
            return Observed(pods), None
        return _with_edge(Observed(pods), router.look(record.candidate.colour)), None
    if stage is None or not stage.weight or not record.weight:
        return Observed(pods), None  # nothing has been requested yet that could be seen
    seen = router.look(record.candidate.colour)
    if not stage.watched:
        return _with_edge(Observed(pods), seen), None
    health = check_health(context, record)
    judged = Observed(pods, None, health.verdict, health.reason, health.blames, health.requests)
    return _with_edge(judged, seen), health


def _with_edge(observed: Observed, seen: Seen) -> Observed:
    return replace(observed, weight=seen.weight, share=seen.share, weight_problem=seen.problem)
