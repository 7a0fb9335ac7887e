"""Job `diff`: what a release would change in a cluster, by hand, at any time. Changes nothing."""

import dagster as dg
from pydantic import Field

from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.jobs.deploy import CLUSTERS, control_job
from nexus_ops.jobs.stages import CLUSTER_TAG
from nexus_ops.refusals import in_a_sentence
from nexus_ops.resources import NexusResource


class DiffConfig(dg.Config):
    """Which release to hold against which cluster."""

    cluster: str = Field(description=f"The cluster to look at. One of: {CLUSTERS}.")
    version: str = Field(
        default="", description="A version of which a release was built. Empty: what serves, which shows the drift."
    )


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Ask the API server by dry runs what applying the release would change; nothing is changed.",
)
@in_a_sentence
def compare_with_cluster(context: dg.OpExecutionContext, config: DiffConfig, nexus: NexusResource) -> None:
    from nexus_ops.errors import PermanentError
    from nexus_ops.rollouts.drift import changes_to_live
    from nexus_ops.rollouts.plan import read_ledger

    rollout = nexus.rollouts(config.cluster)
    context.instance.add_run_tags(context.run_id, {CLUSTER_TAG: config.cluster})
    record = read_ledger(rollout).record
    serving = record.serving if record else None
    if serving is None:
        raise PermanentError(
            "nothing serves here yet, so there is nothing to compare with.", target=config.cluster, todo="Deploy first."
        )
    wanted = (
        rollout.releases.resolve(rollout.cluster.environment, config.version)
        if config.version
        else rollout.release(serving.release)
    )
    found = changes_to_live(rollout, wanted, serving)
    context.log.info("%s", found.to_markdown())
    context.log_event(
        dg.AssetObservation(
            DEPLOYMENT,
            partition=config.cluster,
            metadata={
                "diff": dg.MetadataValue.md(found.to_markdown()),
                "version": found.version,
                "objects_that_differ": len(found.changes),
            },
        )
    )


@control_job(
    "What a release would change in a cluster, and what somebody else has changed there. Changes nothing.",
    "compare_with_cluster",
    cluster="",
    version="",
)
def diff() -> None:
    compare_with_cluster()
