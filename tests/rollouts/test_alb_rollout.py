"""Blue-green behind an AWS load balancer: moto, a stand-in for its controller, and the driver as it is."""

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.driver import LEASE, advance
from nexus_ops.rollouts.operations import request_abort
from nexus_ops.rollouts.routers import AlbRouter
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, project_folder

pytestmark = [pytest.mark.sandbox_only]
VALUES = {
    "pods": {"preStopSeconds": 1},
    "networking": {"tls": {"enabled": False}},
    "security": {"networkPolicies": {"loadBalancer": ["10.0.0.0/16"]}},
}


@pytest.fixture
def behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """A cluster of its own, whose environment has the router alb."""
    document = yaml.safe_load((project_folder() / "topology.yaml").read_text())
    document["environments"]["staging"]["router"] = "alb"
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(VALUES))
    topology = Topology.load(tmp_path / "topology.yaml")
    parts = tuple(part for part in supervisor.DEFAULT_PARTS if part != "traffic")
    state = supervisor.start(tmp_path, [CLUSTER], parts, topology=tmp_path / "topology.yaml")
    known = {"AWS_ENDPOINT_URL": state.aws, "AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore.open((tmp_path / "store").as_uri())
    releases = ReleaseStore(store)
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    for version in ("v1.0.0", "v1.1.0"):
        releases.save(build_release(topology, "staging", version, catalogue, chart, tmp_path / "values.yaml"), chart)
    try:
        yield Platform(tmp_path, state, topology, store, releases, [], [])
    finally:
        supervisor.stop(tmp_path)


def test_a_blue_green_deploy_a_part_of_the_traffic_and_the_way_back(behind: Platform) -> None:
    assert behind.deploy("v1.0.0").state == "done", behind.said
    assert behind.at_the_edge()[0] == "v1.0.0"
    behind.begin("v1.1.0", Settings(monitor_seconds=1, hold_seconds=600))
    results = (advance(behind.context(), patience=timedelta(seconds=30)) for _ in range(6))
    said = [result.why for result in itertools.takewhile(lambda result: result.until is None, results)]
    assert len(said) < 6, said
    assert behind.at_the_edge()[0] == "v1.1.0"
    assert behind.record().observed == 100

    context, colour = behind.context(), behind.record().candidate.colour
    router = AlbRouter(context)
    shared = context.rendering(behind.record().candidate.release, "shared")
    with acquire(context.client, context.cluster.ops_namespace, LEASE, "test", clock=context.clock) as lease:
        router.set_weight(Fenced(context.client, lease), shared, colour, 50)
    assert behind.eventually(lambda: router.observed_weight(colour) == 50, 60), router.look(colour)

    request_abort(context, "test", "the way back")
    assert behind.finish().state == "rolled-back"
    assert behind.at_the_edge()[0] == "v1.0.0"
