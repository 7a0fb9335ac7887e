"""A release: what is approved, applied and rolled back, as a whole and by its digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nexus_ops.errors import PermanentError
from nexus_ops.releases.catalogue import Database
from nexus_ops.storage import digest_of


def canonical(document: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class Release:
    """Chart, values and image digests of an environment at a version; neutral of cluster and colour."""

    environment: str
    version: str
    chart: str
    """Digest of the chart's files."""
    values: Mapping[str, Any]
    """The environment's own values (helm/values-<environment>.yaml)."""
    components: Mapping[str, Any]
    """What the topology said of each component when the release was built."""
    node_groups: Mapping[str, Mapping[str, str]]
    host: str
    router: str
    images: Mapping[str, str]
    """`registry/component:version@sha256:…` by component."""
    database: Database
    infrastructure: Mapping[str, Any] | None = None
    """What the topology said of clouds, regions and recovery. None in releases that were built before it was kept."""

    @property
    def digest(self) -> str:
        """SHA-256 of the release's canonical JSON: its identity."""
        return digest_of(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        # What an older release does not have is left out: its digest is of what was stored.
        return canonical({"format": 1, **{key: value for key, value in asdict(self).items() if value is not None}})

    @classmethod
    def from_bytes(cls, data: bytes) -> Release:
        """The release of its canonical JSON."""
        document = json.loads(data)
        if document.pop("format", None) != 1:
            raise PermanentError("the stored release has a format that this version does not know.")
        database = document.pop("database")
        return cls(**document, database=Database(database["schema"], tuple(database["compatible_with"])))

    def __str__(self) -> str:
        return f"{self.environment} {self.version} ({self.digest[:12]})"
