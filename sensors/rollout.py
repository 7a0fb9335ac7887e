"""One sensor per cluster: it looks after a rollout, cuts its traffic when it fails, and goes on with it when it is due.

It is level-triggered from the record in the cluster: a lost daemon, a burnt run key or a failed run only cost time. A run
takes many seconds to start, so nothing urgent waits for one: what fails loses its traffic in the tick that sees it.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from nexus_ops.assets.canary import CANARY_ANALYSIS
from nexus_ops.jobs.deploy import resume_rollout
from nexus_ops.jobs.stages import DRIVES_TAG, is_reported, tags_of
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.resources import NexusResource
from nexus_ops.topology import Cluster

if TYPE_CHECKING:
    from nexus_ops.rollouts.attend import Attended
    from nexus_ops.rollouts.record import Record

SECONDS = 5
ATTEMPT_SECONDS = 20
"""A run that was asked for is given so long before it is asked for again."""
QUIET_SECONDS = 20
"""A driver renews its lease every 5 seconds: a run that gives no sign for so long is dead, whatever Dagster says of it."""
COMING = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
AT_WORK = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
ACTOR = "rollout sensor"


def rollout_sensor(cluster: Cluster) -> dg.SensorDefinition:
    """The rollout sensor of one cluster."""

    @dg.sensor(
        name=f"rollout_{cluster.name.replace('-', '_')}",
        job=resume_rollout,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Judges the rollout of {cluster.name}, takes its traffic away when it fails, and goes on with it when "
        "it is due; also when its run was killed.",
    )
    def sense(context: dg.SensorEvaluationContext, nexus: NexusResource) -> dg.SensorResult | dg.SkipReason:
        from nexus_ops.clusters.client import LEASE as KIND
        from nexus_ops.errors import OperationError
        from nexus_ops.rollouts.attend import attend
        from nexus_ops.rollouts.driver import LEASE
        from nexus_ops.rollouts.plan import read_ledger

        now = datetime.now(UTC)
        try:
            rollout = nexus.kept_rollouts(cluster.name)
            ledger = read_ledger(rollout)
            record = ledger.record
            if record is None:
                return dg.SkipReason("no rollout has begun")
            if record.finished and context.cursor == record.id:
                return dg.SkipReason(record.said)
            if record.finished and is_reported(context.instance, record):
                return dg.SensorResult(skip_reason=record.said, cursor=record.id)
            lease = rollout.client.get(KIND, LEASE, cluster.ops_namespace)
            driver = who_drives(lease, _runs(context.instance, cluster.name), now)
            if record.finished:  # the run that ended it was killed at its last word
                return dg.SkipReason(driver) if driver else _run(context, record, "its end has not been reported", now)
            attended = attend(rollout, ledger, now, driver=driver, actor=ACTOR, log=context.log.info)
        except OperationError as error:
            return dg.SkipReason(f"could not look: {error}")
        seen = [observation(attended, driver)] if attended.judged else []
        if not attended.due:
            why = f"{driver} goes on with it" if driver else attended.decision.why
            return dg.SensorResult(skip_reason=why, asset_events=seen)
        return _run(context, attended.record, attended.decision.why, now, seen)

    return sense


def _run(
    context: dg.SensorEvaluationContext,
    record: "Record",
    why: str,
    now: datetime,
    seen: Iterable[dg.AssetObservation] = (),
) -> dg.SensorResult:
    """Ask for a run that goes on with a rollout.

    The attempt is in the key: a key that was used once is never used again, not even after a failure.
    """
    stage = record.stage.name if record.stage else "over"
    key = f"{record.id}:{record.phase}:{stage}:{int(now.timestamp()) // ATTEMPT_SECONDS}"
    config = {"ops": {"find": {"config": {"cluster": record.cluster}}}}
    context.log.info("%s: %s", record.cluster, why)
    request = dg.RunRequest(
        run_key=key, run_config=config, tags={**tags_of(record), DRIVES_TAG: record.cluster, "actor": ACTOR}
    )
    return dg.SensorResult([request], asset_events=list(seen))


def observation(attended: "Attended", driver: str) -> dg.AssetObservation:
    """A decision with its numbers, for the asset `canary_analysis`."""
    record, decision, seen = attended.record, attended.decision, attended.observed
    metadata: dict[str, Any] = {
        "cluster": record.cluster,
        "decision": decision.step,
        "why": decision.why,
        "verdict": seen.verdict or "-",
        "verdict_reason": seen.verdict_reason or "-",
        "blames": seen.blames or "-",
        "stage": record.stage.name if record.stage else "over",
        "phase": record.phase,
        "weight_requested": record.weight,
        "version": record.candidate.version,
        "release": record.candidate.release,
        "rollout": record.id,
        "actor": driver or ACTOR,
    }
    # Numbers only where there are any: the UI plots them.
    numbers = {"weight_observed": record.observed, "requests": seen.requests}
    metadata |= {key: value for key, value in numbers.items() if value is not None}
    return dg.AssetObservation(CANARY_ANALYSIS, partition=record.cluster, metadata=metadata)


def _runs(instance: dg.DagsterInstance, cluster: str) -> Iterator[dg.RunRecord]:
    """The runs that drive a cluster or are about to; Dagster is asked only when the first of them is wanted."""
    yield from instance.get_run_records(dg.RunsFilter(statuses=[*COMING, *AT_WORK], tags={DRIVES_TAG: cluster}))


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
