"""The jobs that move releases: deploy, rollback, abort, approve, and the one that the sensor resumes with."""

import getpass
from collections.abc import Callable, Iterator

import dagster as dg
from pydantic import Field

from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.jobs.stages import drive_stages
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.resources import NexusResource

CLUSTER_TAG = "cluster"
"""The tag of runs that drive a rollout of this cluster: the sensor starts none beside them."""
CLUSTERS = ", ".join(cluster.name for cluster in TOPOLOGY.enabled_clusters)


class DeployConfig(dg.Config):
    """What to deploy, and where. With dry_run nothing changes: the plan and the differences are shown."""

    cluster: str = Field(description=f"The cluster to deploy to. One of: {CLUSTERS}.")
    version: str = Field(description="A version of which a release was built (asset `release`), for example v1.1.0.")
    dry_run: bool = Field(default=True, description="Only show the plan. Set to false to deploy.")
    monitor_seconds: int | None = Field(
        default=None, description="How long to watch the new colour; empty: the environment's."
    )
    hold_seconds: int | None = Field(
        default=None, description="How long the old colour stays as the way back; empty: the environment's."
    )
    adopt: bool = Field(
        default=False,
        description="Take over objects that belong to a Helm release, with what it set of them. Only for the first deploy to "
        "a cluster that Helm has managed.",
    )


class RollbackConfig(dg.Config):
    """Go back to what served before."""

    cluster: str = Field(description=f"The cluster to roll back. One of: {CLUSTERS}.")
    reason: str = Field(default="by hand", description="Why; it is kept in the record.")


class AbortConfig(dg.Config):
    """Stop the running rollout and go back."""

    cluster: str = Field(description=f"The cluster whose rollout is to stop. One of: {CLUSTERS}.")
    reason: str = Field(default="by hand", description="Why; it is kept in the record.")


class ApproveConfig(dg.Config):
    """Let a rollout go on that waits for a person."""

    cluster: str = Field(description=f"The cluster whose rollout waits. One of: {CLUSTERS}.")


class ResumeConfig(dg.Config):
    """Go on with a rollout."""

    cluster: str = Field(description=f"The cluster whose rollout is to go on. One of: {CLUSTERS}.")


def _actor(context: dg.OpExecutionContext) -> str:
    return context.run_tags.get("actor") or context.run_tags.get("dagster/sensor_name") or getpass.getuser()


def _drives(context: dg.OpExecutionContext, cluster: str) -> None:
    """Mark the run as one that is about to drive a rollout, for the sensor and for those who look for it."""
    context.instance.add_run_tags(context.run_id, {CLUSTER_TAG: cluster})


def control_job(description: str, op: str, **fields: str | bool) -> Callable[[Callable[[], None]], dg.JobDefinition]:
    """A job of the control plane: in one process, for a step in a new one costs many seconds.

    `fields` of the first op are what the Launchpad opens with: what is empty is to be filled in, and refused if it is not.
    """
    return dg.job(
        description=description,
        executor_def=dg.in_process_executor,
        config={"ops": {op: {"config": fields}}},
    )


@dg.op(
    name="plan",
    out=dg.Out(str, is_required=False),
    description="Show the plan and the way back; begin, unless it is a dry run.",
)
def plan(context: dg.OpExecutionContext, config: DeployConfig, nexus: NexusResource) -> Iterator[dg.Output[str]]:
    """Plan a rollout, and begin it when this is no dry run."""
    from nexus_ops.rollouts.operations import Settings, plan_rollout, start

    rollout = nexus.rollouts(config.cluster, report=context.log.info)
    times = rollout.topology.environment_of(rollout.cluster).rollout
    settings = Settings(
        monitor_seconds=times.monitor_seconds if config.monitor_seconds is None else config.monitor_seconds,
        hold_seconds=times.hold_seconds if config.hold_seconds is None else config.hold_seconds,
        adopt=config.adopt,
    )
    planned = plan_rollout(rollout, config.version, settings)
    context.log.info("%s", planned.to_markdown())
    context.log_event(
        dg.AssetObservation(
            DEPLOYMENT, partition=config.cluster, metadata={"plan": dg.MetadataValue.md(planned.to_markdown())}
        )
    )
    if config.dry_run:
        context.log.info("Dry run: nothing was changed. Launch it again with dry_run: false to deploy.")
        return
    if planned.unchanged:
        context.log.info("%s serves already, the same release: nothing to do.", config.version)
        return
    _drives(context, config.cluster)
    start(rollout, planned, _actor(context))
    yield dg.Output(config.cluster)


@dg.op(
    name="plan_back",
    out=dg.Out(str, is_required=False),
    description="Abort what runs, or begin the previous release again.",
)
def plan_back(context: dg.OpExecutionContext, config: RollbackConfig, nexus: NexusResource) -> Iterator[dg.Output[str]]:
    """Within a rollout or its hold: abort, which is the instant way back. After it: deploy the previous release."""
    from nexus_ops.rollouts.operations import plan_rollback, request_abort, start

    rollout = nexus.rollouts(config.cluster, report=context.log.info)
    planned = plan_rollback(rollout)
    _drives(context, config.cluster)
    if planned is None:
        request_abort(rollout, _actor(context), config.reason)
        context.log.info("The rollout is aborted: traffic goes back now.")
    else:
        context.log.info("%s", planned.to_markdown())
        start(rollout, planned, _actor(context))
    yield dg.Output(config.cluster)


@dg.op(name="request_abort", description="Write the abort into the record: it wins over every other step.")
def request(context: dg.OpExecutionContext, config: AbortConfig, nexus: NexusResource) -> str:
    """Needs no lease: the driver that runs, or the next one, sees it before it does anything else."""
    from nexus_ops.rollouts.operations import request_abort

    _drives(context, config.cluster)
    record = request_abort(nexus.rollouts(config.cluster), _actor(context), config.reason)
    context.log.info("%s will be rolled back: %s", record.candidate.version, config.reason)
    return config.cluster


@dg.op(name="grant_approval", description="Write the approval into the record.")
def grant(context: dg.OpExecutionContext, config: ApproveConfig, nexus: NexusResource) -> str:
    """The sensor goes on with the rollout."""
    from nexus_ops.rollouts.operations import approve as approve_rollout

    _drives(context, config.cluster)
    record = approve_rollout(nexus.rollouts(config.cluster), _actor(context))
    context.log.info("%s may go on.", record.candidate.version)
    return config.cluster


@dg.op(name="find", description="Name the cluster whose rollout goes on.")
def find(context: dg.OpExecutionContext, config: ResumeConfig) -> str:
    """The sensor's runs have the tag already; those that a person launches have not."""
    _drives(context, config.cluster)
    return config.cluster


@control_job(
    "Deploy a release to a cluster, blue-green. Begins with a dry run: it shows the plan and changes nothing.",
    "plan",
    cluster="",
    version="",
    dry_run=True,
)
def deploy() -> None:
    drive_stages(plan())


@control_job(
    "Go back to what served before: at once within the hold, else by deploying the previous release.",
    "plan_back",
    cluster="",
    reason="by hand",
)
def rollback() -> None:
    drive_stages(plan_back())


@control_job(
    "Stop the running rollout of a cluster and go back. Always wins.", "request_abort", cluster="", reason="by hand"
)
def abort() -> None:
    drive_stages(request())


@control_job("Let a rollout go on that waits for a person's approval.", "grant_approval", cluster="")
def approve() -> None:
    drive_stages(grant())


@control_job("Go on with a rollout that waited or whose run died. Launched by the rollout sensor.", "find", cluster="")
def resume_rollout() -> None:
    drive_stages(find())


JOBS = [deploy, rollback, abort, approve, resume_rollout]
