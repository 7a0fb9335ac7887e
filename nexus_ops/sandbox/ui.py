"""The Dagster UI and daemon on this machine, as one session of processes that can be ended as a whole.

`dagster dev` starts a webserver, a daemon and a code server. Sent a SIGTERM in the background it left them
running for minutes, so it gets a session of its own here, and `stop` ends every process of that session.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from nexus_ops.errors import TemporaryError
from nexus_ops.sandbox.processes import birth, free_port
from nexus_ops.topology import project_folder

START_SECONDS = 300.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Ui:
    """A running UI: the leader of its session, and where it answers."""

    pid: int
    url: str
    birth: int
    """When the leader began (`processes.birth`)."""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


def find(home: Path) -> Ui | None:
    """The UI that runs from this state folder, if one does."""
    try:
        ui = Ui(**json.loads((home / "ui.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
    return ui if birth(ui.pid) == ui.birth != 0 else None


def start(home: Path, *, environment: dict[str, str] | None = None, port: int = 0) -> Ui:
    """Start the UI and wait until it answers with our definitions; a second start finds the first.

    `environment` is added to the processes' own (KUBECONFIG, NEXUS_STORE, …); `port` is taken where it is free. A UI that does not come up in
    time is a `TemporaryError` that names its log.
    """
    if running := find(home):
        return running
    dagster_home = home / "dagster"
    dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copy(project_folder() / "deploy" / "local" / "dagster.yaml", dagster_home / "dagster.yaml")
    log_path = home / "log" / "ui.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    port = free_port(port)
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(project_folder() / "workspace.yaml")]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=project_folder(),
            env={
                **os.environ,
                **(environment or {}),
                "DAGSTER_HOME": str(dagster_home),
                "NEXUS_HOME": str(home),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ui = Ui(process.pid, f"http://127.0.0.1:{port}", birth(process.pid))
    (home / "ui.json").write_text(json.dumps(asdict(ui)))
    try:
        _wait_until_it_answers(ui, process, log_path)
    except BaseException:
        stop(home)
        raise
    return ui


def stop(home: Path) -> bool:
    """End the UI's whole session; True if there was one. Nothing is left behind."""
    ui = find(home)
    (home / "ui.json").unlink(missing_ok=True)
    if ui is None:
        return False
    deadline = time.monotonic() + STOP_SECONDS
    _end(ui.pid, signal.SIGTERM)
    while _session(ui.pid):
        if time.monotonic() > deadline:
            _end(ui.pid, signal.SIGKILL)
        time.sleep(0.1)
    return True


def _wait_until_it_answers(ui: Ui, process: subprocess.Popen[bytes], log_path: Path) -> None:
    query = {"query": "{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name } } } }"}
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            answer = httpx.post(f"{ui.url}/graphql", json=query, timeout=10).json()
            if answer["data"]["repositoriesOrError"].get("nodes"):
                return
        except (httpx.HTTPError, json.JSONDecodeError, KeyError, TypeError):
            pass  # not up yet: refused, or answering without definitions
        time.sleep(0.3)
    raise TemporaryError("the Dagster UI did not come up.", target=ui.url, todo=f"Its log: {log_path}")


def _session(leader: int) -> list[int]:
    """The processes of a session that still run; a zombie that nobody waits for does not."""
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _end(leader: int, number: signal.Signals) -> None:
    for pid in _session(leader):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # already gone, which is what was wanted
