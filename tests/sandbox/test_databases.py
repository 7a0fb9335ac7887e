"""The databases of a sandbox cluster: real servers, found through the cluster, ended with it."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis

from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.prerequisites import check_prerequisites
from nexus_ops.rollouts.record import Copy
from nexus_ops.sandbox import supervisor
from nexus_ops.sandbox.databases import MAJOR, SEI_CHAIN
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder

CLUSTER = "staging-us-west-2"
ENDPOINTS = Kind("v1", "Endpoints")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("nexus")
    yield folder
    supervisor.stop(folder)


@pytest.fixture(scope="module")
def state(home: Path) -> supervisor.State:
    return supervisor.start(home, [CLUSTER], ("postgres", "valkey"))


@pytest.fixture
def context(home: Path, state: supervisor.State) -> RolloutContext:
    topology = Topology.load(default_path())
    cluster = topology.cluster(CLUSTER)
    store = ObjectStore.open((home / "store").as_uri())
    client = ClusterClient.connect(cluster, kubeconfig=Path(state.kubeconfig), patience=2)
    return RolloutContext(topology, cluster, client, store, ReleaseStore(store))


def problems(context: RolloutContext) -> dict[str, str]:
    """Prerequisites that do not hold, but for Prometheus, which does not run here."""
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    values = project_folder() / "helm" / "values-staging.yaml"
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    release = build_release(context.topology, "staging", "v1.0.0", catalogue, chart, values)
    context.releases.save(release, chart)
    checks = check_prerequisites(context, Copy("blue", release.version, release.digest), None)
    assert {"database reachable", "Redis reachable", "SEI RPC reachable"} <= {check.name for check in checks}
    return {check.name: check.problem for check in checks if check.problem and check.name != "Prometheus answers"}


def set_subsets(context: RolloutContext, name: str, namespace: str, subsets: list[Any]) -> list[Any]:
    """Change where a Service leads to; what was before."""
    endpoints = context.client.get(ENDPOINTS, name, namespace)
    assert endpoints is not None
    before = endpoints.get("subsets", [])
    context.client.replace({**endpoints, "subsets": subsets}, manager="test")
    return before


def test_postgres_of_the_major_asked_for_serves_the_platforms_database(state: supervisor.State) -> None:
    with psycopg.connect(state.clusters[CLUSTER]["postgres"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert connection.info.server_version // 10000 == MAJOR
        assert connection.info.dbname == "nexus"


def test_postgres_lets_nobody_in_without_the_password(state: supervisor.State) -> None:
    """Other users of the machine reach loopback ports too."""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(state.clusters[CLUSTER]["postgres"], password="guess", connect_timeout=5)


def test_valkey_answers(state: supervisor.State) -> None:
    with redis.Redis.from_url(state.clusters[CLUSTER]["valkey"]) as client:
        assert client.ping()


def test_the_platforms_secret_leads_to_the_database(context: RolloutContext, state: supervisor.State) -> None:
    secret = context.client.get(Kind("v1", "Secret"), "database-secret", context.cluster.namespace)
    assert secret is not None
    assert base64.b64decode(secret["data"]["url"]).decode() == state.clusters[CLUSTER]["postgres"]


def test_sei_answers_with_its_chain_and_refuses_what_it_does_not_know(state: supervisor.State) -> None:
    def call(method: str) -> dict[str, Any]:
        return httpx.post(state.clusters[CLUSTER]["sei"], json={"jsonrpc": "2.0", "id": 7, "method": method}).json()

    assert call("eth_chainId") == {"jsonrpc": "2.0", "id": 7, "result": hex(SEI_CHAIN)}
    assert call("eth_mine")["error"]["code"] == -32601


def test_prerequisites_hold_and_each_missing_one_is_one_sentence(context: RolloutContext) -> None:
    """A rollout onto a platform whose database is away would fail half-way, with pods that do not start."""
    assert problems(context) == {}
    data, ops = context.cluster.data_namespace, context.cluster.ops_namespace
    places = (("postgresql-cluster-rw", data), ("redis-cluster-leader", data), ("sei-rpc", ops))
    before = [set_subsets(context, *place, []) for place in places]
    try:
        found = problems(context)
    finally:
        for place, subsets in zip(places, before, strict=True):
            set_subsets(context, *place, subsets)
    assert found == {
        "database reachable": "the database is not reachable: the Service postgresql-cluster-rw in namespace "
        f"{data} has no ready address.",
        "Redis reachable": f"Redis is not reachable: the Service redis-cluster-leader in namespace {data} has no ready "
        "address.",
        "SEI RPC reachable": f"SEI is not reachable by the Service sei-rpc in namespace {ops}: it answers 503.",
    }
    assert problems(context) == {}


def test_without_its_service_sei_is_asked_by_its_url(context: RolloutContext, state: supervisor.State) -> None:
    """Real clusters have no such Service: their pods go out to the address in the topology."""
    url = state.clusters[CLUSTER]["sei"]
    service = context.client.get(Kind("v1", "Service"), "sei-rpc", context.cluster.ops_namespace)
    assert service is not None
    context.client.delete(Kind("v1", "Service"), "sei-rpc", context.cluster.ops_namespace)
    nowhere = "http://127.0.0.1:1"
    try:
        for address, expected in (
            (url, {}),
            (nowhere, {"SEI RPC reachable": f"SEI is not reachable by {nowhere}: ConnectError."}),
        ):
            context.topology = leading_to(context.topology, address)
            assert problems(context) == expected
    finally:
        kept = {"name": "sei-rpc", "namespace": context.cluster.ops_namespace}
        body = {"apiVersion": "v1", "metadata": kept}
        ports = [{"name": "http", "port": 80}]
        context.client.create({**body, "kind": "Service", "spec": {"ports": ports}}, manager="test")
        target = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": int(url.rsplit(":", 1)[1])}]}
        context.client.create({**body, "kind": "Endpoints", "subsets": [target]}, manager="test")


def leading_to(topology: Topology, url: str) -> Topology:
    """The topology with another SEI_RPC_URL."""
    components = {
        name: component.model_copy(
            update={"environment": {k: url if k == "SEI_RPC_URL" else v for k, v in component.environment.items()}}
        )
        for name, component in topology.components.items()
    }
    return topology.model_copy(update={"components": components})


def test_the_data_outlives_a_stop_and_a_kill_and_nothing_else_does(tmp_path: Path) -> None:
    """A client that stays must not keep the server (a smart shutdown waits for it), nor a killed parent leave it."""
    started = supervisor.start(tmp_path, [CLUSTER], ("postgres", "valkey"))
    try:
        with psycopg.connect(started.clusters[CLUSTER]["postgres"], autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            members = psutil.Process(started.pids[CLUSTER]).children(recursive=True)
            assert {"postgres", "valkey-server"} <= {member.name() for member in members}
            begun = time.monotonic()
            assert supervisor.stop(tmp_path)
            assert time.monotonic() - begun < 8
        assert not psutil.wait_procs(members, timeout=5)[1]
        started = supervisor.start(tmp_path, [CLUSTER], ("postgres", "valkey"))
        with psycopg.connect(started.clusters[CLUSTER]["postgres"], autocommit=True) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
            members = psutil.Process(started.pids[CLUSTER]).children(recursive=True)
            psutil.Process(started.pids[CLUSTER]).kill()
            assert not psutil.wait_procs(members, timeout=5)[1]
    finally:
        supervisor.stop(tmp_path)


def test_the_databases_hold_trading_data_that_grows(tmp_path: Path) -> None:
    """So that a backup has something to hold, and a restore something to bring back."""
    started = supervisor.start(tmp_path, [CLUSTER], ("postgres", "valkey", "trading"))
    try:
        seen: list[int] = []
        deadline = time.monotonic() + 60
        with redis.Redis.from_url(started.clusters[CLUSTER]["valkey"]) as client:
            while (len(seen) < 2 or not client.exists("fills")) and time.monotonic() < deadline:
                with psycopg.connect(started.clusters[CLUSTER]["postgres"], autocommit=True) as link:
                    there = link.execute("SELECT to_regclass('trades')").fetchone() != (None,)
                    count = link.execute("SELECT count(*) FROM trades").fetchone() if there else None
                if count and count[0] and (not seen or count[0] > seen[-1]):
                    seen.append(count[0])
            assert len(seen) == 2, "it does not grow"
            assert client.exists("fills", "quote:SEI/USDC", "book:SEI/USDC")
    finally:
        supervisor.stop(tmp_path)
