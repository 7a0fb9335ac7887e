"""Two sensors per cluster beside the rollout's own: one has each verdict evaluated, one takes back what fails afterwards.

Both are level-triggered, from the record in the cluster and from what Dagster knows already: a lost daemon, a burnt run key
or a failed run only cost time.
"""

from datetime import UTC, datetime

import dagster as dg

from nexus_ops.assets.canary import is_evaluated
from nexus_ops.jobs.canary import EVALUATES, canary_evaluation
from nexus_ops.jobs.deploy import rollback as rollback_job
from nexus_ops.jobs.stages import DRIVES_TAG, tags_of
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.resources import NexusResource
from nexus_ops.sensors.rollout import AT_WORK, COMING, who_drives
from nexus_ops.topology import Cluster

EVALUATION_SECONDS, ROLLBACK_SECONDS = 15, 10
ATTEMPT_SECONDS = 60
"""A run that was asked for is given so long before it is asked for again; the attempt is in its key."""


def evaluation_sensor(cluster: Cluster) -> dg.SensorDefinition:
    """Has each verdict that a rollout has stored evaluated: at the end of every stage, and when it fails or is aborted."""

    @dg.sensor(
        name=f"evaluation_{cluster.name.replace('-', '_')}",
        job=canary_evaluation,
        minimum_interval_seconds=EVALUATION_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Evaluates each verdict on a candidate of {cluster.name}, for the asset canary_analysis.",
    )
    def sense(context: dg.SensorEvaluationContext, nexus: NexusResource) -> dg.SensorResult | dg.SkipReason:
        from nexus_ops.errors import OperationError
        from nexus_ops.rollouts.evaluation import newest_evidence
        from nexus_ops.rollouts.plan import read_ledger

        try:
            record = read_ledger(nexus.kept_rollouts(cluster.name)).record
        except OperationError as error:
            return dg.SkipReason(f"could not look: {error}")
        digest = newest_evidence(record)
        if record is None or not digest:
            return dg.SkipReason("no verdict has been stored yet")
        if context.cursor == digest or is_evaluated(context.instance, cluster.name, digest):
            return dg.SensorResult(skip_reason="the last verdict has been evaluated", cursor=digest)
        filters = dg.RunsFilter(statuses=[*COMING, *AT_WORK], tags={EVALUATES: cluster.name})
        if context.instance.get_run_records(filters, limit=1):
            return dg.SkipReason("a run evaluates it")
        attempt = int(datetime.now(UTC).timestamp()) // ATTEMPT_SECONDS
        config = {"ops": {"evaluate": {"config": {"cluster": cluster.name, "evidence": digest}}}}
        tags = {**tags_of(record), EVALUATES: cluster.name, "actor": "evaluation sensor"}
        key = f"{record.id}:{digest[:16]}:{attempt}"
        return dg.SensorResult([dg.RunRequest(run_key=key, run_config=config, tags=tags)])

    return sense


def rollback_sensor(cluster: Cluster) -> dg.SensorDefinition:
    """Takes back what a rollout has brought, while it is watched: guardrails, critical alerts, or a failed analysis."""

    @dg.sensor(
        name=f"rollback_{cluster.name.replace('-', '_')}",
        job=rollback_job,
        minimum_interval_seconds=ROLLBACK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Watches what was promoted on {cluster.name} for hours, and rolls it back when it fails.",
    )
    def sense(context: dg.SensorEvaluationContext, nexus: NexusResource) -> dg.SensorResult | dg.SkipReason:
        from nexus_ops.clusters.client import LEASE as KIND
        from nexus_ops.errors import OperationError
        from nexus_ops.rollouts.aftercare import ACTOR, look_after, mark_bad
        from nexus_ops.rollouts.driver import LEASE
        from nexus_ops.rollouts.plan import read_ledger

        now = datetime.now(UTC)
        try:
            rollout = nexus.kept_rollouts(cluster.name)
            ledger = read_ledger(rollout)
            record = ledger.record
            if record is not None and record.finished and context.cursor == record.id:
                return dg.SkipReason("what serves has been watched to the end")
            found = look_after(rollout, ledger)
            if record is None or not found.go_back:
                over = record is not None and found.health is None and record.finished
                return dg.SensorResult(skip_reason=found.why, cursor=record.id if record and over else None)
            lease = rollout.client.get(KIND, LEASE, cluster.ops_namespace)
            runs = dg.RunsFilter(statuses=[*COMING, *AT_WORK], tags={DRIVES_TAG: cluster.name})
            if driver := who_drives(lease, context.instance.get_run_records(runs), now):
                return dg.SkipReason(f"{found.why}: {driver} is at work on it")
            if found.health is not None:
                mark_bad(rollout, record, found.health)
        except OperationError as error:
            return dg.SkipReason(f"could not look: {error}")
        context.log.warning("%s goes back: %s", record.candidate.version, found.why)
        reason = f"{record.candidate.version} failed in its watch: {found.why}"
        key = f"{record.id}:back:{int(now.timestamp()) // ATTEMPT_SECONDS}"
        config = {"ops": {"plan_back": {"config": {"cluster": cluster.name, "reason": reason}}}}
        return dg.SensorResult(
            [
                dg.RunRequest(
                    run_key=key, run_config=config, tags={**tags_of(record), DRIVES_TAG: record.cluster, "actor": ACTOR}
                )
            ]
        )

    return sense


CANARY_SENSORS = [
    make(cluster) for cluster in TOPOLOGY.enabled_clusters for make in (evaluation_sensor, rollback_sensor)
]
