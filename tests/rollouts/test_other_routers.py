"""Blue-green behind what is no gateway: an AWS load balancer (moto, a stand-in for its controller), and a Service."""

import itertools
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.errors import PermanentError
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.driver import LEASE, advance
from nexus_ops.rollouts.operations import plan_rollout, request_abort
from nexus_ops.rollouts.routers import AlbRouter
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, project_folder

pytestmark = [pytest.mark.sandbox_only]
ALB_VALUES = {
    "pods": {"preStopSeconds": 1},
    "networking": {"tls": {"enabled": False}},
    "security": {"networkPolicies": {"loadBalancer": ["10.0.0.0/16"]}},
}
SELECTOR_VALUES = {"pods": {"preStopSeconds": 1}}


@contextmanager
def behind(home: Path, router: str, values: dict[str, Any]) -> Generator[Platform]:
    """A cluster of its own, whose environment has this router."""
    document = yaml.safe_load((project_folder() / "topology.yaml").read_text())
    document["environments"]["staging"]["router"] = router
    (home / "topology.yaml").write_text(yaml.safe_dump(document))
    (home / "values.yaml").write_text(yaml.safe_dump(values))
    topology = Topology.load(home / "topology.yaml")
    parts = tuple(part for part in supervisor.DEFAULT_PARTS if part != "traffic")
    store = ObjectStore.open((home / "store").as_uri())
    releases = ReleaseStore(store)
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    for version in ("v1.0.0", "v1.1.0"):
        releases.save(build_release(topology, "staging", version, catalogue, chart, home / "values.yaml"), chart)
    try:
        state = supervisor.start(home, [CLUSTER], parts, topology=home / "topology.yaml")
        yield Platform(home, state, topology, store, releases, [], [])
    finally:
        supervisor.stop(home)


@pytest.fixture
def alb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with behind(tmp_path, "alb", ALB_VALUES) as made:
        known = {"AWS_ENDPOINT_URL": made.state.aws, "AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
        for name, value in known.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def selector(tmp_path: Path) -> Iterator[Platform]:
    with behind(tmp_path, "service-selector", SELECTOR_VALUES) as made:
        yield made


def test_a_blue_green_deploy_and_the_way_back_by_the_selector_of_a_service(selector: Platform) -> None:
    assert selector.deploy("v1.0.0").state == "done", selector.said
    assert selector.at_the_edge() == ("v1.0.0", selector.record().candidate.colour)
    assert selector.deploy("v1.1.0").state == "done", selector.said
    assert selector.at_the_edge() == ("v1.1.0", selector.record().candidate.colour)
    selector.begin("v1.0.0", Settings(monitor_seconds=60, hold_seconds=60))
    while not (result := advance(selector.context(), patience=timedelta(seconds=30))).until:
        assert result.state == "waiting", result.why
    assert selector.at_the_edge()[0] == "v1.0.0"
    request_abort(selector.context(), "test", "the way back")
    assert selector.finish().state == "rolled-back"
    assert selector.at_the_edge()[0] == "v1.1.0"
    with pytest.raises(PermanentError, match=r"moves all traffic or none, and a canary needs weights"):
        plan_rollout(selector.context(), "v1.0.0", Settings(strategy="canary"))


def test_a_blue_green_deploy_a_part_of_the_traffic_and_the_way_back(alb: Platform) -> None:
    assert alb.deploy("v1.0.0").state == "done", alb.said
    assert alb.at_the_edge()[0] == "v1.0.0"
    alb.begin("v1.1.0", Settings(monitor_seconds=1, hold_seconds=600))
    results = (advance(alb.context(), patience=timedelta(seconds=30)) for _ in range(6))
    said = [result.why for result in itertools.takewhile(lambda result: result.until is None, results)]
    assert len(said) < 6, said
    assert alb.at_the_edge()[0] == "v1.1.0"
    assert alb.record().observed == 100

    context, colour = alb.context(), alb.record().candidate.colour
    router = AlbRouter(context)
    shared = context.rendering(alb.record().candidate.release, "shared")
    with acquire(context.client, context.cluster.ops_namespace, LEASE, "test", clock=context.clock) as lease:
        router.set_weight(Fenced(context.client, lease), shared, colour, 50)
    assert alb.eventually(lambda: router.observed_weight(colour) == 50, 60), router.look(colour)

    request_abort(context, "test", "the way back")
    assert alb.finish().state == "rolled-back"
    assert alb.at_the_edge()[0] == "v1.0.0"
