"""A deploy's run as a process of its own, so that a test can kill it: python execute_deploy.py CLUSTER VERSION [STRATEGY].

The instance is the one of DAGSTER_HOME, the cluster that of KUBECONFIG. The lease runs out soon, as in drive.py.
"""

import sys

import dagster as dg
from drive import CLOSE, SHORT

from nexus_ops.clusters import lease
from nexus_ops.definitions import defs
from nexus_ops.jobs.stages import DRIVES_TAG


def main(cluster: str, version: str, strategy: str = "blue-green") -> None:
    """Execute the job as a run worker does: in this process, told to the instance step by step."""
    lease.DURATION, lease.SKEW = SHORT, CLOSE
    times = {"bake_seconds": 2, "monitor_seconds": 3, "hold_seconds": 1}
    config = {"cluster": cluster, "version": version, "dry_run": False, "strategy": strategy, **times}
    defs.resolve_job_def("deploy").execute_in_process(
        run_config={"ops": {"plan": {"config": config}}}, instance=dg.DagsterInstance.get(), tags={DRIVES_TAG: cluster}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
