"""What must hold before a rollout begins: managed databases and certificates, and no secret in what is said."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.client import Kind
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.capacity import capacity
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.model import Release
from nexus_ops.rollouts.backing import Check, parse_address
from nexus_ops.rollouts.prerequisites import check_prerequisites
from nexus_ops.rollouts.record import Copy
from nexus_ops.topology import SecretKey, Topology, other, project_folder

SECRET = Kind("v1", "Secret")
PASSWORD = "hunter2-correct-horse"
REDIS, POSTGRES = ("redis", "rediss"), ("postgresql", "postgres")


@pytest.mark.parametrize(
    ("url", "schemes", "hosts", "problem"),
    [
        ("redis://redis-cluster-leader.nexus-data.svc:6379", REDIS, ["redis-cluster-leader.nexus-data.svc"], ""),
        (f"rediss://agent:{PASSWORD}@nexus.abc.cache.amazonaws.com:6380/0", REDIS, ["nexus.abc.cache.amazonaws.com"], ""),
        ("rediss://agent:$(REDIS_PASSWORD)@cache.example.com:6380/0", REDIS, ["cache.example.com"], ""),
        (f"rediss://:{PASSWORD}@10.0.3.7:6380", REDIS, ["10.0.3.7"], ""),
        (f"rediss://agent:{PASSWORD}%2F%40@cache.example.com:6380/0", REDIS, ["cache.example.com"], ""),
        (f"rediss://agent:{PASSWORD}/x@cache.example.com:6380/0", REDIS, [], "cannot be read"),
        (f"rediss://agent:{PASSWORD}#x@cache.example.com:6380/0", REDIS, [], "cannot be read"),
        (f"redis://cache.example.com/{PASSWORD}", REDIS, ["cache.example.com"], "no number of a database"),
        (f"http://agent:{PASSWORD}@cache.example.com", REDIS, [], "does not begin with redis:// or rediss://"),
        (f"rediss://agent:{PASSWORD}@", REDIS, [], "names no host"),
        (PASSWORD, REDIS, [], "does not begin with"),
        (
            f"postgresql://nexus:{PASSWORD}@db.abc.rds.amazonaws.com:5432/nexus?sslmode=verify-full&sslrootcert=/ca.pem",
            POSTGRES,
            ["db.abc.rds.amazonaws.com"],
            "",
        ),
        (f"postgres://nexus:{PASSWORD}@a.example.com:5432,b.example.com:5432/nexus", POSTGRES, ["a.example.com", "b.example.com"], ""),
        (f"postgresql+asyncpg://nexus:{PASSWORD}@db.example.com/nexus", POSTGRES, ["db.example.com"], ""),
        (f"postgresql://nexus:{PASSWORD}@db.example.com/nexus?sslmode=yes", POSTGRES, ["db.example.com"], "its sslmode is none of"),
    ],
)  # fmt: skip
def test_urls_of_managed_services_are_understood(
    url: str, schemes: tuple[str, ...], hosts: list[str], problem: str
) -> None:
    address = parse_address(url, schemes)
    assert list(address.hosts) == hosts
    assert problem in address.problem if problem else address.problem == ""
    assert PASSWORD not in repr(address)


def release(platform: Platform, environment: dict[str, Any], values: str = "") -> Release:
    """A release of staging whose components have other variables."""
    components = {
        name: component.model_copy(update={"environment": {**component.environment, **environment}})
        for name, component in platform.topology.components.items()
    }
    topology: Topology = platform.topology.model_copy(update={"components": components})
    (platform.home / "prerequisites.yaml").write_text(values)
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    built = build_release(topology, "staging", "v1.2.0", catalogue, chart, platform.home / "prerequisites.yaml")
    platform.releases.save(built, chart)
    return built


def checks(platform: Platform, built: Release) -> dict[str, Check]:
    found = check_prerequisites(platform.context(), Copy("blue", built.version, built.digest), None)
    assert PASSWORD not in repr(found)
    return {check.name: check for check in found}


@pytest.fixture
def secret(platform: Platform) -> Iterator[Any]:
    """Make Secrets in the platform's namespace; they go with the test."""
    client, namespace = platform.context().client, platform.topology.cluster(CLUSTER).namespace
    made: list[str] = []

    def make(name: str, kind: str = "Opaque", **data: str) -> None:
        meta = {"name": name, "namespace": namespace}
        encoded = {key.replace("_", "."): base64.b64encode(value.encode()).decode() for key, value in data.items()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": kind, "data": encoded}
        client.create(body, manager="test")
        made.append(name)

    yield make
    for name in made:
        client.delete(SECRET, name, namespace)


def test_managed_services_in_secrets_hold_without_a_service_in_the_cluster(platform: Platform, secret: Any) -> None:
    """A platform on ElastiCache and RDS could not be deployed; its passwords are in Secrets and stay there."""
    secret("cache", url=f"rediss://agent:{PASSWORD}@nexus.cache.amazonaws.com:6380/0")
    secret("rds", url=f"postgresql://nexus:{PASSWORD}@nexus.rds.amazonaws.com:5432/nexus?sslmode=verify-full")
    managed = {"REDIS_URL": SecretKey(secret="cache", key="url"), "DATABASE_URL": SecretKey(secret="rds", key="url")}
    found = checks(platform, release(platform, managed))
    assert {check.problem for check in found.values()} == {""}
    assert found["Redis reachable"].note.startswith("nexus.cache.amazonaws.com is outside the cluster")
    assert found["database reachable"].note.startswith("nexus.rds.amazonaws.com is outside the cluster")


def test_a_url_that_nobody_can_read_is_told_without_its_password(platform: Platform, secret: Any) -> None:
    secret("cache", url=f"rediss://agent:{PASSWORD}/@nexus.cache.amazonaws.com:6380/0")
    found = checks(platform, release(platform, {"REDIS_URL": SecretKey(secret="cache", key="url")}))
    assert found["Redis reachable"].problem == (
        "REDIS_URL is no URL of Redis: it cannot be read (special characters of a password are written as %XX)."
    )


def test_each_kind_that_the_release_has_must_be_served(platform: Platform) -> None:
    """Found out in the middle of the applying, it would leave half a release."""
    definition = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    client, name = platform.context().client, "alertmanagers.monitoring.coreos.com"
    platform.admin("GET", "/state")  # of a real cluster no definition is taken away
    taken = client.get(definition, name)
    assert taken is not None
    built = release(platform, {}, "monitoring: {alertmanager: {enabled: true}}\n")
    client.delete(definition, name, None)
    try:
        assert platform.eventually(lambda: client.get(definition, name) is None)
        (found,) = [check for name, check in checks(platform, built).items() if name.startswith("kinds of")]
    finally:
        body = {key: value for key, value in taken.items() if key != "status"}
        body["metadata"] = {"name": name, "annotations": taken["metadata"].get("annotations") or {}}
        client.create(body, manager="test")
    said = "the cluster has no monitoring.coreos.com/v1 Alertmanager: install the definitions of their operators."
    assert found.problem == said


def test_a_release_that_fails_a_gate_is_refused_wherever_its_deploy_starts(platform: Platform) -> None:
    """Its asset checks stop only what is downstream of them in the same run."""
    components = {
        name: component.model_copy(
            update={"environment": {**component.environment, "DATABASE_URL": f"postgresql://nexus:{PASSWORD}@db/nexus"}}
        )
        for name, component in platform.topology.components.items()
    }
    topology = platform.topology.model_copy(update={"components": components})
    (platform.home / "gate.yaml").write_text("")
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    built = build_release(topology, "staging", "v1.3.0", catalogue, chart, platform.home / "gate.yaml")
    platform.releases.save(built, chart)
    platform.ensure("v1.0.0")
    assert platform.deploy("v1.3.0").state == "rolled-back"
    record = platform.record()
    assert "prerequisites are missing: " in record.reason
    assert "DATABASE_URL" in record.reason
    assert PASSWORD not in record.to_json()
    assert (record.applied, platform.at_the_edge()[0]) == (False, "v1.0.0")


def test_room_is_needed_for_as_many_pods_as_an_autoscaler_has_made_of_the_stable_colour(platform: Platform) -> None:
    """It was counted with the replicas that are declared; the candidate is made as large as what is seen."""
    platform.ensure("v1.0.0")
    context, stable = platform.context(), platform.record().serving
    assert stable is not None
    candidate = Copy(other(stable.colour), stable.version, stable.release)
    parts = [context.rendering(stable.release, part) for part in ("shared", "blue", "green")]
    needed = next(row.nodes_used for row in capacity(parts, context.topology) if row.group == "agent-nodes")
    groups = dict(context.topology.node_groups)
    groups["agent-nodes"] = groups["agent-nodes"].model_copy(update={"max": needed, "desired": needed})
    context.topology = context.topology.model_copy(update={"node_groups": groups})

    def room() -> str:
        (found,) = [one for one in check_prerequisites(context, candidate, stable) if one.name == "gate: capacity"]
        return found.problem

    def scale(replicas: int) -> None:
        meta = {"name": f"agent-orchestrator-{stable.colour}", "namespace": context.cluster.namespace}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"replicas": replicas}}
        context.client.apply(body, manager="nexus-rollout", force=True)

    assert room() == ""
    scale(24)
    try:
        assert "agent-nodes" in room()
    finally:
        scale(3)


def test_a_gateway_needs_its_certificate(platform: Platform, secret: Any) -> None:
    """A listener without its certificate serves nobody, and nothing says so before the switch."""
    built = release(platform, {}, "networking: {tls: {enabled: true, secret: api-tls}}\n")
    place = f"the TLS Secret api-tls in namespace {platform.topology.cluster(CLUSTER).namespace}"
    assert checks(platform, built)["certificate api-tls"].problem == f"the Gateway needs {place}, which does not exist."
    secret("api-tls", "Opaque", tls_crt="certificate")
    assert checks(platform, built)["certificate api-tls"].problem == f"{place} has no tls.key."
    platform.context().client.delete(SECRET, "api-tls", platform.topology.cluster(CLUSTER).namespace)
    secret("api-tls", "kubernetes.io/tls", tls_crt="certificate", tls_key=PASSWORD)
    assert checks(platform, built)["certificate api-tls"].problem == ""
