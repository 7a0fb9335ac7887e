"""Releases: what is approved, applied and rolled back, built from chart, values and image digests."""

import getpass
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from nexus_ops import partitions
from nexus_ops.markdown import bullets
from nexus_ops.refusals import in_a_sentence
from nexus_ops.releases.gates import GATES, Gate
from nexus_ops.releases.waves import wave_of
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.releases.model import Release


class ReleaseConfig(dg.Config):
    """Which version to build."""

    version: str = Field(
        default="", description="Version of the images, for example v1.1.0. Empty: the newest of the catalogue."
    )


@dg.asset(
    partitions_def=partitions.environments,
    group_name="releases",
    kinds={"helm"},
    owners=["team:platform"],
    code_version="1",
    description=(
        "The release of an environment at a version: chart, values and image digests, immutable and content-addressed. "
        "An unchanged input makes nothing new. It is rendered per cluster and colour when it is deployed."
    ),
)
@in_a_sentence
def release(
    context: dg.AssetExecutionContext, config: ReleaseConfig, nexus: NexusResource
) -> dg.MaterializeResult[Any]:
    """Build and store the release of this partition's environment."""
    from nexus_ops.releases.build import build_release, read_chart
    from nexus_ops.releases.catalogue import newest
    from nexus_ops.releases.diff import diff, markdown, without_version

    environment = context.partition_key
    topology, catalogue, releases = nexus.topology(), nexus.catalogue(), nexus.releases()
    version = config.version or newest(catalogue)
    chart = read_chart(nexus.chart_dir())
    before = releases.latest(environment)
    built = build_release(topology, environment, version, catalogue, chart, nexus.values_file(environment))
    new = releases.save(built, chart)
    cluster = topology.primary(environment)
    objects, earlier = (
        [obj for part in ("shared", "blue") for obj in releases.render(one, cluster, part).objects] if one else []
        for one in (built, before)
    )
    rows = [{"wave": wave_of(obj), "kind": obj["kind"], "name": obj["metadata"]["name"]} for obj in objects]
    columns = [dg.TableColumn(name) for name in ("wave", "kind", "name")]
    context.log.info("%s: %s", "new" if new else "unchanged", built)
    against = (
        f"Against {before.version} ({before.digest[:12]}), built before:\n\n" if before else "The first release.\n\n"
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(built.digest),
        metadata={
            # In the order of an operator's questions; the long table of objects comes last.
            "environment": environment,
            "version": version,
            "what_next": dg.MetadataValue.md(
                f"Launch the job `deploy` with cluster `{cluster.name}` and version `{version}`: its dry run shows the plan."
            ),
            "changes": dg.MetadataValue.md(
                against + markdown(diff(map(without_version, earlier), map(without_version, objects)))
            ),
            "changes_to_live": dg.MetadataValue.md(_changes_to_live(nexus, cluster.name, built)),
            "from": dg.MetadataValue.md(
                f"- chart `{built.chart[:12]}`\n- values `{nexus.values_file(environment).name}`\n"
                f"- images of `{version}`, by digest\n- components, node groups and host as in the topology"
            ),
            "actor": context.run_tags.get("actor") or getpass.getuser(),
            "new": new,
            "digest": built.digest,
            "object_count": len(objects),
            "images": dg.MetadataValue.md(bullets(f"`{image}`" for image in built.images.values())),
            "objects": dg.TableMetadataValue([dg.TableRecord(row) for row in rows], dg.TableSchema(columns)),
        },
    )


def _changes_to_live(nexus: NexusResource, cluster: str, built: "Release") -> str:
    """What the release would change in the primary cluster; a release can be built while no cluster is reachable."""
    from nexus_ops.errors import OperationError
    from nexus_ops.rollouts.drift import changes_to_live
    from nexus_ops.rollouts.plan import read_ledger

    try:
        rollouts = nexus.rollouts(cluster, patience=2)
        record = read_ledger(rollouts).record
        if record is None or record.serving is None:
            return f"Nothing of the platform runs on {cluster} yet."
        changes = changes_to_live(rollouts, built, record.serving)
    except OperationError as error:
        return f"What is live could not be seen: {error}"
    return f"Against {record.serving.version}, which serves on {cluster} as {record.serving.colour}, by a dry run:\n\n{changes.to_markdown()}"


def _gate(name: Gate) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=release,
        name=name,
        blocking=True,
        partitions_def=partitions.environments,
        description=f"The {name} gate. A deploy evaluates it again for what it is about to apply.",
    )
    def check(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> dg.AssetCheckResult:
        from nexus_ops.releases.capacity import capacity, capacity_table
        from nexus_ops.releases.gates import judge

        environment = context.partition_key
        topology, releases = nexus.topology(), nexus.releases()
        built = releases.latest(environment)
        if built is None:
            return dg.AssetCheckResult(passed=False, metadata={"problems": "no release has been built yet"})
        cluster = topology.primary(environment)
        renderings = [releases.render(built, cluster, part) for part in ("shared", "blue", "green")]
        result = judge(name, renderings, topology)
        metadata: dict[str, Any] = {
            "problems": dg.MetadataValue.md(bullets(result.problems)),
            "release": built.digest,
        }
        if name == "capacity":
            metadata["both_colours_at_once"] = dg.MetadataValue.md(capacity_table(capacity(renderings, topology)))
        summary = f"{len(result.problems)} problems" if result.problems else "passed"
        return dg.AssetCheckResult(passed=result.passed, metadata=metadata, description=f"{built}: {summary}")

    return check


release_checks = [_gate(name) for name in GATES]
