"""Starting and ending the sandbox: a process per cluster and the traffic, under one state folder.

The state file names every process from the moment it is started, so that a start that was killed half-way can be
cleaned up too; a lock keeps two starts of one folder apart. A second start finds the first; stop ends each process
with its children and leaves nothing behind. Processes are told apart from strangers with the same number, those of
another state folder included, by when they began.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from nexus_ops.backups.context import CNPG_ARCHIVE
from nexus_ops.backups.encryption import write_identity
from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.sandbox.executables import executable, last_line
from nexus_ops.sandbox.processes import birth, free_port
from nexus_ops.sandbox.trading import DATABASES
from nexus_ops.topology import Topology, default_path, project_folder

START_SECONDS = 60.0
MARK = "nexus_ops.sandbox"
PROGRAMS = {"gateway": ("envoy",), "prometheus": ("prometheus",)}
"""What a part runs that may be missing: looked for before anything starts."""
CLUSTER_PARTS = ("gateway", "prometheus", "postgres", "valkey")
PARTS = ("api", *CLUSTER_PARTS, "traffic", "trading", "aws")
PORTS = ("api", "admin", "envoy", "edge", "services", "balancer", "prometheus", "postgres", "valkey", "sei")
"""What listens in a cluster's process, each on a port of its own."""
DEFAULT_PARTS = (*CLUSTER_PARTS, "traffic", "trading", "aws")


@dataclass(frozen=True)
class State:
    """A running sandbox: its processes, and the addresses of each cluster."""

    kubeconfig: str
    pids: dict[str, int]
    clusters: dict[str, dict[str, str]]
    aws: str = ""
    """The endpoint of AWS, if that part was asked for."""
    births: dict[str, int] = field(default_factory=dict[str, int])
    """When each process began (`processes.birth`)."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead kubectl and jobs to it."""
        found = {"KUBECONFIG": self.kubeconfig}
        if self.aws:
            found |= {"AWS_ENDPOINT_URL": self.aws, "AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
        return found


def find(home: Path) -> State | None:
    """The sandbox that runs from this state folder, if all of it does."""
    try:
        document: dict[str, Any] = json.loads((home / "sandbox.json").read_text())
        ready = document.pop("ready", True)
        state = State(**document)
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
    return state if ready and _running(state.pids, state.births) == list(state.pids.values()) else None


def start(
    home: Path,
    clusters: list[str] | None = None,
    parts: tuple[str, ...] = DEFAULT_PARTS,
    *,
    topology: Path | None = None,
    rate: float = 50.0,
    ports: dict[str, int] | None = None,
) -> State:
    """Start clusters (default: all enabled ones) and wait until they answer; a second start finds the first.

    `parts` are gateway, prometheus, postgres, valkey, traffic, trading and aws; the API is always there. `rate` is requests
    per second and cluster. `ports`: fixed ones of the only cluster, by name (api, edge, prometheus, …).
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise PermanentError(f"the sandbox has no part {unknown[0]}.", todo=f"Parts: {', '.join(PARTS)}.")
    home = home.absolute()
    path = topology or default_path()
    names = clusters or [cluster.name for cluster in Topology.load(path).enabled_clusters]
    for name in names:
        Topology.load(path).cluster(name)
    if ports and len(names) > 1:
        raise PermanentError("fixed ports are for one cluster.", todo="Name one with --clusters.")
    for part in parts:
        for program in PROGRAMS.get(part, ()):
            executable(program)
    with _alone(home):
        if running := find(home):
            return running
        _end(home)
        return _start(home, names, parts, path, rate, ports or {})


def _start(
    home: Path, names: list[str], parts: tuple[str, ...], path: Path, rate: float, ports: dict[str, int]
) -> State:
    (home / "log").mkdir(parents=True, exist_ok=True)
    write_identity(home / "backup-identity.txt")
    (home / CNPG_ARCHIVE).mkdir(exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    births: dict[str, int] = {}
    endpoint = ""

    def spawn(name: str, arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        processes[name] = _spawn(home, name, arguments, environment or {})
        births[name] = birth(processes[name].pid)
        _save(home, State("", {key: process.pid for key, process in processes.items()}, {}, "", births), ready=False)
        return processes[name]

    port = free_port() if "aws" in parts else 0
    if port:
        endpoint = f"http://127.0.0.1:{port}"
    try:
        for name in names:
            folder = home / "clusters" / name
            (folder / "ready.json").unlink(missing_ok=True)
            config = {
                "cluster": name, "topology": str(path.absolute()), "images": os.environ.get("NEXUS_IMAGES") or str(project_folder() / "images.yaml"),
                "folder": str(folder), "templates": str(home / "templates"),
                "parts": [part for part in parts if part in CLUSTER_PARTS], "ports": ports,
                "aws": endpoint, "cnpg_archive": str(home / CNPG_ARCHIVE),
            }  # fmt: skip
            spawn(name, ["-m", f"{MARK}.cluster", "--config", json.dumps(config)])
        if endpoint:
            spawn("aws", ["-m", f"{MARK}.aws", "--port", str(port), "--topology", str(path.absolute())])
        found = {name: _wait_until_ready(home, name, processes[name]) for name in names}
        kubeconfig = _write_kubeconfig(home, Topology.load(path), found)
        if "traffic" in parts:
            for name, urls in found.items():
                cluster = Topology.load(path).cluster(name)
                host = Topology.load(path).environment_of(cluster).host
                arguments = ["--edge", urls["edge"], "--host", host, "--services", urls["services"]]
                arguments += ["--namespace", cluster.namespace, "--rate", str(rate)]
                spawn(f"traffic-{name}", ["-m", f"{MARK}.traffic", *arguments])
        if {"trading", "postgres", "valkey"} <= set(parts):
            databases = json.dumps([(urls["postgres"], urls["valkey"]) for urls in found.values()])
            spawn("trading", ["-m", f"{MARK}.trading"], {DATABASES: databases})
        if endpoint:
            _wait_until_open(home, "aws", processes["aws"], port=port)
    except BaseException:
        _end(home)
        raise
    state = State(str(kubeconfig), {name: process.pid for name, process in processes.items()}, found, endpoint, births)
    _write_environment(home, state)
    _save(home, state, ready=True)
    return state


def stop(home: Path) -> bool:
    """End every process of the sandbox; True if there was one."""
    with _alone(home):
        return _end(home)


def _end(home: Path) -> bool:
    path = home / "sandbox.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        ours = [psutil.Process(pid) for pid in _running(document["pids"], document["births"])]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, psutil.NoSuchProcess):
        ours = []
    family = [*ours, *(child for process in ours for child in process.children(recursive=True))]
    for process in ours:
        _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=10)
    for process in left:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)
    path.unlink(missing_ok=True)
    return bool(ours)


def memory(state: State) -> dict[str, int]:
    """Proportional memory (bytes) by process, children included."""
    result: dict[str, int] = {}
    for name, pid in state.pids.items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        result[name] = sum(member.memory_full_info().pss for member in family)
    return result


@contextmanager
def _alone(home: Path) -> Generator[None]:
    """Hold the state folder's lock; the kernel gives it back however the holder ends (flock(2))."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "sandbox.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _save(home: Path, state: State, *, ready: bool) -> None:
    """Replace the state file in one step: a reader sees a whole one."""
    temporary = home / "sandbox.json.new"
    temporary.touch(mode=0o600)  # the DSNs have a password
    temporary.write_text(json.dumps({**asdict(state), "ready": ready}, indent=1))
    temporary.replace(home / "sandbox.json")


def _write_environment(home: Path, state: State) -> None:
    """A file for a shell to read (`. .nexus/env`): then kubectl, dagster and jobs find this sandbox."""
    found = {"NEXUS_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), **state.environment}
    lines = [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    lines += ["export PYTHONWARNINGS=ignore::FutureWarning"]  # Dagster's own commands warn that they may change
    lines += [f"export {name}={shlex.quote(value)}" for name, value in found.items()]
    (home / "env").write_text("\n".join(lines) + "\n")


def _wait_until_open(home: Path, name: str, process: subprocess.Popen[bytes], *, port: int) -> None:
    log = home / "log" / f"{name}.log"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TemporaryError("a part of the sandbox does not answer.", target=name, todo=f"Log: {log}")


def _spawn(home: Path, name: str, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (home / "log" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )  # fmt: skip


def _wait_until_ready(home: Path, name: str, process: subprocess.Popen[bytes]) -> dict[str, str]:
    path = home / "clusters" / name / "ready.json"
    log = home / "log" / f"{name}.log"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            return {key: value for key, value in found.items() if key != "pid"}
        if process.poll() is not None:
            raise PermanentError(
                f"the sandbox cluster did not start: {last_line(log)}", target=name, todo=f"Log: {log}"
            )
        time.sleep(0.05)
    raise TemporaryError("the sandbox cluster did not come up in time.", target=name, todo=f"Log: {log}")


def _write_kubeconfig(home: Path, topology: Topology, found: dict[str, dict[str, str]]) -> Path:
    contexts = {name: topology.cluster(name).context or name for name in found}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": urls["api"]}} for name, urls in found.items()],
        "users": [{"name": "sandbox", "user": {"token": "sandbox"}}],
        "contexts": [
            {"name": context, "context": {"cluster": name, "user": "sandbox"}} for name, context in contexts.items()
        ],
        "current-context": next(iter(contexts.values())),
    }
    path = home / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


def _running(pids: dict[str, int], births: dict[str, int]) -> list[int]:
    """Those of our processes that still run."""
    return [pid for name, pid in pids.items() if (began := birth(pid)) and began == births.get(name)]


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass  # gone already, which is what was wanted
