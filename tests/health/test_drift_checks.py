"""The hourly drift checks on a real Dagster instance, against a sandbox cluster on which the platform runs."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from deployed_platform import CLUSTER, VERSION, Deployed, renewed

from nexus_ops.assets.checking import last_evaluation
from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.assets.infrastructure import CLUSTER_CONFIG
from nexus_ops.clusters.client import CONFIG_MAP, Kind
from nexus_ops.definitions import defs

pytestmark = [pytest.mark.sandbox_only]
AWAY = "production-us-east-1"


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def verdict(instance: dg.DagsterInstance, cluster: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(DEPLOYMENT, f"drift_{cluster.replace('-', '_')}")
    found = last_evaluation(instance, key)
    assert found is not None
    return found


def look(instance: dg.DagsterInstance) -> None:
    """What the schedule launches."""
    assert defs.resolve_job_def("drift_of_all_clusters").execute_in_process(instance=instance).success


def test_drift_fails_the_check_is_told_once_and_so_is_its_end(deployed: Deployed, instance: dg.DagsterInstance) -> None:
    client, namespace = deployed.connect().client, deployed.topology.cluster(CLUSTER).namespace
    journal = deployed.home / "notifications.log"
    journal.unlink(missing_ok=True)
    look(instance)
    fine = verdict(instance, CLUSTER)
    assert fine.passed, fine.description
    assert f"objects are as {VERSION} states them" in (fine.description or "")
    before = client.get(CONFIG_MAP, "risk-manager-blue", namespace)
    assert before is not None
    changed = client.replace({**before, "data": {**before["data"], "LOG_LEVEL": "debug"}}, manager="kubectl-edit")
    for _ in range(2):
        look(instance)
        found = verdict(instance, CLUSTER)
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "ConfigMap risk-manager-blue; set by kubectl-edit at " in (found.description or "")
        assert "+ data.LOG_LEVEL: info" in str(found.metadata["drift"].value)
    deployed.admin("POST", "/freeze")  # what cannot be seen is no all-clear
    look(instance)
    assert verdict(instance, CLUSTER).severity is dg.AssetCheckSeverity.WARN
    deployed.admin("POST", "/thaw")
    client.replace({**changed, "data": before["data"]}, manager="kubectl-edit")
    look(instance)
    assert verdict(instance, CLUSTER).passed
    told = [line.split(" ", 1)[1] for line in journal.read_text().splitlines()]
    assert [line.partition(": ")[0] for line in told] == [f"Drift on {CLUSTER}", f"Drift on {CLUSTER}"]
    assert told[1].startswith(f"Drift on {CLUSTER}: over: ")


def test_a_cluster_that_cannot_be_seen_passes_nothing(
    deployed: Deployed, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    look(instance)
    away = verdict(instance, AWAY)
    assert (away.passed, away.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (away.description or "").startswith("could not look: ")


def test_nodes_are_as_declared_only_when_eks_says_so_too(
    deployed: Deployed, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the nodes alone nobody knows how far a group may grow; add-ons are seen without."""

    def judged(name: str) -> dg.AssetCheckEvaluation:
        found = last_evaluation(instance, dg.AssetCheckKey(CLUSTER_CONFIG, f"{name}_staging_us_west_2"))
        assert found is not None
        return found

    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    look(instance)
    nodes, add_ons = judged("nodes"), judged("add_ons")
    assert (nodes.passed, nodes.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert nodes.description == (
        "not seen: the sizes of the node groups: EKS could not be asked: NoCredentialsError. Give nexus-ops credentials of AWS "
        "that may describe clusters and node groups (docs/infrastructure.md)"
    )
    assert add_ons.passed, add_ons.description
    known = {"AWS_ENDPOINT_URL": deployed.state.aws, "AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    look(instance)
    assert judged("nodes").passed, judged("nodes").description
    group: dict[str, Any] = {"clusterName": CLUSTER, "nodegroupName": "agent-nodes"}
    eks: Any = boto3.client("eks", region_name="us-west-2")
    declared = eks.describe_nodegroup(**group)["nodegroup"]["scalingConfig"]
    client = deployed.connect().client
    coredns = client.get(Kind("apps/v1", "Deployment"), "coredns", "kube-system")
    assert coredns
    try:
        eks.update_nodegroup_config(**group, scalingConfig={**declared, "maxSize": 9, "desiredSize": 5})
        client.delete(Kind("apps/v1", "Deployment"), "coredns", "kube-system")
        look(instance)
    finally:
        eks.update_nodegroup_config(**group, scalingConfig=declared)
        client.create(renewed(coredns), manager="test")
    missing = judged("add_ons")
    assert (missing.passed, missing.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "coredns is declared and not there" in (missing.description or "")
    drifted = judged("nodes")
    assert (drifted.passed, drifted.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert drifted.description == "agent-nodes may have 5 to 9 nodes; declared: 5 to 50"


def test_the_job_diff_shows_what_a_release_would_change(deployed: Deployed, instance: dg.DagsterInstance) -> None:
    config = {"ops": {"compare_with_cluster": {"config": {"cluster": CLUSTER}}}}
    result = defs.resolve_job_def("diff").execute_in_process(instance=instance, run_config=config)
    (event,) = result.asset_observations_for_node("compare_with_cluster")
    assert f"objects are as {VERSION} states them" in str(event.metadata["diff"].value)
    config["ops"]["compare_with_cluster"]["config"]["cluster"] = AWAY
    failed = defs.resolve_job_def("diff").execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    assert not failed.success
