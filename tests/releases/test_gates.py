"""The gates: each refuses what it must, by object and path, and lets the project's own release pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.gates import capacity, check_capacity, check_policy, check_schema, cores, evaluate, gibibytes
from nexus_ops.releases.rendering import Part, render
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
PROJECT = default_path().parent
TOPOLOGY = Topology.load(default_path())
IMAGE = "ghcr.io/x/agent:v1@sha256:" + "a" * 64
PARTS: tuple[Part, ...] = ("shared", "blue", "green")
AMOUNT = {"cpu": "100m", "memory": "128Mi"}


def container() -> Object:
    return {
        "name": "agent", "image": IMAGE, "resources": {"requests": AMOUNT, "limits": AMOUNT},
        "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}},
        "env": [{"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "database-secret", "key": "url"}}}],
    }  # fmt: skip


def deployment() -> Object:
    """A Deployment that no gate speaks against."""
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "agent", "namespace": "n"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [container()]}},
        },
    }  # fmt: skip


def route() -> Object:
    rule = {"backendRefs": [{"name": "agent", "port": 80, "weight": 1}]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "api", "namespace": "n"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [rule]},
    }  # fmt: skip


def first(obj: Object) -> Object:
    """The container of a Deployment."""
    return obj["spec"]["template"]["spec"]["containers"][0]


# ---------------------------------------------------------------- schema


def test_valid_objects_pass() -> None:
    """The control of every refusal below."""
    assert check_schema([deployment(), route()]).passed
    assert check_policy([deployment(), route()]).passed


def test_an_unknown_field_in_a_deployment_is_refused_at_its_path() -> None:
    """A misspelt field is dropped silently by a server that is asked politely: limits that limit nothing."""
    wrong = deployment()
    first(wrong)["resources"]["limit"] = first(wrong)["resources"].pop("limits")
    (problem,) = check_schema([wrong]).problems
    assert problem.startswith("Deployment agent: spec.template.spec.containers.0.resources: ")
    assert "'limit'" in problem


def test_an_unknown_field_in_a_route_is_refused_at_its_path() -> None:
    """With `weigth` both backends have weight 1: half of the users on a candidate that nobody tested."""
    wrong = route()
    wrong["spec"]["rules"][0]["backendRefs"][0]["weigth"] = 0
    (problem,) = check_schema([wrong]).problems
    assert problem.startswith("HTTPRoute api: spec.rules.0.backendRefs.0: ")
    assert "'weigth'" in problem


def test_a_wrong_type_is_refused() -> None:
    wrong, wrong_route = deployment(), route()
    wrong["spec"]["replicas"] = "three"
    wrong_route["spec"]["rules"][0]["backendRefs"][0]["weight"] = "1"
    assert len(check_schema([wrong, wrong_route]).problems) == 2


def test_a_kind_that_nobody_defines_is_refused() -> None:
    (problem,) = check_schema([{"apiVersion": "example.org/v1", "kind": "Magic", "metadata": {"name": "m"}}]).problems
    assert problem.startswith("Magic m: example.org/v1 Magic is no kind that is known")


# ---------------------------------------------------------------- policy


def _image(image: str) -> Callable[[Object], None]:
    return lambda obj: first(obj).update(image=image)


def _lacks(part: str, what: str) -> Callable[[Object], None]:
    def change(obj: Object) -> None:
        resources = copy.deepcopy(first(obj)["resources"])
        del resources[part][what]
        first(obj)["resources"] = resources

    return change


def _secured(**fields: Any) -> Callable[[Object], None]:
    return lambda obj: first(obj)["securityContext"].update(fields)


def _pod(**fields: Any) -> Callable[[Object], None]:
    return lambda obj: obj["spec"]["template"]["spec"].update(fields)


def _env(name: str, value: str) -> Callable[[Object], None]:
    return lambda obj: first(obj)["env"].append({"name": name, "value": value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_image(IMAGE.replace(":v1@", ":latest@")), "is tagged latest"),
        (_image("ghcr.io/x/agent:v1"), "'ghcr.io/x/agent:v1' has no digest"),
        (_image("agent@sha256:abc"), "has no digest"),
        (_lacks("limits", "cpu"), "resources.limits.cpu is missing"),
        (_lacks("limits", "memory"), "resources.limits.memory is missing"),
        (_lacks("requests", "cpu"), "resources.requests.cpu is missing"),
        (_lacks("requests", "memory"), "resources.requests.memory is missing"),
        (lambda obj: first(obj).pop("resources"), "resources.limits.cpu is missing"),
        (_secured(privileged=True), "privileged"),
        (_secured(allowPrivilegeEscalation=True), "allowPrivilegeEscalation must be false"),
        (lambda obj: first(obj).pop("securityContext"), "allowPrivilegeEscalation must be false"),
        (_secured(capabilities={"drop": ["NET_RAW"]}), "capabilities.drop must be [ALL]"),
        (_secured(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), "capabilities SYS_ADMIN are added"),
        (_pod(hostNetwork=True), "hostNetwork is set"),
        (_pod(volumes=[{"name": "root", "hostPath": {"path": "/"}}]), "volume root is a hostPath"),
        (_pod(initContainers=[{**container(), "name": "init", "image": "init:v1"}]), "container init: image"),
        (_env("DATABASE_PASSWORD", "hunter2"), "env DATABASE_PASSWORD looks like a secret"),
        (_env("DATABASE_URL", "postgresql://nexus:hunter2@db/nexus"), "env DATABASE_URL looks like a secret"),
        (lambda obj: first(obj).update(args=["--url=redis://u:hunter2@r"]), "command line holds a secret"),
    ],
)  # fmt: skip
def test_a_workload_against_the_policy_is_refused(change: Callable[[Object], None], message: str) -> None:
    wrong = deployment()
    change(wrong)
    problems = check_policy([wrong]).problems
    assert any(message in problem for problem in problems)
    assert all(problem.startswith("Deployment agent: ") for problem in problems)
    assert not any("hunter2" in problem for problem in problems), "the report must not spread the secret"


def test_a_container_that_runs_as_root_in_a_pod_that_must_not_is_refused() -> None:
    """A container's own word wins over its pod's in Kubernetes."""
    wrong = deployment()
    _pod(securityContext={"runAsNonRoot": True})(wrong)
    assert check_policy([wrong]).passed
    _secured(runAsNonRoot=False)(wrong)
    (problem,) = check_policy([wrong]).problems
    assert "runAsNonRoot must be true" in problem


def test_every_kind_of_workload_is_judged() -> None:
    """A backup's CronJob runs in the same cluster as the agents."""
    wrong = deployment()
    _image("agent:v1")(wrong)
    nested = {**wrong, "kind": "CronJob", "spec": {"jobTemplate": {"spec": wrong["spec"]}}}
    for kind in ("StatefulSet", "DaemonSet", "Job"):
        assert len(check_policy([{**wrong, "kind": kind}]).problems) == 1
    assert len(check_policy([nested]).problems) == 1


@pytest.mark.parametrize("field", ["data", "stringData"])
def test_a_secret_with_a_value_is_refused(field: str) -> None:
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    assert check_policy([secret]).passed
    (problem,) = check_policy([{**secret, field: {"url": "c2VjcmV0"}}]).problems
    assert problem.startswith("Secret s: holds a secret's value")


@pytest.mark.parametrize(
    ("key", "value"), [("api_key", "x"), ("url", "redis://u:hunter2@r"), ("pem", "-----BEGIN PRIVATE KEY-----")]
)
def test_a_secret_in_a_config_map_is_refused(key: str, value: str) -> None:
    config: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {key: value}}
    (problem,) = check_policy([config]).problems
    assert problem.startswith(f"ConfigMap c: data.{key} looks like a secret")
    assert "hunter2" not in problem


# ---------------------------------------------------------------- capacity


def crowded(**changes: Any) -> Topology:
    """The topology in which risk-manager asks for more."""
    document: Object = yaml.safe_load(default_path().read_text())
    document["components"]["risk-manager"].update(changes)
    return Topology.parse(document)


def test_both_colours_must_fit_and_the_refusal_gives_the_numbers() -> None:
    group = TOPOLOGY.component("risk-manager").node_group
    (row,) = [row for row in capacity(TOPOLOGY) if row.group == group]
    one = TOPOLOGY.component("risk-manager")
    others = row.cpu_used - 2 * one.replicas * cores(one.resources.requests.cpu)
    amounts = {"cpu": "64", "memory": one.resources.requests.memory}
    replicas = int(row.cpu // 64)  # one colour alone would fit
    scaling = {**one.autoscaling.model_dump(), "min": 1, "max": 5000}
    changed = crowded(replicas=replicas, autoscaling=scaling, resources={"requests": amounts, "limits": amounts})
    result = check_capacity(changed)
    assert not result.passed
    asked = others + 2 * replicas * 64
    (problem,) = [problem for problem in result.problems if "of cpu" in problem]
    assert problem.startswith(
        f"node group {group}: both colours ask for {asked:.1f} cores of cpu, {group} has {row.cpu:.1f}"
    )


def test_memory_counts_as_well_as_cpu() -> None:
    one = TOPOLOGY.component("risk-manager")
    amounts = {"cpu": one.resources.requests.cpu, "memory": "900Ti"}
    (problem,) = check_capacity(crowded(resources={"requests": amounts, "limits": amounts})).problems
    assert "GiB of memory" in problem


def test_exclusive_work_is_in_one_colour_only() -> None:
    """It is never in both, so it must not be counted twice: a release that fits would be refused."""
    exclusive = next(c for c in TOPOLOGY.components.values() if c.work == "exclusive")
    document: Object = yaml.safe_load(default_path().read_text())
    document["components"][exclusive.name]["work"] = "worker"
    before, after = (
        next(row for row in capacity(t) if row.group == exclusive.node_group)
        for t in (TOPOLOGY, Topology.parse(document))
    )
    assert after.cpu_used - before.cpu_used == pytest.approx(
        exclusive.replicas * cores(exclusive.resources.requests.cpu)
    )


@pytest.mark.parametrize(("quantity", "amount"), [("500m", 0.5), ("2", 2.0), ("0.25", 0.25)])
def test_cpu_quantities(quantity: str, amount: float) -> None:
    assert cores(quantity) == amount


@pytest.mark.parametrize(("quantity", "amount"), [("512Mi", 0.5), ("2Gi", 2.0), ("1Ti", 1024.0), ("1048576Ki", 1.0)])
def test_memory_quantities(quantity: str, amount: float) -> None:
    assert gibibytes(quantity) == amount


# ---------------------------------------------------------------- the project's own


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_projects_own_release_passes_every_gate(environment: str) -> None:
    chart = read_chart(PROJECT / "helm/nexus-ai-defi")
    catalogue = FileCatalogue(PROJECT / "images.yaml")
    values = PROJECT / f"helm/values-{environment}.yaml"
    release = build_release(TOPOLOGY, environment, "v1.0.0", catalogue, chart, values)
    renderings = [render(release, TOPOLOGY.primary(environment), part, chart) for part in PARTS]
    results = evaluate(renderings, TOPOLOGY)
    assert [result.name for result in results] == ["schema", "policy", "capacity"]
    assert [problem for result in results for problem in result.problems] == []
