"""One sandbox cluster with the platform deployed on it, for the tests of health."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.health.probes import PATIENCE
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import plan_rollout, start
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder

CLUSTER, VERSION = "staging-us-west-2", "v1.0.0"
QUICK = Settings(monitor_seconds=0, hold_seconds=0, ready_seconds=60, insufficient_seconds=20)


@dataclass(frozen=True)
class Deployed:
    """A sandbox cluster on which the platform runs."""

    home: Path
    state: supervisor.State
    topology: Topology
    store: ObjectStore

    def connect(self) -> RolloutContext:
        """A fresh way to the cluster, as every snapshot has one."""
        cluster = self.topology.cluster(CLUSTER)
        client = ClusterClient.connect(cluster, kubeconfig=Path(self.state.kubeconfig), patience=PATIENCE)
        return RolloutContext(self.topology, cluster, client, self.store, ReleaseStore(self.store))

    def admin(self, method: str, path: str, body: Any = None) -> None:
        """Ask the sandbox's admin interface."""
        url = self.state.clusters[CLUSTER]["admin"] + path
        httpx.request(method, url, json=body, timeout=30).raise_for_status()


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """v1.0.0 deployed to a cluster of its own, with a little traffic."""
    home = tmp_path_factory.mktemp("health")
    topology, store = Topology.load(default_path()), ObjectStore.open((home / "store").as_uri())
    state = supervisor.start(home, [CLUSTER], supervisor.DEFAULT_PARTS, rate=5)
    try:
        found = Deployed(home, state, topology, store)
        values, chart = home / "values.yaml", read_chart(project_folder() / "helm" / "nexus-ai-defi")
        values.write_text("pods: {preStopSeconds: 1}\n")
        catalogue = FileCatalogue(project_folder() / "images.yaml")
        ReleaseStore(store).save(build_release(topology, "staging", VERSION, catalogue, chart, values), chart)
        start(found.connect(), plan_rollout(found.connect(), VERSION, QUICK), "test")
        assert advance(found.connect(), patience=timedelta(seconds=90)).state == "done"
        yield found
    finally:
        supervisor.stop(home)


@pytest.fixture(autouse=True)
def _whole_again(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment leads to the sandbox, and nothing that a test breaks outlives it."""
    if "deployed" not in request.fixturenames:
        yield
    else:
        deployed: Deployed = request.getfixturevalue("deployed")
        monkeypatch.setenv("KUBECONFIG", deployed.state.kubeconfig)
        monkeypatch.setenv("NEXUS_STORE", deployed.store.url)
        monkeypatch.setenv("NEXUS_HOME", str(deployed.home))
        yield
        deployed.admin("POST", "/thaw")
        deployed.admin("POST", "/revive")
        deployed.admin("DELETE", "/faults")
        deployed.admin("PUT", f"/behaviours/{VERSION}", {"crash_after_seconds": None})
