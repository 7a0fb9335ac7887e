"""Everything that is registered, in one place."""

import dagster as dg

from nexus_ops.assets.deployments import deployment
from nexus_ops.assets.releases import release, release_checks
from nexus_ops.jobs.deploy import JOBS
from nexus_ops.resources import NexusResource
from nexus_ops.sensors.rollout import SENSORS

defs = dg.Definitions(
    assets=[release, deployment],
    asset_checks=release_checks,
    jobs=JOBS,
    sensors=SENSORS,
    # What ops hand on is a name or two: nothing of it belongs on disk.
    resources={"nexus": NexusResource(), "io_manager": dg.mem_io_manager},
    executor=dg.in_process_executor,
)
