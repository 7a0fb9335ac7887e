"""Every alert of the chart, fired by pods: their metrics pages, the rendered ServiceMonitor, a real Prometheus.

Only how long a condition must hold (`for`) is shortened here; promtool tests it as it is (test_alerts).
"""

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_chart import NAMESPACE, TOPOLOGY, Object, objects_of, of_kind, one

from nexus_ops.clusters.client import POD, ClusterClient
from nexus_ops.sandbox import supervisor
from nexus_ops.sandbox.pods.server import Behaviour

pytestmark = [pytest.mark.sandbox_only]
CLUSTER = "staging-us-west-2"
AGENTS = ("agent-orchestrator-blue", "portfolio-manager-blue", "risk-manager-blue")
RULES = one(objects_of("shared", "staging"), "PrometheusRule", "nexus")["spec"]["groups"]
ALERTS = {rule["alert"]: rule["labels"]["severity"] for group in RULES for rule in group["rules"]}
TROUBLE = {
    "AgentHighErrorRate": {"error_ratio": 1.0},
    "AgentHighErrorRatio": {"error_ratio": 1.0},
    "AgentDown": {"metrics": False},
    "LargePortfolioLoss": {"pnl": -10_001},
    "HighRiskScore": {"risk": 81},
    "HighCPUUsage": {"cpu_busy": 0.95},
}
"""How pods behave that fire an alert."""


class Agents:
    """Three agents of the chart in a sandbox, without rollout or gateway."""

    def __init__(self, home: Path) -> None:
        self.state = supervisor.start(home, [CLUSTER], ("prometheus",))
        self.urls = self.state.clusters[CLUSTER]
        self.client = ClusterClient.connect(TOPOLOGY.cluster(CLUSTER), kubeconfig=Path(self.state.kubeconfig))
        for obj in self._objects():
            self.client.apply(obj, manager="test")
        self.until(lambda: len(self.pods()) == len(AGENTS))

    def _objects(self) -> Iterator[Object]:
        shared, blue = objects_of("shared", "staging"), objects_of("blue", "staging")
        for kind in ("PriorityClass", "ServiceAccount"):
            yield from of_kind(shared, kind).values()
        rules = copy.deepcopy(one(shared, "PrometheusRule", "nexus"))
        for rule in (rule for group in rules["spec"]["groups"] for rule in group["rules"]):
            rule["for"] = "0s" if rule["for"].startswith("0") else "2s"
        yield rules
        yield one(shared, "ServiceMonitor", "nexus-agents")
        for name in AGENTS:
            deployment = copy.deepcopy(one(blue, "Deployment", name))
            deployment["spec"]["replicas"] = 1
            yield from (one(blue, "ConfigMap", name), deployment, one(blue, "Service", name))

    def pods(self) -> list[Object]:
        """The pods that are ready."""
        pods = self.client.list(POD, NAMESPACE)
        ready = {"type": "Ready", "status": "True"}
        return [
            pod
            for pod in pods
            if any(ready.items() <= one.items() for one in (pod.get("status") or {}).get("conditions") or ())
        ]

    def behave(self, **changes: Any) -> None:
        answer = httpx.put(f"{self.urls['admin']}/behaviours/v1.0.0", json=changes)
        answer.raise_for_status()

    def ask(self, times: int) -> None:
        """Requests to each agent."""
        urls = [f"http://{pod['status']['podIP']}:8080/" for pod in self.pods()]
        with httpx.Client() as http, ThreadPoolExecutor(8) as pool:
            list(pool.map(http.get, urls * times))

    def firing(self) -> dict[str, str]:
        """The severity of each alert that fires, by name."""
        query = {"query": 'ALERTS{alertstate="firing"}'}
        found = httpx.get(f"{self.urls['prometheus']}/api/v1/query", params=query).json()["data"]["result"]
        return {one["metric"]["alertname"]: one["metric"]["severity"] for one in found}

    @staticmethod
    def until(holds: Any, seconds: float = 40) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come to be so in time"


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    home = tmp_path_factory.mktemp("alerts")
    try:
        yield Agents(home)
    finally:
        supervisor.stop(home)


def test_there_is_trouble_for_every_alert() -> None:
    assert set(TROUBLE) == set(ALERTS)


def test_no_alert_fires_while_all_is_well(agents: Agents) -> None:
    agents.behave(error_ratio=0.0, cpu_busy=0.1)
    agents.ask(20)
    scraped = {
        "query": 'sum(http_requests_total{job="nexus-agents"}) >= 60 and on() count(node_cpu_seconds_total) >= 3'
    }
    agents.until(
        lambda: httpx.get(f"{agents.urls['prometheus']}/api/v1/query", params=scraped).json()["data"]["result"]
    )
    assert agents.firing() == {}


@pytest.mark.parametrize("alert", TROUBLE)
def test_an_alert_fires_in_trouble_and_with_its_severity(agents: Agents, alert: str) -> None:
    agents.behave(**TROUBLE[alert])
    if "error_ratio" in TROUBLE[alert]:
        agents.ask(60)
    try:
        agents.until(lambda: alert in agents.firing())
        assert agents.firing()[alert] == ALERTS[alert]
    finally:
        agents.behave(**{name: getattr(Behaviour(), name) for name in TROUBLE[alert]})
