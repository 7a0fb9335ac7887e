"""A sandbox cluster with two tiny copies of the edge component, and routers over it: no chart, no rollout."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.edge import ask_edge, edge_client
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.releases.rendering import Rendering
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext, utc_now
from nexus_ops.sandbox import supervisor
from nexus_ops.sandbox.traffic import Tally, send_requests
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import COLOURS, Colour, RouterKind, Topology, project_folder

Object = dict[str, Any]
Found = TypeVar("Found")
CLUSTER, NAMESPACE = "staging-us-west-2", "nexus-agents"
ALB = "alb.ingress.kubernetes.io"
ROUTE = "gateway.networking.k8s.io/v1"


def of(colour: Colour, version: str = "v1.0.0", replicas: int = 2) -> list[Object]:
    """A Deployment of the edge component in a colour, its Service, and its ServiceMonitor."""
    name = f"agent-orchestrator-{colour}"
    labels = {"app.kubernetes.io/name": "agent-orchestrator", "nexus.ai/colour": colour}
    ports = [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]
    catalogue = yaml.safe_load((project_folder() / "images.yaml").read_text())
    image = f"r/agent-orchestrator@{catalogue['versions'][version]['images']['agent-orchestrator']}"
    pod = {"containers": [{"name": "main", "image": image, "ports": ports}]}
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    template = {"metadata": {"labels": labels}, "spec": pod}
    targets = [("http", 80, 8080), ("metrics", 9090, 9090)]
    service_ports = [{"name": name, "port": port, "targetPort": target} for name, port, target in targets]
    named = [("__meta_kubernetes_pod_label_nexus_ai_colour", "colour"),
             ("__meta_kubernetes_pod_label_app_kubernetes_io_name", "component")]  # fmt: skip
    relabelings = [{"sourceLabels": [source], "targetLabel": target} for source, target in named]
    relabelings.append({"targetLabel": "job", "replacement": "nexus-agents"})
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
         "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta,
         "spec": {"selector": labels, "ports": service_ports}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": meta,
         "spec": {"selector": {"matchLabels": labels},
                  "endpoints": [{"port": "metrics", "relabelings": relabelings}]}},
    ]  # fmt: skip


def routed(kind: RouterKind, host: str) -> list[Object]:
    """What the chart's shared part has for a router."""
    meta = {"name": "nexus-api", "namespace": NAMESPACE, "labels": {"nexus.ai/routed": "true"}}
    backends = [{"name": f"agent-orchestrator-{colour}", "port": 80, "weight": 0} for colour in COLOURS]
    gateway = {"apiVersion": ROUTE, "kind": "Gateway", "metadata": {"name": "nexus-gateway", "namespace": NAMESPACE},
               "spec": {"gatewayClassName": "envoy", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}  # fmt: skip
    route = {"apiVersion": ROUTE, "kind": "HTTPRoute", "metadata": meta,
             "spec": {"parentRefs": [{"name": "nexus-gateway"}], "hostnames": [host],
                      "rules": [{"backendRefs": backends}]}}  # fmt: skip
    balancer = {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": "nexus-load-balancer"},
                "spec": {"selector": {"app.kubernetes.io/name": "agent-orchestrator"},
                         "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}  # fmt: skip
    groups = [{"serviceName": backend["name"], "servicePort": "80", "weight": 0} for backend in backends]
    action = {"type": "forward", "forwardConfig": {"targetGroups": groups}}
    path = {"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "nexus-api", "port": {"name": "use-annotation"}}}}  # fmt: skip
    annotations = {f"{ALB}/target-type": "ip", f"{ALB}/healthcheck-path": "/ready",
                   f"{ALB}/actions.nexus-api": json.dumps(action)}  # fmt: skip
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {**meta, "annotations": annotations},
               "spec": {"ingressClassName": "alb", "rules": [{"host": host, "http": {"paths": [path]}}]}}  # fmt: skip
    return {"gateway-api": [gateway, route], "service-selector": [balancer], "alb": [ingress]}[kind]


@dataclass
class Edge:
    """The cluster, and what stands at its edge."""

    home: Path
    state: supervisor.State
    kind: RouterKind
    topology: Topology

    @classmethod
    def start(cls, home: Path, kind: RouterKind, parts: tuple[str, ...]) -> Edge:
        """A running cluster whose pods of both colours are ready."""
        document = yaml.safe_load((project_folder() / "topology.yaml").read_text())
        document["environments"]["staging"]["router"] = kind
        (home / "topology.yaml").write_text(yaml.safe_dump(document))
        state = supervisor.start(home, [CLUSTER], parts, topology=home / "topology.yaml")
        made = cls(home, state, kind, Topology.load(home / "topology.yaml"))
        client = made.context().client
        for obj in (*of("blue"), *of("green"), *routed(kind, made.host)):
            client.apply(obj, manager="test")
        made.until(made.ready, lambda ready: ready == 4)
        return made

    @property
    def host(self) -> str:
        return self.topology.environments["staging"].host

    @property
    def urls(self) -> dict[str, str]:
        return self.state.clusters[CLUSTER]

    def context(self) -> RolloutContext:
        """A fresh context, as every run has one."""
        cluster = self.topology.cluster(CLUSTER)
        client = ClusterClient.connect(cluster, kubeconfig=Path(self.state.kubeconfig))
        store = ObjectStore.open((self.home / "store").as_uri())
        return RolloutContext(self.topology, cluster, client, store, ReleaseStore(store))

    @property
    def shared(self) -> Rendering:
        return Rendering("test", CLUSTER, "shared", tuple(routed(self.kind, self.host)))

    @contextmanager
    def driving(self) -> Generator[Fenced]:
        """Writes as a driver makes them, under the lease."""
        context = self.context()
        with acquire(context.client, "nexus-ops", "rollout", "test", clock=utc_now) as lease:
            yield Fenced(context.client, lease)

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, self.urls["admin"] + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def ready(self) -> int:
        """How many pods of the two colours are ready; the cluster has others."""
        return sum(pod["ready"] for pod in self.admin("GET", "/state")["pods"] if pod["colour"])

    def answers(self) -> Counter[str]:
        """Who answers a few users now."""
        with edge_client() as http:
            return ask_edge(http, self.context().edge_url(), self.host, 12)

    @staticmethod
    def until(look: Callable[[], Found], holds: Callable[[Found], Any], seconds: float = 30) -> Found:
        """What is seen when it is as it should be."""
        end = time.monotonic() + seconds
        while not holds(found := look()):
            assert time.monotonic() < end, found
        return found

    @contextmanager
    def frozen_envoy(self) -> Generator[None]:
        """What serves the edge hangs."""
        cluster = psutil.Process(self.state.pids[CLUSTER])
        (envoy,) = [child for child in cluster.children() if "envoy" in child.name()]
        envoy.suspend()
        try:
            yield
        finally:
            envoy.resume()

    @contextmanager
    def users(self, rate: float) -> Generator[None]:
        """Users who ask at a fixed rate."""
        loop, stop = asyncio.new_event_loop(), asyncio.Event()
        sending = send_requests(self.context().edge_url(), self.host, rate, Tally(), stop)
        thread = threading.Thread(target=lambda: loop.run_until_complete(sending))
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(timeout=60)
            loop.close()
