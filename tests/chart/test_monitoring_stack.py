"""Prometheus, Alertmanager and Grafana: what they look at, whom they tell, what they show."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from platform_chart import PROJECT, Object, changed, objects_of, of_kind, one, render, values_of

from nexus_ops.releases.policy import policy_problems
from nexus_ops.sandbox.executables import executable
from nexus_ops.sandbox.pods.server import Agent, Behaviour, Journal

DASHBOARDS = ("agents", "financial", "system")
FROM_ELSEWHERE = re.compile(r"^(up|ALERTS|node_|cnpg_|barman_cloud_|redis_|envoy_)")
"""Metrics that agents do not have: Prometheus' own, node-exporter's, and those of data layer and gateway."""


def spec_of(kind: str, name: str) -> Object:
    return one(objects_of("shared"), kind, name)["spec"]


def test_prometheus_is_the_seed_s() -> None:
    spec = spec_of("Prometheus", "nexus-prometheus")
    assert (spec["replicas"], spec["retention"], spec["serviceAccountName"]) == (2, "30d", "prometheus")
    claim = spec["storage"]["volumeClaimTemplate"]["spec"]
    assert (claim["storageClassName"], claim["resources"]) == ("gp3", {"requests": {"storage": "1Ti"}})
    assert spec["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
    assert spec["serviceMonitorSelector"] == spec["ruleSelector"] == {"matchLabels": {"team": "nexus"}}
    assert spec["externalLabels"] == {"cluster": "production-us-west-2", "environment": "production"}


def test_prometheus_takes_every_monitor_and_rule_that_is_rendered() -> None:
    """Without namespace selectors it would look into its own namespace alone."""
    spec = spec_of("Prometheus", "nexus-prometheus")
    for kind, what in (("ServiceMonitor", "serviceMonitor"), ("PodMonitor", "podMonitor"), ("PrometheusRule", "rule")):
        found = of_kind(objects_of("shared"), kind).values()
        assert found
        (expression,) = spec[f"{what}NamespaceSelector"]["matchExpressions"]
        assert expression["operator"] == "In"
        for obj in found:
            assert obj["metadata"]["namespace"] in expression["values"]
            assert spec[f"{what}Selector"]["matchLabels"].items() <= obj["metadata"]["labels"].items()


def test_the_data_layer_and_the_gateway_are_scraped_under_jobs_of_their_own() -> None:
    found = of_kind(objects_of("shared"), "PodMonitor")
    jobs: dict[str, str] = {}
    for name, monitor in found.items():
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        (relabeling,) = endpoint["relabelings"]
        assert relabeling["targetLabel"] == "job"
        jobs[name] = relabeling["replacement"]
    assert jobs == {
        "postgresql-cluster": "nexus-postgresql",
        "redis-cluster": "nexus-redis",
        "nexus-gateway": "nexus-gateway",
    }
    gateway = found["nexus-gateway"]["spec"]
    assert gateway["namespaceSelector"] == {"matchNames": ["envoy-gateway-system"]}
    assert spec_of("RedisCluster", "redis-cluster")["redisExporter"]["enabled"] is True


def test_alerts_go_to_slack_and_critical_ones_to_pagerduty_as_well() -> None:
    spec = spec_of("AlertmanagerConfig", "nexus")
    receivers = {receiver["name"]: receiver for receiver in spec["receivers"]}
    first, rest = spec["route"]["routes"]
    assert (first["receiver"], first["continue"]) == ("pagerduty", True)
    assert first["matchers"] == [{"name": "severity", "value": "critical", "matchType": "="}]
    assert rest == {"receiver": "slack"}
    (slack,), (pager,) = receivers["slack"]["slackConfigs"], receivers["pagerduty"]["pagerdutyConfigs"]
    assert slack["apiURL"] == {"name": "alertmanager-slack", "key": "webhook-url"}
    assert pager["routingKey"] == {"name": "alertmanager-pagerduty", "key": "routing-key"}
    assert slack["sendResolved"] is pager["sendResolved"] is True


def test_an_alert_without_a_namespace_is_routed_too() -> None:
    """HighCPUUsage is a node's: it has none, and would match no configuration of a namespace."""
    spec = spec_of("Alertmanager", "nexus")
    assert spec["alertmanagerConfigMatcherStrategy"] == {"type": "None"}
    config = one(objects_of("shared"), "AlertmanagerConfig", "nexus")["metadata"]
    assert spec["alertmanagerConfigSelector"]["matchLabels"].items() <= config["labels"].items()
    assert config["namespace"] == one(objects_of("shared"), "Alertmanager", "nexus")["metadata"]["namespace"]
    (alertmanager,) = spec_of("Prometheus", "nexus-prometheus")["alerting"]["alertmanagers"]
    assert (alertmanager["name"], alertmanager["port"]) == ("alertmanager-operated", "web")
    alone = render(changed(values_of("shared"), "monitoring.alertmanager.enabled", False))
    assert "alerting" not in one(alone, "Prometheus", "nexus-prometheus")["spec"]


def grafana() -> Object:
    return spec_of("StatefulSet", "grafana")


def test_grafana_keeps_its_state_in_postgresql_and_its_secrets_elsewhere() -> None:
    """Two pods on one ReadWriteOnce claim cannot start; a password in the values is a password in git."""
    spec = grafana()
    assert spec["replicas"] == 2
    assert "volumeClaimTemplates" not in spec
    pod = spec["template"]["spec"]
    assert not any("persistentVolumeClaim" in volume for volume in pod["volumes"])
    (container,) = pod["containers"]
    environment = {variable["name"]: variable for variable in container["env"]}
    assert environment["GF_DATABASE_TYPE"]["value"] == "postgres"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"]["valueFrom"] == {
        "secretKeyRef": {"name": "grafana-secret", "key": "admin-password"}
    }
    assert environment["GF_DATABASE_PASSWORD"]["valueFrom"] == {
        "secretKeyRef": {"name": "grafana-database", "key": "password"}
    }
    assert list(policy_problems(one(objects_of("shared"), "StatefulSet", "grafana"))) == []


def test_grafana_finds_prometheus_and_its_dashboards_where_it_looks_for_them() -> None:
    pod = grafana()["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted["/etc/grafana/provisioning/dashboards"] == "grafana-dashboards"
    assert mounted["/etc/grafana/provisioning/datasources"] == "grafana-datasources"
    (source,) = yaml.safe_load(data_of("grafana-datasources")["prometheus.yaml"])["datasources"]
    assert source["url"] == "http://prometheus-operated.monitoring.svc:9090"
    assert (source["uid"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load(data_of("grafana-dashboards")["provider.yaml"])["providers"]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"


def test_a_changed_dashboard_reaches_grafana_by_a_new_pod() -> None:
    before = grafana()["template"]["metadata"]["annotations"]["nexus.ai/config"]
    other = render(changed(values_of("shared"), "monitoring.scrapeInterval", "30s"))
    assert (
        one(other, "StatefulSet", "grafana")["spec"]["template"]["metadata"]["annotations"]["nexus.ai/config"] != before
    )


def data_of(name: str) -> dict[str, str]:
    return one(objects_of("shared"), "ConfigMap", name)["data"]


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def concrete(query: str) -> str:
    """A query as Grafana sends it: with its variables filled in."""
    return re.sub(r"\$[a-z]+", ".*", query)


def test_the_dashboards_are_three_and_each_file_is_what_is_mounted() -> None:
    data = data_of("grafana-dashboards")
    assert set(data) == {*(f"{name}.json" for name in DASHBOARDS), "provider.yaml"}
    for name in DASHBOARDS:
        assert data[f"{name}.json"] == (PROJECT / f"helm/nexus-ai-defi/dashboards/{name}.json").read_text()
    uids = {json.loads(data[f"{name}.json"])["uid"] for name in DASHBOARDS}
    assert uids == {"nexus-agents", "nexus-financial", "nexus-system"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_of_a_dashboard_do_not_overlap_and_ask_the_datasource_that_is_there(name: str) -> None:
    dashboard = json.loads(data_of("grafana-dashboards")[f"{name}.json"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_of_a_dashboard_is_one_that_prometheus_understands(name: str, tmp_path: Path) -> None:
    found = queries(json.loads(data_of("grafana-dashboards")[f"{name}.json"]))
    rules = [{"record": f"panel:{number}", "expr": concrete(query)} for number, query in enumerate(found)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": rules}]}))
    command = [executable("promtool"), "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def metrics_of_agents() -> set[str]:
    """What the sandbox's agents expose, as a component of each sort does."""

    async def pages() -> list[str]:
        components = ("agent-orchestrator", "portfolio-manager", "risk-manager", "execution-engine")
        return [Agent(name, "blue", "v1.0.0", "pod", Behaviour(), Journal()).metrics() for name in components]

    lines = [line for page in asyncio.run(pages()) for line in page.splitlines()]
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def test_every_metric_of_agents_that_is_shown_is_one_that_agents_have() -> None:
    """A panel over a metric that nobody has is empty for ever, and nobody sees that it is wrong."""
    shown: set[str] = set()
    for name in DASHBOARDS:
        for query in queries(json.loads(data_of("grafana-dashboards")[f"{name}.json"])):
            bare = re.sub(r'"[^"]*"', "", re.sub(r"\{[^}]*\}", "", re.sub(r"\b(by|on) \([^)]*\)", "", query)))
            words = set(re.findall(r"\b[a-zA-Z_][a-zA-Z0-9_]*_[a-z0-9_]+\b|\bup\b|\bALERTS\b", bare))
            shown |= words - {"histogram_quantile"}
    assert {"http_requests_total", "portfolio_pnl_daily", "cnpg_collector_up", "redis_up"} <= shown
    assert {metric for metric in shown if not FROM_ELSEWHERE.match(metric)} <= metrics_of_agents()
