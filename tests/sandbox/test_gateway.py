"""The edge under real requests: exact weights, status only when Envoy has it; Prometheus, open-loop traffic.

One sandbox cluster with two tiny Deployments behind one HTTPRoute, without the chart.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from nexus_ops.sandbox import supervisor
from nexus_ops.sandbox.traffic import Tally, send_requests
from nexus_ops.topology import project_folder

CLUSTER, NAMESPACE, HOST = "staging-us-west-2", "nexus-agents", "api.test"
GATEWAY_API = "apis/gateway.networking.k8s.io/v1"
Urls = dict[str, str]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    home = tmp_path_factory.mktemp("sandbox")
    state = supervisor.start(home, [CLUSTER], ("gateway", "prometheus"))
    found = state.clusters[CLUSTER]
    for colour in ("blue", "green"):
        for path, body in objects(colour):
            answer = httpx.post(f"{found['api']}/{path}", json=body)
            assert answer.status_code == 201, answer.text
    for blue, green in ((0, 100), (100, 0)):  # both have ready pods, and the gateway knows them
        weigh(found, blue, green)
        until(lambda: httpx.get(found["edge"], headers={"Host": HOST}).status_code == 200)
    yield found
    supervisor.stop(home)


def objects(colour: str) -> list[tuple[str, dict[str, Any]]]:
    """A Deployment of two pods, its Service, and a ServiceMonitor."""
    name = f"agent-orchestrator-{colour}"
    labels = {"app.kubernetes.io/name": "agent-orchestrator", "nexus.ai/colour": colour}
    ports = [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]
    catalogue = yaml.safe_load((project_folder() / "images.yaml").read_text())
    image = f"r/agent-orchestrator@{catalogue['versions']['v1.0.0']['images']['agent-orchestrator']}"
    pod = {"containers": [{"name": "main", "image": image, "ports": ports}]}
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    template = {"metadata": {"labels": labels}, "spec": pod}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
                  "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}}  # fmt: skip
    targets = [("http", 80, 8080), ("metrics", 9090, 9090)]
    service_ports = [{"name": name, "port": port, "targetPort": target} for name, port, target in targets]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta,
               "spec": {"selector": labels, "ports": service_ports}}  # fmt: skip
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": meta,
               "spec": {"selector": {"matchLabels": labels}, "endpoints": [{"port": "metrics"}],
                        "targetLabels": ["nexus.ai/colour"], "jobLabel": "app.kubernetes.io/name"}}  # fmt: skip
    return [
        (f"apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment),
        (f"api/v1/namespaces/{NAMESPACE}/services", service),
        (f"apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/servicemonitors", monitor),
    ]


def weigh(urls: Urls, blue: int, green: int) -> None:
    """Set the route's weights, and wait until its status says that they are in force."""
    backends = [
        {"name": f"agent-orchestrator-{colour}", "port": 80, "weight": weight}
        for colour, weight in (("blue", blue), ("green", green))
    ]
    spec = {"parentRefs": [{"name": "g"}], "hostnames": [HOST], "rules": [{"backendRefs": backends}]}
    meta = {"name": "r", "namespace": NAMESPACE}
    route = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta, "spec": spec}
    url = f"{urls['api']}/{GATEWAY_API}/namespaces/{NAMESPACE}/httproutes/r"
    answer = httpx.patch(
        f"{url}?fieldManager=test&force=true", json=route, headers={"Content-Type": "application/apply-patch+yaml"}
    )
    assert answer.status_code in (200, 201), answer.text
    generation = answer.json()["metadata"]["generation"]

    def programmed() -> bool:
        parents = httpx.get(url).json().get("status", {}).get("parents", [])
        return any(c["observedGeneration"] == generation for parent in parents for c in parent["conditions"])

    until(programmed)


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"


def colours(urls: Urls, number: int) -> Counter[str]:
    with httpx.Client() as client:
        answers = [client.get(urls["edge"], headers={"Host": HOST}) for _ in range(number)]
    return Counter(answer.headers.get("x-nexus-colour", str(answer.status_code)) for answer in answers)


def test_all_or_nothing_is_exact_from_the_moment_the_status_says_so(urls: Urls) -> None:
    """A rollout believes the status: one request to the old colour after it would be a lie."""
    for blue, green, wanted in ((0, 100, "green"), (100, 0, "blue")):
        weigh(urls, blue, green)
        assert colours(urls, 60) == {wanted: 60}


def test_no_weight_at_all_is_503(urls: Urls) -> None:
    """As the Gateway API has it: nobody serves what nobody was given."""
    weigh(urls, 0, 0)
    assert colours(urls, 5) == {"503": 5}


def test_a_share_is_what_its_weight_says(urls: Urls) -> None:
    """A tenth means a tenth: 400 requests, five standard deviations of room."""
    weigh(urls, 90, 10)
    assert 10 <= colours(urls, 400)["green"] <= 70


async def answered(tally: Tally, more: int) -> None:
    """Until so many further requests have been answered."""
    wanted, deadline = len(tally.answers) + more, asyncio.get_running_loop().time() + 30
    while len(tally.answers) < wanted:
        assert asyncio.get_running_loop().time() < deadline, "nothing is answered"
        await asyncio.sleep(0.02)


def test_a_switch_under_300_requests_a_second_loses_none(urls: Urls) -> None:
    """Open loop: the generator neither slows down nor retries, so what is lost is seen; each id has one answer."""

    async def switch() -> tuple[Tally, float]:
        tally, stop, loop = Tally(), asyncio.Event(), asyncio.get_running_loop()
        began = loop.time()
        sending = loop.create_task(send_requests(urls["edge"], HOST, 300, tally, stop))
        for blue in (100, 50, 0, 100):
            await asyncio.to_thread(weigh, urls, blue, 100 - blue)
            await answered(tally, 150)
        stop.set()
        took = loop.time() - began
        await sending
        return tally, took

    tally, took = asyncio.run(switch())
    assert tally.lost == []
    assert len(tally.answers) > 100 * took, "too little was sent to see a loss"


def test_prometheus_scrapes_what_the_monitors_say_through_the_api_server(urls: Urls) -> None:
    """Labels of the analysis come from targetLabels and jobLabel; the way in is the API server's proxy."""
    url = f"{urls['api']}/api/v1/namespaces/monitoring/services/http:prometheus-operated:9090/proxy/api/v1/query"
    query = 'count by (job, nexus_ai_colour) (up{job="agent-orchestrator"} == 1)'

    def found() -> set[tuple[str, str]]:
        results = httpx.get(url, params={"query": query}).json()["data"]["result"]
        return {(one["metric"]["nexus_ai_colour"], one["value"][1]) for one in results}

    until(lambda: found() == {("blue", "2"), ("green", "2")}, seconds=30)
