"""What bounds a mistake: Pod Security, quotas, limits, priorities, rights."""

import json
import math
from typing import Any

import pytest
from platform_chart import (
    COMPONENTS,
    ENVIRONMENTS,
    PARTS,
    TOPOLOGY,
    changed,
    objects_of,
    of_kind,
    one,
    render,
    values_of,
)

from nexus_ops.releases.quantities import amount

SPACES = ["monitoring", "nexus-agents", "nexus-data"]


def test_each_namespace_asks_for_restricted_pods() -> None:
    found = of_kind(objects_of("shared"), "Namespace")
    assert sorted(found) == SPACES
    for namespace in found.values():
        for mode in ("enforce", "audit", "warn"):
            assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_a_namespace_may_enforce_less_and_still_warns() -> None:
    values = changed(values_of("shared"), "security.podSecurity.monitoring", "baseline")
    labels = one(render(values), "Namespace", "monitoring")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"
    assert labels["pod-security.kubernetes.io/warn"] == "restricted"


def quota(values: dict[str, Any] | None = None) -> dict[str, str]:
    return one(render(values) if values else objects_of("shared"), "ResourceQuota", "nexus")["spec"]["hard"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_quota_never_stands_in_the_way_of_a_rollout(environment: str) -> None:
    """Both colours at their autoscalers' upper bounds, with the surge of an update (25 %, rounded up), fit."""
    hard = one(objects_of("shared", environment), "ResourceQuota", "nexus")["spec"]["hard"]
    pods = sum(c.autoscaling.max * (1 if c.work == "exclusive" else 2) for c in TOPOLOGY.components.values())
    surge = sum(math.ceil(c.autoscaling.max / 4) for c in TOPOLOGY.components.values() if c.work != "exclusive")
    assert pods + surge <= int(hard["pods"]) <= 1.25 * pods + 1
    for part in ("requests", "limits"):
        for what in ("cpu", "memory"):
            needed = sum(
                amount(getattr(getattr(c.resources, part), what))
                * c.autoscaling.max
                * (1 if c.work == "exclusive" else 2)
                for c in TOPOLOGY.components.values()
            )
            assert needed <= amount(hard[f"{part}.{what}"]) <= needed * 2


def test_the_quota_follows_the_components_and_its_headroom() -> None:
    values = changed(values_of("shared"), "security.quota.headroomPercent", 0)
    values["components"] = {"agent-orchestrator": values["components"]["agent-orchestrator"]}
    values["components"]["agent-orchestrator"] |= {
        "autoscaling": {"min": 1, "max": 3, "cpuPercent": 70, "memoryPercent": 80},
        "resources": {"requests": {"cpu": "0.25", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "1Gi"}},
    }
    assert quota(values) == {
        "pods": "6", "requests.cpu": "1500m", "requests.memory": "3Gi", "limits.cpu": "3", "limits.memory": "6Gi"
    }  # fmt: skip


def test_pods_that_do_not_say_get_limits_in_every_namespace() -> None:
    ranges = [obj for obj in objects_of("shared") if obj["kind"] == "LimitRange"]
    assert sorted(obj["metadata"]["namespace"] for obj in ranges) == SPACES
    for obj in ranges:
        (limit,) = obj["spec"]["limits"]
        assert limit == {
            "type": "Container",
            "default": {"cpu": "500m", "memory": "1Gi"},
            "defaultRequest": {"cpu": "250m", "memory": "512Mi"},
        }


def test_what_trades_or_pays_goes_before_what_answers_and_that_before_queues() -> None:
    classes = {name: obj["value"] for name, obj in of_kind(objects_of("shared"), "PriorityClass").items()}
    order = ["nexus-worker", "nexus-monitoring", "nexus-request", "nexus-exclusive", "nexus-data"]
    assert sorted(classes, key=lambda name: classes[name]) == order
    assert all(type(value) is int for value in classes.values()), "Go prints 1000000 as 1e+06"
    assert not any(obj["globalDefault"] for obj in of_kind(objects_of("shared"), "PriorityClass").values())


def test_every_pod_has_a_class_that_is_rendered() -> None:
    classes = set(of_kind(objects_of("shared"), "PriorityClass"))
    for name in COMPONENTS:
        pod = one(objects_of("blue"), "Deployment", f"{name}-blue")["spec"]["template"]["spec"]
        assert pod["priorityClassName"] == f"nexus-{TOPOLOGY.components[name].work}"
    texts = json.dumps([objects_of(part) for part in PARTS])
    for kind in ("Cluster", "RedisCluster", "Prometheus", "Alertmanager"):
        (found,) = of_kind(objects_of("shared"), kind).values()
        assert found["spec"]["priorityClassName"] in classes
    without = changed(values_of("blue"), "security.priorityClasses.enabled", False)
    assert "priorityClassName" in texts
    assert "priorityClassName" not in json.dumps(render(without))


def test_nobody_gets_rights_but_prometheus_and_those_only_to_find_its_targets() -> None:
    objects = objects_of("shared")
    (role,) = of_kind(objects, "ClusterRole").values()
    assert all(rule["verbs"] == ["get", "list", "watch"] for rule in role["rules"])
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {
        "services", "endpoints", "pods", "endpointslices"
    }  # fmt: skip
    (binding,) = of_kind(objects, "ClusterRoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}]
    assert one(objects, "Prometheus", "nexus-prometheus")["spec"]["serviceAccountName"] == "prometheus"
    assert not {"Role", "RoleBinding"} & {obj["kind"] for obj in objects}
    for account in of_kind(objects, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_readers_see_everything_but_secrets_and_change_nothing() -> None:
    objects = render(changed(values_of("shared"), "security.rbac.readers", ["nexus:operators"]))
    roles = [obj for obj in objects if obj["kind"] == "Role"]
    assert sorted(role["metadata"]["namespace"] for role in roles) == SPACES
    for role in roles:
        for rule in role["rules"]:
            assert rule["verbs"] == ["get", "list", "watch"]
            assert "secrets" not in rule["resources"]
            assert "" not in rule["apiGroups"] or "*" not in rule["resources"]
    for binding in (obj for obj in objects if obj["kind"] == "RoleBinding"):
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("Group", "nexus:operators")


@pytest.mark.parametrize(
    ("switch", "kinds"),
    [
        ("security.quota", {"ResourceQuota"}),
        ("security.limits", {"LimitRange"}),
        ("security.priorityClasses", {"PriorityClass"}),
        ("security.rbac", {"ClusterRole", "ClusterRoleBinding"}),
        ("security.networkPolicies", {"NetworkPolicy"}),
        ("backup", {"ObjectStore", "ScheduledBackup"}),
        ("persistence.redis", {"RedisCluster"}),
        ("monitoring.prometheus", {"Prometheus", "ClusterRole", "ClusterRoleBinding"}),
        ("monitoring.alertmanager", {"Alertmanager", "AlertmanagerConfig"}),
        ("monitoring.grafana", {"StatefulSet", "Database"}),
        ("monitoring.alerts", {"PrometheusRule"}),
        ("persistence.postgresql", {"Cluster", "Database", "ObjectStore", "ScheduledBackup"}),
    ],
)
def test_each_part_has_a_switch_of_its_own(switch: str, kinds: set[str]) -> None:
    before = {obj["kind"] for obj in objects_of("shared")}
    after = {obj["kind"] for obj in render(changed(values_of("shared"), f"{switch}.enabled", False))}
    assert before - after == kinds
    assert after <= before


def test_with_everything_switched_off_the_platform_itself_is_left() -> None:
    values = values_of("shared")
    for layer in ("security", "monitoring", "persistence"):
        values[layer] = {}
    objects = render(values)
    assert list(of_kind(objects, "Namespace")) == ["nexus-agents"], "the namespaces of others are not ours to keep"
    assert not {"Cluster", "RedisCluster", "Prometheus", "Alertmanager", "StatefulSet"} & {
        obj["kind"] for obj in objects
    }
