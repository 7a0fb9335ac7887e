"""Looking at the cluster: pods of both colours, the edge, and what Prometheus says."""

from __future__ import annotations

from collections import Counter

from nexus_ops.clusters.client import DEPLOYMENT, POD
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.machine import Observed, Pods
from nexus_ops.rollouts.monitor import check_health
from nexus_ops.rollouts.record import Record
from nexus_ops.rollouts.routers import TrafficRouter
from nexus_ops.topology import Colour

PLATFORM = {"app.kubernetes.io/part-of": "nexus-ai-defi"}
NAME, COLOUR = "app.kubernetes.io/name", "nexus.ai/colour"


def observe_pods(context: RolloutContext) -> dict[tuple[str, Colour], Pods]:
    """Pods wanted, ready and there, by component and colour."""
    namespace = context.cluster.namespace
    there: Counter[tuple[str, Colour]] = Counter()
    for pod in context.client.list(POD, namespace, PLATFORM):
        labels = pod["metadata"]["labels"]
        there[labels[NAME], labels[COLOUR]] += 1
    found: dict[tuple[str, Colour], Pods] = {}
    for deployment in context.client.list(DEPLOYMENT, namespace, PLATFORM):
        labels, status = deployment["metadata"]["labels"], deployment.get("status") or {}
        key: tuple[str, Colour] = (labels[NAME], labels[COLOUR])
        seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        updated = min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0))
        wanted = deployment["spec"].get("replicas", 0)
        found[key] = Pods(wanted=wanted, ready=min(updated, wanted) if seen else 0, there=there[key])
    for key, number in there.items():
        found.setdefault(key, Pods(there=number))
    return found


def observe(context: RolloutContext, record: Record, router: TrafficRouter) -> Observed:
    """All that deciding needs; the edge and the metrics only where the present stage looks at them."""
    stage = record.stage.name if record.stage else None
    back = record.phase == "rolling-back"
    # Before the switch nothing has been routed to the candidate, and there is nothing to see.
    looks_at_edge = (back and record.applied) or stage in (
        "switch-traffic",
        "monitor-health",
        "cleanup-blue-environment",
    )
    weight = router.observed_weight(record.candidate.colour) if looks_at_edge else None
    if not looks_at_edge or (back and not record.applied):
        return Observed(observe_pods(context), weight)
    if stage in ("monitor-health", "cleanup-blue-environment") and not back:
        health = check_health(context, record.candidate.colour, record.baseline)
        return Observed(observe_pods(context), weight, health.verdict, health.reason)
    return Observed(observe_pods(context), weight)
