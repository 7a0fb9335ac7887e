"""Releases: what is approved, applied and rolled back, built from chart, values and image digests."""

from typing import Any

import dagster as dg
from pydantic import Field

from nexus_ops import partitions
from nexus_ops.resources import NexusResource

GATES = ("schema", "policy", "capacity")


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
def release(
    context: dg.AssetExecutionContext, config: ReleaseConfig, nexus: NexusResource
) -> dg.MaterializeResult[Any]:
    """Build and store the release of this partition's environment."""
    from nexus_ops.releases.build import build_release, read_chart
    from nexus_ops.releases.diff import diff, markdown

    environment = context.partition_key
    topology, catalogue, releases = nexus.topology(), nexus.catalogue(), nexus.releases()
    version = config.version or catalogue.versions()[-1]
    chart = read_chart(nexus.chart_dir())
    before = releases.latest(environment)
    built = build_release(topology, environment, version, catalogue, chart, nexus.values_file(environment))
    new = releases.save(built, chart)
    cluster = topology.primary(environment)
    parts = [releases.render(built, cluster, part) for part in ("shared", "blue")]
    objects = [obj for part in parts for obj in part.objects]
    earlier = (
        [obj for part in ("shared", "blue") for obj in releases.render(before, cluster, part).objects] if before else []
    )
    rows = [dg.TableRecord({"kind": obj["kind"], "name": obj["metadata"]["name"]}) for obj in objects]
    context.log.info("%s: %s", "new" if new else "unchanged", built)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(built.digest),
        metadata={
            "version": version,
            "digest": built.digest,
            "new": new,
            "objects": dg.TableMetadataValue(rows, dg.TableSchema([dg.TableColumn("kind"), dg.TableColumn("name")])),
            "object_count": len(objects),
            "images": dg.MetadataValue.md("\n".join(f"- `{image}`" for image in built.images.values())),
            "changes": dg.MetadataValue.md(markdown(diff(earlier, objects))),
            "what_next": f"Launch the job `deploy` with version {version} and dry_run to see the plan.",
        },
    )


def _gate(name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=release,
        name=name,
        blocking=True,
        partitions_def=partitions.environments,
        description=f"The {name} gate. A deploy evaluates it again for what it is about to apply.",
    )
    def check(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> dg.AssetCheckResult:
        from nexus_ops.releases.gates import evaluate

        environment = context.partition_key
        topology, releases = nexus.topology(), nexus.releases()
        built = releases.latest(environment)
        if built is None:
            return dg.AssetCheckResult(passed=False, metadata={"problems": "no release has been built yet"})
        cluster = topology.primary(environment)
        renderings = [releases.render(built, cluster, part) for part in ("shared", "blue", "green")]
        result = next(gate for gate in evaluate(renderings, topology) if gate.name == name)
        problems = dg.MetadataValue.md("\n".join(f"- {problem}" for problem in result.problems) or "none")
        return dg.AssetCheckResult(passed=result.passed, metadata={"problems": problems, "release": built.digest})

    return check


release_checks = [_gate(name) for name in GATES]
