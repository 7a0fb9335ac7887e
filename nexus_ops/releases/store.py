"""Releases and renderings in the object store: written once, found by digest or by version."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from nexus_ops.errors import UnknownName
from nexus_ops.releases.build import ChartFiles, pack_chart, unpack_chart
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part, Rendering, render
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Cluster

RELEASES, CHARTS, RENDERINGS = "releases", "charts", "renderings"


class ReleaseStore:
    """Keeps every release with its chart, so that an old one still renders as it did."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def save(self, release: Release, chart: ChartFiles) -> bool:
        """Store a release with its chart; True when it is new, False when it was stored before.

        Building an earlier release again makes it the latest again: what is deployed is what was built last.
        """
        self.store.put_content(CHARTS, pack_chart(chart))
        self.store.put_content(RELEASES, release.to_bytes())
        # The pointer is what makes a release findable; it names when it was last built anew.
        pointer = f"versions/{release.environment}/{release.version}/{release.digest}"
        earlier = self._pointers(f"versions/{release.environment}")
        if earlier and max(earlier)[1] == pointer:
            return False
        self.store.put(pointer, json.dumps({"built": datetime.now(UTC).isoformat()}).encode())
        return pointer not in {key for _, key in earlier}

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
        return sorted({key.split("/")[2] for key in self.store.list(f"versions/{environment}")})

    def resolve(self, environment: str, version: str) -> Release:
        """The release of an environment at a version: the one built last. `UnknownName` lists the known."""
        found = self._pointers(f"versions/{environment}/{version}")
        if not found:
            raise UnknownName(f"release of {environment}", version, self.versions(environment), target="releases")
        return self.load(max(found)[1].rsplit("/", 1)[1])

    def latest(self, environment: str) -> Release | None:
        """The release that was built last for an environment."""
        found = self._pointers(f"versions/{environment}")
        return self.load(max(found)[1].rsplit("/", 1)[1]) if found else None

    def _pointers(self, prefix: str) -> list[tuple[str, str]]:
        """When each release below a prefix was built (ISO 8601, UTC), and its pointer's key."""
        return [(json.loads(self.store.get(key))["built"], key) for key in self.store.list(prefix)]
