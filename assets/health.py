"""Health: a snapshot per cluster, two checks of it, and the schedule that takes all of them every five minutes.

The asset is materialised by hand, a cluster at a time. The schedule launches one run for all clusters, for a process
per cluster would cost more than what it does; it reports the same materialization and the same checks.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from nexus_ops import partitions
from nexus_ops.assets.checking import last_evaluation, report_check, tell_change
from nexus_ops.assets.over_time import over_time
from nexus_ops.markdown import paragraph
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.health.history import SnapshotKey
    from nexus_ops.health.model import Snapshot
    from nexus_ops.health.take import Connect

HEALTH = dg.AssetKey("health")
OVER_TIME = {
    "Overall: 3 healthy, 2 degraded, 1 unknown, 0 failed": ["score"],
    "Pods": ["workloads/pods ready", "workloads/pods wanted"],
    "Edge, median milliseconds": ["edge/median milliseconds"],
}
What = Literal["critical_probes", "fresh"]
NEVER: dict[str, float] = {}
"""The metadata of a check of freshness where there is no snapshot at all."""
DESCRIPTIONS: dict[What, str] = {
    "critical_probes": "no critical probe of the newest snapshot has failed; one that could see nothing is a warning.",
    "fresh": "the newest snapshot is at most 15 minutes old. The schedule looks each time before it launches a run.",
}


TABLE = dg.TableSchema(
    [
        *(dg.TableColumn(name) for name in ("probe", "state", "why", "what_next")),
        dg.TableColumn("critical", "bool"),
        dg.TableColumn("seconds", "float"),
    ]
)


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
    return dg.MaterializeResult(metadata=_metadata(context.instance, snapshot, save(nexus.store(), snapshot)))


def check_name(what: What, cluster: str) -> str:
    """The name of a cluster's check. One check per cluster, for of a partitioned check only the first report that
    comes without a check step of its own could be stored (a unique key of Dagster's table)."""
    return f"{what}_{cluster.replace('-', '_')}"


CHECKS: dict[str, tuple[What, str]] = {
    check_name(what, cluster): (what, cluster)
    for what in DESCRIPTIONS
    for cluster in partitions.clusters.get_partition_keys()
}


@dg.multi_asset_check(
    name="health_checks",
    specs=[
        dg.AssetCheckSpec(name, asset=HEALTH, description=f"{cluster}: {DESCRIPTIONS[what]}")
        for name, (what, cluster) in CHECKS.items()
    ],
    can_subset=True,
)
def health_checks(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> Iterator[dg.AssetCheckResult]:
    """Judge the newest snapshot of every cluster, from the store."""
    for key in sorted(context.selected_asset_check_keys):
        found = _evaluate(nexus, *CHECKS[key.name])
        _tell(context.instance, nexus, key, found)
        yield dg.AssetCheckResult(check_name=key.name, **found)


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Take the snapshots of all enabled clusters at once; each is reported as soon as it is there.",
)
def look_at_all_clusters(
    context: dg.OpExecutionContext, nexus: NexusResource
) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    from nexus_ops.health.history import save
    from nexus_ops.health.probes import PROBES
    from nexus_ops.health.take import take_all

    store = nexus.store()
    names = [cluster.name for cluster in nexus.topology().enabled_clusters]
    for snapshot in take_all({name: _connect(nexus, name) for name in names}, PROBES):
        context.log.info("%s is %s", snapshot.cluster, snapshot.state)
        metadata = _metadata(context.instance, snapshot, save(store, snapshot))
        yield dg.AssetMaterialization(HEALTH, partition=snapshot.cluster, metadata=metadata)
    # The UI shows a check as evaluated only when it is of the newest materialization.
    for name, (what, cluster) in CHECKS.items():
        if cluster in names:
            _tell_and_report(context.instance, nexus, name, _evaluate(nexus, what, cluster))
    yield dg.Output(None)


@dg.job(description="The health of every enabled cluster, all at once.")
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
        if check_name("fresh", cluster.name) not in CHECKS:
            continue  # enabled since the definitions were loaded
        found = _evaluate(nexus, "fresh", cluster.name)
        if not found["passed"]:
            key = dg.AssetCheckKey(HEALTH, check_name("fresh", cluster.name))
            if found.get("metadata") == NEVER and last_evaluation(context.instance, key) is None:
                # Nobody has looked yet: the run that is launched now does. It is an alarm if the next tick finds none.
                found |= {"severity": dg.AssetCheckSeverity.WARN, "description": "the first snapshot is being taken"}
            _tell_and_report(context.instance, nexus, check_name("fresh", cluster.name), found)
    return dg.RunRequest(tags={"actor": "health schedule"})


def _tell(instance: dg.DagsterInstance, nexus: NexusResource, key: dg.AssetCheckKey, found: dict[str, Any]) -> None:
    """People are told when a check begins to fail, and when it holds again. Before it is reported: its last verdict is
    the memory of what was told."""
    what, cluster = CHECKS[key.name]
    title = f"Health of {cluster}" if what == "critical_probes" else f"Snapshots of {cluster}"
    tell_change(instance, nexus.notifier(), key, title, found)


def _tell_and_report(instance: dg.DagsterInstance, nexus: NexusResource, name: str, found: dict[str, Any]) -> None:
    """A check that no check step of a run evaluates."""
    key = dg.AssetCheckKey(HEALTH, name)
    _tell(instance, nexus, key, found)
    report_check(instance, key, found)


def _connect(nexus: NexusResource, cluster: str) -> "Connect":
    from nexus_ops.health.probes import PATIENCE

    return lambda: nexus.rollouts(cluster, patience=PATIENCE)


def _metadata(instance: dg.DagsterInstance, snapshot: "Snapshot", key: "SnapshotKey") -> dict[str, Any]:
    from nexus_ops.health.report import numbers, rows, summary, table, what_next

    found = numbers(snapshot)
    return {
        "cluster": snapshot.cluster,
        "summary": dg.MetadataValue.md(paragraph(summary(snapshot))),
        "what_next": dg.MetadataValue.md(paragraph(what_next(snapshot))),
        "report": dg.MetadataValue.md(table(snapshot)),
        "over_time": over_time(instance, HEALTH, snapshot.cluster, OVER_TIME, found),
        "probes": dg.TableMetadataValue([dg.TableRecord(row) for row in rows(snapshot)], TABLE),
        "state": snapshot.state,
        "taken": dg.MetadataValue.timestamp(snapshot.taken),
        "stored": str(key),
        **found,
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


def _evaluate(nexus: NexusResource, what: What, cluster: str) -> dict[str, Any]:
    """A check of a cluster's newest snapshot; a store that cannot be read has no good one."""
    from nexus_ops.errors import OperationError
    from nexus_ops.health.history import judge_freshness, load, newest

    now = datetime.now(UTC)
    try:
        store = nexus.store()
        key = newest(store, cluster, now)
        if key is not None and what == "critical_probes":
            return _judged(load(store, key))
    except OperationError as error:
        return {"passed": False, "description": f"the history could not be read: {error}"}
    found = judge_freshness(key.taken if key else None, now)
    age = NEVER if found.minutes is None else {"minutes": found.minutes}
    return {"passed": found.fresh, "description": found.why, "metadata": age}
