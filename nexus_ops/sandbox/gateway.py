"""The gateway of a sandbox cluster: a real Envoy, programmed from HTTPRoutes, Services and endpoints.

A route counts as accepted (conditions with its generation) only when Envoy itself says that it has loaded it. One
that Envoy refuses says so with Envoy's reason; what Envoy served of it before goes on, and the others are not held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from nexus_ops.sandbox.envoy import Envoy, EnvoyEnded, EnvoySilent, Refusal
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.sandbox.routes import backends, cluster_name, unresolved, unsupported, virtual_hosts

Object = dict[str, Any]
ROUTES, GATEWAYS = "httproutes.gateway.networking.k8s.io", "gateways.gateway.networking.k8s.io"
WATCHED = {ROUTES, GATEWAYS, "services", "endpoints"}
BALANCER = "nexus-load-balancer"
"""The Service whose selector moves traffic where no gateway does."""
CONTROLLER = "nexus.ai/sandbox-gateway"
logger = logging.getLogger(__name__)


class Gateway:
    """Keeps Envoy's files as the store says, and the routes' status as Envoy says."""

    def __init__(self, store: Store, folder: Path, ports: dict[str, int]) -> None:
        """`ports`: admin, edge, services, balancer (loopback)."""
        self.store = store
        self.ports = ports
        self.envoy = Envoy(folder, ports)
        self._dirty = asyncio.Event()
        self._serving: dict[str, Object] = {}
        """The version of each route, by uid, that Envoy took last."""
        self._refused: dict[str, tuple[int, str]] = {}
        """Generation and reason of what Envoy did not take, by the route's uid."""
        self._balanced: list[Object] = []
        """What load balancers lead to, in the shape of routes; they have no status of their own here."""
        self._task: asyncio.Task[None] | None = None
        self._stop = store.subscribe(self._on_event)

    async def start(self) -> None:
        """Write the first configuration, start Envoy, and follow the store."""
        self._write_services()
        self.envoy.write_routes("edge", [])
        await self.envoy.start()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def balance(self, routes: list[Object]) -> None:
        """Serve these, too, from now on."""
        self._balanced = routes
        self._dirty.set()

    async def stop(self) -> None:
        self._stop()
        if self._task is not None:
            self._task.cancel()
        await self.envoy.stop()

    def _on_event(self, event: Event) -> None:
        if event.key in WATCHED:
            self._dirty.set()

    async def _follow(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                self._say_addresses()
                routes = self.store.list(ROUTES)
                try:
                    trouble = await self._program(session, [*routes, *self._balanced])
                except EnvoySilent:
                    self._dirty.set()  # Envoy was slow: ask again, or no route would ever be said to be accepted
                except EnvoyEnded as error:
                    logger.exception("the gateway stops following its routes")
                    return self._say(routes, str(error))
                else:
                    self._say(routes, trouble)

    # ------------------------------------------------------------------ programming

    async def _program(self, session: aiohttp.ClientSession, routes: list[Object]) -> str | None:
        """Bring Envoy to these routes. Those that it refuses are found one by one, and noted with its reason.

        What it says against the clusters, which concerns all routes, is returned.
        """
        self._write_services()
        there = {route["metadata"]["uid"]: route for route in routes}
        self._serving = {uid: route for uid, route in self._serving.items() if uid in there}
        self._refused = {uid: said for uid, said in self._refused.items() if uid in there}
        changed = {
            uid: route
            for uid, route in there.items()
            if self._serving.get(uid) != route and not unsupported(route) and not self._is_refused(route)
        }
        refusal = await self._load(session, self._serving | changed)
        if refusal is None:
            self._serving |= changed
            return None
        for uid, route in changed.items():
            if refusal and refusal.file == "clusters":
                return refusal.reason
            refusal = await self._load(session, self._serving | {uid: route})
            if refusal is None:
                self._serving[uid] = route
            elif refusal.file == "edge":
                self._refused[uid] = route["metadata"]["generation"], refusal.reason
        refusal = await self._load(session, self._serving)
        return refusal.reason if refusal else None

    async def _load(self, session: aiohttp.ClientSession, routes: dict[str, Object]) -> Refusal | None:
        """Give Envoy the edge of these routes; its refusal, if it does not take it."""
        self.envoy.write_routes("edge", virtual_hosts(routes.values()))
        return await self.envoy.outcome(session)

    def _is_refused(self, route: Object) -> bool:
        return self._refused.get(route["metadata"]["uid"], (0, ""))[0] == route["metadata"]["generation"]

    def _write_services(self) -> None:
        services = self.store.list("services")
        self.envoy.write("clusters", [self._cluster(service, port) for service, port in self._led_to(services)])
        self.envoy.write_routes("services", self._service_hosts(services))
        self.envoy.write_routes("balancer", self._balancer(services))

    def _led_to(self, services: list[Object]) -> Iterator[tuple[Object, Object]]:
        """The Services and ports that anything may lead to: the first of each, and those that routes name."""
        named = {
            (backend.get("namespace", route["metadata"]["namespace"]), backend["name"], backend.get("port"))
            for route in (*self.store.list(ROUTES), *self._balanced, *self._serving.values())
            for backend in backends(route)
        }
        for service in services:
            meta = service["metadata"]
            for number, port in enumerate(service["spec"].get("ports") or ()):
                if number == 0 or (meta["namespace"], meta["name"], port["port"]) in named:
                    yield service, port

    def _cluster(self, service: Object, port: Object) -> Object:
        """A Service's port with its ready addresses.

        They stand in the cluster itself: by discovery, Envoy takes an inotify instance for each, and a user has 128 of
        them on a usual machine. A cluster that changes is replaced; its connections end with the requests on them.
        """
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
        return {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": found}]},
        }

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
            hosts.append({"name": domain, "domains": [domain], "routes": routes})
        return hosts

    @staticmethod
    def _balancer(services: list[Object]) -> list[Object]:
        """What the Service nexus-load-balancer leads to, for environments whose router is its selector."""
        for service in services:
            meta = service["metadata"]
            if meta["name"] == BALANCER:
                target = cluster_name(meta["namespace"], meta["name"], service["spec"]["ports"][0]["port"])
                routes = [{"match": {"prefix": "/"}, "route": {"cluster": target, "timeout": "30s"}}]
                return [{"name": "balancer", "domains": ["*"], "routes": routes}]
        return []

    # ------------------------------------------------------------------ status

    def _say(self, routes: list[Object], trouble: str | None = None) -> None:
        """Write the status of these routes; `trouble` is what keeps all of them from being served."""
        for route in routes:
            parents = [
                {"parentRef": ref, "controllerName": CONTROLLER, "conditions": self._conditions(route, trouble)}
                for ref in route["spec"].get("parentRefs") or ()
            ]
            if _without_times(route.get("status")) != _without_times({"parents": parents}):
                self._edit(ROUTES, route, lambda obj, parents=parents: obj.update(status={"parents": parents}))

    def _conditions(self, route: Object, trouble: str | None) -> list[Object]:
        meta = route["metadata"]
        accepted = ("Accepted", "True", "Accepted", "")
        if trouble:
            accepted = ("Accepted", "False", "Pending", trouble)
        elif lacking := unsupported(route):
            accepted = ("Accepted", "False", "UnsupportedValue", "; ".join(lacking))
        elif self._is_refused(route):
            accepted = ("Accepted", "False", "UnsupportedValue", self._refused[meta["uid"]][1])
        resolved = ("ResolvedRefs", "True", "ResolvedRefs", "")
        if missing := unresolved(route, self._has_backend):
            resolved = ("ResolvedRefs", "False", *missing)
        return [
            {"type": kind, "status": status, "reason": reason, "message": message[:32768],
             "observedGeneration": meta["generation"], "lastTransitionTime": timestamp()}
            for kind, status, reason, message in (accepted, resolved)
        ]  # fmt: skip

    def _has_backend(self, namespace: str, name: str, port: int) -> bool:
        service = self.store.find("services", namespace, name)
        return service is not None and port in [entry["port"] for entry in service["spec"].get("ports") or ()]

    def _say_addresses(self) -> None:
        """Where users come in on this machine, written on what leads them there."""
        balancers = [one for one in self.store.list("services") if one["metadata"]["name"] == BALANCER]
        entrances = [(GATEWAYS, one, "edge") for one in self.store.list(GATEWAYS)]
        entrances += [("services", one, "balancer") for one in balancers]
        for key, obj, port in entrances:
            meta, url = obj["metadata"], f"http://127.0.0.1:{self.ports[port]}"
            if (meta.get("annotations") or {}).get("nexus.ai/edge-url") == url:
                continue
            with contextlib.suppress(ApiError):  # deleted meanwhile
                self.store.edit(
                    key, meta["namespace"], meta["name"],
                    lambda obj, url=url: obj["metadata"].setdefault("annotations", {}).update({"nexus.ai/edge-url": url}),
                )  # fmt: skip
            if key == GATEWAYS:
                addresses = [{"type": "IPAddress", "value": "127.0.0.1"}]
                self._edit(
                    key, obj, lambda obj, a=addresses: obj.update(status={**obj.get("status", {}), "addresses": a})
                )

    def _edit(self, key: str, obj: Object, change: Any) -> None:
        """Write a status. The generation that was looked at stands in it: a newer one is not passed off as seen."""
        meta = obj["metadata"]
        with contextlib.suppress(ApiError):  # deleted or changed meanwhile: the next event brings us back
            self.store.edit(key, meta["namespace"], meta["name"], change, subresource="status")


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key != "lastTransitionTime"}
    return value
