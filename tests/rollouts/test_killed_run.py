"""A Dagster run whose process is killed: the rollout sensor asks for another run, which brings the rollout to its end."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from drive import CLOSE, SHORT
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters import lease
from nexus_ops.definitions import defs
from nexus_ops.resources import NexusResource
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


def is_moving(platform: Platform) -> bool:
    """Whether traffic goes to v1.1.0, and the rollout is not over."""
    record = platform.record()
    return record.candidate.version == "v1.1.0" and record.weight == 100 and not record.finished


def test_a_run_killed_while_traffic_moves_is_followed_by_one_that_ends_the_rollout(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout that stood still after its run's process was gone, or ended without telling the asset."""
    monkeypatch.setattr(lease, "DURATION", SHORT)
    monkeypatch.setattr(lease, "SKEW", CLOSE)
    monkeypatch.setenv("KUBECONFIG", platform.state.kubeconfig)
    monkeypatch.setenv("NEXUS_STORE", (platform.home / "store").as_uri())
    monkeypatch.setenv("NEXUS_HOME", str(platform.home))
    platform.ensure("v1.0.0")
    with dg.instance_for_test() as instance:
        process = subprocess.Popen([sys.executable, str(EXECUTE), CLUSTER, "v1.1.0"])
        try:
            moves = platform.eventually(lambda: is_moving(platform) or process.poll() is not None, seconds=120)
            assert moves, platform.record().said
            assert process.poll() is None, "the run has ended by itself"
        finally:
            process.kill()
            process.wait()
        (killed,) = instance.get_runs()
        assert killed.status == dg.DagsterRunStatus.STARTED, "nobody has told the instance that the process is gone"
        request = wait_for_request(platform, instance)
        job = defs.resolve_job_def("resume_rollout")
        done = job.execute_in_process(run_config=request.run_config, instance=instance, tags=request.tags)
        assert done.success
        told = instance.get_latest_materialization_event(dg.AssetKey("deployment"))
    assert told is not None
    assert told.run_id == done.run_id
    record = platform.record()
    assert (record.phase, platform.at_the_edge()) == ("done", ("v1.1.0", record.candidate.colour))
