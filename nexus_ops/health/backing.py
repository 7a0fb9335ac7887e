"""What the platform stands on: PostgreSQL, Redis, and a node of SEI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from nexus_ops.clusters.client import SERVICE, Kind
from nexus_ops.health.model import Finding, State, worst
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.topology import Topology

Object = dict[str, Any]
ENDPOINTS = Kind("v1", "Endpoints")
POSTGRES = Kind("postgresql.cnpg.io/v1", "Cluster")
REDIS = Kind("redis.redis.opstreelabs.in/v1beta2", "RedisCluster")
DATABASE = "postgresql-cluster-rw"
SEI = "sei-rpc"
"""A Service in the ops namespace that leads to a node of SEI, where a cluster has its own."""
SEI_SECONDS = 8.0
SLOW_SECONDS = 2.0
Part = tuple[State, str]


def look_at_data(context: RolloutContext) -> Finding:
    """PostgreSQL and Redis. From outside the cluster, reachable means that the Service has a ready address; what the
    operators say of instances and archiving comes on top, where they are."""
    namespace = context.cluster.data_namespace
    services = {"PostgreSQL": (DATABASE, namespace), **redis_services(context.topology)}
    parts, numbers = list[Part](), dict[str, float]()
    for what, (name, space) in services.items():
        addresses = _addresses(context, name, space)
        numbers[f"{what} addresses"] = addresses or 0
        parts.append(judge_service(what, f"{name}.{space}", addresses))
    for kind, judge in ((POSTGRES, judge_postgres), (REDIS, judge_redis)):
        if context.client.serves(kind):
            for obj in context.client.list(kind, namespace):
                part, more = judge(obj)
                parts.append(part)
                numbers |= more
    state = worst(part[0] for part in parts)
    todo = "" if state == "healthy" else f"Look at the pods and operators in namespace {namespace}."
    return Finding(state, "; ".join(part[1] for part in parts), todo, numbers)


def redis_services(topology: Topology) -> dict[str, tuple[str, str]]:
    """Name and namespace of each Service that a REDIS_URL of the components leads to."""
    found: dict[str, tuple[str, str]] = {}
    for url in _variables(topology, "REDIS_URL"):
        name, namespace, *rest = [*(urlsplit(url).hostname or "").split("."), ""]
        if rest[:1] == ["svc"]:
            found["Redis" if not found else f"Redis {name}"] = (name, namespace)
    return found


def _variables(topology: Topology, name: str) -> list[str]:
    """The values of a variable over all components, each once."""
    values = (component.environment.get(name) for component in topology.components.values())
    return sorted({value for value in values if isinstance(value, str)})


def _addresses(context: RolloutContext, name: str, namespace: str) -> int | None:
    """Ready addresses of a Service; None when there is no such Service."""
    if context.client.get(SERVICE, name, namespace) is None:
        return None
    endpoints = context.client.get(ENDPOINTS, name, namespace) or {}
    return sum(len(subset.get("addresses") or ()) for subset in endpoints.get("subsets") or ())


def judge_service(what: str, where: str, addresses: int | None) -> Part:
    """Whether something can be reached, by its Service. Pure."""
    if addresses is None:
        return "failed", f"{what} is not reachable: there is no Service {where}"
    return ("healthy", f"{what} is reachable") if addresses else ("failed", f"{what} is not reachable: {where} has no ready address")  # fmt: skip


def judge_postgres(cluster: Object) -> tuple[Part, dict[str, float]]:
    """A CloudNativePG Cluster: instances, and whether its WAL is archived (its `ContinuousArchiving` condition). Pure."""
    name, status = cluster["metadata"]["name"], cluster.get("status") or {}
    wanted, ready = cluster["spec"].get("instances", 1), status.get("readyInstances", 0)
    numbers = {f"{name} instances ready": float(ready), f"{name} instances": float(wanted)}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    archiving = conditions.get("ContinuousArchiving") or {}
    said = f"{name} has {ready} of {wanted} instances ready"
    if archiving.get("status") == "False":
        return ("degraded", f"{said}, its WAL is not archived: {archiving.get('message', '')}"), numbers
    return (_enough(ready, wanted), said), numbers


def judge_redis(cluster: Object) -> tuple[Part, dict[str, float]]:
    """A RedisCluster of the OT operator: `clusterSize` leaders and as many followers. Pure."""
    name, status, size = cluster["metadata"]["name"], cluster.get("status") or {}, cluster["spec"].get("clusterSize", 1)
    leaders, followers = status.get("readyLeaderReplicas", 0), status.get("readyFollowerReplicas", 0)
    numbers = {f"{name} leaders ready": float(leaders), f"{name} followers ready": float(followers)}
    state: State = "failed" if leaders < size else _enough(followers, size)
    # A missing follower loses no slot; a missing leader does.
    return ("degraded" if state == "failed" and leaders >= size else state, f"{name} has {leaders} of {size} leaders and {followers} of {size} followers ready"), numbers  # fmt: skip


def _enough(ready: int, wanted: int) -> State:
    return "healthy" if ready >= wanted else "degraded" if ready else "failed"


def look_at_sei(context: RolloutContext) -> Finding:
    """Ask a node of SEI which chain it serves: through the cluster where it has a Service for it, else directly."""
    inside = context.client.get(SERVICE, SEI, context.cluster.ops_namespace)
    direct = _variables(context.topology, "SEI_RPC_URL")
    if not inside and not direct:
        return Finding("healthy", "no component names a SEI_RPC_URL: nothing needs it")
    call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    where = f"Service {SEI}" if inside else direct[0]
    begun = time.monotonic()
    try:
        if inside:
            port = inside["spec"]["ports"][0].get("name") or inside["spec"]["ports"][0]["port"]
            path = f"namespaces/{context.cluster.ops_namespace}/services/http:{SEI}:{port}/proxy/"
            answer: Any = context.client.proxy(path, method="POST", body=call)
        else:
            answer = httpx.post(direct[0], json=call, timeout=SEI_SECONDS)
    except httpx.HTTPError as error:
        return _silent(where, type(error).__name__)
    return judge_sei(where, answer.status_code, _document(answer), time.monotonic() - begun)


def judge_sei(where: str, status: int, document: Mapping[str, Any], seconds: float) -> Finding:
    """Whether the answer to eth_chainId is a chain's number (https://ethereum.org/developers/docs/apis/json-rpc). Pure."""
    numbers = {"milliseconds": round(1000 * seconds, 1)}
    if status != 200:
        return _silent(where, f"it answers {status}")
    try:
        chain = int(document["result"], 16)
    except (KeyError, TypeError, ValueError):
        return _silent(where, "its answer to eth_chainId has no chain id")
    said = f"{where} serves chain {chain}, {1000 * seconds:.0f} ms"
    if seconds > SLOW_SECONDS:
        return Finding("degraded", f"{said}: slow", "Ask its operator, or use another node.", numbers)
    return Finding("healthy", said, "", numbers)


def _silent(where: str, problem: str) -> Finding:
    todo = "The platform cannot trade without it: check the node, or name another in SEI_RPC_URL."
    return Finding("failed", f"SEI is not reachable by {where}: {problem}", todo)


def _document(answer: Any) -> Mapping[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
