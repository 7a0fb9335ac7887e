"""What runs in a simulated pod: a small agent that answers real HTTP as its version's behaviour says."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
EXCLUSIVE = ("execution-engine", "payment-processor")


@dataclass(frozen=True)
class Behaviour:
    """How the pods of one version behave; see behaviours.yaml."""

    ready_seconds: float = 1.0
    error_ratio: float = 0.0
    latency_ms: float = 8.0
    crash_after_seconds: float | None = None
    pnl: float = 1200.0
    risk: float = 35.0
    cpu_busy: float | None = None
    """How busy the CPU is that the pod shows as a node exporter would (0 to 1); None: it shows none."""
    metrics: bool = True
    """False: the metrics page is an error, so that Prometheus calls the pod down."""
    drain: bool = True
    order_seconds: float = 0.05
    """How long an order takes; a very long one is an order that is stuck."""

    def changed(self, overrides: dict[str, Any]) -> Behaviour:
        """With some values replaced; an unknown name is an error."""
        unknown = set(overrides) - {f.name for f in fields(self)}
        if unknown:
            raise ValueError(f"unknown behaviour: {', '.join(sorted(unknown))}")
        return replace(self, **overrides)


@dataclass
class Journal:
    """What the pods of a cluster did; outlives them."""

    requests: deque[tuple[str, str, str, str, float]] = field(default_factory=lambda: deque(maxlen=300_000))
    """(request id, pod, colour, version, seconds since 1970): tuples, for there are hundreds of thousands."""
    orders: list[dict[str, Any]] = field(default_factory=list)

    def request_log(self, since: float = 0.0) -> list[dict[str, Any]]:
        """The requests served since a time, oldest first."""
        names = ("id", "pod", "colour", "version", "time")
        return [dict(zip(names, entry, strict=True)) for entry in list(self.requests) if entry[4] >= since]


@dataclass
class Agent:
    """One pod's process: its identity, its counters, and its server."""

    component: str
    colour: str
    version: str
    pod: str
    behaviour: Behaviour
    journal: Journal
    ready: bool = False
    stopping: bool = False
    in_flight: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0
    errors: int = 0
    orders_done: int = 0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=500))
    written: int = 0
    """How many lines the log has got, those that it dropped included."""
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the behaviour is replaced while the agent runs."""
    _runner: web.ServerRunner | None = None

    def log(self, text: str) -> None:
        """A line of the pod's log."""
        self.written += 1
        self.lines.append(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}")

    async def listen(self, address: str, ports: list[int]) -> None:
        """Serve on a loopback address, at the container's own ports; OSError when one is taken."""
        runner = web.ServerRunner(web.Server(self._handle, access_log=None, keepalive_timeout=30), shutdown_timeout=0.1)
        await runner.setup()
        self._runner = runner
        try:
            for port in ports:
                await web.TCPSite(runner, address, port).start()
        except OSError:
            await self.close()
            raise
        self.log(f"{self.component} {self.version} listening on {address}")

    async def drain(self, seconds: float) -> None:
        """Accept nothing more and finish what has been begun, within `seconds`; what is left then is cut."""
        self.stopping = True
        runner = self._runner
        if runner is not None and runner.server is not None:
            for site in list(runner.sites):
                await site.stop()
            runner.server.pre_shutdown()
            await runner.server.shutdown(max(seconds, 0.001))
        await self.close()

    async def close(self) -> None:
        """Stop serving at once."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for connection in list(runner.server.connections if runner.server else ()):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.in_flight += 1
        try:
            response = await self._answer(request)
        finally:
            self.in_flight -= 1
        if self.stopping or not self.ready:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.path
        if path == "/metrics" and not self.behaviour.metrics:
            return self._said(500, {"error": "no metrics"})
        if path == "/metrics":
            return web.Response(text=self.metrics(), content_type="text/plain")
        if path.startswith("/health"):
            return self._said(200, {"status": "ok"})
        if path.startswith("/ready"):
            good = self.ready and not self.stopping
            return self._said(200 if good else 503, {"ready": good})
        if path == "/orders" and request.method == "POST":
            return await self._order(await request.json())
        return await self._work(request)

    async def _work(self, request: web.BaseRequest) -> web.Response:
        """An ordinary request: takes its time, fails now and then, is counted and written down."""
        seconds = self.behaviour.latency_ms / 1000 * random.uniform(0.7, 1.3)
        await asyncio.sleep(seconds)
        failed = random.random() < self.behaviour.error_ratio
        self._count(500 if failed else 200, seconds)
        if failed:
            self.errors += 1
        if identity := request.headers.get("x-request-id"):
            self.journal.requests.append((identity, self.pod, self.colour, self.version, time.time()))
        body = {"component": self.component, "colour": self.colour, "version": self.version, "pod": self.pod}
        return self._said(500 if failed else 200, {"error": "agent error", **body} if failed else body)

    async def _order(self, order: dict[str, Any]) -> web.Response:
        """An order: begun, executed (written down: it has gone out to the world), answered."""
        if self.component not in EXCLUSIVE:
            return self._said(404, {"error": f"{self.component} takes no orders"})
        await asyncio.sleep(self.behaviour.order_seconds / 2)
        self.journal.orders.append(
            {
                "id": order["id"],
                "component": self.component,
                "colour": self.colour,
                "pod": self.pod,
                "time": datetime.now(UTC).isoformat(),
            }
        )
        self.orders_done += 1
        await asyncio.sleep(self.behaviour.order_seconds / 2)
        self._count(200, self.behaviour.order_seconds)
        return self._said(200, {"id": order["id"], "executed_by": self.pod})

    def _said(self, status: int, body: dict[str, Any]) -> web.Response:
        headers = {
            "x-nexus-component": self.component,
            "x-nexus-colour": self.colour,
            "x-nexus-version": self.version,
            "x-nexus-pod": self.pod,
        }
        return web.json_response(body, status=status, headers=headers)

    def _count(self, code: int, seconds: float) -> None:
        self.codes[str(code)] += 1
        self.seconds += seconds
        place = next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self.buckets[place] += 1

    def metrics(self) -> str:
        """The metrics page, in Prometheus' text format."""
        lines = ["# TYPE http_requests_total counter"]
        lines += [f'http_requests_total{{code="{c}"}} {self.codes[c]}' for c in sorted({"200", "500", *self.codes})]
        lines.append("# TYPE http_request_duration_seconds histogram")
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.buckets, strict=True):
            total += count
            lines.append(f'http_request_duration_seconds_bucket{{le="{bound}"}} {total}')
        lines += [
            f"http_request_duration_seconds_sum {self.seconds}",
            f"http_request_duration_seconds_count {total}",
            "# TYPE agent_errors_total counter",
            f'agent_errors_total{{agent_id="{self.component}"}} {self.errors}',
            "# TYPE http_requests_in_flight gauge",
            f"http_requests_in_flight {self.in_flight}",
        ]
        if self.component == "portfolio-manager":
            lines += [
                "# TYPE portfolio_pnl_daily gauge",
                f'portfolio_pnl_daily{{portfolio_id="main"}} {self.behaviour.pnl}',
            ]
        if self.component == "risk-manager":
            lines += [
                "# TYPE portfolio_risk_score gauge",
                f'portfolio_risk_score{{portfolio_id="main"}} {self.behaviour.risk}',
            ]
        if self.behaviour.cpu_busy is not None:
            idle = (asyncio.get_running_loop().time() - self.started) * (1 - self.behaviour.cpu_busy)
            lines += [
                "# TYPE node_cpu_seconds_total counter",
                f'node_cpu_seconds_total{{cpu="0",mode="idle"}} {idle}',
            ]
        if self.component in EXCLUSIVE:
            lines += ["# TYPE orders_executed_total counter", f"orders_executed_total {self.orders_done}"]
        return "\n".join(lines) + "\n"
