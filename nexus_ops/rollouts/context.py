"""What a rollout on one cluster works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part, Rendering
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.machine import Works
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Cluster, Topology


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class RolloutContext:
    """Topology, cluster, and the ways to both; `notify` tells people, `report` says what is being done."""

    topology: Topology
    cluster: Cluster
    client: ClusterClient
    store: ObjectStore
    releases: ReleaseStore
    notify: Callable[[str, str], object] = lambda title, body: None
    report: Callable[[str], None] = lambda text: None
    clock: Callable[[], datetime] = utc_now
    _renderings: dict[tuple[str, Part], Rendering] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.topology.environment_of(self.cluster).host

    def release(self, digest: str) -> Release:
        """A release by its digest."""
        return self.releases.load(digest)

    def rendering(self, digest: str, part: Part) -> Rendering:
        """A part of a release on this cluster, rendered from the release's own chart."""
        key = (digest, part)
        if key not in self._renderings:
            self._renderings[key] = self.releases.render(self.release(digest), self.cluster, part)
        return self._renderings[key]

    def works(self, release: str) -> Works:
        """The kind of work of each component of a release."""
        return {name: component["work"] for name, component in self.release(release).components.items()}
