"""The Dagster resource: hands out the library's objects, built when they are first needed.

Nothing here decides or acts. Credentials stay where they are (kubeconfig, environment): the resource's own
configuration holds names of places only, so that it can be shown in the UI.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from nexus_ops.notifications import Notifier
from nexus_ops.topology import Cluster, Topology, default_path, project_folder

_KEPT: dict[str, Any] = {}
"""What this process' sensors look with every few seconds: contexts by cluster, the topology, and what they were made from."""
_KEPT_LOCK = threading.Lock()

if TYPE_CHECKING:
    from nexus_ops.backups.context import BackupContext
    from nexus_ops.backups.manifest import System
    from nexus_ops.releases.catalogue import ImageCatalogue
    from nexus_ops.releases.store import ReleaseStore
    from nexus_ops.rollouts.context import RolloutContext
    from nexus_ops.storage import ObjectStore


class NexusResource(dg.ConfigurableResource[None]):
    """What every asset, job and sensor needs: topology, store, releases, and what a rollout needs."""

    store_url: str = Field(default="", description="Object store; empty: $NEXUS_STORE, else a local folder.")
    topology_path: str = Field(default="", description="Topology; empty: $NEXUS_TOPOLOGY, else topology.yaml.")
    images_path: str = Field(default="", description="Image catalogue; empty: $NEXUS_IMAGES, else images.yaml.")

    def topology(self) -> Topology:
        """The topology as it stands in its file now."""
        return Topology.load(Path(self.topology_path) if self.topology_path else default_path())

    def cluster(self, name: str) -> Cluster:
        """One cluster of the topology; an unknown name is an error that lists the known ones."""
        return self.topology().cluster(name)

    def store(self) -> ObjectStore:
        """The object store that holds releases, renderings and evidence."""
        from nexus_ops.storage import ObjectStore, default_store_url

        return ObjectStore.open(self.store_url or default_store_url())

    def catalogue(self) -> ImageCatalogue:
        """Which digest a version of a component is."""
        from nexus_ops.releases.catalogue import FileCatalogue

        configured = self.images_path or os.environ.get("NEXUS_IMAGES")
        return FileCatalogue(Path(configured) if configured else project_folder() / "images.yaml")

    def chart_dir(self) -> Path:
        """The Helm chart in this checkout."""
        return project_folder() / "helm" / "nexus-ai-defi"

    def values_file(self, environment: str) -> Path:
        """The chart's values of an environment."""
        return project_folder() / "helm" / f"values-{environment}.yaml"

    def releases(self) -> ReleaseStore:
        """The releases built so far."""
        from nexus_ops.releases.store import ReleaseStore

        return ReleaseStore(self.store())

    def notifier(self) -> Notifier:
        """Where alerts go; from the environment, for the URLs hold credentials."""
        return Notifier.from_environment()

    def backups(self, cluster: str, system: System, *, report: Callable[[str], None] = lambda _: None) -> BackupContext:
        """All that a backup, drill or restore of one database of one cluster needs. Talks to nothing yet."""
        from nexus_ops.backups.bundles import Packing
        from nexus_ops.backups.catalogue import Catalogue
        from nexus_ops.backups.context import BackupContext, Vault, declared_url, read_reference
        from nexus_ops.backups.manifest import Place
        from nexus_ops.clusters.client import ClusterClient
        from nexus_ops.storage import default_store_url, state_folder

        topology = self.topology()
        found = topology.cluster(cluster)
        declared = topology.environment_of(found).backups
        vault = Vault.open(state_folder(), self.store_url or default_store_url())
        place = Place(cluster, system)

        def connect() -> ClusterClient:
            return ClusterClient.connect(found)

        return BackupContext(
            cluster=found,
            system=system,
            declared=declared,
            time_zone=topology.time_zone_of(found),
            catalogue=Catalogue(vault.store, place),
            second=Catalogue(vault.second, place) if vault.second else None,
            packing=Packing(vault.recipients),
            url=lambda: read_reference(declared_url(declared, system, found), found, connect),
            identity=vault.load_identity,
            scratch=state_folder() / "scratch",
            connect=connect,
            cnpg_archive=vault.cnpg_archive,
            report=report,
        )

    def rollouts(
        self, cluster: str, *, report: Callable[[str], None] = lambda _: None, patience: float = 20.0
    ) -> RolloutContext:
        """All that a rollout on one cluster needs. `patience`: seconds for which a busy API server is tried again."""
        return self._rollouts(self.topology(), cluster, report, patience)

    def _rollouts(
        self, topology: Topology, cluster: str, report: Callable[[str], None], patience: float
    ) -> RolloutContext:
        from nexus_ops.clusters.client import ClusterClient
        from nexus_ops.rollouts.context import RolloutContext

        found = topology.cluster(cluster)
        return RolloutContext(
            topology=topology,
            cluster=found,
            client=ClusterClient.connect(found, patience=patience),
            store=self.store(),
            releases=self.releases(),
            notify=self.notifier().send,
            report=report,
        )

    def kept_rollouts(self, cluster: str) -> RolloutContext:
        """The same, kept for the next tick of a sensor while topology and kubeconfig stay as they are. Of little patience:
        who looks every few seconds need not try again and again."""
        from nexus_ops.clusters.kubeconfig import kubeconfig_files

        files = (Path(self.topology_path) if self.topology_path else default_path(), *kubeconfig_files())
        made_from = (*((path, path.stat().st_mtime_ns if path.exists() else 0) for path in files), self.store().url)
        with _KEPT_LOCK:
            if _KEPT.get("") != made_from:
                _KEPT.clear()
                _KEPT.update({"": made_from, "topology": self.topology()})
            if cluster not in _KEPT:
                _KEPT[cluster] = self._rollouts(_KEPT["topology"], cluster, lambda _: None, 5.0)
            return _KEPT[cluster]


@dg.resource(description="Topology, object store, releases and clusters; where they are: docs/configuration.md.")
def nexus_resource(_: dg.InitResourceContext) -> NexusResource:
    """The resource as it is registered: places come from the environment, so a Launchpad has nothing to fill in."""
    return NexusResource()
