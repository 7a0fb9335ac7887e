"""Values that cannot be meant are refused, and the error names their path."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from platform_chart import CHART, COMPONENTS, PARTS, changed, of_kind, render, values_of

from nexus_ops.releases.gates import check_schema
from nexus_ops.releases.helm import RenderError, lint_chart
from nexus_ops.releases.rendering import Part

ONE = "components.risk-manager"
DIGEST = "@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("part", "red", "part: value must be one of 'shared', 'blue', 'green'"),
        ("router", "nginx", "router: value must be one of"),
        ("version", "latest", "version: 'latest' does not match pattern"),
        ("version", "v1.0.0-", "version: "),
        ("host", "API.nexus-ai.com", "host: "),
        ("colour", "blue", "additional properties 'colour' not allowed"),
        ("global", {"imageTag": "latest"}, "additional properties 'global' not allowed"),
        ("namespaces.agents", "Nexus Agents", "namespaces.agents: "),
        ("namespaces.extra", "x", "namespaces: additional properties 'extra'"),
        ("components", {}, "components: "),
        ("components.Risk_Manager", {}, "components: additional properties 'Risk_Manager' not allowed"),
        (f"{ONE}.replicas", "3", f"{ONE}.replicas: got string, want integer"),
        (f"{ONE}.replicas", -1, f"{ONE}.replicas: "),
        (f"{ONE}.replicas", 2.5, f"{ONE}.replicas: got number, want integer"),
        (f"{ONE}.replicaCount", 3, f"{ONE}: additional properties 'replicaCount'"),
        (f"{ONE}.work", "batch", f"{ONE}.work: value must be one of"),
        (f"{ONE}.edge", "yes", f"{ONE}.edge: got string, want boolean"),
        (f"{ONE}.image", "nexus/risk-manager:v1.0.0", f"{ONE}.image: "),
        (f"{ONE}.image", f"nexus/risk-manager:latest{DIGEST}", f"{ONE}.image: "),
        (f"{ONE}.ports.http", 0, f"{ONE}.ports.http: "),
        (f"{ONE}.ports.metrics", 8080, f"{ONE}.ports.metrics: 8080 is the http port too"),
        (f"{ONE}.autoscaling.cpuPercent", 170, f"{ONE}.autoscaling.cpuPercent: "),
        (f"{ONE}.autoscaling.min", 51, f"{ONE}.autoscaling.min: 51 is above max, 50"),
        (f"{ONE}.autoscaling.enabled", True, f"{ONE}.autoscaling: additional properties 'enabled'"),
        (f"{ONE}.resources.requests.cpu", 1, f"{ONE}.resources.requests.cpu: got number, want string"),
        (f"{ONE}.resources.limits.memory", "1GB", f"{ONE}.resources.limits.memory: "),
        (f"{ONE}.resources.limits", {"cpu": "1"}, f"{ONE}.resources.limits: missing property 'memory'"),
        (f"{ONE}.nodeGroup", "gpu-nodes", f'{ONE}.nodeGroup: "gpu-nodes" is not one of nodeGroups: agent-nodes'),
        (f"{ONE}.drainSeconds", "2m", f"{ONE}.drainSeconds: got string, want integer"),
        (f"{ONE}.environment.0", {"name": "A"}, f"{ONE}.environment.0: missing property 'value'"),
        (f"{ONE}.environment.0", {"name": "A", "secret": "s"}, f"{ONE}.environment.0: "),
        (f"{ONE}.environment.0", {"name": "A", "value": "1", "secret": "s", "key": "k"}, f"{ONE}.environment.0: "),
        (f"{ONE}.environment.0", {"name": "A B", "value": "1"}, f"{ONE}.environment.0.name: "),
        (f"{ONE}.environment.0", {"name": "A", "value": 1}, f"{ONE}.environment.0.value: got number, want string"),
        (f"{ONE}.environment.0", {"name": "REDIS_URL", "value": ""}, "name: REDIS_URL is there twice"),
        (f"{ONE}.edge", True, "components: edge is true for agent-orchestrator, risk-manager; allowed: exactly one"),
        ("components.agent-orchestrator.edge", False, "components: edge is true for none; allowed: exactly one"),
        ("pods.preStopSeconds", "5s", "pods.preStopSeconds: got string, want integer"),
        ("pods.graceSeconds.exclusive", -1, "pods.graceSeconds.exclusive: "),
        ("pods.graceSeconds", 60, "pods.graceSeconds: got number, want object"),
        ("pods.probes", None, "pods: missing property 'probes'"),
        ("pods.probes.livenessPeriodSeconds", 0, "pods.probes.livenessPeriodSeconds: "),
        ("pods.maxUnavailable", "25%", "pods.maxUnavailable: got string, want integer"),
        ("config.LOG LEVEL", "debug", "config: additional properties 'LOG LEVEL' not allowed"),
        ("config.DEBUG", True, "config.DEBUG: got boolean, want string"),
        ("mounts.risk-manager", {"config": "config"}, "mounts.risk-manager"),
        ("networking.tls.secret", "", "networking.tls.secret: missing; a Gateway takes"),
        ("router", "alb", "networking.tls.certificateArn: missing; a load balancer takes"),
        ("networking.ingress", {}, "networking: additional properties 'ingress'"),
        ("networking.tls.certificateArn", "nexus-tls", "networking.tls.certificateArn: "),
        ("networking.loadBalancer.scheme", "public", "networking.loadBalancer.scheme: "),
        ("persistence.postgresql.image", "postgres:15", "persistence.postgresql.image: "),
        ("persistence.postgresql.instances", 0, "persistence.postgresql.instances: "),
        ("persistence.postgresql.parameters.max_connections", 200, "max_connections: got number, want string"),
        ("persistence.redis.image", "redis:latest", "persistence.redis.image: "),
        ("persistence.redis.clusterSize", 2, "persistence.redis.clusterSize: "),
        ("persistence.redis.size", "100G", "persistence.redis.size: "),
        ("persistence.redis.nodeGroup", "gpu-nodes", 'persistence.redis.nodeGroup: "gpu-nodes" is not one of'),
        ("backup.schedule", "daily", "backup.schedule: "),
        ("backup.schedule", "0 0 2 * * *", "backup.schedule: "),
        ("backup.destination", "/backups", "backup.destination: "),
        ("backup.retention", "30d", "backup: additional properties 'retention'"),
        ("security.podSecurity.agents", "strict", "security.podSecurity.agents: "),
        ("security.networkPolicies.apiServer", ["10.0.0.1"], "security.networkPolicies.apiServer.0: "),
        ("security.quota.headroomPercent", -5, "security.quota.headroomPercent: "),
        ("security.priorityClasses.classes.data.value", 2_000_000_000, "security.priorityClasses.classes.data.value: "),
        ("monitoring.alertmanager.slack.webhookUrl", "x", "monitoring.alertmanager.slack: additional properties"),
        ("monitoring.alertmanager.pagerduty.routingKey", "x", "monitoring.alertmanager.pagerduty: additional"),
        ("monitoring.prometheus.retention", "30 days", "monitoring.prometheus.retention: "),
        ("monitoring.scrapeInterval", "15", "monitoring.scrapeInterval: "),
        ("monitoring.alerts.errorRatio", 5, "monitoring.alerts.errorRatio: "),
        ("monitoring.alerts.cpuPercent", 80.5, "monitoring.alerts.cpuPercent: "),
        ("monitoring.grafana.adminPassword", "x", "monitoring.grafana: additional properties 'adminPassword'"),
        ("nodeGroups.agent-nodes.workload-type", 7, "nodeGroups.agent-nodes.workload-type: got number, want string"),
        ("pullPolicy", "Sometimes", "pullPolicy: value must be one of"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(path: str, value: Any, said: str) -> None:
    for part in PARTS:
        values = values_of(part)
        if path == f"{ONE}.environment.0" and "REDIS_URL" not in str(value):
            values["components"]["risk-manager"]["environment"] = [{}]
        with pytest.raises(RenderError) as refused:
            render(changed(values, path, value))
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


def test_each_of_several_mistakes_is_named_always_in_the_same_order() -> None:
    values = changed(changed(values_of("green"), f"{ONE}.replicas", "x"), "host", 5)
    del values["namespaces"]["ops"]
    told: set[str] = set()
    for _ in range(5):
        with pytest.raises(RenderError) as refused:
            render(values)
        told.add(refused.value.problem)
    assert told == {
        f"{ONE}.replicas: got string, want integer; host: got number, want string; namespaces: missing property 'ops'."
    }


@pytest.mark.parametrize("part", PARTS)
def test_helm_itself_finds_nothing_to_complain_about(part: Part) -> None:
    assert lint_chart(CHART, values_of(part)) == []


def test_lint_names_what_is_wrong() -> None:
    assert "part: value must be one of" in " ".join(lint_chart(CHART, changed(values_of("blue"), "part", "red")))


names = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["on", "no", "null", "y", "true", "e1"]  # words that YAML takes for something else
)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20) | st.sampled_from(
    ["{{ .Values }}", "yes", "1e3", "0x1f", "- a", "a: b", "'", '"', "#", "${A}", "~", "2024-01-01", "|", "\\n"]
)
variables = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True) | st.sampled_from(["NO", "y", "On", "Null"])
quantities = st.fixed_dictionaries(
    {"cpu": st.sampled_from(["250m", "1", "0.5"]), "memory": st.sampled_from(["64Mi", "2Gi"])}
)
entries = st.fixed_dictionaries({"name": variables, "value": texts}) | st.fixed_dictionaries(
    {"name": variables, "secret": names, "key": names}
)
components = st.fixed_dictionaries(
    {
        "work": st.sampled_from(["request", "worker", "exclusive"]),
        "edge": st.just(False),
        "image": names.map(lambda name: f"ghcr.io/x/{name}:v1.0.0{DIGEST}"),
        "replicas": st.integers(0, 5000),
        "ports": st.fixed_dictionaries({"http": st.integers(1, 32767), "metrics": st.integers(32768, 65535)}),
        "autoscaling": st.fixed_dictionaries(
            {
                "min": st.integers(1, 9),
                "max": st.integers(9, 5000),
                "cpuPercent": st.integers(1, 100),
                "memoryPercent": st.integers(1, 100),
            }
        ),
        "resources": st.fixed_dictionaries({"requests": quantities, "limits": quantities}),
        "nodeGroup": st.sampled_from(["agent-nodes", "data-nodes"]),
        "drainSeconds": st.integers(0, 3600),
        "environment": st.lists(entries, max_size=4, unique_by=lambda entry: entry["name"]),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    part=st.sampled_from(PARTS),
    declared=st.dictionaries(names, components, min_size=1, max_size=3),
    config=st.dictionaries(variables, texts, max_size=3),
    graces=st.fixed_dictionaries({kind: st.integers(0, 3600) for kind in ("request", "worker", "exclusive")}),
    pre_stop=st.integers(0, 3600),
)
def test_whatever_the_schema_lets_through_is_rendered_valid_and_as_given(
    part: Part, declared: dict[str, Any], config: dict[str, str], graces: dict[str, int], pre_stop: int
) -> None:
    """No name or text is taken by YAML for a boolean, a number or a template, no number is printed as 1e+06."""
    next(iter(declared.values()))["edge"] = True
    values = {**values_of(part), "components": declared, "config": config}
    values["pods"] = {"graceSeconds": graces, "preStopSeconds": pre_stop}
    objects = render(values)
    assert objects == render(values)
    assert check_schema(objects).problems == ()
    if part == "shared":
        accounts = [obj["metadata"] for obj in objects if obj["kind"] == "ServiceAccount"]
        assert {meta["name"] for meta in accounts if meta["namespace"] == "nexus-agents"} == set(declared)
        assert {*declared, "default-deny"} == {
            obj["metadata"]["name"]
            for obj in objects
            if obj["kind"] == "NetworkPolicy" and obj["metadata"]["namespace"] == "nexus-agents"
        }
        return
    for name, component in declared.items():
        found = of_kind(objects, "Deployment")[f"{name}-{part}"]
        assert found["metadata"]["annotations"]["nexus.ai/replicas"] == str(component["replicas"])
        pod = found["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == max(
            1, pre_stop + graces[component["work"]] + component["drainSeconds"]
        )
        asked = {entry["name"]: entry.get("value") or entry.get("secret", "") for entry in component["environment"]}
        got: dict[str, str] = {}
        for entry in pod["containers"][0].get("env") or ():
            got[entry["name"]] = entry["value"] if "value" in entry else entry["valueFrom"]["secretKeyRef"]["name"]
        assert got == asked
        data = of_kind(objects, "ConfigMap")[f"{name}-{part}"]["data"]
        assert {**config, **data} == data
        assert all(data[name] == text for name, text in config.items())


def test_the_components_of_the_platform_are_seven() -> None:
    assert len(COMPONENTS) == 7


def _places(schema: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield path, schema
        for key, value in schema.items():
            yield from _places(value, f"{path}/{key}")


def test_the_schema_leaves_no_mapping_open() -> None:
    """A value with a typing mistake in its name would otherwise be silently without effect."""
    schema = json.loads(CHART["values.schema.json"])
    mappings = {path: place for path, place in _places(schema) if place.get("type") == "object"}
    assert len(mappings) > 15
    assert [path for path, place in mappings.items() if place.get("additionalProperties") is not False] == []
