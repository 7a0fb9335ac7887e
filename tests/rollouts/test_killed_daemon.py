"""Dagster's daemon, webserver and run processes killed together in the middle of a canary, and started again later."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from platform_cluster import CLUSTER, Platform
from witness import complaints, witness

from nexus_ops.jobs.stages import DRIVES_TAG
from nexus_ops.rollouts.strategy import CANARY, names
from nexus_ops.sandbox import ui
from nexus_ops.sandbox.demo import LAUNCH

pytestmark = [pytest.mark.sandbox_only, pytest.mark.timeout(600)]


def kill_all(leader: int) -> None:
    """SIGKILL to every process of Dagster's, its runs' included; they are gone when it returns."""
    process = psutil.Process(leader)
    family = [*process.children(recursive=True), process]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left, "a start that finds the leader still there would start nothing"


def launch(url: str) -> None:
    """A canary to v1.1.0, as the UI launches it."""
    times = {"bake_seconds": 2, "monitor_seconds": 2, "hold_seconds": 1}
    config = {"cluster": CLUSTER, "version": "v1.1.0", "dry_run": False, "strategy": "canary", **times}
    tags = [{"key": DRIVES_TAG, "value": CLUSTER}, {"key": "actor", "value": "test"}]
    variables = {"job": "deploy", "config": {"ops": {"plan": {"config": config}}}, "tags": tags, "assets": None}
    answer = httpx.post(f"{url}/graphql", json={"query": LAUNCH, "variables": variables}, timeout=60).json()
    assert answer["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", answer


def kill_the_daemon_in(platform: Platform, home: Path, stage: str) -> None:
    """Roll out, kill all of Dagster when the stage has begun, start it again: the rollout ends by itself."""
    platform.ensure("v1.0.0")
    environment = {"KUBECONFIG": platform.state.kubeconfig, "NEXUS_STORE": (platform.home / "store").as_uri()}
    try:
        with witness(platform, rate=60, orders=2) as seen:
            running = ui.start(home, environment=environment)
            launch(running.url)

            def is_there() -> bool:
                record = platform.record()
                return record.candidate.version == "v1.1.0" and not record.finished and _is_in(platform, stage)

            assert platform.eventually(is_there, seconds=180), platform.record().said
            kill_all(running.pid)
            before = platform.record()
            assert not before.finished
            ui.start(home, environment=environment)
            assert platform.eventually(lambda: platform.record().finished, seconds=240), platform.record().said
        record = platform.record()
        assert (record.id, record.phase, platform.at_the_edge()[0]) == (before.id, "done", "v1.1.0"), record.reason
        assert complaints(platform, seen) == []
    finally:
        ui.stop(home)


def _is_in(platform: Platform, stage: str) -> bool:
    record = platform.record()
    return record.stage is not None and record.stage.name == stage


@pytest.mark.soak
@pytest.mark.parametrize("stage", names(CANARY))
def test_a_canary_goes_on_after_the_daemon_was_killed_in_any_stage(
    platform: Platform, tmp_path: Path, stage: str
) -> None:
    kill_the_daemon_in(platform, tmp_path, stage)
