"""What a rollout on one cluster works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.edge import edge_url
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part, Rendering
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.decision import Works
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Cluster, Topology

KEPT = 24
_RENDERINGS: dict[tuple[str, str, str, Part], Rendering] = {}
"""Renderings of this process. A release never changes, and each stage of a run has a context of its own."""
_WORKS: dict[tuple[str, str], Works] = {}
"""The kinds of work of a release's components, which are asked for at every look."""


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

    @property
    def host(self) -> str:
        return self.topology.environment_of(self.cluster).host

    def edge_url(self) -> str:
        """Where users come in; `EdgeUnknown` while that cannot be told."""
        return edge_url(self.client, self.cluster.namespace, self.topology.environment_of(self.cluster).router)

    def release(self, digest: str) -> Release:
        """A release by its digest."""
        return self.releases.load(digest)

    def rendering(self, digest: str, part: Part) -> Rendering:
        """A part of a release on this cluster, rendered from the release's own chart."""
        key = (self.store.url, digest, self.cluster.name, part)
        if key not in _RENDERINGS:
            while len(_RENDERINGS) >= KEPT:
                _RENDERINGS.pop(next(iter(_RENDERINGS)), None)
            _RENDERINGS[key] = self.releases.render(self.release(digest), self.cluster, part)
        return _RENDERINGS[key]

    def works(self, release: str) -> Works:
        """The kind of work of each component of a release."""
        key = (self.store.url, release)
        if key not in _WORKS:
            while len(_WORKS) >= KEPT * 10:
                _WORKS.pop(next(iter(_WORKS)), None)
            _WORKS[key] = {name: component["work"] for name, component in self.release(release).components.items()}
        return _WORKS[key]
