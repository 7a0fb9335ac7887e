"""Drift: a check per cluster of what serves beside what its release states, and the schedule that looks for any drift hourly."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg

from nexus_ops import partitions
from nexus_ops.assets.checking import tell_change
from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.assets.infrastructure import infrastructure_checks
from nexus_ops.resources import NexusResource

PATIENCE = 4.0
"""Seconds for which a busy API server is tried again: a cluster that is away must not hold up the others' verdicts."""
CHECKS = {f"drift_{cluster.replace('-', '_')}": cluster for cluster in partitions.clusters.get_partition_keys()}


@dg.multi_asset_check(
    name="drift_checks",
    specs=[
        dg.AssetCheckSpec(
            name,
            asset=DEPLOYMENT,
            description=(
                f"{cluster}: what serves is as its release states it, but for sizes and weights. What could not be seen "
                "is a warning. Evaluated every hour; docs/drift.md."
            ),
        )
        for name, cluster in CHECKS.items()
    ],
    can_subset=True,
)
def drift_checks(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> Iterator[dg.AssetCheckResult]:
    """Compare every cluster at once; tell people when one begins to drift, and when it no longer does."""
    keys = sorted(context.selected_asset_check_keys)
    with ThreadPoolExecutor(max(1, len(keys))) as pool:
        for key, found in zip(keys, pool.map(lambda key: _look(nexus, CHECKS[key.name]), keys), strict=True):
            context.log.info("%s: %s", CHECKS[key.name], found["description"])
            tell_change(context.instance, nexus.notifier(), key, f"Drift on {CHECKS[key.name]}", found)
            yield dg.AssetCheckResult(check_name=key.name, **found)


drift_of_all_clusters = dg.define_asset_job(
    "drift_of_all_clusters",
    selection=dg.AssetSelection.checks(drift_checks, infrastructure_checks),
    description="What serves on each cluster beside its release; nodes and add-ons beside the topology.",
)

drift_schedule = dg.ScheduleDefinition(
    name="drift_every_hour",
    job=drift_of_all_clusters,
    tags={"actor": "drift schedule"},
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Looks for drift on all enabled clusters, by dry runs: nothing is changed.",
)


def _look(nexus: NexusResource, cluster: str) -> dict[str, Any]:
    """The verdict on one cluster: drift is an error, what could not be seen a warning."""
    from nexus_ops.errors import OperationError
    from nexus_ops.rollouts.drift import drift_of
    from nexus_ops.rollouts.plan import read_ledger

    unseen: dict[str, Any] = {"passed": False, "severity": dg.AssetCheckSeverity.WARN}
    try:
        rollout = nexus.rollouts(cluster, patience=PATIENCE)
        found = drift_of(rollout, read_ledger(rollout).record)
    except OperationError as error:
        return {**unseen, "description": f"could not look: {error}"}
    if found is None:
        return {**unseen, "description": "nothing is deployed here, as far as the rollout's record says"}
    return {
        "passed": found.same,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": found.summary(),
        "metadata": {
            "drift": dg.MetadataValue.md(found.to_markdown()),
            "objects_compared": found.seen,
            "objects_that_differ": len(found.changes),
            "release": found.release,
            "what_next": "Nothing: all is as released."
            if found.same
            else "Find out who changed it and why. What is to stay goes into the release; the rest is undone by hand.",
        },
    }
