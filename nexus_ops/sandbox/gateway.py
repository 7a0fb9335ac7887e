"""The gateway of a sandbox cluster: a real Envoy, programmed from HTTPRoutes, Services and endpoints.

Configuration goes through files that Envoy watches: listeners and clusters once, routes and endpoints as they
change, so that connections and requests in flight are left alone. Retries are off: what is lost is seen as lost.
A route counts as programmed (status `Programmed`-like conditions with its generation) only when Envoy itself says
that it has loaded it.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp

from nexus_ops.sandbox.executables import die_with_parent, executable
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]
ROUTES, GATEWAYS = "httproutes.gateway.networking.k8s.io", "gateways.gateway.networking.k8s.io"
WATCHED = {ROUTES, GATEWAYS, "services", "endpoints"}
HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
CONTROLLER = "nexus.ai/sandbox-gateway"


def write(path: Path, document: Object) -> None:
    """Replace a file in one step, as Envoy's watcher wants it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document))
    os.replace(temporary, path)


def cluster_name(namespace: str, service: str, port: int) -> str:
    return f"{namespace}/{service}/{port}"


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


class Gateway:
    """Keeps Envoy's files as the store says, and the routes' status as Envoy says."""

    def __init__(self, store: Store, folder: Path, ports: dict[str, int]) -> None:
        """`ports`: admin, edge, services, balancer (loopback)."""
        self.store = store
        self.folder = folder
        self.ports = ports
        self._dirty = asyncio.Event()
        self._version = 0
        self._written: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = store.subscribe(self._on_event)

    async def start(self) -> None:
        """Write the first configuration, start Envoy, and follow the store."""
        self._write_all()
        config = self.folder / "envoy.json"
        write(
            config,
            bootstrap(
                self.folder, self.ports["admin"], self.ports["edge"], self.ports["services"], self.ports["balancer"]
            ),
        )
        with (self.folder / "envoy.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                executable("envoy"), "-c", str(config), "--concurrency", "1", "--log-level", "warning",
                "--disable-hot-restart", stdout=log, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        self._stop()
        if self._task is not None:
            self._task.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def _on_event(self, event: Event) -> None:
        if event.key in WATCHED:
            self._dirty.set()

    async def _follow(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                self._write_all()
                self._say_addresses()
                if await self._loaded(session):
                    self._say_programmed()
                else:
                    self._dirty.set()  # Envoy was slow: ask again, or the route would never be said to be programmed

    # ------------------------------------------------------------------ files

    def _write_all(self) -> None:
        services = self.store.list("services")
        for service in services:  # before the clusters: Envoy refuses a cluster whose endpoints' file is missing
            for port in service["spec"].get("ports") or ():
                self._write_endpoints(service, port)
        self._write("clusters", [self._cluster(s, p) for s in services for p in s["spec"].get("ports") or ()])
        for name, hosts in (
            ("edge", self._edge_hosts()),
            ("services", self._service_hosts(services)),
            ("balancer", self._balancer(services)),
        ):
            kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
            self._write(name, [{"@type": kind, "name": name, "virtual_hosts": hosts}])

    def _write(self, name: str, resources: list[Object]) -> None:
        """A discovery response, with the next version, when it says something new."""
        text = json.dumps(resources)
        if self._written.get(name) != text:
            self._version += 1
            write(self.folder / f"{name}.json", {"version_info": str(self._version), "resources": resources})
            self._written[name] = text
            self._written[f"{name} version"] = str(self._version)

    def _cluster(self, service: Object, port: Object) -> Object:
        meta = service["metadata"]
        name = cluster_name(meta["namespace"], meta["name"], port["port"])
        path = self.folder / "endpoints" / f"{name.replace('/', '_')}.json"
        return {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": name,
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {
                "eds_config": {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
            },
        }

    def _write_endpoints(self, service: Object, port: Object) -> None:
        meta = service["metadata"]
        name = cluster_name(meta["namespace"], meta["name"], port["port"])
        endpoints = self.store.find("endpoints", meta["namespace"], meta["name"]) or {}
        found = [
            {"endpoint": {"address": {"socket_address": {"address": address["ip"], "port_value": target["port"]}}}}
            for subset in endpoints.get("subsets") or ()
            for target in subset.get("ports") or ()
            if target.get("name") == port.get("name")
            for address in subset.get("addresses") or ()
        ]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        assignment = {"@type": kind, "cluster_name": name, "endpoints": [{"lb_endpoints": found}]}
        self._write(f"endpoints/{name.replace('/', '_')}", [assignment])

    def _edge_hosts(self) -> list[Object]:
        hosts: list[Object] = []
        for route in self.store.list(ROUTES):
            meta = route["metadata"]
            for number, rule in enumerate(route["spec"].get("rules") or ()):
                action = self._action(meta["namespace"], rule.get("backendRefs") or ())
                domains = route["spec"].get("hostnames") or ["*"]
                domains = [form for host in domains for form in ((host, f"{host}:*") if host != "*" else ("*",))]
                routes = [{"match": {"prefix": "/"}, **action}]
                hosts.append(
                    {"name": f"{meta['namespace']}/{meta['name']}/{number}", "domains": domains, "routes": routes}
                )
        return hosts

    def _action(self, namespace: str, backends: Any) -> Object:
        weighted = [
            {
                "name": cluster_name(ref.get("namespace", namespace), ref["name"], ref["port"]),
                "weight": ref.get("weight", 1),
            }
            for ref in backends
            if ref.get("weight", 1) > 0 and self.store.find("services", ref.get("namespace", namespace), ref["name"])
        ]
        if not weighted:
            return {"direct_response": {"status": 503, "body": {"inline_string": "no backend has weight"}}}
        return {"route": {"weighted_clusters": {"clusters": weighted}, "timeout": "30s"}}

    @staticmethod
    def _service_hosts(services: list[Object]) -> list[Object]:
        hosts: list[Object] = []
        for service in services:
            meta, ports = service["metadata"], service["spec"].get("ports") or ()
            if not ports:
                continue
            domain = f"{meta['name']}.{meta['namespace']}.svc"
            target = cluster_name(meta["namespace"], meta["name"], ports[0]["port"])
            routes = [{"match": {"prefix": "/"}, "route": {"cluster": target, "timeout": "30s"}}]
            hosts.append({"name": domain, "domains": [domain, f"{domain}:*"], "routes": routes})
        return hosts

    @staticmethod
    def _balancer(services: list[Object]) -> list[Object]:
        """What the Service nexus-load-balancer leads to, for environments whose router is its selector."""
        for service in services:
            meta = service["metadata"]
            if meta["name"] == "nexus-load-balancer":
                target = cluster_name(meta["namespace"], meta["name"], service["spec"]["ports"][0]["port"])
                routes = [{"match": {"prefix": "/"}, "route": {"cluster": target, "timeout": "30s"}}]
                return [{"name": "balancer", "domains": ["*"], "routes": routes}]
        return []

    # ------------------------------------------------------------------ status

    async def _loaded(self, session: aiohttp.ClientSession) -> bool:
        """Wait until Envoy reports the edge routes and the clusters that were written last, and has warmed all of these."""
        wanted = {
            f'cluster_manager.cds.version_text: "{self._written["clusters version"]}"',
            f'http.edge.rds.edge.version_text: "{self._written["edge version"]}"',
            "cluster_manager.warming_clusters: 0",
        }
        query = {"filter": "version_text$|warming_clusters$"}
        url = f"http://127.0.0.1:{self.ports['admin']}/stats"
        for _ in range(200):
            try:
                async with session.get(url, params=query) as answer:
                    if wanted <= set((await answer.text()).splitlines()):
                        return True
            except aiohttp.ClientError:
                pass  # Envoy is starting
            await asyncio.sleep(0.02)
        return False

    def _say_programmed(self) -> None:
        for route in self.store.list(ROUTES):
            meta = route["metadata"]
            parents: list[Object] = []
            for ref in route["spec"].get("parentRefs") or ():
                missing = [
                    backend["name"]
                    for rule in route["spec"].get("rules") or ()
                    for backend in rule.get("backendRefs") or ()
                    if not self.store.find("services", backend.get("namespace", meta["namespace"]), backend["name"])
                ]
                said = (
                    ("Accepted", True, "Accepted"),
                    ("ResolvedRefs", not missing, "BackendNotFound" if missing else "ResolvedRefs"),
                )
                conditions = [
                    {"type": kind, "status": str(good), "reason": reason, "message": ", ".join(missing),
                     "observedGeneration": meta["generation"], "lastTransitionTime": timestamp()}
                    for kind, good, reason in said
                ]  # fmt: skip
                parents.append({"parentRef": ref, "controllerName": CONTROLLER, "conditions": conditions})
            if _without_times(route.get("status")) != _without_times({"parents": parents}):
                self._edit(ROUTES, meta, lambda obj, parents=parents: obj.update(status={"parents": parents}))

    def _say_addresses(self) -> None:
        url = f"http://127.0.0.1:{self.ports['edge']}"
        for gateway in self.store.list(GATEWAYS):
            meta = gateway["metadata"]
            if (meta.get("annotations") or {}).get("nexus.ai/edge-url") != url:
                self.store.edit(
                    GATEWAYS, meta["namespace"], meta["name"],
                    lambda obj: obj["metadata"].setdefault("annotations", {}).update({"nexus.ai/edge-url": url}),
                )  # fmt: skip
                addresses = [{"type": "IPAddress", "value": "127.0.0.1"}]
                self._edit(
                    GATEWAYS,
                    meta,
                    lambda obj, a=addresses: obj.update(status={**obj.get("status", {}), "addresses": a}),
                )

    def _edit(self, key: str, meta: Object, change: Any) -> None:
        try:
            self.store.edit(key, meta["namespace"], meta["name"], change, subresource="status")
        except ApiError:
            pass  # deleted or changed meanwhile: the next event brings us back


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key != "lastTransitionTime"}
    return value
