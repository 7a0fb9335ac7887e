"""Snapshots of a real platform in the sandbox: healthy, crashing, frozen, unmeasured; and what Dagster shows of them."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from deployed_platform import CLUSTER, VERSION, Deployed

from nexus_ops.assets.checking import last_evaluation
from nexus_ops.assets.health import CHECKS, What, check_name, health, health_checks, health_schedule
from nexus_ops.clusters.client import POD
from nexus_ops.clusters.watch import watch
from nexus_ops.definitions import defs
from nexus_ops.health.backing import ENDPOINTS
from nexus_ops.health.history import SnapshotKey, load, save
from nexus_ops.health.model import Result, Snapshot
from nexus_ops.health.probes import PROBES
from nexus_ops.health.take import take
from nexus_ops.resources import NexusResource
from nexus_ops.storage import ObjectStore

pytestmark = [pytest.mark.sandbox_only]
HEALTH = dg.AssetKey("health")


def look(deployed: Deployed, seconds: float | None = None) -> Snapshot:
    """A snapshot by the real probes; with `seconds` as the limit of each."""
    probes = PROBES if seconds is None else [replace(probe, seconds=seconds) for probe in PROBES]
    return take(CLUSTER, deployed.connect, probes)


def eventually(deployed: Deployed, holds: Callable[[Snapshot], bool], seconds: float = 40) -> Snapshot:
    """The first snapshot of which something holds, looking again whenever a pod changes."""
    deadline = time.monotonic() + seconds
    while not holds(snapshot := look(deployed)):
        assert time.monotonic() < deadline, snapshot.to_json()
        client = deployed.connect().client
        next(watch(client, POD, deployed.topology.cluster(CLUSTER).namespace, seconds=1), None)
        client.close()
    return snapshot


@contextmanager
def leading_nowhere(deployed: Deployed, service: str, namespace: str) -> Generator[None]:
    """A Service without an address, as when its pods are gone."""
    client = deployed.connect().client
    before = client.get(ENDPOINTS, service, namespace)
    assert before is not None
    now = client.replace({**before, "subsets": []}, manager="test")
    try:
        yield
    finally:
        client.replace({**now, "subsets": before["subsets"]}, manager="test")
        client.close()


def test_a_platform_that_serves_is_healthy(deployed: Deployed) -> None:
    """Every probe, the uncritical ones too: an add-on that another test took away has to be ready again first."""
    snapshot = eventually(
        deployed,
        lambda snapshot: (
            all(result.state == "healthy" for result in snapshot.results)
            and snapshot.result("Prometheus").numbers["targets"] == 36
        ),
    )
    assert snapshot.state == "healthy"
    workloads = snapshot.result("workloads")
    assert f"of {VERSION} (blue)" in workloads.why
    assert workloads.numbers["pods ready"] == workloads.numbers["pods wanted"] == 36
    assert snapshot.result("nodes").numbers["agent-nodes ready"] == 10
    assert snapshot.result("edge").numbers["median milliseconds"] > 0


def test_pods_that_crash_fail_the_workloads_with_the_reason(deployed: Deployed) -> None:
    deployed.admin("PUT", f"/behaviours/{VERSION}", {"crash_after_seconds": 0.5})
    snapshot = eventually(deployed, lambda snapshot: "CrashLoopBackOff" in snapshot.result("workloads").why)
    assert snapshot.result("workloads").state == snapshot.state == "failed"
    assert snapshot.result("workloads").numbers["restarts"] > 0
    assert snapshot.result("API server").state == "healthy"
    deployed.admin("PUT", f"/behaviours/{VERSION}", {"crash_after_seconds": None})
    eventually(deployed, lambda snapshot: snapshot.result("workloads").state == "healthy")


def test_a_frozen_api_server_is_told_within_the_time_limit(deployed: Deployed) -> None:
    deployed.admin("POST", "/freeze")
    begun = time.monotonic()
    snapshot = look(deployed, seconds=2)
    assert time.monotonic() - begun < 5
    assert snapshot.state == snapshot.result("API server").state == "failed"
    assert snapshot.result("API server").why == "no answer within 2 s"
    asked = [result for result in snapshot.results if result.probe not in ("API server", "certificates")]
    assert {result.state for result in asked} == {"unknown"}


def test_without_prometheus_nothing_is_known_of_targets_and_alerts(deployed: Deployed) -> None:
    with leading_nowhere(deployed, "prometheus-operated", "monitoring"):
        snapshot = look(deployed)
    assert {snapshot.result(name).state for name in ("Prometheus", "alerts")} == {"unknown"}
    assert snapshot.result("Prometheus").why.endswith("Prometheus answers 503")
    assert snapshot.state == "unknown"
    assert snapshot.result("workloads").state == "healthy"


def test_a_redis_that_is_gone_fails_the_data_layer(deployed: Deployed) -> None:
    with leading_nowhere(deployed, "redis-cluster-leader", "nexus-data"):
        found = look(deployed).result("data layer")
    assert found.state == "failed"
    assert found.why == (
        "PostgreSQL is reachable; Redis is not reachable: redis-cluster-leader.nexus-data has no ready address"
    )


# ---------------------------------------------------------------------- Dagster


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def newest_of(instance: dg.DagsterInstance, cluster: str) -> dict[str, Any]:
    """Metadata of the newest materialization of a cluster."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(HEALTH, asset_partitions=[cluster]), limit=1
    ).records
    materialization = records[0].asset_materialization
    assert materialization is not None
    return {key: value.value for key, value in materialization.metadata.items()}


def checked(instance: dg.DagsterInstance, what: What, cluster: str) -> dg.AssetCheckEvaluation | None:
    """The newest evaluation of a cluster's check."""
    return last_evaluation(instance, dg.AssetCheckKey(HEALTH, check_name(what, cluster)))


def test_the_asset_shows_the_table_and_its_checks_judge_the_snapshot(
    deployed: Deployed, instance: dg.DagsterInstance
) -> None:
    eventually(deployed, lambda snapshot: snapshot.state == "healthy")
    result = dg.materialize(
        [health, health_checks], instance=instance, partition_key=CLUSTER, resources={"nexus": NexusResource()}
    )
    assert result.success
    shown = newest_of(instance, CLUSTER)
    assert "| **workloads** | 🟢 healthy | 36 of 36 pods ready of v1.0.0 (blue)" in shown["report"]
    assert (shown["state"], shown["score"], shown["workloads/pods ready"]) == ("healthy", 3, 36)
    records = [record.data for record in shown["probes"].records]
    assert [(record["probe"], record["state"]) for record in records[:2]] == [
        ("API server", "healthy"),
        ("nodes", "healthy"),
    ]
    kept = load(deployed.store, SnapshotKey.parse(shown["stored"]))
    assert (kept.cluster, kept.state) == (CLUSTER, "healthy")
    evaluations = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert evaluations[check_name("critical_probes", CLUSTER)] is True
    assert evaluations[check_name("fresh", CLUSTER)] is True


def test_one_run_reports_every_cluster_and_those_out_of_reach_too(
    deployed: Deployed, instance: dg.DagsterInstance
) -> None:
    """Twice: of checks that are reported by hand, Dagster has stored the first only when they had partitions."""
    for _ in range(2):
        assert defs.resolve_job_def("health_of_all_clusters").execute_in_process(instance=instance).success
    assert newest_of(instance, CLUSTER)["workloads/pods ready"] == 36
    away = newest_of(instance, "production-us-east-1")
    assert away["state"] == "unknown"
    assert "needs the kube context" in away["report"]
    good, bad = (checked(instance, "critical_probes", name) for name in (CLUSTER, "production-us-east-1"))
    assert good is not None
    assert bad is not None
    assert (bad.passed, bad.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "needs the kube context" in (bad.description or "")
    young = checked(instance, "fresh", "production-us-east-1")
    assert young is not None
    assert young.passed


def test_every_check_is_of_the_newest_materialization(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The UI shows a check of an older one as not evaluated."""
    monkeypatch.setenv("NEXUS_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("NEXUS_HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert defs.resolve_job_def("health_of_all_clusters").execute_in_process(instance=instance).success
    newest = instance.fetch_materializations(HEALTH, limit=1).records[0]
    for what, cluster in CHECKS.values():
        found = checked(instance, what, cluster)
        assert found is not None
        assert found.target_materialization_data is not None
        assert found.target_materialization_data.storage_id == newest.storage_id


def test_a_failed_critical_probe_fails_the_check_and_is_told_once(
    deployed: Deployed, instance: dg.DagsterInstance
) -> None:
    journal = deployed.home / "notifications.log"
    journal.unlink(missing_ok=True)
    deployed.admin("POST", "/kill")
    for _ in range(2):
        assert defs.resolve_job_def("health_of_all_clusters").execute_in_process(instance=instance).success
    told = [line for line in journal.read_text().splitlines() if f"Health of {CLUSTER}: API server failed" in line]
    assert len(told) == 1
    found = checked(instance, "critical_probes", CLUSTER)
    assert found is not None
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (found.description or "").startswith("API server failed: the API server did not serve GET /version")


def test_a_tick_of_the_schedule_tells_what_is_stale_and_launches_one_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stale is told by the schedule itself: a run that never starts could not tell it."""
    now, store = datetime.now(UTC), ObjectStore.open((tmp_path / "store").as_uri())
    monkeypatch.setenv("NEXUS_STORE", store.url)
    monkeypatch.setenv("NEXUS_HOME", str(tmp_path))
    fine = Result("nodes", True, "healthy", "fine", "", 0.1, {})
    save(store, Snapshot(CLUSTER, now - timedelta(minutes=1), (fine,)))
    save(store, Snapshot("production-us-west-2", now - timedelta(minutes=16), (fine,)))
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=now, resources={"nexus": NexusResource()}
    )
    old, new = "production-us-west-2", "production-us-east-1"

    def after_a_tick() -> dict[str, dg.AssetCheckEvaluation]:
        assert len(health_schedule.evaluate_tick(context).run_requests or ()) == 1
        assert checked(instance, "fresh", CLUSTER) is None
        found = {name: checked(instance, "fresh", name) for name in (old, new)}
        return {name: one for name, one in found.items() if one is not None and not one.passed}

    found = after_a_tick()
    assert found[old].severity == dg.AssetCheckSeverity.ERROR
    assert (found[old].description or "").startswith("the newest snapshot is 16.0 minutes old")
    assert found[new].severity == dg.AssetCheckSeverity.WARN, "the run of this tick takes the first one"
    assert found[new].description == "the first snapshot is being taken"
    found = after_a_tick()
    assert found[new].severity == dg.AssetCheckSeverity.ERROR
    assert found[new].description == "there is no snapshot of today or yesterday"
