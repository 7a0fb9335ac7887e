"""A blue-green deploy, beside the time for which its pods keep it waiting (goal: at most 5 s more).

The pods' time is what nobody can save: whenever at least one pod of the platform is on its way up (made, not ready) or
of exclusive work on its way out (draining), as a watch sees it. Monitoring has its set time. The rest is overhead.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2

from benchmarks.measure import median, say
from benchmarks.scene import Scene
from nexus_ops.clusters.client import POD
from nexus_ops.clusters.readiness import wait_ready
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.observe import NAME, PLATFORM
from nexus_ops.rollouts.operations import plan_rollout, start
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox.supervisor import DEFAULT_PARTS

Object = dict[str, Any]
MONITOR = 3
GOAL_SECONDS = 5.0
PATIENCE = timedelta(seconds=120)


@dataclass
class PodsWatch:
    """Adds up the seconds in which some pod was waited for. `with PodsWatch(context, exclusive) as watch: …`"""

    context: RolloutContext
    exclusive: set[str]
    seconds: float = 0.0
    _moving: dict[str, bool] = field(default_factory=dict)
    _since: float | None = None

    def __enter__(self) -> PodsWatch:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        client, namespace = self.context.client, self.context.cluster.namespace
        version = client.list_at(POD, namespace, PLATFORM)[1]
        while not self._end.is_set():
            query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "2"}
            try:
                with client.stream(client.path(POD, namespace), query, seconds=10) as answer:
                    for event in map(json.loads, answer.iter_lines()):
                        version = event["object"]["metadata"]["resourceVersion"]
                        self._see(event)
            except httpx2.TransportError:
                continue

    def _see(self, event: Object) -> None:
        name, now = event["object"]["metadata"]["name"], time.perf_counter()
        self._moving[name] = event["type"] != "DELETED" and self._is_moving(event["object"])
        if any(self._moving.values()):
            self._since = self._since or now
        elif self._since is not None:
            self.seconds += now - self._since
            self._since = None

    def _is_moving(self, pod: Object) -> bool:
        if pod["metadata"].get("deletionTimestamp"):
            return pod["metadata"]["labels"].get(NAME) in self.exclusive
        conditions = {c["type"]: c["status"] for c in (pod.get("status") or {}).get("conditions") or ()}
        return conditions.get("Ready") != "True"


def bench() -> None:
    """A first install, then a deploy that hands over."""
    with Scene(parts=tuple(part for part in DEFAULT_PARTS if part != "traffic")) as scene:
        context = scene.context()
        exclusive = {name for name, component in scene.topology.components.items() if component.work == "exclusive"}
        for version, what in (("v1.0.0", "first install"), ("v1.1.0", "blue-green deploy")):
            with PodsWatch(context, exclusive) as pods:
                began = time.perf_counter()
                settings = Settings(monitor_seconds=MONITOR, hold_seconds=0)
                start(context, plan_rollout(context, version, settings), "bench")
                result = advance(context, patience=PATIENCE)
                whole = time.perf_counter() - began
            assert result.state == "done", result.why
            say(f"{what}, {MONITOR} s of monitoring left out", whole - MONITOR, "s", "its pods' own time", pods.seconds)
            say(f"{what}: overhead", whole - MONITOR - pods.seconds, "s", "goal", GOAL_SECONDS)
        replicas = {f"{name}-green": component.replicas for name, component in scene.topology.components.items()}
        look = median(lambda: wait_ready(context.client, scene.cluster.namespace, replicas, seconds=5), 5)
        say(
            f"look at {sum(replicas.values())} ready pods",
            look,
            "s",
            "ask the API's version",
            median(context.client.version, 5),
        )


if __name__ == "__main__":
    bench()
