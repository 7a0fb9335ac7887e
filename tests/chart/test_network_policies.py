"""Who may talk to whom: the policies, asked as a network plug-in asks them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from platform_chart import (
    COMPONENTS,
    EXCLUSIVE,
    TOPOLOGY,
    Object,
    changed,
    objects_of,
    of_kind,
    one,
    render,
    values_of,
)

from nexus_ops.releases.policy import pod_of

AGENTS, DATA, MONITORING = "nexus-agents", "nexus-data", "monitoring"
SPACES = {AGENTS, DATA, MONITORING}
Pod = tuple[str, dict[str, str]]
"""Namespace and labels."""
POSTGRESQL: Pod = (DATA, {"cnpg.io/cluster": "postgresql-cluster"})
REDIS: Pod = (DATA, {"redis_setup_type": "cluster", "role": "leader"})
PROMETHEUS: Pod = (MONITORING, {"app.kubernetes.io/name": "prometheus"})
ALERTMANAGER: Pod = (MONITORING, {"app.kubernetes.io/name": "alertmanager"})
GRAFANA: Pod = (MONITORING, {"app.kubernetes.io/name": "grafana"})
GATEWAY: Pod = ("envoy-gateway-system", {"app.kubernetes.io/component": "proxy"})
DNS: Pod = ("kube-system", {"k8s-app": "kube-dns"})
SEI = "203.0.113.7"


def agent(name: str, colour: str = "green") -> Pod:
    """A component's pod, with the labels that the chart gives it."""
    found = one(objects_of(colour), "Deployment", f"{name}-{colour}")  # type: ignore[arg-type]
    return AGENTS, found["spec"]["template"]["metadata"]["labels"]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions") or []
    assert all(expression["operator"] == "In" for expression in expressions)
    exact = (selector.get("matchLabels") or {}).items() <= labels.items()
    return exact and all(labels.get(expression["key"]) in expression["values"] for expression in expressions)


def admits(peer: Object, own: str, other: Pod | str) -> bool:
    if isinstance(other, str):
        block = peer.get("ipBlock")
        address = ipaddress.ip_address(other)
        return block is not None and (
            address in ipaddress.ip_network(block["cidr"])
            and not any(address in ipaddress.ip_network(private) for private in block.get("except") or ())
        )
    space, labels = other
    if "ipBlock" in peer:
        return False
    spaces = peer.get("namespaceSelector")
    here = space == own if spaces is None else selects(spaces, {"kubernetes.io/metadata.name": space})
    return here and selects(peer.get("podSelector") or {}, labels)


def one_way(objects: Any, direction: str, pod: Pod, other: Pod | str, port: int, protocol: str) -> bool:
    """Whether the policies of a pod let it speak (Egress) or be spoken to (Ingress)."""
    rules, restricted = [], False
    for policy in (obj for obj in objects if obj["kind"] == "NetworkPolicy"):
        spec = policy["spec"]
        if policy["metadata"]["namespace"] != pod[0] or not selects(spec["podSelector"], pod[1]):
            continue
        restricted |= direction in spec["policyTypes"]
        rules += spec.get(direction.lower()) or []
    if not restricted:
        return True
    peers = "to" if direction == "Egress" else "from"
    return any(
        {"protocol": protocol, "port": port} in rule["ports"] and any(admits(p, pod[0], other) for p in rule[peers])
        for rule in rules
    )


def may(source: Pod | str, target: Pod | str, port: int, protocol: str = "TCP", objects: Any = None) -> bool:
    """Whether a connection can be made: both ends must allow it."""
    found = objects_of("shared") if objects is None else objects
    out = isinstance(source, str) or one_way(found, "Egress", source, target, port, protocol)
    return out and (isinstance(target, str) or one_way(found, "Ingress", target, source, port, protocol))


@pytest.mark.parametrize("space", sorted(SPACES))
def test_what_is_not_allowed_is_denied_also_for_pods_that_nobody_thought_of(space: str) -> None:
    stranger: Pod = (space, {"app": "stranger"})
    for other in (agent("agent-orchestrator"), POSTGRESQL, REDIS, PROMETHEUS, stranger):
        assert not any(may(stranger, other, port) for port in (80, 443, 5432, 6379, 8080, 9090))
        assert not any(may(other, stranger, port) for port in (80, 443, 5432, 6379, 8080, 9090))
    assert not may(stranger, SEI, 443)
    assert may(stranger, DNS, 53, "UDP"), "names resolve everywhere"


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_reaches_what_its_variables_name_and_no_more(name: str) -> None:
    pod, variables = agent(name), TOPOLOGY.components[name].environment
    assert may(pod, DNS, 53, "UDP")
    assert may(pod, POSTGRESQL, 5432) == ("DATABASE_URL" in variables)
    assert may(pod, REDIS, 6379) == ("REDIS_URL" in variables)
    assert may(pod, SEI, 443) == ("SEI_RPC_URL" in variables)
    assert not may(pod, SEI, 80)
    for private in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254"):
        assert not may(pod, private, 443), "the way to the Internet leads to no private network and to no metadata"
    assert not may(pod, POSTGRESQL, 8000)
    assert not may(pod, REDIS, 16379)
    assert not may(pod, PROMETHEUS, 9090)


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_talk_to_the_orchestrator_and_it_to_them_but_not_to_one_another(name: str) -> None:
    """In both colours alike: the exclusive ones are in one of them only."""
    for other in set(COMPONENTS) - {name}:
        allowed = "agent-orchestrator" in (name, other)
        for colour in ("blue", "green"):
            assert may(agent(name), agent(other, colour), 8080) == allowed
        assert not may(agent(name), agent(other), 9090)


def test_users_come_in_through_the_gateway_to_the_orchestrator_alone() -> None:
    for name in COMPONENTS:
        assert may(GATEWAY, agent(name), 8080) == (name == "agent-orchestrator")
        assert not may(SEI, agent(name), 8080)


def test_a_load_balancer_comes_from_its_subnets() -> None:
    values = changed(values_of("shared"), "router", "alb")
    values["networking"]["tls"]["enabled"] = False
    changed(values, "security.networkPolicies.apiServer", ["10.9.0.0/28"])
    objects = render(changed(values, "security.networkPolicies.loadBalancer", ["10.7.0.0/24"]))
    assert may("10.7.0.9", agent("agent-orchestrator"), 8080, objects=objects)
    assert not may("10.7.0.9", agent("execution-engine"), 8080, objects=objects)
    assert not may(GATEWAY, agent("agent-orchestrator"), 8080, objects=objects)
    assert may("10.9.0.3", agent("execution-engine"), 8080, objects=objects), "the API server's proxy"


def test_prometheus_reaches_every_metric_that_it_is_to_scrape() -> None:
    for name in COMPONENTS:
        assert may(PROMETHEUS, agent(name), 9090)
        assert not may(PROMETHEUS, agent(name), 8080)
    assert may(PROMETHEUS, POSTGRESQL, 9187)
    assert may(PROMETHEUS, REDIS, 9121)
    assert may(PROMETHEUS, GATEWAY, 19001)
    assert may(PROMETHEUS, "192.168.4.5", 9100)
    assert may(PROMETHEUS, ALERTMANAGER, 9093)
    assert not may(PROMETHEUS, POSTGRESQL, 5432)


def test_monitoring_is_reached_by_who_reads_it() -> None:
    assert may(GRAFANA, PROMETHEUS, 9090)
    assert may(GRAFANA, POSTGRESQL, 5432)
    assert may(ALERTMANAGER, SEI, 443), "Slack and PagerDuty"
    assert may(("nexus-ops", {}), PROMETHEUS, 9090)
    assert not may(GRAFANA, REDIS, 6379)
    assert not may(GRAFANA, SEI, 443)
    assert not may(agent("risk-manager"), GRAFANA, 3000)


def test_the_data_layer_talks_to_itself_its_operators_and_its_backups() -> None:
    assert may(POSTGRESQL, POSTGRESQL, 5432)
    assert may(POSTGRESQL, SEI, 443), "the object store"
    assert may(POSTGRESQL, "192.168.0.10", 443), "the API server"
    assert may(("cnpg-system", {}), POSTGRESQL, 8000)
    assert may(REDIS, REDIS, 16379)
    assert may(("redis-operator", {}), REDIS, 6379)
    assert may(("nexus-ops", {}), POSTGRESQL, 5432), "nexus-ops takes its own backups"
    assert not may(REDIS, POSTGRESQL, 5432)
    assert not may(REDIS, SEI, 443)


def test_the_ports_of_a_rule_follow_the_components_own() -> None:
    values = values_of("shared")
    values["components"]["risk-manager"]["ports"] = {"http": 8081, "metrics": 9191}
    objects = render(values)
    assert may(agent("agent-orchestrator"), agent("risk-manager"), 8081, objects=objects)
    assert not may(agent("agent-orchestrator"), agent("risk-manager"), 8082, objects=objects)
    assert may(PROMETHEUS, agent("risk-manager"), 9191, objects=objects)


def test_the_port_of_sei_is_the_one_of_its_url() -> None:
    values = values_of("shared")
    (variable,) = [v for v in values["components"][EXCLUSIVE[0]]["environment"] if v["name"] == "SEI_RPC_URL"]
    variable["value"] = "https://evm-rpc.sei-apis.com:8545/v1"
    objects = render(values)
    assert may(agent(EXCLUSIVE[0]), SEI, 8545, objects=objects)
    assert not may(agent(EXCLUSIVE[0]), SEI, 443, objects=objects)


def test_every_policy_selects_pods_that_are_there() -> None:
    """A policy whose selector has a typing mistake would protect nobody."""
    pods = [agent(name) for name in COMPONENTS] + [POSTGRESQL, REDIS, PROMETHEUS, ALERTMANAGER]
    grafana = one(objects_of("shared"), "StatefulSet", "grafana")
    assert pod_of(grafana) is not None
    pods.append((MONITORING, grafana["spec"]["template"]["metadata"]["labels"]))
    for policy in (obj for obj in objects_of("shared") if obj["kind"] == "NetworkPolicy"):
        space, selector = policy["metadata"]["namespace"], policy["spec"]["podSelector"]
        found = [pod for pod in pods if pod[0] == space and selects(selector, pod[1])]
        assert len(found) == 1 or policy["metadata"]["name"] == "default-deny"
    (prometheus,) = of_kind(objects_of("shared"), "Prometheus").values()
    assert prometheus["metadata"]["namespace"] == MONITORING


def test_policies_can_be_switched_off() -> None:
    objects = render(changed(values_of("shared"), "security.networkPolicies.enabled", False))
    assert not of_kind(objects, "NetworkPolicy")
