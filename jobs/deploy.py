"""The jobs that move releases: deploy, rollback; abort, pause, unpause, approve, promote_full; and the sensor's own."""

import getpass
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.jobs.stages import CLUSTER_TAG, DRIVES_TAG, drive_stages, tag_run
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.refusals import in_a_sentence
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.rollouts.record import Record

CLUSTERS = ", ".join(cluster.name for cluster in TOPOLOGY.enabled_clusters)


class DeployConfig(dg.Config):
    """What to deploy, and where. With dry_run nothing changes: the plan and the differences are shown."""

    cluster: str = Field(description=f"The cluster to deploy to. One of: {CLUSTERS}.")
    version: str = Field(description="A version of which a release was built (asset `release`), for example v1.1.0.")
    dry_run: bool = Field(default=True, description="Only show the plan. Set to false to deploy.")
    strategy: str = Field(
        default="",
        description="blue-green: all traffic at once, then watched. canary: 5, 10, 25, 50, 100 % of it, each watched and "
        "judged before the next. Empty: the environment's.",
    )
    bake_seconds: int | None = Field(
        default=None, description="Canary: how long each share is watched; empty: the environment's."
    )
    gates: list[str] | None = Field(
        default=None,
        description="Stages that begin only when a person has launched the job approve, for example [canary-25]; "
        "empty: the environment's.",
    )
    monitor_seconds: int | None = Field(
        default=None,
        description="How long to watch the new colour when it has all traffic; empty: the environment's.",
    )
    hold_seconds: int | None = Field(
        default=None, description="How long the old colour stays as the way back; empty: the environment's."
    )
    adopt: bool = Field(
        default=False,
        description="Take over objects that belong to a Helm release, with what it set of them. Only for the first deploy to "
        "a cluster that Helm has managed.",
    )
    logs_seconds: int | None = Field(
        default=None,
        description="How long a candidate that failed is kept without traffic, so that its logs can be read; empty: the environment's.",
    )
    force: bool = Field(
        default=False, description="Deploy a release that has failed before all the same. Without, it is refused."
    )


class RollbackConfig(dg.Config):
    """Go back to what served before."""

    cluster: str = Field(description=f"The cluster to roll back. One of: {CLUSTERS}.")
    reason: str = Field(default="by hand", description="Why; it is kept in the record.")
    leaves: str = Field(
        default="",
        description="The version that serves and is to go. Needed only where something has gone back already, by itself or by "
        "rollback: then nothing is known to be wrong with what serves.",
    )
    dry_run: bool = Field(default=False, description="Only show what would be done.")


class WishConfig(dg.Config):
    """What is asked of the running rollout."""

    cluster: str = Field(description=f"The cluster whose rollout it is about. One of: {CLUSTERS}.")
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
    context.instance.add_run_tags(context.run_id, {CLUSTER_TAG: cluster, DRIVES_TAG: cluster, "actor": _actor(context)})


def control_job(description: str, op: str, **fields: Any) -> Callable[[Callable[[], None]], dg.JobDefinition]:
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
@in_a_sentence
def plan(context: dg.OpExecutionContext, config: DeployConfig, nexus: NexusResource) -> Iterator[dg.Output[str]]:
    """Plan a rollout, and begin it when this is no dry run."""
    from nexus_ops.rollouts.operations import plan_rollout, start
    from nexus_ops.rollouts.plan import settings_for
    from nexus_ops.rollouts.prerequisites import check_prerequisites, require_prerequisites

    rollout = nexus.rollouts(config.cluster, report=context.log.info)
    context.instance.add_run_tags(context.run_id, {CLUSTER_TAG: config.cluster})
    settings = settings_for(
        rollout,
        strategy=config.strategy or None,
        bake_seconds=config.bake_seconds,
        gates=None if config.gates is None else tuple(config.gates),
        monitor_seconds=config.monitor_seconds,
        hold_seconds=config.hold_seconds,
        logs_seconds=config.logs_seconds,
        adopt=config.adopt,
    )
    planned = plan_rollout(rollout, config.version, settings, force=config.force)
    context.log.info("%s", planned.to_markdown())
    context.log_event(
        dg.AssetObservation(
            DEPLOYMENT, partition=config.cluster, metadata={"plan": dg.MetadataValue.md(planned.to_markdown())}
        )
    )
    if planned.unchanged:
        context.log.info("%s serves already, the same release: nothing to do.", config.version)
        return
    if config.dry_run:
        checks = check_prerequisites(rollout, planned.candidate, planned.stable, adopt=config.adopt)
        context.log.info("Prerequisites and gates:\n%s", "\n".join(map(str, checks)))
        missing = [check.name for check in checks if check.problem]
        then = (
            f"It would be refused: {', '.join(missing)}."
            if missing
            else "Launch it again with dry_run: false to deploy."
        )
        context.log.info("Dry run: nothing was changed. %s", then)
        return
    # Once more as its first stage; but what is known to fail does not even begin.
    require_prerequisites(rollout, planned.candidate, planned.stable, adopt=config.adopt)
    _drives(context, config.cluster)
    tag_run(context, start(rollout, planned, _actor(context)))
    yield dg.Output(config.cluster)


@dg.op(
    name="plan_back",
    out=dg.Out(str, is_required=False),
    description="Abort what runs, or begin the previous release again.",
)
@in_a_sentence
def plan_back(context: dg.OpExecutionContext, config: RollbackConfig, nexus: NexusResource) -> Iterator[dg.Output[str]]:
    """Within a rollout or its hold: abort, which is the instant way back. After it: deploy the previous release."""
    from nexus_ops.rollouts.operations import plan_rollback, request_abort, start
    from nexus_ops.rollouts.plan import read_ledger

    rollout = nexus.rollouts(config.cluster, report=context.log.info)
    context.instance.add_run_tags(context.run_id, {CLUSTER_TAG: config.cluster})
    planned = plan_rollback(rollout, config.leaves)
    record = read_ledger(rollout).record
    if planned is not None:
        serves = planned.stable.version if planned.stable else "nothing"
        context.log.info("%s serves; before it %s did, which is deployed again.", serves, planned.candidate.version)
        context.log.info("%s", planned.to_markdown())
    elif record is not None:
        context.log.info("%s", back_at_once(record))
    if config.dry_run:
        context.log.info("Dry run: nothing was changed. Launch it again with dry_run: false to go back.")
        return
    _drives(context, config.cluster)
    if planned is not None:
        tag_run(context, start(rollout, planned, _actor(context)))
    elif record is not None and record.phase != "rolling-back":
        request_abort(rollout, _actor(context), config.reason)
    yield dg.Output(config.cluster)


def back_at_once(record: "Record") -> str:
    """What `rollback` does about a rollout that runs, in words."""
    version = record.candidate.version
    if record.phase == "rolling-back":
        return f"{version} is on its way back already: {record.reason}"
    then = "its traffic goes back now" if record.weight else "no traffic has moved"
    return f"The rollout of {version} is aborted: {then}."


@dg.op(name="request_abort", description="Write the abort into the record: it wins over every other step.")
@in_a_sentence
def request(context: dg.OpExecutionContext, config: WishConfig, nexus: NexusResource) -> str:
    """Needs no lease: the driver that runs, or the next one, sees it before it does anything else."""
    from nexus_ops.rollouts.operations import request_abort

    _drives(context, config.cluster)
    record = request_abort(nexus.rollouts(config.cluster), _actor(context), config.reason)
    if record.phase == "rolling-back":
        why = "is on its way back already; it is not kept for its logs any longer"
        context.log.info("%s %s: %s", record.candidate.version, why, config.reason)
    else:
        context.log.info("%s will be rolled back: %s", record.candidate.version, config.reason)
    return config.cluster


@dg.op(name="grant_approval", description="Write the approval into the record.")
@in_a_sentence
def grant(context: dg.OpExecutionContext, config: ApproveConfig, nexus: NexusResource) -> str:
    """The sensor goes on with the rollout."""
    from nexus_ops.rollouts.operations import approve as approve_rollout

    _drives(context, config.cluster)
    record = approve_rollout(nexus.rollouts(config.cluster), _actor(context))
    context.log.info("%s may go on.", record.candidate.version)
    return config.cluster


@dg.op(name="request_pause", description="Write the pause into the record.")
@in_a_sentence
def request_pause(context: dg.OpExecutionContext, config: WishConfig, nexus: NexusResource) -> str:
    """The candidate keeps the share that it has, and is judged on; nothing further begins. The record says so, too."""
    from nexus_ops.rollouts.operations import pause as pause_rollout

    _drives(context, config.cluster)
    record = pause_rollout(nexus.rollouts(config.cluster), _actor(context), config.reason)
    context.log.info(
        "%s is held where it is. A verdict against it, and an abort, still count.", record.candidate.version
    )
    return config.cluster


@dg.op(name="end_pause", description="Take the pause out of the record.")
@in_a_sentence
def end_pause(context: dg.OpExecutionContext, config: ApproveConfig, nexus: NexusResource) -> str:
    """The rollout goes on from where it was held."""
    from nexus_ops.rollouts.operations import unpause as unpause_rollout

    _drives(context, config.cluster)
    record = unpause_rollout(nexus.rollouts(config.cluster))
    context.log.info("%s goes on.", record.candidate.version)
    return config.cluster


@dg.op(name="request_promotion", description="Write into the record that the bakes which are left are skipped.")
@in_a_sentence
def request_promotion(context: dg.OpExecutionContext, config: WishConfig, nexus: NexusResource) -> str:
    """Gates are skipped, too, but for that of a release without a way back."""
    from nexus_ops.rollouts.operations import promote

    _drives(context, config.cluster)
    record = promote(nexus.rollouts(config.cluster), _actor(context), config.reason)
    what = (
        "gets all traffic now"
        if record.weight < 100
        else "has all traffic already; a bake that runs is over, the hold is not"
    )
    context.log.info("%s %s. A verdict against it, and an abort, still count.", record.candidate.version, what)
    return config.cluster


@dg.op(name="find", description="Name the cluster whose rollout goes on.")
@in_a_sentence
def find(context: dg.OpExecutionContext, config: ResumeConfig) -> str:
    """The sensor's runs have the tag already; those that a person launches have not."""
    _drives(context, config.cluster)
    return config.cluster


@control_job(
    "Deploy a release to a cluster, blue-green or as a canary. Begins with a dry run: it shows the plan and changes nothing.",
    "plan",
    cluster="",
    version="",
    strategy="",
    dry_run=True,
)
def deploy() -> None:
    drive_stages(plan())


@control_job(
    "Go back to what served before: at once within the hold, else by deploying the previous release.",
    "plan_back",
    cluster="",
    reason="by hand",
    dry_run=False,
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


@control_job(
    "Hold the running rollout of a cluster where it is; the candidate is judged on, and goes back when it fails.",
    "request_pause",
    cluster="",
    reason="by hand",
)
def pause() -> None:
    drive_stages(request_pause())


@control_job("Let a paused rollout go on.", "end_pause", cluster="")
def unpause() -> None:
    drive_stages(end_pause())


@control_job(
    "Give the candidate all traffic now: the bakes and gates that are left are skipped. An abort, and a verdict against "
    "it, still send it back.",
    "request_promotion",
    cluster="",
    reason="by hand",
)
def promote_full() -> None:
    drive_stages(request_promotion())


@control_job("Go on with a rollout that waited or whose run died. Launched by the rollout sensor.", "find", cluster="")
def resume_rollout() -> None:
    drive_stages(find())


JOBS = [deploy, rollback, abort, pause, unpause, approve, promote_full, resume_rollout]
