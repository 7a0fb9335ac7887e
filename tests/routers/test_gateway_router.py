"""HTTPRoute weights on a real Envoy: what is requested, what is seen, and what is never believed."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from edge import NAMESPACE, ROUTE, Edge

from nexus_ops.clusters.client import HTTP_ROUTE
from nexus_ops.rollouts.routers import GatewayRouter
from nexus_ops.rollouts.routers.gateway import weight_of
from nexus_ops.sandbox import supervisor

pytestmark = [pytest.mark.sandbox_only]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge.start(tmp_path_factory.mktemp("gateway"), "gateway-api", ("gateway", "prometheus"))
    yield made
    supervisor.stop(made.home)


@pytest.fixture(autouse=True)
def _quiet(edge: Edge) -> Iterator[None]:
    yield
    edge.admin("DELETE", "/faults")


def set_weight(edge: Edge, weight: int) -> GatewayRouter:
    """Ask for a weight of green, as a driver does."""
    router = GatewayRouter(edge.context())
    with edge.driving() as fenced:
        router.set_weight(fenced, edge.shared, "green", weight)
    return router


def reached(edge: Edge, weight: int) -> GatewayRouter:
    """Ask for a weight, and see it."""
    router = set_weight(edge, weight)
    edge.until(lambda: router.look("green"), lambda seen: seen.weight == weight)
    return router


@pytest.mark.parametrize("weight", [5, *(pytest.param(weight, marks=pytest.mark.soak) for weight in (10, 25)), 50])
def test_each_step_of_a_canary_is_seen_where_nobody_else_asks(edge: Edge, weight: int) -> None:
    """An idle environment: requests of our own, as many as the share takes, and no more while they hold."""
    router = reached(edge, weight)
    seen = router.look("green")
    assert (seen.requested, seen.problem) == (weight, "")
    assert seen.share == pytest.approx(weight, abs=weight * 0.95)
    assert seen.requests >= 40
    before = len(edge.admin("GET", "/requests"))
    assert GatewayRouter(edge.context()).observed_weight("green") == weight
    assert len(edge.admin("GET", "/requests")) == before, "what was measured just now is measured again"


def test_all_and_nothing_are_seen_and_a_stamp_of_the_same_weight_is_no_new_one(edge: Edge) -> None:
    reached(edge, 100)
    reached(edge, 0)
    first, second = (since(edge) for _ in range(2) if reached(edge, 25))
    assert first == second
    assert since(edge) == first
    reached(edge, 0)
    assert since(edge) != first


def since(edge: Edge) -> str:
    route = edge.context().client.get(HTTP_ROUTE, "nexus-api", NAMESPACE)
    assert route
    return route["metadata"]["annotations"]["nexus.ai/weight-since"]


def test_a_share_that_does_not_follow_is_not_the_one_requested(edge: Edge) -> None:
    """Another route takes the requests; the status of ours says that all is well."""
    reached(edge, 50)
    with elsewhere(edge):
        router = set_weight(edge, 25)
        seen = edge.until(lambda: router.look("green"), lambda seen: "were seen" in seen.problem)
        assert (seen.requested, seen.weight, seen.share) == (25, None, 100.0)
        router = set_weight(edge, 0)
        seen = edge.until(lambda: router.look("green"), lambda seen: "were seen" in seen.problem)
        assert (seen.requested, seen.weight, seen.share) == (0, None, 100.0)
    reached(edge, 25)


def test_a_gateway_that_has_not_taken_the_weight_is_no_yes(edge: Edge) -> None:
    """Its status is of an older generation, and what it still serves is the weight before."""
    reached(edge, 100)
    with edge.frozen_envoy():
        router = set_weight(edge, 25)
        seen = router.look("green")
        assert (seen.requested, seen.weight) == (25, None)
        assert "has not taken the route's present version" in seen.problem
    edge.until(lambda: router.look("green"), lambda seen: seen.weight == 25)


def test_a_gateway_that_refuses_the_route_says_why(edge: Edge) -> None:
    router = reached(edge, 25)
    client = edge.context().client
    live = client.get(HTTP_ROUTE, "nexus-api", NAMESPACE)
    assert live
    header = {"set": [{"name": "x", "value": "y"}]}
    live["spec"]["rules"][0]["filters"] = [{"type": "RequestHeaderModifier", "requestHeaderModifier": header}]
    client.replace(live, manager="somebody")
    seen = edge.until(lambda: router.look("green"), lambda seen: "Accepted" in seen.problem)
    assert (seen.weight, "filters is not supported" in seen.problem) == (None, True)
    client.delete(HTTP_ROUTE, "nexus-api", NAMESPACE)
    reached(edge, 25)


def test_prometheus_may_be_silent_then_the_gateway_alone_is_asked(edge: Edge) -> None:
    edge.admin("PUT", "/faults", [{"action": "error", "status": 404, "methods": ["GET"], "path": "*prometheus*"}])
    reached(edge, 10)


def test_an_edge_whose_address_is_not_known_is_no_yes(edge: Edge) -> None:
    routers = {weight: reached(edge, weight) for weight in (50, 100)}
    edge.admin("PUT", "/faults", [{"action": "error", "status": 404, "methods": ["GET"], "path": "*/gateways/*"}])
    for weight in (100, 25):
        set_weight(edge, weight)
        seen = edge.until(lambda: routers[100].look("green"), lambda seen: "edge cannot be asked" in seen.problem)
        assert seen.weight is None


def test_the_users_own_requests_are_enough_where_there_are_many(edge: Edge) -> None:
    """Counted by Prometheus since the weight was set; what was served before it does not count."""
    with edge.users(rate=150):
        reached(edge, 100)
        router = set_weight(edge, 10)
        route = edge.context().client.get(HTTP_ROUTE, "nexus-api", NAMESPACE)
        assert route
        found = edge.until(lambda: router.users(route, "green", 10), lambda trial: trial.verdict != "open")
    assert found.verdict == "agrees"
    assert found.share == pytest.approx(10, abs=9)


def test_rules_that_disagree_are_no_weight() -> None:
    def rule(blue: int, green: int) -> dict[str, Any]:
        backends = {"agent-orchestrator-blue": blue, "agent-orchestrator-green": green}
        return {"backendRefs": [{"name": name, "port": 80, "weight": weight} for name, weight in backends.items()]}

    assert weight_of({"spec": {"rules": [rule(95, 5)]}}, "green") == 5
    assert weight_of({"spec": {"rules": [rule(95, 5), rule(50, 50)]}}, "green") is None
    assert weight_of({"spec": {"rules": []}}, "green") is None


@contextmanager
def elsewhere(edge: Edge) -> Generator[None]:
    """A second route, somebody else's, that takes the requests for exactly / to green."""
    client = edge.context().client
    rule = {"matches": [{"path": {"type": "Exact", "value": "/"}}],
            "backendRefs": [{"name": "agent-orchestrator-green", "port": 80}]}  # fmt: skip
    spec = {"parentRefs": [{"name": "nexus-gateway"}], "hostnames": [edge.host], "rules": [rule]}
    meta = {"name": "elsewhere", "namespace": NAMESPACE}
    client.apply({"apiVersion": ROUTE, "kind": "HTTPRoute", "metadata": meta, "spec": spec}, manager="somebody")
    try:
        yield
    finally:
        client.delete(HTTP_ROUTE, "elsewhere", NAMESPACE)
