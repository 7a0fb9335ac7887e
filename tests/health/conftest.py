"""One sandbox cluster with the platform deployed on it, for the tests of health."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from deployed_platform import CLUSTER, QUICK, VERSION, Deployed

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import plan_rollout, start
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """v1.0.0 deployed to a cluster of its own, with a little traffic."""
    home = tmp_path_factory.mktemp("health")
    topology, store = Topology.load(default_path()), ObjectStore.open((home / "store").as_uri())
    running = supervisor.start(home, [CLUSTER], supervisor.DEFAULT_PARTS, rate=5)
    try:
        found = Deployed(home, running, topology, store)
        values, chart = home / "values.yaml", read_chart(project_folder() / "helm" / "nexus-ai-defi")
        values.write_text("pods: {preStopSeconds: 1}\n")
        catalogue = FileCatalogue(project_folder() / "images.yaml")
        ReleaseStore(store).save(build_release(topology, "staging", VERSION, catalogue, chart, values), chart)
        start(found.connect(), plan_rollout(found.connect(), VERSION, QUICK), "test")
        deadline = time.monotonic() + 120
        while (state := advance(found.connect(), patience=timedelta(seconds=30)).state) != "done":
            assert state == "waiting", state
            assert time.monotonic() < deadline, "the platform was not deployed in time"
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
