"""The selector of a Service: all or nothing, refused otherwise before anything changes."""

from collections.abc import Iterator

import pytest
from edge import NAMESPACE, Edge

from nexus_ops.clusters.client import SERVICE
from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.routers import ROUTERS, ServiceSelectorRouter, router_of
from nexus_ops.sandbox import supervisor

pytestmark = [pytest.mark.sandbox_only]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge.start(tmp_path_factory.mktemp("selector"), "service-selector", ("gateway",))
    yield made
    supervisor.stop(made.home)


def set_weight(edge: Edge, weight: int) -> ServiceSelectorRouter:
    router = ServiceSelectorRouter(edge.context())
    with edge.driving() as fenced:
        router.set_weight(fenced, edge.shared, "green", weight)
    return router


def test_all_and_nothing_are_seen_through_the_service(edge: Edge) -> None:
    for weight in (100, 0, 100):
        look = set_weight(edge, weight).look
        edge.until(lambda look=look: look("green"), lambda seen, weight=weight: seen.weight == weight)


def test_a_part_of_the_traffic_is_refused_and_nothing_changes(edge: Edge) -> None:
    set_weight(edge, 100)
    before = edge.context().client.get(SERVICE, "nexus-load-balancer", NAMESPACE)
    with pytest.raises(PermanentError, match=r"moves all traffic or none, not 5 %\. Use blue-green here\."):
        set_weight(edge, 5)
    after = edge.context().client.get(SERVICE, "nexus-load-balancer", NAMESPACE)
    assert before
    assert after
    assert after["spec"] == before["spec"]
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_gateway_that_hangs_is_no_yes(edge: Edge) -> None:
    edge.until(lambda: set_weight(edge, 100).look("green"), lambda seen: seen.weight == 100)
    with edge.frozen_envoy():
        seen = set_weight(edge, 0).look("green")
    assert (seen.requested, seen.weight) == (0, None)


def test_a_service_that_selects_no_colour_is_no_weight(edge: Edge) -> None:
    set_weight(edge, 100)
    client = edge.context().client
    live = client.get(SERVICE, "nexus-load-balancer", NAMESPACE)
    assert live
    del live["spec"]["selector"]["nexus.ai/colour"]
    client.replace(live, manager="somebody")
    seen = ServiceSelectorRouter(edge.context()).look("green")
    assert (seen.requested, seen.weight) == (None, None)


def test_each_router_of_the_topology_is_there_and_says_whether_it_can_split_traffic(edge: Edge) -> None:
    assert {kind: router(edge.context()).moves_by_weight for kind, router in ROUTERS.items()} == {
        "gateway-api": True,
        "service-selector": False,
        "alb": True,
    }
    assert isinstance(router_of(edge.context()), ServiceSelectorRouter)
