"""What the chart asks of a pod: resources, restrictions, probes, secrets by reference, and time to finish its work."""

import copy
import json
import re
from typing import Any

import pytest
from platform_chart import (
    COMPONENTS,
    ENVIRONMENTS,
    EXCLUSIVE,
    PARTS,
    TOPOLOGY,
    Object,
    changed,
    objects_of,
    of_kind,
    one,
    release_of,
    render,
    values_of,
)

from nexus_ops.topology import SecretKey


def deployment(name: str, environment: str = "production") -> Object:
    return one(objects_of("green", environment), "Deployment", f"{name}-green")


def pod_of(name: str, environment: str = "production") -> Object:
    return deployment(name, environment)["spec"]["template"]["spec"]


def container_of(name: str) -> Object:
    (container,) = pod_of(name)["containers"]
    return container


@pytest.mark.parametrize("name", COMPONENTS)
def test_images_come_by_digest_and_never_as_latest(name: str) -> None:
    image = container_of(name)["image"]
    assert image == release_of().images[name]
    assert re.fullmatch(rf"ghcr\.io/nexus-ai-defi/{name}:v1\.0\.0@sha256:[0-9a-f]{{64}}", image)


@pytest.mark.parametrize("name", COMPONENTS)
def test_requests_and_limits_are_the_topology_s(name: str) -> None:
    declared = TOPOLOGY.components[name].resources.model_dump(mode="json")
    assert container_of(name)["resources"] == declared
    assert all(declared[part][what] for part in ("requests", "limits") for what in ("cpu", "memory"))


@pytest.mark.parametrize("name", COMPONENTS)
def test_pods_are_restricted_as_pod_security_asks(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod, container = pod_of(name), container_of(name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "emptyDir", "configMap", "secret"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


@pytest.mark.parametrize("name", COMPONENTS)
def test_probes_ask_health_and_ready(name: str) -> None:
    container = container_of(name)
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}


@pytest.mark.parametrize("name", COMPONENTS)
def test_replicas_are_the_rollout_s_and_the_autoscaler_s(name: str) -> None:
    """A release that carried `replicas` would reset the autoscaler's choice each time it is applied."""
    declared = TOPOLOGY.components[name]
    assert "replicas" not in deployment(name)["spec"]
    assert deployment(name)["metadata"]["annotations"]["nexus.ai/replicas"] == str(declared.replicas)
    scaler = one(objects_of("green"), "HorizontalPodAutoscaler", f"{name}-green")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-green"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (declared.autoscaling.min, declared.autoscaling.max)
    targets = {m["resource"]["name"]: m["resource"]["target"]["averageUtilization"] for m in scaler["metrics"]}
    assert targets == {"cpu": 70, "memory": 80}


@pytest.mark.parametrize("name", COMPONENTS)
def test_pods_run_on_their_node_group_spread_and_evicted_one_by_one(name: str) -> None:
    spec = deployment(name)["spec"]
    group = TOPOLOGY.node_groups[TOPOLOGY.components[name].node_group]
    assert spec["template"]["spec"]["nodeSelector"] == group.labels
    spread = spec["template"]["spec"]["topologySpreadConstraints"]
    assert {constraint["topologyKey"] for constraint in spread} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    budget = one(objects_of("green"), "PodDisruptionBudget", f"{name}-green")["spec"]
    assert budget["maxUnavailable"] == 1
    for selector in (budget["selector"], *(constraint["labelSelector"] for constraint in spread)):
        assert selector == spec["selector"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", COMPONENTS)
def test_a_pod_may_drain_before_it_is_killed(name: str, environment: str) -> None:
    pod = pod_of(name, environment)
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = TOPOLOGY.components[name].drain_seconds
    assert pre_stop > 0
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + 30


@pytest.mark.parametrize("name", EXCLUSIVE)
def test_exclusive_work_gets_the_longest_grace_and_never_runs_twice(name: str) -> None:
    """A trade in flight may finish; an old and a new pod of the same colour never act side by side."""
    others = [pod_of(other)["terminationGracePeriodSeconds"] for other in COMPONENTS if other not in EXCLUSIVE]
    assert pod_of(name)["terminationGracePeriodSeconds"] == 3 + 120 + 300 > max(others)
    assert deployment(name)["spec"]["strategy"] == {"type": "Recreate"}


def test_no_request_is_lost_by_an_update_within_a_colour() -> None:
    for name in set(COMPONENTS) - set(EXCLUSIVE):
        assert deployment(name)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_pre_stop_of_no_seconds_is_no_hook() -> None:
    """Kubernetes before 1.33 refuses `sleep: {seconds: 0}`."""
    (first, *_) = of_kind(render(changed(values_of("blue"), "pods.preStopSeconds", 0)), "Deployment").values()
    assert "lifecycle" not in first["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", COMPONENTS)
def test_secrets_come_by_reference(name: str) -> None:
    declared = TOPOLOGY.components[name].environment
    for variable in container_of(name)["env"]:
        wanted = declared[variable["name"]]
        if isinstance(wanted, SecretKey):
            assert variable["valueFrom"] == {"secretKeyRef": {"name": wanted.secret, "key": wanted.key}}
            assert "value" not in variable
        else:
            assert variable["value"] == wanted.replace("{colour}", "green")
    assert sorted(declared) == [variable["name"] for variable in container_of(name)["env"]]


def test_portfolio_manager_has_its_files_and_nobody_else_does() -> None:
    """/config and /secrets, as the seed mounts them."""
    pod = pod_of("portfolio-manager")
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/config"]["name"]]["configMap"] == {"name": "portfolio-manager-green"}
    assert volumes[mounts["/secrets"]["name"]]["secret"] == {"secretName": "agent-secrets"}
    assert mounts["/secrets"]["readOnly"] is True
    for name in set(COMPONENTS) - {"portfolio-manager"}:
        assert [mount["mountPath"] for mount in container_of(name)["volumeMounts"]] == ["/tmp"]


def test_everything_that_a_pod_refers_to_is_rendered() -> None:
    shared, colour = objects_of("shared"), objects_of("green")
    for name in COMPONENTS:
        pod = pod_of(name)
        assert pod["serviceAccountName"] in of_kind(shared, "ServiceAccount")
        for source in pod["containers"][0]["envFrom"]:
            assert source["configMapRef"]["name"] in of_kind(colour, "ConfigMap")


def test_a_change_of_the_configuration_rolls_the_pods_and_changes_nothing_else_of_them() -> None:
    before = of_kind(render(values_of("blue")), "Deployment")
    after = of_kind(render(changed(values_of("blue"), "config.LOG_LEVEL", "debug")), "Deployment")

    def without_checksum(obj: Object) -> tuple[Object, str]:
        found = copy.deepcopy(obj)
        return found, found["spec"]["template"]["metadata"]["annotations"].pop("nexus.ai/config")

    for name in before:
        (old, old_sum), (new, new_sum) = without_checksum(before[name]), without_checksum(after[name])
        assert old == new
        assert old_sum != new_sum


def test_what_the_chart_sets_itself_cannot_be_configured_away() -> None:
    objects = render(changed(values_of("blue"), "config.NEXUS_CLUSTER", "elsewhere"))
    assert one(objects, "ConfigMap", "risk-manager-blue")["data"]["NEXUS_CLUSTER"] == "production-us-west-2"


@pytest.mark.parametrize(
    "wrong",
    [
        ":latest",
        "production-green",
        "PodSecurityPolicy",
        "kubernetes.io/ingress.class",
        "redis://redis-cluster:",
        "postgresql-cluster-rw:",
        "agent-orchestrator-service",
        "barmanObjectStore",
        "adminPassword",
        "hooks.slack.com",
        "curl",
        '"kind": "Secret", "metadata"',
        '"apiVersion": "v1", "kind": "Cluster"',
        '"clusterSize": 6',
        "redis:7.0.5",
        "enablePodMonitor",
        "grafana-pvc",
    ],
)
def test_nothing_that_the_seed_gets_wrong_is_rendered(wrong: str) -> None:
    texts: list[Any] = [json.dumps(objects_of(part, env), sort_keys=True) for part in PARTS for env in ENVIRONMENTS]
    assert not any(wrong in text for text in texts)
