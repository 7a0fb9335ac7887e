"""The Envoy of a sandbox cluster: its process, the files that it watches, and what it says about them.

Configuration goes through files: listeners once, routes and clusters as they change, so that requests in flight are
left alone. Retries are off: what is lost is seen as lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from nexus_ops.sandbox.executables import executable, until_it_answers
from nexus_ops.users import die_with_parent

Object = dict[str, Any]
HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
REFUSAL = re.compile(r"config update rejected: (.+)", re.IGNORECASE)
STATISTICS = {"edge": "http.edge.rds.edge", "clusters": "cluster_manager.cds"}
"""What Envoy counts about a file: its version, and how many it refused."""
PATIENCE = 10.0
"""Seconds to wait for Envoy's word on new files."""


class EnvoySilent(Exception):
    """Envoy has not said yet whether it took the new files; asking again later may help."""


class EnvoyEnded(Exception):
    """The process is gone."""


@dataclass(frozen=True)
class Refusal:
    """A file that Envoy did not take; it goes on with the version before."""

    file: str
    reason: str


def write(path: Path, document: Object) -> None:
    """Replace a file in one step, as Envoy's watcher wants it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document))
    os.replace(temporary, path)


def bootstrap(folder: Path, admin: int, edge: int, services: int, balancer: int) -> Object:
    """Envoy's start configuration: three listeners on loopback, everything else from files."""

    def listener(name: str, port: int) -> Object:
        manager: Object = {
            "@type": HTTP_MANAGER,
            "stat_prefix": name,
            "use_remote_address": True,
            "preserve_external_request_id": True,
            "rds": {
                "route_config_name": name,
                "config_source": {
                    "path_config_source": {"path": str(folder / f"{name}.json")},
                    "resource_api_version": "V3",
                },
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        }
        return {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }

    return {
        "node": {"id": "sandbox", "cluster": "sandbox"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "dynamic_resources": {
            "cds_config": {"path_config_source": {"path": str(folder / "clusters.json")}, "resource_api_version": "V3"}
        },
        "static_resources": {
            "listeners": [listener("edge", edge), listener("services", services), listener("balancer", balancer)]
        },
    }


class Envoy:
    """One Envoy process over a folder of files."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        """`ports`: admin, edge, services, balancer (loopback)."""
        self.folder = folder
        self.ports = ports
        self._version = 0
        self._written: dict[str, tuple[str, str]] = {}
        """Text and version of each file."""
        self._refusals = dict.fromkeys(STATISTICS, 0)
        self._refused: dict[str, tuple[str, str]] = {}
        """Version and reason of the last refusal of each file."""
        self._read_to = 0
        """How far the log has been read for refusals."""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process; the first files are to be written before."""
        config = self.folder / "envoy.json"
        write(config, bootstrap(self.folder, **self.ports))
        with self._log.open("ab") as log:
            self._read_to = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                executable("envoy"), "-c", str(config), "--concurrency", "1", "--log-level", "warning",
                "--disable-hot-restart", stdout=log, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip

    async def until_ready(self) -> None:
        """Wait until the listeners serve."""
        if self._process is not None:
            await until_it_answers("Envoy", self._process, f"http://127.0.0.1:{self.ports['admin']}/ready", self._log)

    async def stop(self) -> None:
        """End the process and wait for it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def write(self, name: str, resources: list[Object]) -> None:
        """A discovery response, with the next version, when it says something new."""
        text = json.dumps(resources)
        if self._written.get(name, ("", ""))[0] != text:
            self._version += 1
            write(self.folder / f"{name}.json", {"version_info": str(self._version), "resources": resources})
            self._written[name] = text, str(self._version)

    def write_routes(self, name: str, hosts: list[Object]) -> None:
        """The routes of a listener."""
        kind = {"@type": ROUTES, "name": name, "ignore_port_in_host_matching": True}
        self.write(name, [{**kind, "virtual_hosts": hosts}])

    async def outcome(self, session: aiohttp.ClientSession) -> Refusal | None:
        """Wait for Envoy's word on the edge routes and the clusters as last written, all of these warmed.

        None when it has taken them. `EnvoySilent` after `PATIENCE` seconds, `EnvoyEnded` when it runs no more.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while loop.time() < deadline:
            found = await self._statistics(session)
            for name in STATISTICS:
                version = self._written[name][1]
                if (refusals := int(found.get(f"{name} refused", 0))) > self._refusals[name]:
                    self._refusals[name] = refusals
                    self._refused[name] = version, self._reason()
                if self._refused.get(name, ("", ""))[0] == version:
                    return Refusal(name, self._refused[name][1])
            taken = all(found.get(f"{name} version") == self._written[name][1] for name in STATISTICS)
            if taken and found.get("warming") == "0":
                return None
            if self._process is not None and self._process.returncode is not None:
                raise EnvoyEnded(f"Envoy has ended with {self._process.returncode}; its log is {self._log}")
            await asyncio.sleep(0.02)
        raise EnvoySilent

    async def _statistics(self, session: aiohttp.ClientSession) -> dict[str, str]:
        """Version and refusals of each file, and the clusters that are warming; empty while Envoy starts."""
        query = {"filter": r"(version_text|update_rejected|warming_clusters)$"}
        try:
            async with session.get(f"http://127.0.0.1:{self.ports['admin']}/stats", params=query) as answer:
                lines = (await answer.text()).splitlines()
        except aiohttp.ClientError:
            return {}
        said = dict(line.split(": ", 1) for line in lines if ": " in line)
        found = {"warming": said.get("cluster_manager.warming_clusters", "")}
        for name, prefix in STATISTICS.items():
            found[f"{name} version"] = said.get(f"{prefix}.version_text", "").strip('"')
            found[f"{name} refused"] = said.get(f"{prefix}.update_rejected", "0")
        return found

    def _reason(self) -> str:
        """Why Envoy refused a file, from the part of its log that was not read yet."""
        with self._log.open("rb") as log:
            log.seek(self._read_to)
            text = log.read().decode(errors="replace")
            self._read_to = log.tell()
        reasons = REFUSAL.findall(text)
        return reasons[-1].strip() if reasons else f"Envoy refused the configuration; its log is {self._log}"

    @property
    def _log(self) -> Path:
        return self.folder / "envoy.log"
