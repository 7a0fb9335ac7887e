"""One sensor per cluster: it goes on with a rollout that waited, or whose run died.

It is level-triggered from the record in the cluster: a lost daemon, a burnt run key or a failed run only cost time.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from nexus_ops.jobs.deploy import CLUSTER_TAG, resume_rollout
from nexus_ops.jobs.stages import is_reported
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.resources import NexusResource
from nexus_ops.topology import Cluster

if TYPE_CHECKING:
    from nexus_ops.rollouts.context import RolloutContext
    from nexus_ops.rollouts.record import Ledger

SECONDS = 5
ATTEMPT_SECONDS = 20
"""A run that was asked for is given so long before it is asked for again."""
QUIET_SECONDS = 20
"""A driver renews its lease every 5 seconds: a run that gives no sign for so long is dead, whatever Dagster says of it."""
COMING = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
AT_WORK = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def rollout_sensor(cluster: Cluster) -> dg.SensorDefinition:
    """The rollout sensor of one cluster."""

    @dg.sensor(
        name=f"rollout_{cluster.name.replace('-', '_')}",
        job=resume_rollout,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Goes on with the rollout of {cluster.name} when it is due; also when its run was killed.",
    )
    def sense(context: dg.SensorEvaluationContext, nexus: NexusResource) -> dg.SensorResult | dg.SkipReason:
        from nexus_ops.clusters.client import LEASE as KIND
        from nexus_ops.errors import OperationError
        from nexus_ops.rollouts.driver import LEASE
        from nexus_ops.rollouts.plan import read_ledger

        now = datetime.now(UTC)
        try:
            rollout = nexus.rollouts(cluster.name, patience=5.0)
            ledger = read_ledger(rollout)
            lease = rollout.client.get(KIND, LEASE, cluster.ops_namespace)
            why = reason_to_go_on(rollout, ledger, now)
            if ledger.record and ledger.record.finished and not is_reported(context.instance, ledger.record):
                why = "its end has not been reported"  # the run that ended it was killed at its last word
        except OperationError as error:
            return dg.SkipReason(f"could not look: {error}")
        record = ledger.record
        if record is None or not why:
            return dg.SkipReason(record.said if record else "no rollout has begun")
        filters = dg.RunsFilter(statuses=[*COMING, *AT_WORK], tags={CLUSTER_TAG: cluster.name})
        if driver := who_drives(lease, context.instance.get_run_records(filters), now):
            return dg.SkipReason(f"{driver} goes on with it")
        # The attempt is in the key: a key that was used once is never used again, not even after a failure.
        key = f"{record.id}:{record.stage.name if record.stage else record.phase}:{int(now.timestamp()) // ATTEMPT_SECONDS}"
        tags = {
            CLUSTER_TAG: cluster.name,
            "rollout": record.id,
            "release": record.candidate.release[:12],
            "actor": "rollout sensor",
        }
        context.log.info("%s: %s", cluster.name, why)
        config = {"ops": {"find": {"config": {"cluster": cluster.name}}}}
        return dg.SensorResult([dg.RunRequest(run_key=key, run_config=config, tags=tags)])

    return sense


def reason_to_go_on(rollout: "RolloutContext", ledger: "Ledger", now: datetime) -> str:
    """Why a driver has something to do; empty when it has not. While a rollout waits, its candidate is looked after."""
    from nexus_ops.rollouts.monitor import check_health
    from nexus_ops.rollouts.operations import due

    record = ledger.record
    if record is None or record.finished:
        return ""
    if due(record, aborted=ledger.abort is not None, approved=ledger.approval is not None, now=now):
        return "it is due"
    if record.stage is None or not record.stage.watched:
        return ""
    health = check_health(rollout, record)
    return health.reason if health.verdict == "fail" else ""


def who_drives(lease: dict[str, Any] | None, runs: Iterable[dg.RunRecord], now: datetime) -> str:
    """Who works on the rollout now, or is about to; empty when nobody does, or who did has died.

    Dagster needs a minute and more to notice that a run's process is gone. The lease tells earlier: whoever drives
    renews it, and a run that neither has just begun nor held it lately is not at work any more.
    """
    spec = (lease or {}).get("spec") or {}
    renewed = datetime.fromisoformat(spec["renewTime"]) if spec.get("renewTime") else datetime.min.replace(tzinfo=UTC)
    if spec.get("holderIdentity") and (now - renewed).total_seconds() < QUIET_SECONDS:
        return str(spec["holderIdentity"])
    for run in runs:
        name = f"run {run.dagster_run.run_id[:8]} ({run.dagster_run.status.value.lower()})"
        if run.dagster_run.status in COMING:
            return name
        began = datetime.fromtimestamp(run.start_time or run.create_timestamp.timestamp(), UTC)
        if (now - max(began, renewed)).total_seconds() < QUIET_SECONDS:
            return name
    return ""


SENSORS = [rollout_sensor(cluster) for cluster in TOPOLOGY.enabled_clusters]
