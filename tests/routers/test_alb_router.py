"""An AWS load balancer: the annotation asks, rules, targets and counted requests must agree before anything is believed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from edge import ALB, NAMESPACE, Edge

from nexus_ops.clusters.client import INGRESS
from nexus_ops.rollouts.routers import AlbRouter
from nexus_ops.rollouts.routers.alb import weight_of
from nexus_ops.rollouts.routers.elbv2 import LoadBalancer, service_of
from nexus_ops.rollouts.routers.router import Seen
from nexus_ops.sandbox import supervisor

pytestmark = [pytest.mark.sandbox_only]
AWS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge.start(tmp_path_factory.mktemp("alb"), "alb", ("gateway", "prometheus", "aws"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**AWS, "AWS_ENDPOINT_URL": made.state.aws}.items():
            patch.setenv(name, value)
        yield made
    supervisor.stop(made.home)


@pytest.fixture(autouse=True)
def _quiet(edge: Edge) -> Iterator[None]:
    yield
    edge.admin("DELETE", "/load-balancer")
    edge.admin("DELETE", "/faults")


def set_weight(edge: Edge, weight: int) -> AlbRouter:
    """Ask for a weight of green, as a driver does."""
    router = AlbRouter(edge.context())
    with edge.driving() as fenced:
        router.set_weight(fenced, edge.shared, "green", weight)
    return router


def until_seen(edge: Edge, router: AlbRouter, weight: int) -> Seen:
    return edge.until(lambda: router.look("green"), lambda seen: seen.weight == weight, seconds=60)


def in_force(edge: Edge, router: AlbRouter) -> None:
    """Until the load balancer's rules and targets are as asked; traffic is not waited for."""
    edge.until(
        lambda: router.look("green").problem,
        lambda why: not any(word in why for word in ("rule", "targets", "address")),
    )


def problem(edge: Edge, router: AlbRouter, words: str) -> Seen:
    """What is seen when it says these words, and that it is never a weight."""
    seen = edge.until(lambda: router.look("green"), lambda seen: words in seen.problem)
    assert seen.weight is None
    return seen


def test_weights_are_seen_when_rules_targets_and_counted_requests_have_them(edge: Edge) -> None:
    """An idle environment: requests of our own are what Prometheus counts."""
    for weight in (25, 100):
        router = set_weight(edge, weight)
        seen = until_seen(edge, router, weight)
        assert seen.requests >= 40, "Prometheus' count"
        assert seen.share == pytest.approx(weight, abs=20)


def test_five_percent_are_seen_from_the_users_own_requests(edge: Edge) -> None:
    router = set_weight(edge, 5)
    in_force(edge, router)  # users need an address
    with edge.users(rate=150):
        seen = until_seen(edge, router, 5)
    assert seen.share == pytest.approx(5, abs=4.9)
    assert seen.share


def test_the_controllers_names_and_tags_lead_from_the_ingress_to_the_targets(edge: Edge) -> None:
    in_force(edge, set_weight(edge, 100))
    ingress = edge.context().client.get(INGRESS, "nexus-api", NAMESPACE)
    assert ingress
    (entry,) = ingress["status"]["loadBalancer"]["ingress"]
    assert entry["hostname"].endswith(".elb.amazonaws.com")
    groups = LoadBalancer("us-west-2", f"dualstack.{entry['hostname'].upper()}").groups_of(
        edge.host, f"{NAMESPACE}/nexus-api"
    )
    assert set(groups) == {"agent-orchestrator-blue", "agent-orchestrator-green"}
    assert [len(group.states) for group in groups.values()] == [2, 2]


def test_a_controller_that_is_slow_leaves_the_old_rule_in_force_and_that_is_said(edge: Edge) -> None:
    in_force(edge, set_weight(edge, 0))
    edge.admin("PUT", "/load-balancer", {"delay": 3600})
    seen = problem(edge, set_weight(edge, 25), "the load balancer's rule gives 0 %, not 25 %")
    assert seen.requested == 25
    edge.admin("DELETE", "/load-balancer")


def test_a_controller_that_fails_is_no_yes(edge: Edge) -> None:
    edge.admin("PUT", "/load-balancer", {"fail": "AccessDenied"})
    problem(edge, set_weight(edge, 50), "not 50 %")


def test_a_rule_that_is_in_force_while_traffic_lags_behind_is_no_yes(edge: Edge) -> None:
    """Argo's outage: the weight was asserted, users were still elsewhere."""
    in_force(edge, set_weight(edge, 100))
    edge.until(edge.answers, lambda answers: answers["green"] == 12)
    edge.admin("PUT", "/load-balancer", {"lag": 3600})
    problem(edge, set_weight(edge, 0), "100 % of 12 requests at the edge were seen")


def test_unhealthy_targets_are_neither_a_yes_nor_ready_for_traffic(edge: Edge) -> None:
    router = set_weight(edge, 25)
    edge.until(lambda: router.blocked("green"), lambda why: not why)
    edge.admin("PUT", "/load-balancer", {"unhealthy": ["agent-orchestrator-green"]})
    problem(edge, router, "targets of agent-orchestrator-green are not healthy: ")
    assert "is unhealthy" in router.blocked("green")
    assert router.blocked("blue") == ""


def test_a_ready_pod_that_is_no_target_yet_is_no_yes(edge: Edge) -> None:
    """Scaled up, while the controller is behind."""
    in_force(edge, set_weight(edge, 100))
    edge.admin("PUT", "/load-balancer", {"fail": "throttled"})
    with edge.driving() as fenced:
        fenced.scale("agent-orchestrator-green", NAMESPACE, 3)
    router = AlbRouter(edge.context())
    problem(edge, router, "is not registered")
    edge.admin("DELETE", "/load-balancer")
    in_force(edge, router)
    with edge.driving() as fenced:
        fenced.scale("agent-orchestrator-green", NAMESPACE, 2)


def test_without_prometheus_nothing_is_seen(edge: Edge) -> None:
    router = set_weight(edge, 25)
    edge.admin("PUT", "/faults", [{"action": "error", "status": 404, "methods": ["GET"], "path": "*prometheus*"}])
    problem(edge, router, "Prometheus answered 404")


def test_without_aws_nothing_is_seen_and_no_traffic_moves(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    router = set_weight(edge, 25)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    problem(edge, router, "AWS does not say")
    assert "AWS does not say" in router.blocked("green")


def test_a_colour_that_does_not_exist_is_left_out_of_the_action(edge: Edge) -> None:
    """The real controller does nothing at all while one of several Services is missing."""
    context = edge.context()
    shared = edge.shared
    action: dict[str, Any] = json.loads(shared.objects[0]["metadata"]["annotations"][f"{ALB}/actions.nexus-api"])
    action["forwardConfig"]["targetGroups"][0]["serviceName"] = "absent-blue"
    shared.objects[0]["metadata"]["annotations"][f"{ALB}/actions.nexus-api"] = json.dumps(action)
    router = AlbRouter(context)
    with edge.driving() as fenced:
        router.set_weight(fenced, shared, "green", 100)
    live = context.client.get(INGRESS, "nexus-api", NAMESPACE)
    assert live
    written = json.loads(live["metadata"]["annotations"][f"{ALB}/actions.nexus-api"])
    assert [group["serviceName"] for group in written["forwardConfig"]["targetGroups"]] == ["agent-orchestrator-green"]
    assert weight_of(live, "green") == 100


@pytest.mark.parametrize(
    ("tag", "service"),
    [
        ("nexus-agents/nexus-api-agent-orchestrator-blue:80", "agent-orchestrator-blue"),
        ("nexus-agents/other-agent-orchestrator-blue:80", ""),
        ("", ""),
    ],
)
def test_a_target_group_says_by_its_tag_which_service_it_stands_for(tag: str, service: str) -> None:
    assert service_of(tag, "nexus-agents/nexus-api") == service


@pytest.mark.parametrize("text", ["", "{", "{}", '{"forwardConfig": {"targetGroups": [{"serviceName": "a-blue"}]}}'])
def test_an_annotation_that_is_no_action_is_no_weight(text: str) -> None:
    assert weight_of({"metadata": {"annotations": {f"{ALB}/actions.nexus-api": text}}}, "green") is None
