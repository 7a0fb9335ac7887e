"""The sandbox as processes: started once, found again, ended whole, however its starter ended."""

from __future__ import annotations

import contextlib
import json
import socket
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


def test_a_number_that_is_somebody_elses_now_is_left_alone(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Process numbers come again: an old state file must not end another folder's sandbox, nor pass it off as ours."""
    other = tmp_path_factory.mktemp("other")
    try:
        running = supervisor.start(other, [CLUSTER], ("api",))
        stale = json.loads((other / "sandbox.json").read_text())
        stale["births"] = {name: began - 1 for name, began in stale["births"].items()}
        (home / "sandbox.json").write_text(json.dumps(stale))
        assert supervisor.find(home) is None
        assert not supervisor.stop(home)
        assert supervisor.find(other) == running
    finally:
        supervisor.stop(other)


def test_a_port_that_is_taken_is_named_and_nothing_is_left(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperationError) as refused:
            supervisor.start(home, [CLUSTER], ("gateway",), ports={"edge": port})
    assert f"the port {port} for edge is taken by another program." in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert not (home / "sandbox.json").exists()


def test_a_port_that_is_asked_for_is_used(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    state = supervisor.start(home, [CLUSTER], ("api",), ports={"api": port})
    assert state.clusters[CLUSTER]["api"] == f"http://127.0.0.1:{port}"
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok"


@pytest.mark.parametrize("part", ["prometheus", "gateway"])
def test_a_program_that_is_missing_is_named_before_anything_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """An interpreter without programs beside it, and an empty PATH: as on a machine without them."""
    monkeypatch.setattr(sys, "executable", str(home / "python"))
    monkeypatch.setenv("PATH", str(home))
    program = {"gateway": "envoy"}.get(part, part)
    with pytest.raises(OperationError, match=rf"^the program {program} is missing\. .*make setup"):
        supervisor.start(home, [CLUSTER], (part,))
    assert not (home / "sandbox.json").exists()


def test_a_server_that_ends_at_its_start_is_an_error_with_its_last_words(home: Path) -> None:
    """A Prometheus that cannot use its folder must not be found out minutes later, by an analysis without data."""
    (home / "clusters" / CLUSTER / "prometheus").mkdir(parents=True)
    (home / "clusters" / CLUSTER / "prometheus" / "data").write_text("not a folder")
    with pytest.raises(OperationError, match=r"Prometheus ended while it started: panic: Unable to create"):
        supervisor.start(home, [CLUSTER], ("prometheus",))
    assert not (home / "sandbox.json").exists()


def test_aws_answers(home: Path) -> None:
    """Backups and DNS need S3 and Route 53 where there is no cloud."""
    state = supervisor.start(home, [CLUSTER], ("aws",))
    assert httpx.get(f"{state.aws}/moto-api/data.json").status_code == 200
