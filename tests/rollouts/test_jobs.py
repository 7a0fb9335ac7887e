"""The Dagster jobs on a real instance, against a sandbox cluster."""

from collections.abc import Generator
from datetime import UTC, datetime

import dagster as dg
import pytest
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.lease import acquire
from nexus_ops.definitions import defs
from nexus_ops.resources import NexusResource
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sensors.rollout import SENSORS

pytestmark = [pytest.mark.sandbox_only]


@pytest.fixture
def instance(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    """A Dagster instance whose environment leads to the sandbox."""
    monkeypatch.setenv("KUBECONFIG", platform.state.kubeconfig)
    monkeypatch.setenv("NEXUS_STORE", (platform.home / "store").as_uri())
    monkeypatch.setenv("NEXUS_HOME", str(platform.home))
    with dg.instance_for_test() as made:
        yield made


def run(instance: dg.DagsterInstance, job: str, op: str, **config: object) -> dg.ExecuteInProcessResult:
    run_config = {"ops": {op: {"config": {"cluster": CLUSTER, **config}}}}
    return defs.resolve_job_def(job).execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)


def reported(instance: dg.DagsterInstance) -> dict[str, object]:
    """Metadata of the newest report of what is deployed."""
    event = instance.get_latest_materialization_event(dg.AssetKey("deployment"))
    assert event is not None
    assert event.asset_materialization is not None
    return {key: value.value for key, value in event.asset_materialization.metadata.items()}


def test_a_dry_run_changes_nothing_and_a_deploy_is_reported(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    before = platform.record()
    dry = run(instance, "deploy", "plan", version="v1.1.0")
    assert dry.success
    assert platform.record() == before
    assert dry.get_step_skipped_events() != []
    real = run(instance, "deploy", "plan", version="v1.1.0", dry_run=False, monitor_seconds=3, hold_seconds=1)
    assert real.success
    assert platform.at_the_edge()[0] == "v1.1.0"
    said = reported(instance)
    assert (said["version"], said["from"], said["success"]) == ("v1.1.0", "v1.0.0", True)
    assert "rollback" in str(said["what_next"])
    digest = platform.record().evidence[0].digest
    assert f"- monitor-health: pass: {platform.store.url}/evidence/{digest}" in str(said["evidence"]).splitlines()


def test_a_bad_candidate_fails_the_run_and_says_why(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    result = run(instance, "deploy", "plan", version="v1.4.0", dry_run=False, monitor_seconds=3, hold_seconds=1)
    assert not result.success
    assert "CrashLoopBackOff" in str(reported(instance)["summary"])
    assert platform.at_the_edge()[0] == "v1.0.0"


def test_the_sensor_goes_on_with_a_rollout_that_nobody_drives(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    sensor = next(sensor for sensor in SENSORS if sensor.name == "rollout_staging_us_west_2")

    def tick() -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=instance, resources={"nexus": NexusResource()})
        return list(sensor.evaluate_tick(context).run_requests or [])

    assert tick() == [], "nothing runs, nothing is due"
    platform.begin("v1.1.0", Settings(monitor_seconds=2, hold_seconds=1))
    context = platform.context()
    with acquire(context.client, context.cluster.ops_namespace, "rollout", "another", clock=lambda: datetime.now(UTC)):
        assert tick() == [], "another driver is at work"
    (request,) = tick()
    assert request.tags["cluster"] == CLUSTER
    job = defs.resolve_job_def("resume_rollout")
    assert job.execute_in_process(run_config=request.run_config, instance=instance).success
    assert platform.at_the_edge()[0] == "v1.1.0"
    assert tick() == []
