"""A Dagster run whose process is killed: the rollout sensor asks for another run, which brings the rollout to its end."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from drive import CLOSE, SHORT
from platform_cluster import CLUSTER, Platform
from witness import complaints, witness

from nexus_ops.clusters import lease
from nexus_ops.definitions import defs
from nexus_ops.resources import NexusResource
from nexus_ops.rollouts.record import Record
from nexus_ops.rollouts.strategy import CANARY, names
from nexus_ops.sensors.rollout import SENSORS

EXECUTE = Path(__file__).with_name("execute_deploy.py")
pytestmark = [pytest.mark.sandbox_only]


def wait_for_request(platform: Platform, instance: dg.DagsterInstance) -> dg.RunRequest:
    """Evaluate the sensor, as the daemon does, until it asks for a run."""
    sensor = next(sensor for sensor in SENSORS if sensor.name == "rollout_staging_us_west_2")
    requests: list[dg.RunRequest] = []

    def asked() -> bool:
        context = dg.build_sensor_context(instance=instance, resources={"nexus": NexusResource()})
        requests.extend(sensor.evaluate_tick(context).run_requests or [])
        return bool(requests)

    assert platform.eventually(asked, seconds=60), "the sensor never asks for a run"
    return requests[0]


def at_work(record: Record, stage: str) -> bool:
    """Whether the rollout is in a stage, with as much traffic as that is about."""
    return record.stage is not None and record.stage.name == stage and record.weight == record.stage.weight


def kill_in(platform: Platform, monkeypatch: pytest.MonkeyPatch, strategy: str, stage: str) -> None:
    """Kill the process of a deploy's run in a stage; the sensor's run brings the rollout to its end, and tells it."""
    monkeypatch.setattr(lease, "DURATION", SHORT)
    monkeypatch.setattr(lease, "SKEW", CLOSE)
    monkeypatch.setenv("KUBECONFIG", platform.state.kubeconfig)
    monkeypatch.setenv("NEXUS_STORE", (platform.home / "store").as_uri())
    monkeypatch.setenv("NEXUS_HOME", str(platform.home))
    platform.ensure("v1.0.0")
    with dg.instance_for_test() as instance:
        process = subprocess.Popen([sys.executable, str(EXECUTE), CLUSTER, "v1.1.0", strategy])
        try:

            def is_there() -> bool:
                record = platform.record()
                return record.candidate.version == "v1.1.0" and not record.finished and at_work(record, stage)

            there = platform.eventually(lambda: is_there() or process.poll() is not None, seconds=150)
            assert there, platform.record().said
            assert process.poll() is None, "the run has ended by itself"
        finally:
            process.kill()
            process.wait()
        (killed,) = instance.get_runs()
        assert killed.status == dg.DagsterRunStatus.STARTED, "nobody has told the instance that the process is gone"
        job = defs.resolve_job_def("resume_rollout")
        for _ in range(10):
            request = wait_for_request(platform, instance)
            done = job.execute_in_process(run_config=request.run_config, instance=instance, tags=request.tags)
            assert done.success
            if platform.record().finished:
                break
        told = instance.get_latest_materialization_event(dg.AssetKey("deployment"))
        assert told is not None
        ended = instance.get_run_by_id(told.run_id)
    record = platform.record()
    assert (record.phase, platform.at_the_edge()) == ("done", ("v1.1.0", record.candidate.colour)), record.reason
    assert ended is not None
    assert ended.run_id != killed.run_id
    wanted = {"cluster": CLUSTER, "rollout": record.id, "release": record.candidate.release[:12], "stage": "over"}
    assert wanted.items() <= ended.tags.items()
    assert ended.tags["actor"] == "rollout sensor"


def test_a_run_killed_while_traffic_moves_is_followed_by_one_that_ends_the_rollout(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout that stood still after its run's process was gone, or ended without telling the asset."""
    kill_in(platform, monkeypatch, "blue-green", "switch-traffic")


def test_a_run_killed_in_a_bake_is_followed_by_one_that_goes_on_from_that_share(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with witness(platform, rate=60, orders=2) as seen:
        kill_in(platform, monkeypatch, "canary", "canary-10")
    assert complaints(platform, seen) == []


@pytest.mark.soak
@pytest.mark.parametrize("stage", names(CANARY))
def test_a_run_killed_in_any_stage_of_a_canary_is_followed_by_one_that_ends_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with witness(platform, rate=60, orders=2) as seen:
        kill_in(platform, monkeypatch, "canary", stage)
    assert complaints(platform, seen) == []
