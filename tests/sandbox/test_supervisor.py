"""The sandbox as processes: started once, found again, ended whole, however its starter ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from nexus_ops.errors import OperationError
from nexus_ops.sandbox import supervisor

CLUSTER = "staging-us-west-2"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    supervisor.stop(tmp_path)


def family(state: supervisor.State) -> list[psutil.Process]:
    return [
        member
        for pid in state.pids.values()
        for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]


def test_a_second_start_finds_the_first_and_stop_leaves_nothing(home: Path) -> None:
    """Two sandboxes on one folder would fight for its files; a process left behind keeps its ports."""
    first = supervisor.start(home, [CLUSTER], ("gateway", "prometheus"))
    assert supervisor.start(home, [CLUSTER], ("gateway", "prometheus")) == first
    assert httpx.get(f"{first.clusters[CLUSTER]['api']}/api/v1/namespaces").status_code == 200
    members = family(first)
    assert {member.name() for member in members} >= {"envoy", "prometheus"}
    assert supervisor.stop(home)
    assert not supervisor.stop(home)
    _, left = psutil.wait_procs(members, timeout=5)
    assert not left
    assert supervisor.find(home) is None


def test_a_killed_cluster_takes_its_children_along_and_is_not_taken_for_running(home: Path) -> None:
    """SIGKILL runs no clean-up: Envoy would stay without its parent, and a stale state file would be believed."""
    state = supervisor.start(home, [CLUSTER], ("gateway",))
    members = family(state)
    psutil.Process(state.pids[CLUSTER]).kill()
    _, left = psutil.wait_procs(members, timeout=5)
    assert not left
    assert supervisor.find(home) is None
    assert supervisor.start(home, [CLUSTER], ("api",)).pids != state.pids


def test_what_a_killed_start_has_begun_is_ended(home: Path) -> None:
    """A start killed half-way has written no addresses yet, but its processes are known."""
    command = ["-m", "nexus_ops.sandbox", "start", "--clusters", CLUSTER, "--only", "api", "--home", str(home)]
    starter = subprocess.Popen([sys.executable, *command])
    deadline = time.monotonic() + 20
    while not (home / "sandbox.json").exists():
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            starter.wait(0.01)
    starter.kill()
    starter.wait(5)
    begun = [psutil.Process(pid) for pid in json.loads((home / "sandbox.json").read_text())["pids"].values()]
    assert begun
    assert supervisor.find(home) is None
    assert supervisor.stop(home)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in begun)


def test_unknown_names_are_refused_before_anything_starts(home: Path) -> None:
    """A typing error must not leave half a sandbox."""
    with pytest.raises(OperationError, match="no part gatway"):
        supervisor.start(home, [CLUSTER], ("gatway",))
    with pytest.raises(OperationError):
        supervisor.start(home, ["nowhere"])
    assert not (home / "sandbox.json").exists()


def test_aws_answers(home: Path) -> None:
    """Backups and DNS need S3 and Route 53 where there is no cloud."""
    state = supervisor.start(home, [CLUSTER], ("aws",))
    assert httpx.get(f"{state.aws}/moto-api/data.json").status_code == 200
