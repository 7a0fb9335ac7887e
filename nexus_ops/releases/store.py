"""Releases and renderings in the object store: written once, found by digest or by version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from nexus_ops.errors import UnknownName
from nexus_ops.releases.build import ChartFiles, pack_chart, unpack_chart
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part, Rendering, render
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Cluster

RELEASES, CHARTS, RENDERINGS, BUILDS = "releases", "charts", "renderings", "builds"


@dataclass(frozen=True, order=True)
class Build:
    """That a release was built: an entry of the index, all of it in its name. Sorted by time."""

    built: str
    """UTC, `20260131T235959.123456Z`: sorts as it reads."""
    version: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Build:
        """The entry of its name."""
        built, version, digest = text.split("/")
        return cls(built, version, digest)

    def __str__(self) -> str:
        return f"{self.built}/{self.version}/{self.digest}"


class ReleaseStore:
    """Keeps every release with its chart, so that an old one still renders as it did."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def save(self, release: Release, chart: ChartFiles) -> bool:
        """Store a release with its chart; True when it is new, False when it was stored before.

        Building an earlier release again makes it the latest again: what is deployed is what was built last.
        """
        builds = self._builds(release.environment)
        self.store.put_content(CHARTS, pack_chart(chart))
        self.store.put_content(RELEASES, release.to_bytes())
        # Only the entry makes a release findable: it is written last, so that what it names is always there.
        if not builds or builds[-1].digest != release.digest:
            entry = Build(f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}", release.version, release.digest)
            self.store.put(f"{BUILDS}/{release.environment}/{entry}", b"", create=True)
        return release.digest not in {build.digest for build in builds}

    def load(self, digest: str) -> Release:
        """A release by its digest."""
        return Release.from_bytes(self.store.get_content(RELEASES, digest))

    def chart(self, release: Release) -> dict[str, bytes]:
        """The files of a release's own chart."""
        return unpack_chart(self.store.get_content(CHARTS, release.chart))

    def render(self, release: Release, cluster: Cluster, part: Part) -> Rendering:
        """Render a part from the release's own chart, and store the rendering under its digest."""
        rendering = render(release, cluster, part, self.chart(release))
        self.store.put_content(RENDERINGS, rendering.to_bytes())
        return rendering

    def versions(self, environment: str) -> list[str]:
        """Versions of which a release was built for an environment."""
        return sorted({build.version for build in self._builds(environment)})

    def resolve(self, environment: str, version: str) -> Release:
        """The release of an environment at a version: the one built last. `UnknownName` lists the known."""
        builds = self._builds(environment)
        found = [build for build in builds if build.version == version]
        if not found:
            known = sorted({build.version for build in builds})
            build = f"A version that images.yaml names is built by materialising the asset `release` of {environment}."
            raise UnknownName(f"release of {environment}", version, known, target="releases", todo=build)
        return self.load(found[-1].digest)

    def latest(self, environment: str) -> Release | None:
        """The release that was built last for an environment."""
        builds = self._builds(environment)
        return self.load(builds[-1].digest) if builds else None

    def _builds(self, environment: str) -> list[Build]:
        """What was built for an environment, the last one last: one listing, however many there are."""
        prefix = f"{BUILDS}/{environment}"
        return sorted(Build.parse(key.removeprefix(f"{prefix}/")) for key in self.store.list(prefix))
