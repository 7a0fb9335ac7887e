"""The chart's two parts: what a colour owns, what both share, and that nothing but the colour tells colours apart."""

import json
import random
from typing import Any

import pytest
from platform_chart import (
    CHART,
    COMPONENTS,
    ENVIRONMENTS,
    EXCLUSIVE,
    NAMESPACE,
    PARTS,
    TOPOLOGY,
    changed,
    objects_of,
    of_kind,
    one,
    render,
    values_of,
)

from nexus_ops.releases.helm import render_chart
from nexus_ops.releases.policy import name_of
from nexus_ops.releases.rendering import Part

DASHBOARDS = "ConfigMap grafana-dashboards"
COLOUR_KINDS = {"ConfigMap", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Deployment"}


def shuffled(value: Any, order: random.Random) -> Any:
    """The same document with its mappings in another order."""
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("part", PARTS)
def test_the_same_inputs_give_the_same_bytes(part: Part) -> None:
    """Also when mappings come in another order: a release is known by its digest."""
    first = json.dumps(render(values_of(part)))
    order = random.Random(7)
    for _ in range(5):
        files = dict(order.sample(sorted(CHART.items()), len(CHART)))
        again = render_chart(files, shuffled(values_of(part), order), namespace=NAMESPACE)
        assert json.dumps(again) == first


@pytest.mark.parametrize("colour", ["blue", "green"])
def test_a_colour_part_has_each_kind_for_each_component(colour: Part) -> None:
    objects = objects_of(colour)
    assert len(objects) == len(COLOUR_KINDS) * len(COMPONENTS)
    for kind in COLOUR_KINDS:
        assert sorted(of_kind(objects, kind)) == sorted(f"{name}-{colour}" for name in COMPONENTS)


@pytest.mark.parametrize("colour", ["blue", "green"])
def test_everything_of_a_colour_says_so(colour: Part) -> None:
    for obj in objects_of(colour):
        labels = obj["metadata"]["labels"]
        component = labels["app.kubernetes.io/name"]
        assert obj["metadata"]["name"] == f"{component}-{colour}"
        assert obj["metadata"]["namespace"] == NAMESPACE
        assert labels["nexus.ai/colour"] == colour
        assert labels["app.kubernetes.io/part-of"] == "nexus-ai-defi"
        assert labels["app.kubernetes.io/version"] == "v1.0.0"
        assert labels["app.kubernetes.io/component"] == TOPOLOGY.components[component].work
        if obj["kind"] == "Deployment":
            of_pods = obj["spec"]["template"]["metadata"]["labels"]
            assert of_pods.items() <= labels.items()
            assert obj["spec"]["selector"]["matchLabels"].items() <= of_pods.items()


def test_nothing_shared_has_a_colour_but_the_route_that_names_both() -> None:
    for obj in objects_of("shared"):
        assert "nexus.ai/colour" not in obj["metadata"].get("labels", {})
        assert not obj["metadata"]["name"].endswith(("-blue", "-green"))
        if obj["kind"] not in ("HTTPRoute", "ServiceMonitor", "PrometheusRule") and name_of(obj) != DASHBOARDS:
            text = json.dumps(obj)
            assert "colour" not in text
            assert "blue" not in text
            assert "green" not in text


def test_blue_and_green_differ_by_nothing_but_the_colour() -> None:
    """A change that came along with the colour would be deployed by the next rollout without anyone asking for it."""
    blue, green = json.dumps(objects_of("blue")), json.dumps(objects_of("green"))
    assert blue != green
    assert blue.replace("blue", "green") == green


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_two_objects_are_the_same(environment: str) -> None:
    keys = [
        (obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])
        for part in PARTS
        for obj in objects_of(part, environment)
    ]
    assert len(set(keys)) == len(keys)


def test_a_service_of_a_colour_never_selects_pods_of_the_other() -> None:
    for name in COMPONENTS:
        selector = one(objects_of("green"), "Service", f"{name}-green")["spec"]["selector"]
        pods = {
            colour: one(objects_of(colour), "Deployment", f"{name}-{colour}")["spec"]["template"]["metadata"]["labels"]
            for colour in ("blue", "green")
        }
        assert selector.items() <= pods["green"].items()
        assert not selector.items() <= pods["blue"].items()
        others = [other for other in COMPONENTS if other != name]
        assert all(selector["app.kubernetes.io/name"] != other for other in others)


def test_services_lead_to_the_ports_of_their_pods() -> None:
    for name, service in of_kind(objects_of("blue"), "Service").items():
        ports = {port["name"]: (port["port"], port["targetPort"]) for port in service["spec"]["ports"]}
        (container,) = one(objects_of("blue"), "Deployment", name)["spec"]["template"]["spec"]["containers"]
        listening = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"http": (80, listening["http"]), "metrics": (9090, listening["metrics"])}


def test_exclusive_components_have_one_service_for_both_colours() -> None:
    services = of_kind(objects_of("shared"), "Service")
    assert sorted(services) == sorted([*EXCLUSIVE, "nexus-load-balancer", "grafana"])
    for name in EXCLUSIVE:
        assert services[name]["spec"]["selector"] == {"app.kubernetes.io/name": name}
        assert "nexus.ai/routed" not in services[name]["metadata"]["labels"]


def test_routed_objects_move_no_traffic_by_themselves() -> None:
    """Only the traffic router writes them: rendered, they give no colour any weight."""
    routed = [obj for obj in objects_of("shared") if obj["metadata"]["labels"].get("nexus.ai/routed") == "true"]
    assert {(obj["kind"], obj["metadata"]["name"]) for obj in routed} == {
        ("HTTPRoute", "nexus-api"),
        ("Service", "nexus-load-balancer"),
    }
    route = one(objects_of("shared"), "HTTPRoute", "nexus-api")["spec"]
    assert route["hostnames"] == ["api.nexus-ai.com"]
    assert route["parentRefs"] == [{"name": "nexus-gateway", "sectionName": "https"}]
    (rule,) = route["rules"]
    assert rule["backendRefs"] == [
        {"name": f"agent-orchestrator-{colour}", "port": 80, "weight": 0} for colour in ("blue", "green")
    ]
    balancer = one(objects_of("shared"), "Service", "nexus-load-balancer")["spec"]
    assert balancer["selector"] == {"app.kubernetes.io/name": "agent-orchestrator"}


def test_metrics_come_with_job_component_colour_and_version() -> None:
    """`up{job="nexus-agents"}` of the seed's alert has no such label by itself."""
    monitor = one(objects_of("shared"), "ServiceMonitor", "nexus-agents")
    assert monitor["metadata"]["labels"]["team"] == "nexus"
    selector = monitor["spec"]["selector"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"component", "colour", "version"}
    for service in of_kind(objects_of("green"), "Service").values():
        labels = service["metadata"]["labels"]
        assert labels[monitor["spec"]["jobLabel"]] == "nexus-agents"
        assert selector["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    for service in of_kind(objects_of("shared"), "Service").values():
        labels = service["metadata"]["labels"]
        assert not all(expression["key"] in labels for expression in selector["matchExpressions"]), "scraped twice"
    sources = [rule["sourceLabels"] for rule in endpoint["relabelings"]]
    of_pods = one(objects_of("green"), "Deployment", "risk-manager-green")["spec"]["template"]["metadata"]["labels"]
    metas = {"__meta_kubernetes_pod_label_" + key.replace(".", "_").replace("/", "_") for key in of_pods}
    assert all(set(source) <= metas for source in sources)


def test_another_component_needs_no_change_of_the_chart() -> None:
    values = values_of("blue")
    values["components"]["tax-reporter"] = values["components"]["analytics-core"]
    added = [obj for obj in render(values) if obj["metadata"]["name"] == "tax-reporter-blue"]
    assert {obj["kind"] for obj in added} == COLOUR_KINDS


def test_namespaces_are_those_of_the_cluster() -> None:
    for part in PARTS:
        values = changed(values_of(part), "namespaces.agents", "agents-of-a-test")
        text = json.dumps(render(values)).replace("nexus-agents.nexus-agents", "")
        assert '"namespace": "nexus-agents"' not in text
        assert '"agents-of-a-test"' in text
