"""One cluster for all rollout tests: a sandbox, or the real one of NEXUS_TEST_KUBECONFIG."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from platform_cluster import CLUSTER, VERSIONS, Platform
from real_cluster import borrowed

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder


@contextmanager
def place(home: Path, topology: Topology) -> Generator[tuple[supervisor.State, Topology]]:
    """Where the tests run, and the topology that leads there."""
    if real := os.environ.get("NEXUS_TEST_KUBECONFIG"):
        with borrowed(topology, CLUSTER, Path(real)) as led:
            yield supervisor.State(kubeconfig=real, pids={}, clusters={}), led
        return
    parts = tuple(part for part in supervisor.DEFAULT_PARTS if part != "traffic")
    try:
        yield supervisor.start(home, [CLUSTER], parts), topology
    finally:
        supervisor.stop(home)


@pytest.fixture(scope="session", autouse=True)
def _judged_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A look every second, and a pass on ten requests: the stages of a test last seconds. What fails a candidate is as declared."""
    rules = yaml.safe_load((project_folder() / "monitoring" / "analysis.yaml").read_text())
    rules |= {"look_seconds": 1, "history_seconds": 60}
    for metric in rules["metrics"].values():
        if "material" in metric:
            metric["material"] = {"ratio": 20, "floor": 0.3}
    path = tmp_path_factory.mktemp("rules") / "analysis.yaml"
    path.write_text(yaml.safe_dump(rules))
    before = os.environ.get("NEXUS_ANALYSIS")
    os.environ["NEXUS_ANALYSIS"] = before or str(path)
    yield
    if before is None:
        del os.environ["NEXUS_ANALYSIS"]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A running platform cluster without background traffic, with the releases built; nothing deployed yet."""
    home = tmp_path_factory.mktemp("nexus")
    with place(home, Topology.load(default_path())) as (state, topology):
        store = ObjectStore.open((home / "store").as_uri())
        releases = ReleaseStore(store)
        values = home / "values.yaml"
        values.write_text("pods: {preStopSeconds: 1}\n")
        chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
        catalogue = FileCatalogue(Path(os.environ.get("NEXUS_IMAGES") or project_folder() / "images.yaml"))
        for version in VERSIONS:
            releases.save(build_release(topology, "staging", version, catalogue, chart, values), chart)
        made = Platform(home, state, topology, store, releases, [], [])
        if not made.real:
            for version in ("v1.0.0", "v1.1.0"):
                made.admin("PUT", f"/behaviours/{version}", {"ready_seconds": 0.3})
        yield made


@pytest.fixture
def instance(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    """A Dagster instance whose environment leads to the sandbox."""
    monkeypatch.setenv("KUBECONFIG", platform.state.kubeconfig)
    monkeypatch.setenv("NEXUS_STORE", (platform.home / "store").as_uri())
    monkeypatch.setenv("NEXUS_HOME", str(platform.home))
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault, and no mark on a release that failed, outlives its test."""
    yield
    if "platform" in request.fixturenames:
        platform: Platform = request.getfixturevalue("platform")
        if not platform.real:
            platform.admin("DELETE", "/faults")
        platform.forget_failures()
