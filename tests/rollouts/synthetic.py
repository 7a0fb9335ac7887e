"""A Prometheus that remembers what never was: platforms that served in the past, each on a day of its own.

The Prometheus is the real one; its data is written by promtool. In front of it stands as much of an API server as is
needed to be asked through its proxy.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.record import Copy, Record, StageState
from nexus_ops.rollouts.strategy import CANARY, Settings
from nexus_ops.sandbox.executables import executable
from nexus_ops.sandbox.processes import free_port
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path

PREFIX = "/api/v1/namespaces/monitoring/services/http:prometheus-operated:web/proxy"
SCRAPE = 5
HISTORY, STAGE = 900, 300
"""Seconds for which the stable colour had served before, and that each stage lasts."""


@dataclass
class Story:
    """What a platform served: blue is stable, green the candidate. Times are seconds since the rollout began."""

    day: int
    seconds: int = 600
    rate: float = 100.0
    ratios: Callable[[str, float], float] = lambda colour, time: 0.005
    slow: Callable[[str, float], float] = lambda colour, time: 0.01
    share: Callable[[float], float] = lambda time: 0.05 if time >= 0 else 0.0
    pnl: Callable[[float], float] = lambda time: 1200.0
    restart_at: float | None = None
    """When a pod of the candidate begins to count from zero."""
    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def start(self) -> float:
        return datetime(2026, 1, self.day, tzinfo=UTC).timestamp()

    def write(self, lines: dict[str, list[str]]) -> None:
        """The samples of this story, by metric family."""
        rng = random.Random(self.day)
        sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for step in range(-HISTORY, self.seconds, SCRAPE):
            at = int(self.start + step)
            for colour in ("blue", "green"):
                share = self.share(step) if colour == "green" else 1 - self.share(step)
                for pod in ("a", "b"):
                    if colour == "green" and step < -60:
                        continue  # it was not there yet
                    counts = sums[colour, pod]
                    if step == self.restart_at and (colour, pod) == ("green", "a"):
                        counts[:] = [0.0, 0.0, 0.0]
                    requests = _drawn(rng, self.rate * share * SCRAPE / 2)
                    counts[0] += requests
                    counts[1] += _drawn(rng, requests * self.ratios(colour, step))
                    counts[2] += _drawn(rng, requests * self.slow(colour, step))
                    self._scrape(lines, colour, f"{self.day}-{colour}-{pod}", counts, at)
            for component in ("portfolio-manager", "risk-manager", "analytics-core", "arbitrage-hunter"):
                for colour in ("blue", "green"):
                    labels = f'job="nexus-agents",component="{component}",colour="{colour}",pod="{component}-{colour}"'
                    lines["up"].append(f"up{{{labels}}} 1 {at}")
            lines["portfolio_pnl_daily"].append(f"portfolio_pnl_daily {self.pnl(step)} {at}")
            lines["portfolio_risk_score"].append(f"portfolio_risk_score 35 {at}")

    def _scrape(self, lines: dict[str, list[str]], colour: str, pod: str, counts: list[float], at: int) -> None:
        labels = f'job="nexus-agents",component="agent-orchestrator",colour="{colour}",pod="{pod}"'
        requests, errors, slow = counts
        name = "http_requests"
        lines[name].append(f'{name}_total{{{labels},code="200"}} {requests - errors} {at}')
        lines[name].append(f'{name}_total{{{labels},code="500"}} {errors} {at}')
        for bound, count in (("0.25", requests - slow), ("1.0", requests), ("+Inf", requests)):
            family = "http_request_duration_seconds"
            lines[family].append(f'{family}_bucket{{{labels},le="{bound}"}} {count} {at}')
        lines["agent_errors"].append(f'agent_errors_total{{{labels},agent_id="x"}} {errors} {at}')
        lines["up"].append(f"up{{{labels}}} 1 {at}")


KINDS = {"http_requests": "counter", "agent_errors": "counter", "http_request_duration_seconds": "histogram"}


def _series_and_time(line: str) -> tuple[str, int]:
    series, _, at = line.rsplit(" ", 2)
    return series, int(at)


def _drawn(rng: random.Random, mean: float) -> float:
    """A count around a mean."""
    return max(0.0, float(round(rng.gauss(mean, mean**0.5)))) if mean > 30 else float(_small(rng, mean))


def _small(rng: random.Random, mean: float) -> int:
    count, product, limit = 0, rng.random(), 2.718281828459045**-mean
    while product > limit:
        count, product = count + 1, product * rng.random()
    return count


@contextmanager
def remembered(folder: Path, stories: list[Story]) -> Generator[str]:
    """The address of an API server whose cluster's Prometheus remembers these stories."""
    lines: dict[str, list[str]] = defaultdict(list)
    for story in stories:
        story.write(lines)
    text = "".join(
        f"# TYPE {family} {KINDS.get(family, 'gauge')}\n" + "\n".join(sorted(found, key=_series_and_time)) + "\n"
        for family, found in lines.items()
    )
    (folder / "past.txt").write_text(text + "# EOF\n")
    (folder / "prometheus.yaml").write_text("{}")
    command = [executable("promtool"), "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    port = free_port()
    arguments = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--storage.tsdb.retention.time=50y"]
    arguments += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen([executable("prometheus"), *arguments], cwd=folder, stderr=subprocess.DEVNULL)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(f"http://127.0.0.1:{port}"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        _until_ready(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        process.terminate()
        process.wait()


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "Prometheus did not start"
            time.sleep(0.05)


def _proxy(upstream: str) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with urllib.request.urlopen(upstream + self.path.removeprefix(PREFIX), timeout=30) as answer:
                    status, body = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, body = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    return Proxy


@dataclass
class Scene:
    """A rollout of a story, looked at whenever one likes."""

    url: str
    story: Story
    store: ObjectStore
    releases: ReleaseStore
    release: str
    said: list[str] = field(default_factory=list)

    def context(self, at: float, store: ObjectStore | None = None) -> RolloutContext:
        """A context whose clock says so many seconds since the rollout began."""
        topology = Topology.load(default_path())
        cluster = topology.cluster("staging-us-west-2")
        client = ClusterClient(httpx2.Client(base_url=self.url), cluster.name)
        now = datetime.fromtimestamp(self.story.start + at, UTC)
        return RolloutContext(
            topology, cluster, client, store or self.store, self.releases, report=self.said.append, clock=lambda: now
        )

    def record(self, *weights: int, **changes: object) -> Record:
        """A canary whose stages with these weights began one after the other, each after `STAGE` seconds."""
        began = datetime.fromtimestamp(self.story.start, UTC)
        stages: list[StageState] = []
        for stage in CANARY:
            at = weights.index(stage.weight) * STAGE if stage.weight in weights else None
            started = began.isoformat() if not stage.weight else None
            if at is not None:
                started = (began + timedelta(seconds=at)).isoformat()
            ended = began.isoformat() if not stage.weight else None
            if at is not None and weights.index(stage.weight) < len(weights) - 1:
                ended = (began + timedelta(seconds=at + STAGE)).isoformat()
            moved = started if stage.weight else None
            stages.append(replace(StageState.of(stage), started=started, ended=ended, moved=moved, bake_seconds=STAGE))
        record = Record(
            id=f"story-{self.story.day}", cluster="staging-us-west-2", actor="test", started=began.isoformat(),
            settings=Settings(), candidate=Copy("green", "v1.1.0", self.release),
            stable=Copy("blue", "v1.0.0", self.release), stages=tuple(stages), weight=weights[-1],
        )  # fmt: skip
        return replace(record, **changes)  # pyright: ignore[reportArgumentType]
