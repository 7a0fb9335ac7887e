"""One sensor per cluster: it goes on with a rollout that waited, or whose run died.

It is level-triggered from the record in the cluster: a lost daemon, a burnt run key or a failed run only cost time.
"""

from datetime import UTC, datetime

import dagster as dg

from nexus_ops.jobs.deploy import resume_rollout
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.resources import NexusResource
from nexus_ops.topology import Cluster

SECONDS = 5
ATTEMPT_SECONDS = 20
"""A run that was asked for is given so long before it is asked for again."""


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
        from nexus_ops.rollouts.operations import due
        from nexus_ops.rollouts.plan import read_ledger

        now = datetime.now(UTC)
        try:
            rollout = nexus.rollouts(cluster.name, patience=5.0)
            ledger = read_ledger(rollout)
            lease = rollout.client.get(KIND, LEASE, cluster.ops_namespace)
        except OperationError as error:
            return dg.SkipReason(f"could not look: {error}")
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity")
        renewed = ((lease or {}).get("spec") or {}).get("renewTime")
        driven = bool(holder) and renewed is not None and (now - datetime.fromisoformat(renewed)).total_seconds() < 20
        record = ledger.record
        ready = due(
            record,
            aborted=ledger.abort is not None,
            approved=ledger.approval is not None,
            now=now,
            lease_free=not driven,
        )
        if record is None or not ready:
            return dg.SkipReason(record.said if record else "no rollout has begun")
        # The attempt is in the key: a key that was used once is never used again, not even after a failure.
        key = f"{record.id}:{record.stage.name if record.stage else record.phase}:{int(now.timestamp()) // ATTEMPT_SECONDS}"
        tags = {
            "cluster": cluster.name,
            "rollout": record.id,
            "release": record.candidate.release[:12],
            "actor": "rollout sensor",
        }
        config = {"ops": {"find": {"config": {"cluster": cluster.name}}}}
        return dg.SensorResult([dg.RunRequest(run_key=key, run_config=config, tags=tags)])

    return sense


SENSORS = [rollout_sensor(cluster) for cluster in TOPOLOGY.enabled_clusters]
