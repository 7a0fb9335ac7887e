"""Health: a snapshot per cluster, two checks of it, and the schedule that takes all of them every five minutes.

The asset is materialised by hand, a cluster at a time. The schedule launches one run for all clusters, for a process
per cluster would cost more than what it does; it reports the same materialization and the same checks.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from nexus_ops import partitions
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.health.history import SnapshotKey
    from nexus_ops.health.model import Snapshot
    from nexus_ops.health.take import Connect

HEALTH = dg.AssetKey("health")
CRITICAL, FRESH = "critical_probes", "fresh"


@dg.asset(
    key=HEALTH,
    partitions_def=partitions.clusters,
    group_name="health",
    kinds={"kubernetes", "parquet"},
    owners=["team:platform"],
    description=(
        "How a cluster is: API server, nodes, add-ons, workloads, autoscalers, data layer, certificates, Prometheus, "
        "alerts, edge and SEI, each healthy, degraded, failed or unknown, with why and what to do. A cluster that cannot "
        "be reached has a snapshot that says so. Every snapshot is kept as Parquet in the object store."
    ),
)
def health(context: dg.AssetExecutionContext, nexus: NexusResource) -> dg.MaterializeResult[Any]:
    """Take the snapshot of this partition's cluster, and keep it."""
    from nexus_ops.health.history import save
    from nexus_ops.health.probes import PROBES
    from nexus_ops.health.take import take

    snapshot = take(context.partition_key, _connect(nexus, context.partition_key), PROBES)
    context.log.info("%s is %s", snapshot.cluster, snapshot.state)
    return dg.MaterializeResult(metadata=_metadata(snapshot, save(nexus.store(), snapshot)))


@dg.asset_check(
    asset=HEALTH,
    name=CRITICAL,
    partitions_def=partitions.clusters,
    description="No critical probe of the newest snapshot has failed. One that could see nothing is a warning.",
)
def critical_probes(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> dg.AssetCheckResult:
    from nexus_ops.health.history import load, newest

    store = nexus.store()
    key = newest(store, context.partition_key, datetime.now(UTC))
    if key is None:
        return dg.AssetCheckResult(passed=False, description="no snapshot has been taken since yesterday")
    return dg.AssetCheckResult(**_judged(load(store, key)))


@dg.asset_check(
    asset=HEALTH,
    name=FRESH,
    partitions_def=partitions.clusters,
    description="The newest snapshot is at most 15 minutes old. The schedule looks each time before it launches a run.",
)
def fresh(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(**_freshness(nexus, context.partition_key))


@dg.op(description="Take the snapshots of all enabled clusters at once; each is reported as soon as it is there.")
def look_at_all_clusters(context: dg.OpExecutionContext, nexus: NexusResource) -> None:
    from nexus_ops.health.history import save
    from nexus_ops.health.probes import PROBES
    from nexus_ops.health.take import take_all

    store = nexus.store()
    names = [cluster.name for cluster in nexus.topology().enabled_clusters]
    for snapshot in take_all({name: _connect(nexus, name) for name in names}, PROBES):
        context.log.info("%s is %s", snapshot.cluster, snapshot.state)
        metadata = _metadata(snapshot, save(store, snapshot))
        context.log_event(dg.AssetMaterialization(HEALTH, partition=snapshot.cluster, metadata=metadata))
        _report(context.instance, CRITICAL, snapshot.cluster, _judged(snapshot))
        _report(context.instance, FRESH, snapshot.cluster, _freshness(nexus, snapshot.cluster))


@dg.job(description="The health of every enabled cluster, all at once.", tags={"actor": "health schedule"})
def health_of_all_clusters() -> None:
    look_at_all_clusters()


@dg.schedule(
    name="health_every_five_minutes",
    job=health_of_all_clusters,
    cron_schedule="*/5 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Takes the snapshots of all enabled clusters. Where the last one is stale, it says so first: a run may fail too.",
)
def health_schedule(context: dg.ScheduleEvaluationContext, nexus: NexusResource) -> dg.RunRequest:
    for cluster in nexus.topology().enabled_clusters:
        found = _freshness(nexus, cluster.name)
        if not found["passed"]:
            _report(context.instance, FRESH, cluster.name, found)
    return dg.RunRequest()


def _connect(nexus: NexusResource, cluster: str) -> "Connect":
    from nexus_ops.health.probes import PATIENCE

    return lambda: nexus.rollouts(cluster, patience=PATIENCE)


def _metadata(snapshot: "Snapshot", key: "SnapshotKey") -> dict[str, Any]:
    from nexus_ops.health.report import numbers, table, what_next

    return {
        "summary": dg.MetadataValue.md(table(snapshot)),
        "state": snapshot.state,
        "what_next": dg.MetadataValue.md(what_next(snapshot)),
        "taken": dg.MetadataValue.timestamp(snapshot.taken),
        "stored": str(key),
        **numbers(snapshot),
    }


def _judged(snapshot: "Snapshot") -> dict[str, Any]:
    """The check of the critical probes: failed is an error, unknown a warning."""
    from nexus_ops.health.report import problems

    found = problems(snapshot)
    return {
        "passed": not found,
        "severity": dg.AssetCheckSeverity.ERROR if snapshot.state == "failed" else dg.AssetCheckSeverity.WARN,
        "description": "; ".join(found) or f"{snapshot.cluster} is {snapshot.state}",
        "metadata": {"state": snapshot.state, "taken": dg.MetadataValue.timestamp(snapshot.taken)},
    }


def _freshness(nexus: NexusResource, cluster: str) -> dict[str, Any]:
    """The check of the newest snapshot's age; a store that cannot be read has no fresh snapshot either."""
    from nexus_ops.errors import OperationError
    from nexus_ops.health.history import judge_freshness, newest

    now = datetime.now(UTC)
    try:
        key = newest(nexus.store(), cluster, now)
    except OperationError as error:
        return {"passed": False, "description": f"the history could not be read: {error}"}
    found = judge_freshness(key.taken if key else None, now)
    age = {} if found.minutes is None else {"minutes": found.minutes}
    return {"passed": found.fresh, "description": found.why, "metadata": age}


def _report(instance: dg.DagsterInstance, check: str, cluster: str, found: dict[str, Any]) -> None:
    """Report a check of one cluster that no check step of a run evaluates."""
    metadata = {name: dg.MetadataValue.float(v) if isinstance(v, float) else v for name, v in found.pop("metadata", {}).items()}  # fmt: skip
    evaluation = dg.AssetCheckEvaluation(
        asset_key=HEALTH, check_name=check, partition=cluster, metadata=metadata, **found
    )
    instance.report_runless_asset_event(evaluation)


health_checks = [critical_probes, fresh]
