"""A driver that is killed or frozen anywhere: the rollout goes on, and nothing is done twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from drive import CLOSE, SHORT
from platform_cluster import Platform

from nexus_ops.clusters import lease
from nexus_ops.clusters.client import LEASE
from nexus_ops.clusters.errors import LeaseHeld
from nexus_ops.rollouts.driver import Advance

DRIVE = Path(__file__).with_name("drive.py")
pytestmark = [pytest.mark.sandbox_only, pytest.mark.timeout(3600)]


@contextmanager
def driver(platform: Platform) -> Generator[subprocess.Popen[str]]:
    """A driver in a process of its own; gone at the end, whatever happened."""
    command = [sys.executable, str(DRIVE), platform.state.kubeconfig, (platform.home / "store").as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def go_on(platform: Platform) -> Advance:
    """What the sensor does: try again until the dead driver's lease has run out, then finish."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return platform.finish()
        except LeaseHeld:
            assert time.monotonic() < deadline, "the lease of a dead driver never runs out"
            cluster = platform.topology.cluster("staging-us-west-2")
            next(platform.context().client.watch(LEASE, cluster.ops_namespace, seconds=1), None)


def check_the_end(platform: Platform, result: Advance, version: str) -> None:
    """The rollout came to an end that makes sense, and exclusive work is in one colour only."""
    assert result.state == "done", platform.record().reason
    assert platform.at_the_edge()[0] == version
    colour = platform.at_the_edge()[1]
    wanted = {(component, colour) for component in platform.topology.components}
    assert platform.eventually(lambda: platform.pods() == wanted)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that run out soon, here as in the driver's process."""
    monkeypatch.setattr(lease, "DURATION", SHORT)
    monkeypatch.setattr(lease, "SKEW", CLOSE)


def next_version(platform: Platform) -> str:
    """Whichever of two healthy versions does not serve."""
    serving = platform.record().serving
    return "v1.1.0" if serving and serving.version == "v1.0.0" else "v1.0.0"


def kill_at(platform: Platform, k: int, action: str) -> bool:
    """Roll out, kill the driver at its k-th mutating request, and let another finish; False when there is no k-th."""
    platform.ensure(next_version(platform))
    version = next_version(platform)
    platform.begin(version)
    platform.admin("PUT", "/faults", [{"action": action, "user_agent": "nexus-ops*", "nth": k}])
    with driver(platform) as process:
        while not (holds := platform.admin("GET", "/holds")):
            if process.poll() is not None:
                break
            platform.eventually(lambda: bool(platform.admin("GET", "/holds")), seconds=1)
        process.kill()
        process.wait()
    platform.admin("DELETE", "/faults")
    for hold in holds:
        # Before: the request dies with its sender. After: it has been carried out, nobody heard the answer.
        platform.admin("POST", f"/holds/{hold['id']}/{'drop' if action == 'hold-before' else 'release'}")
    check_the_end(platform, go_on(platform), version)
    return bool(holds)


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize(
    ("k", "action"), [(9, "hold-before"), (70, "hold-after"), (95, "hold-before"), (110, "hold-after")]
)
def test_a_driver_killed_at_a_request_leaves_a_rollout_that_ends(platform: Platform, k: int, action: str) -> None:
    platform.ensure("v1.0.0")
    assert kill_at(platform, k, action), "the driver has made so many requests"


@pytest.mark.soak
@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("action", ["hold-before", "hold-after"])
def test_a_driver_killed_at_any_request_at_all_leaves_a_rollout_that_ends(platform: Platform, action: str) -> None:
    platform.ensure("v1.0.0")
    k = 1
    while kill_at(platform, k, action):
        k += 1
    assert k > 50


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("path", ["*/httproutes/*", "*/configmaps/rollout"])
def test_a_driver_frozen_past_its_lease_changes_nothing_more(platform: Platform, path: str) -> None:
    """Frozen while a write is on its way; the write arrives when another driver has finished the rollout."""
    platform.ensure("v1.0.0")
    version = "v1.1.0"
    platform.begin(version)
    platform.admin("PUT", "/faults", [{"action": "hold-before", "user_agent": "nexus-ops*", "path": path, "times": 1}])
    with driver(platform) as process:
        assert platform.eventually(lambda: platform.admin("GET", "/holds"), seconds=60)
        os.kill(process.pid, signal.SIGSTOP)
        check_the_end(platform, go_on(platform), version)
        before = platform.admin("GET", "/state")["version"]
        for hold in platform.admin("GET", "/holds"):
            platform.admin("POST", f"/holds/{hold['id']}/release")
        os.kill(process.pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
    assert platform.admin("GET", "/state")["version"] == before, f"the frozen driver wrote something: {output}"
    check_the_end(platform, go_on(platform), version)
