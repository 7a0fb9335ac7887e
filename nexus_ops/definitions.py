"""Everything that is registered, in one place: what does the work, and the watchdog over all of it that runs by itself."""

import warnings

import dagster as dg

# What we use of Dagster that may yet change is known, and its version is pinned: not to be said at every command.
for known in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", category=known, module="dagster|nexus_ops")

from nexus_ops.assets.backups import backup_checks, backup_postgresql, backup_redis, drill
from nexus_ops.assets.canary import canary_analysis
from nexus_ops.assets.deployments import deployment
from nexus_ops.assets.drift import drift_checks, drift_of_all_clusters, drift_schedule
from nexus_ops.assets.health import health, health_checks, health_of_all_clusters, health_schedule
from nexus_ops.assets.infrastructure import cluster_config, infrastructure_checks
from nexus_ops.assets.releases import release, release_checks
from nexus_ops.jobs.backups import BACKUP_JOBS, BACKUP_SCHEDULES
from nexus_ops.jobs.canary import canary_evaluation
from nexus_ops.jobs.deploy import JOBS
from nexus_ops.jobs.diff import diff
from nexus_ops.resources import nexus_resource
from nexus_ops.sensors.backups import BACKUP_SENSORS
from nexus_ops.sensors.canary import CANARY_SENSORS
from nexus_ops.sensors.rollout import SENSORS
from nexus_ops.sensors.watchdog import watchdog_of

working = dg.Definitions(
    assets=[release, deployment, canary_analysis, health, backup_postgresql, backup_redis, drill, cluster_config],
    asset_checks=[*release_checks, health_checks, drift_checks, backup_checks, infrastructure_checks],
    jobs=[*JOBS, canary_evaluation, diff, health_of_all_clusters, drift_of_all_clusters, *BACKUP_JOBS],
    schedules=[health_schedule, drift_schedule, *BACKUP_SCHEDULES],
    sensors=[*SENSORS, *CANARY_SENSORS, *BACKUP_SENSORS],
    # What ops hand on is a name or two: nothing of it belongs on disk.
    resources={"nexus": nexus_resource, "io_manager": dg.mem_io_manager},
    executor=dg.in_process_executor,
)

watchdog = watchdog_of([*(working.sensors or ()), *(working.schedules or ())])

defs = dg.Definitions.merge(
    working,
    dg.Definitions(assets=[watchdog.asset], asset_checks=[watchdog.checks], sensors=[watchdog.sensor]),
)
del working  # a module with two Definitions is no code location: Dagster would not know which one is meant
