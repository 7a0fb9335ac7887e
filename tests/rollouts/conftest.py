"""One sandbox cluster for all rollout tests."""

from collections.abc import Iterator

import pytest
from platform_cluster import CLUSTER, VERSIONS, Platform

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A running platform cluster without background traffic, with the releases built; nothing deployed yet."""
    home = tmp_path_factory.mktemp("nexus")
    topology = Topology.load(default_path())
    parts = tuple(part for part in supervisor.DEFAULT_PARTS if part != "traffic")
    state = supervisor.start(home, [CLUSTER], parts)
    store = ObjectStore.open((home / "store").as_uri())
    releases = ReleaseStore(store)
    values = home / "values.yaml"
    values.write_text("pods: {preStopSeconds: 1}\n")
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    for version in VERSIONS:
        catalogue = FileCatalogue(project_folder() / "images.yaml")
        releases.save(build_release(topology, "staging", version, catalogue, chart, values), chart)
    try:
        yield Platform(home, state, topology, store, releases, [], [])
    finally:
        supervisor.stop(home)


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault and no changed behaviour outlives its test."""
    yield
    if "platform" in request.fixturenames:
        platform: Platform = request.getfixturevalue("platform")
        platform.admin("DELETE", "/faults")
