"""The analysis of canaries: evidence, numbers and pictures per cluster. The job `canary_evaluation` materialises it.

A specification without a function: an evaluation belongs to a verdict, and 'materialize all' has none to offer.
"""

from typing import TYPE_CHECKING

import dagster as dg

from nexus_ops import partitions
from nexus_ops.markdown import paragraph

if TYPE_CHECKING:
    from nexus_ops.rollouts.evaluation import Evaluation

CANARY_ANALYSIS = dg.AssetKey("canary_analysis")
DIGEST = "evidence_digest"
"""The metadata key by which an evaluation is known."""
DECIMALS = 5
"""Of the numbers that are shown; the evidence has them whole."""

canary_analysis = dg.AssetSpec(
    key=CANARY_ANALYSIS,
    deps=["deployment"],
    group_name="deployments",
    kinds={"prometheus"},
    owners=["team:platform"],
    partitions_def=partitions.clusters,
    description=(
        "How the candidate of a cluster compares with what serves: the verdict, the evidence for it over time, error and "
        "latency ratios of both colours, the share of the traffic. Observations are the rollout sensor's decisions, "
        "materializations the evaluations at the end of each stage. Judge one again: python -m nexus_ops.analysis FILE."
    ),
)


def evaluation_of(found: "Evaluation", store: str) -> dg.AssetMaterialization:
    """An evaluation as Dagster shows it."""
    return dg.AssetMaterialization(
        CANARY_ANALYSIS,
        partition=found.cluster,
        metadata={
            "cluster": found.cluster,
            "summary": f"{found.version}, {found.stage}: {found.verdict}",
            "verdict": found.verdict,
            "reason": dg.MetadataValue.md(paragraph(found.reason)),
            "charts": dg.MetadataValue.md(found.charts_markdown()),
            "stage": found.stage,
            "version": found.version,
            "rollout": found.rollout,
            "stored": f"{store}/evidence/{found.digest}",
            DIGEST: found.digest,
            **{name: dg.MetadataValue.float(round(value, DECIMALS)) for name, value in found.numbers.items()},
        },
    )


def is_evaluated(instance: dg.DagsterInstance, cluster: str, digest: str) -> bool:
    """Whether the newest evaluation of a cluster is of this evidence."""
    wanted = dg.AssetRecordsFilter(asset_key=CANARY_ANALYSIS, asset_partitions=[cluster])
    found = instance.fetch_materializations(wanted, limit=1).records
    told = found[0].asset_materialization if found else None
    return told is not None and DIGEST in told.metadata and told.metadata[DIGEST].value == digest
