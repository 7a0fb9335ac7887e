"""What runs on each cluster. Jobs report it; nothing materialises it.

It is a specification without a function on purpose: 'materialize all' or a backfill must never be able to
deploy (DESIGN.md, decision 11).
"""

import dagster as dg

from nexus_ops import partitions

DEPLOYMENT = dg.AssetKey("deployment")

deployment = dg.AssetSpec(
    key=DEPLOYMENT,
    deps=["release"],
    group_name="deployments",
    kinds={"kubernetes"},
    owners=["team:platform"],
    partitions_def=partitions.clusters,
    description=(
        "The release that serves a cluster's traffic, with what moved it there: version, colour, timings of each "
        "stage, smoke results, and the way back. Reported by the jobs `deploy`, `rollback` and `abort`; it "
        "cannot be materialised by hand."
    ),
)
