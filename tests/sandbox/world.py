"""A cluster in this process: store, controllers and pods, without the HTTP face; for tests of the controllers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nexus_ops.sandbox.controllers.disruption import DisruptionController
from nexus_ops.sandbox.controllers.endpoints import AutoscalerController, EndpointsController
from nexus_ops.sandbox.controllers.jobs import JobController
from nexus_ops.sandbox.controllers.queue import Runner
from nexus_ops.sandbox.controllers.replicasets import ReplicaSetController
from nexus_ops.sandbox.controllers.workloads import DeploymentController
from nexus_ops.sandbox.kube.registry import Registry, Request
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.pods.kubelet import Kubelet
from nexus_ops.sandbox.pods.server import Behaviour, Journal

Object = dict[str, Any]
FAST = Behaviour(ready_seconds=0.05, latency_ms=2)
IMAGES = {f"sha256:{n}": ("execution-engine", f"v{n}") for n in (1, 2, 4)}


@dataclass
class World:
    store: Store
    kubelet: Kubelet
    journal: Journal

    def create(self, key: str, body: Object, namespace: str | None = "n") -> Object:
        request = Request(self.store.resources.by_key(key), namespace, None, "test")
        Registry(self.store).create(request, body)
        return self.store.get(key, namespace, body["metadata"]["name"])

    def deploy(self, version: int = 1, replicas: int = 2, port: int = 8080, **pod: Any) -> None:
        self.create("deployments.apps", deployment(version, replicas, port, **pod))

    def change(self, key: str, name: str, change: Callable[[Object], None]) -> None:
        self.store.edit(key, "n", name, change)

    def pods(self) -> list[Object]:
        return self.store.list("pods", "n")

    def ready(self) -> int:
        return self.store.get("deployments.apps", "n", "d").get("status", {}).get("readyReplicas", 0)

    async def until(self, condition: Callable[[], Any], seconds: float = 8.0) -> Any:
        """Wait until a condition holds at some change of the store."""
        changed = asyncio.Event()
        stop = self.store.subscribe(lambda _: changed.set())
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):
                    changed.clear()
                    await changed.wait()
                return value
        finally:
            stop()


def deployment(version: int, replicas: int, port: int, **pod: Any) -> Object:
    container: Object = {
        "name": "agent", "image": f"r/x@sha256:{version}", "ports": [{"containerPort": port, "name": "http"}],
    }  # fmt: skip
    container |= pod.pop("container", {})
    labels = {"app": "d", "app.kubernetes.io/name": "execution-engine"}
    return {
        "metadata": {"name": "d"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], **pod}},
        },
    }  # fmt: skip


@asynccontextmanager
async def world(**behaviours: Behaviour) -> AsyncGenerator[World]:
    store, journal = Store(), Journal()
    runner = Runner(store)
    for kind in (
        DeploymentController, ReplicaSetController, EndpointsController, AutoscalerController, JobController,
        DisruptionController,
    ):  # fmt: skip
        runner.add(kind(store))
    kubelet = Kubelet(store, IMAGES, {"default": FAST, **behaviours}, journal)
    made = World(store, kubelet, journal)
    made.create("namespaces", {"metadata": {"name": "n"}}, None)
    for number in range(2):
        room = {"cpu": "4", "memory": "8Gi", "pods": "20"}
        store.create(
            "nodes",
            {"metadata": {"name": f"node-{number}", "labels": {"kind": "agents"}}, "status": {"allocatable": room}},
        )
    try:
        yield made
    finally:
        await kubelet.stop()
        runner.stop()
