"""Building a release from the topology, the chart, an environment's values and the image catalogue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nexus_ops.documents import read_yaml
from nexus_ops.errors import PermanentError, UnknownName
from nexus_ops.releases.catalogue import ImageCatalogue
from nexus_ops.releases.model import Release, canonical
from nexus_ops.storage import digest_of
from nexus_ops.topology import Topology

ChartFiles = Mapping[str, bytes]


LEFT_OVER = ("*~", "*.swp", "*.bak", "*.tmp", "*.orig", "*.rej", ".*")
"""What editors and version control leave behind, as `helm create` has it ignored. Helm renders every other file."""


def read_chart(folder: Path) -> dict[str, bytes]:
    """The chart's files by their path within it, sorted; what editors leave behind is no part of it."""
    if not (folder / "Chart.yaml").exists():
        raise PermanentError("this is no chart: Chart.yaml is missing.", target=str(folder))
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = [path for path in paths if not any(fnmatch(part, p) for part in path.parts for p in LEFT_OVER)]
    return {path.as_posix(): (folder / path).read_bytes() for path in kept}


def pack_chart(files: ChartFiles) -> bytes:
    """The chart as one document: what is stored, and what its digest is of."""
    return canonical({name: _text(name, data) for name, data in files.items()})


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PermanentError(
            "the chart holds a file that is no text.", target=name, todo="Take it out; a subchart goes in unpacked."
        ) from None


def unpack_chart(data: bytes) -> dict[str, bytes]:
    """The files of a packed chart."""
    return {name: text.encode() for name, text in json.loads(data).items()}


def build_release(
    topology: Topology, environment: str, version: str, catalogue: ImageCatalogue, chart: ChartFiles, values_file: Path
) -> Release:
    """The release of an environment at a version; the same inputs give the same release."""
    if environment not in topology.environments:
        raise UnknownName("environment", environment, list(topology.environments))
    found = catalogue.images(version)
    missing = sorted(set(topology.components) - set(found.images))
    if missing:
        raise PermanentError(
            f"version {version} has no image of {', '.join(missing)}.", todo="Build and push them first."
        )
    values: Any = read_yaml(values_file) or {}
    described = topology.environments[environment]
    return Release(
        environment=environment,
        version=version,
        chart=digest_of(pack_chart(chart)),
        values=values,
        components={name: component.model_dump(mode="json") for name, component in topology.components.items()},
        node_groups={name: dict(group.labels) for name, group in topology.node_groups.items()},
        host=described.host,
        router=described.router,
        images={name: found.images[name] for name in topology.components},
        database=found.database,
        infrastructure=_infrastructure(topology),
    )


def _infrastructure(topology: Topology) -> dict[str, Any]:
    """Clouds by their role with their regions, the primary ones first, and what is declared of recovery."""
    return {
        "clouds": {
            cloud.role: {"name": cloud.name, "regions": sorted(cloud.regions, key=lambda one: cloud.regions[one])}
            for cloud in topology.clouds.values()
        },
        "disaster_recovery": topology.disaster_recovery,
        "auto_failover": topology.auto_failover,
    }
