"""The gates: each refuses what it must, by object and path, and lets the project's own release pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.credentials import is_secret, is_secret_file
from nexus_ops.releases.gates import check_policy, check_schema, evaluate
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
        "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
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
        (_secured(runAsUser=0), "runAsUser is 0, which is root"),
        (_secured(seccompProfile={"type": "Unconfined"}), "seccompProfile.type must be RuntimeDefault"),
        (lambda obj: first(obj)["securityContext"].pop("seccompProfile"), "seccompProfile.type must be RuntimeDefault"),
        (_secured(procMount="Unmasked"), "procMount must be Default"),
        (_secured(windowsOptions={"hostProcess": True}), "hostProcess is set"),
        (_secured(appArmorProfile={"type": "Unconfined"}), "appArmorProfile is Unconfined"),
        (_secured(seLinuxOptions={"type": "spc_t"}), "seLinuxOptions leaves its confinement"),
        (lambda obj: first(obj).update(ports=[{"containerPort": 80, "hostPort": 80}]), "port 80 has a hostPort"),
        (_pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "sets kernel.msgmax"),
        (_pod(volumes=[{"name": "share", "nfs": {"server": "s", "path": "/"}}]), "volume share is a nfs"),
        (_pod(ephemeralContainers=[{**container(), "name": "debug", "image": "sh"}]), "container debug: image"),
        (lambda obj: obj["metadata"].update(annotations={"a": "redis://u:hunter2@r"}), "metadata.annotations.a holds"),
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
    alone = {**wrong, "kind": "Pod", "spec": wrong["spec"]["template"]["spec"]}
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
    for obj in (*({**wrong, "kind": kind} for kind in kinds), nested, alone):
        assert len(check_policy([obj]).problems) == 1


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "x"), ("dbPasswd", "123456"), ("API_KEY_PROD", "abc"), ("wallet-mnemonic", "dog cat"),
        ("URL", "postgresql://u:pw@h/db"), ("URL", "redis://:pw@h"), ("CLOUD", "AKIAABCDEFGHIJKLMNOP"),
        ("X", "ghp_" + "a" * 36), ("X", "https://hooks.slack.com/services/T0/B0/x"), ("X", "sk_live_" + "a" * 24),
        ("X", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl"), ("X", "-----BEGIN EC PRIVATE KEY-----"),
    ],
)  # fmt: skip
def test_a_credential_is_known_by_its_name_or_its_shape(name: str, value: str) -> None:
    assert is_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKEN_ADDRESS", "0xA0b8"), ("SECRET_NAME", "database-secret"), ("MAX_TOKENS", "4096"),
        ("PASSWORD_REQUIRED", "yes"), ("TOKEN_REFRESH", "true"), ("TOKEN_AGE", "30s"), ("DB_PASSWORD", "$(PW)"),
        ("URL", "postgresql://user:$(PASSWORD)@host/db"), ("URL", "redis://cache.svc:6379"), ("LOG_LEVEL", "info"),
        ("URL", "http://a.svc:80/x@y"),
    ],
)  # fmt: skip
def test_what_only_speaks_of_a_credential_is_let_pass(name: str, value: str) -> None:
    """A gate that cries wolf over the address of a token gets switched off."""
    assert not is_secret(name, value)


def test_a_credential_within_a_file_is_found_by_its_line() -> None:
    assert is_secret_file("app.yaml", "host: db\n  password: hunter2\n")
    assert is_secret_file("app.ini", "host=db\ndb_password = hunter2\n")
    assert not is_secret_file("app.yaml", "host: db\npassword: ${DB_PASSWORD}\n")


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
