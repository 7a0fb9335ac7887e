"""A rollout as ops: one per stage, so that the run's graph shows how far it is.

Each op drives the rollout to the end of its stage, and no further than it can go without waiting long. When the
rollout has to wait (a bake, a hold, an approval), the op ends without an output, what follows is skipped, and the
rollout's sensor launches a run of the same graph when it is due. A stage that is over already, or that the rollout's
strategy does not have, is passed at once: every op looks at the record in the cluster afresh.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.markdown import bullets, paragraph, steps
from nexus_ops.refusals import in_a_sentence
from nexus_ops.resources import NexusResource
from nexus_ops.rollouts.strategy import CANARY, TITLES, Stage

if TYPE_CHECKING:
    from nexus_ops.rollouts.record import Record

PATIENCE = timedelta(seconds=60)
"""How long a run waits for what is expected soon before it leaves the rest to the sensor."""
ONLY_ASK = ("abort", "rollback", "pause", "unpause", "approve", "promote_full")
"""Jobs that only ask something of a rollout: whoever drives it does it."""
WANTED_BACK = ("abort", "rollback")
"""Jobs whose purpose is that the candidate goes: to them its end is a success."""
NOT_THEIRS = (*WANTED_BACK, "resume_rollout")
"""Jobs that have not failed because a candidate is on its way back: it was on it before."""
CLUSTER_TAG = "cluster"
"""The tag of the cluster that a run is about: the filter of the page Runs."""
DRIVES_TAG = "drives"
"""The tag of runs that drive a rollout of this cluster: the sensor starts none beside them."""


def stage_op(stage: Stage) -> dg.OpDefinition:
    """The op of one stage: takes and hands on the cluster's name."""

    @dg.op(
        name=stage.name.replace("-", "_"),
        ins={"cluster": dg.In(str)},
        out=dg.Out(str, is_required=False),
        description=f"{TITLES[stage.name].capitalize()}. Ends without an output when the rollout has to wait.",
    )
    @in_a_sentence
    def drive(context: dg.OpExecutionContext, nexus: NexusResource, cluster: str) -> Iterator[dg.Output[str]]:
        from nexus_ops.clusters.errors import LeaseHeld
        from nexus_ops.rollouts.driver import advance

        rollout = nexus.rollouts(cluster, report=context.log.info)
        try:
            result = advance(rollout, until_stage=stage.name, patience=PATIENCE, holder=f"run-{context.run_id[:8]}")
        except LeaseHeld as error:
            done = "It sees what was asked within seconds; nothing is left to do here."
            context.log.info("%s", f"{error.target}: {error.problem} {done}" if context.job_name in ONLY_ASK else error)
            return
        if result.record is not None:
            tag_run(context, result.record)
            if not is_reported(context.instance, result.record):
                report(context, result.record, rollout.store.url)
        if result.state == "rolled-back":
            if context.job_name in WANTED_BACK:
                context.log.info("Rolled back, as asked: %s", result.why)
                return
            raise dg.Failure(f"Rolled back: {result.why}", allow_retries=False)
        if result.state == "waiting":
            record = result.record
            if record and record.phase == "rolling-back" and context.job_name not in NOT_THEIRS:
                raise dg.Failure(f"Going back: {record.reason}. The rollout sensor ends it.", allow_retries=False)
            until = f" (until {result.until:%H:%M:%S} UTC)" if result.until else ""
            context.log.info("Waiting%s: %s. The rollout sensor goes on by itself.", until, result.why)
            return
        yield dg.Output(cluster)

    return drive


def tags_of(record: "Record") -> dict[str, str]:
    """The tags by which the runs of a rollout are found."""
    return {
        CLUSTER_TAG: record.cluster,
        "release": record.candidate.release[:12],
        "rollout": record.id,
        "stage": record.stage.name if record.stage else "over",
    }


def tag_run(context: dg.OpExecutionContext, record: "Record") -> None:
    """Say on the run which rollout it has driven, and how far."""
    tags = tags_of(record)
    if any(context.run_tags.get(key) != value for key, value in tags.items()):
        context.instance.add_run_tags(context.run_id, tags)


def is_reported(instance: dg.DagsterInstance, record: "Record") -> bool:
    """Whether the asset `deployment` knows the end of this rollout."""
    if not record.finished:
        return False
    wanted = dg.AssetRecordsFilter(asset_key=DEPLOYMENT, asset_partitions=[record.cluster])
    found = instance.fetch_materializations(wanted, limit=1).records
    told = found[0].asset_materialization if found else None
    return told is not None and told.metadata["rollout"].value == record.id


def report(context: dg.OpExecutionContext, record: "Record", store: str) -> None:
    """Tell the asset `deployment` where the rollout stands: an observation, and at its end a materialization."""
    from nexus_ops.rollouts.record import moment
    from nexus_ops.rollouts.result import result_of

    result = result_of(record)
    # In the order of an operator's questions: what, is it good, what next, from what, by whom, when; then the rest.
    metadata = {
        "cluster": record.cluster,
        "summary": result.summary(),
        "reason": dg.MetadataValue.md(paragraph(result.reason) or "none"),
        "blames": record.blames or "-",
        "now": dg.MetadataValue.md(paragraph("it is over" if record.finished else record.said)),
        "what_next": dg.MetadataValue.md(paragraph(result.what_next())),
        "version": result.version,
        "colour": result.colour,
        "from": result.before,
        "actor": result.actor,
        "began": dg.MetadataValue.timestamp(moment(record.started)),
        "updated": dg.MetadataValue.timestamp(moment(record.updated or record.started)),
        "seconds": round(result.seconds, 1),
        "timings": dg.MetadataValue.md(bullets(f"{name}: {seconds} s" for name, seconds in result.timings.items())),
        "strategy": record.settings.strategy,
        "success": result.success if record.finished else "not over yet",
        "phase": result.phase,
        "stage": record.stage.name if record.stage else "over",
        "bakes": dg.MetadataValue.md(bullets(result.bakes)),
        "smoke_tests": dg.MetadataValue.md(bullets(f"**{name}**: {answers}" for name, answers in result.smoke.items())),
        "rollback_plan": dg.MetadataValue.md(steps(result.rollback)),
        "weight_requested": record.weight,
        # A number where there is one, so that the UI plots both weights over time.
        "weight_observed": record.observed if record.observed is not None else "not seen yet",
        "events": dg.MetadataValue.md(bullets(result.events)),
        "evidence": dg.MetadataValue.md(
            bullets(f"{verdict}: {store}/{key}" for verdict, key in result.evidence.items())
        ),
        "plan": f"{store}/plans/{result.plan}",
        "release": result.release,
        "rollout": result.rollout,
    }
    if record.finished:
        context.log_event(dg.AssetMaterialization(DEPLOYMENT, partition=record.cluster, metadata=metadata))
    else:
        context.log_event(dg.AssetObservation(DEPLOYMENT, partition=record.cluster, metadata=metadata))


STAGE_OPS = [stage_op(stage) for stage in CANARY]
"""The canary's stages are all that there are: blue-green has the same without the shares."""


def drive_stages(cluster: object) -> None:
    """Chain the stages' ops, in a job's body."""
    value = cluster
    for op in STAGE_OPS:
        value = op(cluster=value)
