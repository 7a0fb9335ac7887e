"""The job `canary_evaluation`: a verdict with its evidence and pictures, as a materialization of `canary_analysis`."""

import dagster as dg
from pydantic import Field

from nexus_ops.assets.canary import evaluation_of
from nexus_ops.jobs.deploy import CLUSTERS, control_job
from nexus_ops.jobs.stages import CLUSTER_TAG
from nexus_ops.refusals import in_a_sentence
from nexus_ops.resources import NexusResource

EVALUATES = "evaluates"
"""The tag of runs that evaluate a cluster's canary; they drive nothing."""


class EvaluationConfig(dg.Config):
    """Whose canary to evaluate."""

    cluster: str = Field(description=f"The cluster whose rollout is evaluated. One of: {CLUSTERS}.")
    evidence: str = Field(default="", description="Digest of stored evidence; empty: what is known now.")


@dg.op(name="evaluate", out=dg.Out(dg.Nothing), description="Judge the evidence again, and draw it.")
@in_a_sentence
def evaluate_canary(context: dg.OpExecutionContext, config: EvaluationConfig, nexus: NexusResource) -> None:
    """Changes nothing in the cluster, and needs no lease."""
    from nexus_ops.rollouts.evaluation import evaluate

    rollout = nexus.rollouts(config.cluster, report=context.log.info)
    context.instance.add_run_tags(context.run_id, {CLUSTER_TAG: config.cluster, EVALUATES: config.cluster})
    found = evaluate(rollout, config.evidence)
    context.log.info("%s: %s", found.verdict, found.reason)
    context.log_event(evaluation_of(found, rollout.store.url))


@control_job(
    "Evaluate the canary of a cluster: verdict, evidence and pictures, as the asset canary_analysis. Changes nothing.",
    "evaluate",
    cluster="",
)
def canary_evaluation() -> None:
    evaluate_canary()
