"""Infrastructure: the eksctl ClusterConfig of each AWS cluster, and checks that the live clusters are what is declared."""

import difflib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from nexus_ops import partitions
from nexus_ops.assets.checking import tell_change
from nexus_ops.markdown import bullets
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.infrastructure.drift import Judgement
    from nexus_ops.releases.capacity import Capacity

CLUSTER_CONFIG = dg.AssetKey("cluster_config")
PATIENCE = 4.0
"""Seconds for which a busy API server is tried again."""
What = Literal["nodes", "add_ons"]
DESCRIPTIONS: dict[What, str] = {
    "nodes": "version, node groups, their sizes and kinds of machine are as the topology declares them.",
    "add_ons": "every add-on that the topology declares is there.",
}
CHECKS: dict[str, tuple[What, str]] = {
    f"{what}_{cluster.replace('-', '_')}": (what, cluster)
    for what in DESCRIPTIONS
    for cluster in partitions.clusters.get_partition_keys()
}


@dg.asset(
    key=CLUSTER_CONFIG,
    partitions_def=partitions.aws_clusters,
    group_name="infrastructure",
    kinds={"aws", "yaml"},
    owners=["team:platform"],
    code_version="1",
    description=(
        "The eksctl ClusterConfig of an AWS cluster (`eksctl.io/v1alpha5`), rendered from topology.yaml, checked against "
        "eksctl's schema, immutable and content-addressed. Nothing is created by it: that is eksctl's to do, by hand."
    ),
)
def cluster_config(context: dg.AssetExecutionContext, nexus: NexusResource) -> dg.MaterializeResult[Any]:
    """Render, check and keep the ClusterConfig of this partition's cluster."""
    from nexus_ops.infrastructure.cluster_config import PREFIX, cluster_config, save, to_yaml
    from nexus_ops.infrastructure.sizes import numbers, size_table

    topology, store = nexus.topology(), nexus.store()
    cluster = topology.cluster(context.partition_key)
    document = cluster_config(topology, cluster)
    digest, text = save(store, cluster, document), to_yaml(document)
    before = _digest_before(context)
    changes = "The first one." if before is None else "Nothing."
    if before not in (None, digest):
        old = store.get_content(PREFIX, before).decode().splitlines()
        changes = "\n".join(("```diff", *difflib.unified_diff(old, text.splitlines(), n=2, lineterm=""), "```"))
    asked = _asked(nexus, cluster.name)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest),
        metadata={
            "config": dg.MetadataValue.md(f"```yaml\n{text}```"),
            "capacity": dg.MetadataValue.md(size_table(topology.node_groups, asked)),
            "changes": dg.MetadataValue.md(changes),
            "digest": digest,
            "new": before != digest,
            "stored": f"{store.url}/{PREFIX}/{digest}",
            **numbers(topology.node_groups, asked),
            "what_next": dg.MetadataValue.md(
                f"Save it as `{cluster.name}.yaml`. A new cluster: `eksctl create cluster -f {cluster.name}.yaml`. One that exists: "
                f"`eksctl create nodegroup`, `eksctl scale nodegroup` and `eksctl update addon`, each with `-f {cluster.name}.yaml`; "
                "the checks `nodes_…` and `add_ons_…` say what differs."
            ),
        },
    )


def _digest_before(context: dg.AssetExecutionContext) -> str | None:
    """The digest of this cluster's last ClusterConfig; None when there was none."""
    wanted = dg.AssetRecordsFilter(CLUSTER_CONFIG, asset_partitions=[context.partition_key])
    records = context.instance.fetch_materializations(wanted, limit=1).records
    found = records[0].asset_materialization if records else None
    return str(found.metadata["digest"].value) if found else None


def _asked(nexus: NexusResource, cluster: str) -> "tuple[Capacity, ...]":
    """What both colours of the newest release ask of the node groups; nothing where no release was built."""
    from nexus_ops.releases.capacity import capacity

    topology, releases = nexus.topology(), nexus.releases()
    described = topology.cluster(cluster)
    release = releases.latest(described.environment)
    if release is None:
        return ()
    renderings = [releases.render(release, described, part) for part in ("shared", "blue", "green")]
    return capacity(renderings, topology)


@dg.multi_asset_check(
    name="infrastructure_checks",
    specs=[
        dg.AssetCheckSpec(
            name,
            asset=CLUSTER_CONFIG,
            description=f"{cluster}: {DESCRIPTIONS[what]} What cannot be seen is a warning. Evaluated every hour.",
        )
        for name, (what, cluster) in CHECKS.items()
    ],
    can_subset=True,
)
def infrastructure_checks(
    context: dg.AssetCheckExecutionContext, nexus: NexusResource
) -> Iterator[dg.AssetCheckResult]:
    """Hold every live cluster against the topology, all at once; tell people of drift, and when it is over."""
    keys = sorted(context.selected_asset_check_keys)
    with ThreadPoolExecutor(max(1, len(keys))) as pool:
        for key, found in zip(keys, pool.map(lambda key: _look(nexus, *CHECKS[key.name]), keys), strict=True):
            what, cluster = CHECKS[key.name]
            context.log.info("%s: %s", key.name, found["description"])
            tell_change(
                context.instance, nexus.notifier(), key, f"{what.replace('_', '-')} of {cluster} have drifted", found
            )
            yield dg.AssetCheckResult(check_name=key.name, **found)


def _look(nexus: NexusResource, what: What, cluster: str) -> dict[str, Any]:
    """The verdict on one cluster: drift is an error, what could not be seen a warning."""
    from nexus_ops.errors import OperationError
    from nexus_ops.infrastructure.drift import add_ons_of, nodes_of

    try:
        rollout = nexus.rollouts(cluster, patience=PATIENCE)
        if what == "nodes":
            return _verdict(nodes_of(rollout.topology, rollout.cluster, rollout.client), "all nodes are as declared")
        return _verdict(add_ons_of(rollout.topology, rollout.client), "all add-ons are there")
    except OperationError as error:
        unseen = f"could not look: {error}"
        return {"passed": False, "severity": dg.AssetCheckSeverity.WARN, "description": unseen}


def _verdict(found: "Judgement", fine: str) -> dict[str, Any]:
    return {
        "passed": found.passed,
        "severity": dg.AssetCheckSeverity.ERROR if found.drift else dg.AssetCheckSeverity.WARN,
        "description": found.summary(fine),
        "metadata": {
            "drift": dg.MetadataValue.md(bullets(found.drift)),
            "not_seen": dg.MetadataValue.md(bullets(found.unseen, none="nothing")),
            "also_there": ", ".join(found.also) or "-",
            **found.numbers,
        },
    }
