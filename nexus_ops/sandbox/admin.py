"""The admin interface of a sandbox cluster: faults, behaviours, and what the pods did. For tests and the demo."""

from __future__ import annotations

import asyncio

from aiohttp import web

from nexus_ops.sandbox.kube.faults import Faults, Rule
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.load_balancer import LoadBalancers, Trouble
from nexus_ops.sandbox.pods.kubelet import Kubelet
from nexus_ops.sandbox.pods.server import Journal
from nexus_ops.sandbox.prometheus import Prometheus

DISCOVERY = "/scrape-targets"
"""Where Prometheus asks for its targets."""


class Admin:
    """HTTP on a loopback port of its own, so that a frozen API can still be thawed."""

    def __init__(
        self,
        store: Store,
        faults: Faults,
        kubelet: Kubelet,
        journal: Journal,
        balancers: LoadBalancers,
        prometheus: Prometheus,
    ) -> None:
        self.store = store
        self.faults = faults
        self.kubelet = kubelet
        self.journal = journal
        self.balancers = balancers
        self.prometheus = prometheus

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/state", self._state),
                web.put("/faults", self._set_faults),
                web.delete("/faults", self._clear_faults),
                web.get("/holds", self._holds),
                web.post("/holds/{id}/{what:release|drop}", self._decide),
                web.get("/mutations", self._mutations),
                web.delete("/mutations", self._forget_mutations),
                web.put("/behaviours/{version}", self._behave),
                web.get("/requests", self._requests),
                web.get("/orders", self._orders),
                web.put("/load-balancer", self._disturb),
                web.delete("/load-balancer", self._settle),
                web.get(f"{DISCOVERY}/{{namespace}}/{{name}}/{{number:\\d+}}", self._targets),
                web.post("/{what:freeze|thaw|kill|revive}", self._freeze),
            ]
        )
        return app

    async def _state(self, _: web.Request) -> web.Response:
        pods = [
            {
                "name": p["metadata"]["name"],
                "ready": a.ready,
                "colour": a.colour,
                "version": a.version,
                "component": a.component,
            }
            for p in self.store.list("pods")
            if (a := self.kubelet.agents.get(p["metadata"]["uid"]))
        ]
        return web.json_response({"pods": pods, "version": self.store.version})

    async def _targets(self, request: web.Request) -> web.Response:
        of = request.match_info
        return web.json_response(self.prometheus.discovered(of["namespace"], of["name"], int(of["number"])))

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.rules = [Rule.parse(rule) for rule in await request.json()]
        except TypeError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response(len(self.faults.rules))

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.faults.rules = []
        return web.json_response(0)

    async def _holds(self, _: web.Request) -> web.Response:
        return web.json_response(
            [{"id": h.id, "method": h.method, "path": h.path, "stage": h.stage} for h in self.faults.holds.values()]
        )

    async def _decide(self, request: web.Request) -> web.Response:
        if not self.faults.decide(int(request.match_info["id"]), request.match_info["what"]):
            raise web.HTTPNotFound(text="no such hold")
        return web.json_response("ok")

    async def _mutations(self, _: web.Request) -> web.Response:
        return web.json_response(self.faults.mutations)

    async def _forget_mutations(self, _: web.Request) -> web.Response:
        self.faults.mutations.clear()
        return web.json_response("ok")

    async def _behave(self, request: web.Request) -> web.Response:
        try:
            self.kubelet.behave(request.match_info["version"], await request.json())
        except (ValueError, TypeError) as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response("ok")

    async def _requests(self, request: web.Request) -> web.Response:
        return web.json_response(self.journal.request_log(float(request.query.get("since", 0))))

    async def _orders(self, _: web.Request) -> web.Response:
        return web.json_response(self.journal.orders)

    async def _disturb(self, request: web.Request) -> web.Response:
        try:
            self.balancers.disturb(Trouble.parse(await request.json()))
        except (ValueError, TypeError) as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response("ok")

    async def _settle(self, _: web.Request) -> web.Response:
        self.balancers.disturb(Trouble())
        return web.json_response("ok")

    async def _freeze(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        if what == "freeze" and self.faults.frozen is None:
            self.faults.frozen = asyncio.Event()
        elif what == "thaw" and self.faults.frozen is not None:
            self.faults.frozen.set()
            self.faults.frozen = None
        elif what in ("kill", "revive"):
            self.faults.dead = what == "kill"
        return web.json_response("ok")
