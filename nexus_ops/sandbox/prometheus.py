"""A real Prometheus per sandbox cluster, scraping what the cluster's ServiceMonitors ask for.

The scrape configuration is generated from ServiceMonitors, Services and endpoints as prometheus-operator does it: a
job per monitor and endpoint, targets that Prometheus asks the admin interface for every second, and the labels that
jobLabel, targetLabels and podTargetLabels name. (Files of targets would be watched: by an inotify instance for each job,
and a user has 128 of them on a usual machine.) Rules come from PrometheusRules. The Service
`prometheus-operated` leads to it, so that clients find it through the API server like anywhere else.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from nexus_ops.sandbox.executables import executable, until_it_answers
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.users import die_with_parent

Object = dict[str, Any]
MONITORS, RULES = "servicemonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com"
INTERVAL = "2s"
DISCOVERY_INTERVAL = "1s"


def scrape_jobs(store: Store, discovery: str) -> list[Object]:
    """Scrape jobs of all ServiceMonitors; `discovery` is the URL below which their targets are told."""
    jobs: list[Object] = []
    for monitor in store.list(MONITORS):
        meta = monitor["metadata"]
        entries: list[Object] = monitor["spec"].get("endpoints") or []
        for number, endpoint in enumerate(entries):
            name = f"serviceMonitor/{meta['namespace']}/{meta['name']}/{number}"
            jobs.append(
                {
                    "job_name": name,
                    "metrics_path": endpoint.get("path", "/metrics"),
                    "scrape_interval": INTERVAL,
                    "scrape_timeout": INTERVAL,
                    "http_sd_configs": [
                        {
                            "url": f"{discovery}/{meta['namespace']}/{meta['name']}/{number}",
                            "refresh_interval": DISCOVERY_INTERVAL,
                        }
                    ],
                    "relabel_configs": [_snake(rule) for rule in endpoint.get("relabelings") or ()],
                    "metric_relabel_configs": [_snake(rule) for rule in endpoint.get("metricRelabelings") or ()],
                }
            )
    return jobs


def _snake(rule: Object) -> Object:
    return {re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), key): value for key, value in rule.items()}


def targets(store: Store, monitor: Object, endpoint: Object) -> list[Object]:
    """Target groups of one endpoint of a monitor, with the labels that prometheus-operator gives them."""
    meta, spec = monitor["metadata"], monitor["spec"]
    selector = spec.get("namespaceSelector") or {}
    spaces = selector.get("matchNames") or ([None] if selector.get("any") else [meta["namespace"]])
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    expressions = (spec.get("selector") or {}).get("matchExpressions") or []
    groups: list[Object] = []
    for space in spaces:
        for service in store.list("services", space, wanted):
            labels = service["metadata"].get("labels") or {}
            if not all(_holds(expression, labels) for expression in expressions):
                continue
            groups += _groups(store, service, endpoint, spec, labels)
    return groups


def _holds(expression: Object, labels: dict[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    return {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[operator]


def _groups(store: Store, service: Object, endpoint: Object, spec: Object, labels: dict[str, str]) -> list[Object]:
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    found = store.find("endpoints", namespace, name) or {}
    groups: list[Object] = []
    for subset in found.get("subsets") or ():
        for port in subset.get("ports") or ():
            if port.get("name") != endpoint.get("port"):
                continue
            for address in subset.get("addresses") or ():
                pod = (address.get("targetRef") or {}).get("name", "")
                static = {"namespace": namespace, "service": name, "endpoint": port.get("name", ""), "pod": pod}
                static["job"] = labels.get(spec.get("jobLabel", ""), name)
                own = (store.find("pods", namespace, pod) or {"metadata": {}})["metadata"].get("labels") or {}
                for key in spec.get("targetLabels") or ():
                    static[_label(key)] = labels.get(key, "")
                for key in spec.get("podTargetLabels") or ():
                    static[_label(key)] = own.get(key, "")
                hidden = {f"__meta_kubernetes_pod_label_{_label(key)}": value for key, value in own.items()}
                hidden |= {f"__meta_kubernetes_service_label_{_label(key)}": value for key, value in labels.items()}
                groups.append({"targets": [f"{address['ip']}:{port['port']}"], "labels": {**hidden, **static}})
    return groups


def _label(key: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", key)


class Prometheus:
    """Runs Prometheus and keeps its files as the store says."""

    def __init__(self, store: Store, folder: Path, port: int, namespace: str, discovery: str) -> None:
        """`discovery`: the URL at which `discovered` is served, below it the monitor's namespace, name and endpoint."""
        self.discovery = discovery
        self.store = store
        self.folder = folder
        self.port = port
        self.namespace = namespace
        self._written: dict[Path, str] = {}
        self._dirty = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = store.subscribe(self._on_event)

    async def start(self) -> None:
        """Write the first configuration, start Prometheus, and follow the store."""
        self._write_all()
        self._publish()
        with (self.folder / "prometheus.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                executable("prometheus"),
                f"--config.file={self.folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                "--storage.tsdb.retention.time=6h",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-lifecycle",
                "--log.level=warn",
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                env={**os.environ, "GOMAXPROCS": "1", "GOGC": "50"},
            )
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def until_ready(self) -> None:
        """Wait until queries are answered."""
        if self._process is not None:
            url, log = f"http://127.0.0.1:{self.port}/-/ready", self.folder / "prometheus.log"
            await until_it_answers("Prometheus", self._process, url, log)

    async def stop(self) -> None:
        self._stop()
        if self._task is not None:
            self._task.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def _on_event(self, event: Event) -> None:
        if event.key in (MONITORS, RULES):
            self._dirty.set()

    async def _follow(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                if self._write_all():
                    await self._reload(session)
                await asyncio.sleep(0.25)  # changes come in bursts: gather them

    async def _reload(self, session: aiohttp.ClientSession) -> None:
        for _ in range(50):
            try:
                async with session.post(f"http://127.0.0.1:{self.port}/-/reload") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # it is starting
            await asyncio.sleep(0.2)

    def discovered(self, namespace: str, name: str, number: int) -> list[Object]:
        """The targets of one endpoint of a monitor, as Prometheus' HTTP discovery wants them."""
        monitor = self.store.find(MONITORS, namespace, name)
        endpoints: list[Object] = (monitor or {"spec": {}})["spec"].get("endpoints") or []
        return targets(self.store, monitor, endpoints[number]) if monitor and number < len(endpoints) else []

    def _write_all(self) -> bool:
        """Write what changed; True when something did."""
        groups = [group for rule in self.store.list(RULES) for group in rule["spec"].get("groups") or ()]
        changed = self._write(self.folder / "rules.yaml", yaml.safe_dump({"groups": groups}))
        config = {
            "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [str(self.folder / "rules.yaml")],
            "scrape_configs": scrape_jobs(self.store, self.discovery),
        }
        return self._write(self.folder / "prometheus.yaml", yaml.safe_dump(config)) or changed

    def _write(self, path: Path, text: str) -> bool:
        if self._written.get(path) == text:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        os.replace(temporary, path)
        self._written[path] = text
        return True

    def _publish(self) -> None:
        """The Service prometheus-operated, and its endpoint on this machine."""
        meta = {"name": "prometheus-operated", "namespace": self.namespace}
        port = {"name": "web", "port": 9090}
        service = {"metadata": meta, "spec": {"type": "ClusterIP", "clusterIP": "None", "ports": [port]}}
        endpoints = {
            "metadata": meta,
            "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "web", "port": self.port}]}],
        }
        for key, obj in (("services", service), ("endpoints", endpoints)):
            try:
                self.store.create(key, obj)
            except ApiError as error:
                if error.code != 409:
                    raise
