"""What must hold before anything changes; all of it is looked at, and all that is missing is said at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from nexus_ops.clusters.client import GATEWAY, HTTP_ROUTE, SERVICE, Kind
from nexus_ops.errors import OperationError
from nexus_ops.releases.gates import evaluate
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Rendering
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.monitor import NoGuardrails, guardrails_of

SECRET = Kind("v1", "Secret")
ENDPOINTS = Kind("v1", "Endpoints")
SERVICE_MONITOR = Kind("monitoring.coreos.com/v1", "ServiceMonitor")
PROMETHEUS_RULE = Kind("monitoring.coreos.com/v1", "PrometheusRule")

DATABASE = "postgresql-cluster-rw"
SEI = "sei-rpc"
"""A Service in the ops namespace that leads to a node of SEI, where a cluster has its own."""
SEI_SECONDS = 10.0


@dataclass(frozen=True)
class Check:
    """One prerequisite; `problem` is empty when it holds."""

    name: str
    problem: str = ""


def check_prerequisites(context: RolloutContext, release: Release) -> list[Check]:
    """All prerequisites of a release on a cluster."""
    checks = [_reachable(context)]
    if checks[0].problem:
        return checks
    renderings = [context.rendering(release.digest, part) for part in ("shared", "blue", "green")]
    checks += [
        Check(f"gate: {gate.name}", " ".join(gate.problems[:3])) for gate in evaluate(renderings, context.topology)
    ]
    backing = (_database(context), *_redis(context, release), *_sei(context, release))
    watched = (_guardrails(renderings[0]), _prometheus(context))
    return [*checks, *_definitions(context), *_secrets(context, renderings), *backing, *watched]


def _reachable(context: RolloutContext) -> Check:
    try:
        context.client.version()
    except OperationError as error:
        return Check("cluster answers", str(error))
    return Check("cluster answers")


def _definitions(context: RolloutContext) -> Iterator[Check]:
    for kind in (GATEWAY, HTTP_ROUTE, SERVICE_MONITOR, PROMETHEUS_RULE):
        served = context.client.serves(kind)
        problem = (
            "" if served else f"the cluster has no {kind.api_version} {kind.kind}: install its operator's definitions."
        )
        yield Check(f"kind {kind.kind}", problem)


def _secrets(context: RolloutContext, renderings: Iterable[Rendering]) -> Iterator[Check]:
    """Secrets that the pods refer to, with the keys that they need. Values are not looked at."""
    wanted: dict[str, set[str]] = {}
    for deployment in (obj for rendering in renderings for obj in rendering.of_kind("Deployment")):
        pod = deployment["spec"]["template"]["spec"]
        for variable in (variable for container in pod["containers"] for variable in container.get("env") or ()):
            if reference := (variable.get("valueFrom") or {}).get("secretKeyRef"):
                wanted.setdefault(reference["name"], set()).add(reference["key"])
        for volume in pod.get("volumes") or ():
            if "secret" in volume:  # mounted whole: any keys will do
                wanted.setdefault(volume["secret"]["secretName"], set())
    for name, keys in sorted(wanted.items()):
        secret = context.client.get(SECRET, name, context.cluster.namespace)
        missing = sorted(keys - set((secret or {}).get("data") or {}))
        where = f"in namespace {context.cluster.namespace}"
        problem = f"there is no Secret {name} {where}." if secret is None else ""
        if secret is not None and missing:
            problem = f"the Secret {name} {where} has no key {', '.join(missing)}."
        yield Check(f"secret {name}", problem)


def _guardrails(shared: Rendering) -> Check:
    """The rules by which the candidate is watched."""
    try:
        guardrails_of(shared)
    except NoGuardrails as error:
        return Check("guardrails", str(error))
    return Check("guardrails")


def _prometheus(context: RolloutContext) -> Check:
    path = f"namespaces/{context.cluster.monitoring_namespace}/services/http:prometheus-operated:web/proxy/-/ready"
    try:
        answer = context.client.proxy(path)
    except OperationError as error:
        return Check("Prometheus answers", str(error))
    problem = "" if answer.status_code == 200 else f"Prometheus is not ready (it answers {answer.status_code})."
    return Check("Prometheus answers", problem)


def _database(context: RolloutContext) -> Check:
    """Seen from outside the cluster, reachable means that its Service has somewhere to lead to."""
    return Check("database reachable", _unserved(context, "the database", DATABASE, context.cluster.data_namespace))


def _redis(context: RolloutContext, release: Release) -> Iterator[Check]:
    for url in _variables(release, "REDIS_URL"):
        host = urlsplit(url).hostname or ""
        name, namespace, *rest = [*host.split("."), "", ""]
        if rest[:1] != ["svc"]:
            problem = f"REDIS_URL leads to {host or url!r}, which is no Service (<service>.<namespace>.svc)."
        else:
            problem = _unserved(context, "Redis", name, namespace)
        yield Check("Redis reachable", problem)


def _unserved(context: RolloutContext, what: str, name: str, namespace: str) -> str:
    """A sentence when a Service has no ready address; how it comes to addresses is its operator's business."""
    where = f"the Service {name} in namespace {namespace}"
    try:
        if context.client.get(SERVICE, name, namespace) is None:
            return f"{what} is not reachable: there is no Service {name} in namespace {namespace}."
        endpoints = context.client.get(ENDPOINTS, name, namespace) or {}
    except OperationError as error:
        return f"whether {what} is reachable cannot be seen: {error}"
    ready = any(subset.get("addresses") for subset in endpoints.get("subsets") or ())
    return "" if ready else f"{what} is not reachable: {where} has no ready address."


def _sei(context: RolloutContext, release: Release) -> Iterator[Check]:
    """SEI's nodes say which chain they serve; asked through the cluster where it has a Service for them."""
    urls = _variables(release, "SEI_RPC_URL")
    try:
        inside = context.client.get(SERVICE, SEI, context.cluster.ops_namespace) if urls else None
    except OperationError as error:
        yield Check("SEI RPC reachable", f"whether SEI is reachable cannot be seen: {error}")
        return
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    for url in urls[:1] if inside else urls:
        where = f"the Service {SEI} in namespace {context.cluster.ops_namespace}" if inside else url
        try:
            if inside:
                port = inside["spec"]["ports"][0].get("name") or inside["spec"]["ports"][0]["port"]
                path = f"namespaces/{context.cluster.ops_namespace}/services/http:{SEI}:{port}/proxy/"
                answer: Any = context.client.proxy(path, method="POST", body=call)
            else:
                answer = httpx.post(url, json=call, timeout=SEI_SECONDS)
            problem = _no_chain(answer)
        except OperationError as error:
            problem = str(error).rstrip(".")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = type(error).__name__
        yield Check("SEI RPC reachable", f"SEI is not reachable by {where}: {problem}." if problem else "")


def _no_chain(answer: Any) -> str:
    """What is wrong with the answer to eth_chainId; empty for a chain id."""
    if answer.status_code != 200:
        return f"it answers {answer.status_code}"
    try:
        int(answer.json()["result"], 16)
    except (ValueError, KeyError, TypeError):
        return "its answer to eth_chainId has no chain id"
    return ""


def _variables(release: Release, name: str) -> list[str]:
    """The values of a variable over all components, each once."""
    values = (component["environment"].get(name) for component in release.components.values())
    return sorted({value for value in values if isinstance(value, str)})
