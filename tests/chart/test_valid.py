"""Every object that the chart renders is one that a real API server takes, field by field."""

import copy
import gzip
import json
from importlib import resources
from typing import Any

import pytest
import yaml
from platform_chart import ENVIRONMENTS, PARTS, PROJECT, TOPOLOGY, Object, objects_of, one, release_of

from nexus_ops.releases.gates import check_schema, custom_schemas, evaluate
from nexus_ops.releases.rendering import Part, Rendering

SCHEMAS = resources.files("nexus_ops.releases") / "schemas"
PACKAGED = sorted(entry.name for entry in SCHEMAS.iterdir() if entry.name.endswith(".gz"))
BY_HAND = {"postgresql.cnpg.io_databases.json.gz"}
"""A subset of the upstream definition, which is not beside the others: what passes it passes upstream's, too."""
UPSTREAM = PROJECT.parent / "shared/crds"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a plain `=` is a text, as it is in the matchers' enumerations."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_release_of_the_project_passes_every_gate(environment: str) -> None:
    cluster, release = TOPOLOGY.primary(environment), release_of(environment)
    renderings = [Rendering(release.digest, cluster.name, part, objects_of(part, environment)) for part in PARTS]
    assert [gate.problems for gate in evaluate(renderings, TOPOLOGY)] == [(), (), ()]


def test_every_custom_kind_is_checked_by_its_own_definition() -> None:
    kinds = {(obj["apiVersion"], obj["kind"]) for part in PARTS for obj in objects_of(part)}
    custom = {kind for kind in kinds if "." in kind[0] and not kind[0].partition("/")[0].endswith(".k8s.io")}
    custom |= {kind for kind in kinds if kind[0].startswith("gateway.")}
    assert {kind for _, kind in custom} == {
        "Gateway", "HTTPRoute", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Prometheus", "Alertmanager",
        "AlertmanagerConfig", "Cluster", "Database", "ObjectStore", "ScheduledBackup", "RedisCluster",
    }  # fmt: skip
    assert custom <= set(custom_schemas())


@pytest.mark.parametrize(
    ("part", "kind", "name", "path", "value"),
    [
        ("green", "Deployment", "risk-manager-green", "spec.paused_", True),
        ("green", "Deployment", "risk-manager-green", "spec.template.spec.containers.0.resources.limit", {}),
        ("green", "Deployment", "risk-manager-green", "spec.template.spec.terminationGracePeriodSeconds", "60s"),
        ("green", "HorizontalPodAutoscaler", "risk-manager-green", "spec.targetCPUUtilization", 70),
        ("green", "Service", "risk-manager-green", "spec.ports.0.portt", 80),
        ("green", "PodDisruptionBudget", "risk-manager-green", "spec.minimum", 1),
        ("green", "ConfigMap", "risk-manager-green", "data.PORT", 9090),
        ("shared", "Namespace", "nexus-agents", "spec.colour", "blue"),
        ("shared", "ServiceAccount", "risk-manager", "automount", False),
        ("shared", "Gateway", "nexus-gateway", "spec.listeners.0.tlss", {}),
        ("shared", "HTTPRoute", "nexus-api", "spec.rules.0.backendRefs.0.weigth", 5),
        ("shared", "HTTPRoute", "nexus-api", "spec.rules.0.backendRefs.0.weight", "5"),
        ("shared", "ServiceMonitor", "nexus-agents", "spec.endpoints.0.relabelings.0.source_labels", ["a"]),
        ("shared", "PrometheusRule", "nexus", "spec.groups.0.rules.0.severity", "warning"),
        ("shared", "PodMonitor", "redis-cluster", "spec.podMetricsEndpoints.0.ports", "metrics"),
        ("shared", "Cluster", "postgresql-cluster", "spec.backup.barmanObjectStore.wal.retention", "7d"),
        ("shared", "Cluster", "postgresql-cluster", "spec.monitoring.enabled", True),
        ("shared", "ObjectStore", "postgresql-backups", "spec.configuration.data.retention", "30d"),
        ("shared", "ScheduledBackup", "postgresql-cluster", "spec.plugin", "barman-cloud.cloudnative-pg.io"),
        ("shared", "Database", "grafana", "spec.reclaim", "retain"),
        ("shared", "RedisCluster", "redis-cluster", "spec.clustersize", 6),
        ("shared", "Prometheus", "nexus-prometheus", "spec.serviceMonitorSelector.team", "nexus"),
        ("shared", "Alertmanager", "nexus", "spec.slack", {}),
        ("shared", "AlertmanagerConfig", "nexus", "spec.receivers.0.slackConfigs.0.webhookUrl", "https://x"),
        ("shared", "NetworkPolicy", "default-deny", "spec.policyType", "Egress"),
        ("shared", "ResourceQuota", "nexus", "spec.hards", {}),
        ("shared", "LimitRange", "nexus", "spec.limits.0.defaults", {}),
        ("shared", "PriorityClass", "nexus-data", "values", 1),
        ("shared", "ClusterRole", "nexus-prometheus", "rules.0.verb", "get"),
        ("shared", "StatefulSet", "grafana", "spec.replica", 2),
    ],
)
def test_a_field_that_no_server_knows_is_an_error_at_its_path(
    part: Part, kind: str, name: str, path: str, value: Any
) -> None:
    """The control of the gate: it is strict for each kind that the chart has."""
    obj: Object = copy.deepcopy(one(objects_of(part), kind, name))
    *parents, last = path.split(".")
    place: Any = obj
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    place[last] = value
    (problem, *_) = check_schema([obj]).problems
    assert problem.startswith(f"{kind} {name}: ")
    assert last in problem


def definition(document: Any) -> Any:
    """A CustomResourceDefinition's schemas without descriptions, which the packaged ones do not keep."""
    if isinstance(document, list):
        return [definition(item) for item in document]
    if isinstance(document, dict):
        return {k: definition(v) for k, v in document.items() if not (k == "description" and isinstance(v, str))}
    return document


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="the definitions as their projects publish them are not beside us")
@pytest.mark.parametrize("name", [name for name in PACKAGED if name not in BY_HAND])
def test_the_packaged_definitions_are_the_upstream_ones(name: str) -> None:
    packaged = json.loads(gzip.decompress((SCHEMAS / name).read_bytes()))
    upstream = yaml.load((UPSTREAM / name.replace(".json.gz", ".yaml")).read_text(), Loader=Loader)
    schemas = [[[v["name"], v["schema"]] for v in crd["spec"]["versions"]] for crd in (packaged, upstream)]
    assert definition(schemas[0]) == definition(schemas[1])
