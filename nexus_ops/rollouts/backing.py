"""What a release stands on: its database, its Redis, and SEI. Seen from outside the cluster, without using them.

Within the cluster, reachable means that a Service has somewhere to lead to. A managed service (RDS, ElastiCache) is
outside of it, often where only the pods reach it: its URL is checked for its form, and the candidate's readiness shows the
rest. URLs hold passwords: they are read, and never repeated in what is said.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from nexus_ops.clusters.client import SERVICE, Kind
from nexus_ops.errors import OperationError
from nexus_ops.releases.model import Release
from nexus_ops.rollouts.context import RolloutContext

SECRET = Kind("v1", "Secret")
ENDPOINTS = Kind("v1", "Endpoints")
DATABASE = "postgresql-cluster-rw"
"""The Service of the platform's own database (CloudNativePG), in the data namespace."""
SEI = "sei-rpc"
"""A Service in the ops namespace that leads to a node of SEI, where a cluster has its own."""
SEI_SECONDS = 10.0
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Check:
    """One prerequisite; `problem` is empty when it holds, `note` says what could not be seen."""

    name: str
    problem: str = ""
    note: str = ""

    def __str__(self) -> str:
        said = self.problem or self.note
        return f"{'FAIL' if self.problem else 'ok  '} {self.name}" + (f": {said}" if said else "")


@dataclass(frozen=True)
class Address:
    """Where a URL leads: what may be shown of it."""

    hosts: tuple[str, ...]
    problem: str = ""

    @property
    def service(self) -> tuple[str, str] | None:
        """Name and namespace of the Service that it names (`<name>.<namespace>.svc`)."""
        name, namespace, *rest = [*(self.hosts[0] if self.hosts else "").split("."), "", ""]
        return (name, namespace) if rest[:1] == ["svc"] else None

    @property
    def is_outside(self) -> bool:
        """Whether it names hosts of other networks, by their full names or public addresses."""
        return bool(self.hosts) and all("." in host and not _is_loopback(host) for host in self.hosts)


def parse_address(url: str, schemes: tuple[str, ...]) -> Address:
    """Where a URL of Redis or PostgreSQL leads; what is wrong with it is said without repeating it."""
    try:
        parts = urlsplit(url)
        hosts = tuple(urlsplit(f"//{one}") for one in parts.netloc.rpartition("@")[2].split(","))
        named = tuple(host.hostname or "" for host in hosts)
        ports = [host.port for host in hosts]  # raises for what is no port
    except ValueError:
        return Address((), "it cannot be read (special characters of a password are written as %XX)")
    if parts.scheme.partition("+")[0] not in schemes:
        return Address((), f"it does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not all(named) or 0 in ports or parts.fragment:
        return Address((), "it names no host (special characters of a password are written as %XX)")
    if "rediss" in schemes and not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
        return Address(named, "what follows the host is no number of a database")
    mode = parse_qs(parts.query).get("sslmode", ["prefer"])[-1]
    if mode not in SSL_MODES:
        return Address(named, f"its sslmode is none of {', '.join(SSL_MODES)}")
    return Address(named)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_database(context: RolloutContext, release: Release) -> Iterator[Check]:
    """The database of DATABASE_URL; the platform's own where the URL names nothing else."""
    own = (DATABASE, context.cluster.data_namespace)
    yield from _check(context, release, "the database", "DATABASE_URL", ("postgresql", "postgres"), own)


def check_redis(context: RolloutContext, release: Release) -> Iterator[Check]:
    """The Redis of REDIS_URL."""
    yield from _check(context, release, "Redis", "REDIS_URL", ("redis", "rediss"), None)


def _check(
    context: RolloutContext,
    release: Release,
    what: str,
    variable: str,
    schemes: tuple[str, ...],
    own: tuple[str, str] | None,
) -> Iterator[Check]:
    name = f"{what.removeprefix('the ')} reachable"
    try:
        urls = list(_urls(context, release, variable))
    except OperationError as error:
        yield Check(name, f"whether {what} is reachable cannot be seen: {error}")
        return
    for url in urls:
        address = parse_address(url, schemes)
        hosts = ", ".join(address.hosts)
        if address.problem:
            yield Check(name, f"{variable} is no URL of {what}: {address.problem}.")
        elif address.service is None and address.is_outside:
            yield Check(
                name, note=f"{hosts} is outside the cluster: the candidate's readiness shows whether it answers"
            )
        elif service := address.service or own:
            yield Check(name, _unserved(context, what, *service))
        else:
            yield Check(name, f"{variable} leads to {hosts}, which is no Service (<service>.<namespace>.svc).")
    if not urls and own:
        yield Check(name, _unserved(context, what, *own))


def _urls(context: RolloutContext, release: Release, variable: str) -> Iterator[str]:
    """The values of a variable over all components, each once; those in Secrets read from the cluster.

    A Secret or key that is missing is left out: it is a prerequisite of its own, and told there.
    """
    values = [component["environment"].get(variable) for component in release.components.values()]
    named = {value for value in values if isinstance(value, str)}
    for name, key in sorted({(value["secret"], value["key"]) for value in values if isinstance(value, dict)}):
        secret = context.client.get(SECRET, name, context.cluster.namespace)
        if encoded := ((secret or {}).get("data") or {}).get(key):
            named.add(base64.b64decode(encoded).decode(errors="replace").strip())
    yield from sorted(named)


def _unserved(context: RolloutContext, what: str, name: str, namespace: str) -> str:
    """A sentence when a Service has no ready address; how it comes to addresses is its operator's business."""
    where = f"the Service {name} in namespace {namespace}"
    try:
        service = context.client.get(SERVICE, name, namespace)
        if service is None:
            return f"{what} is not reachable: there is no Service {name} in namespace {namespace}."
        if service["spec"].get("type") == "ExternalName":
            return ""  # a name for a host elsewhere: it has no endpoints
        endpoints = context.client.get(ENDPOINTS, name, namespace) or {}
    except OperationError as error:
        return f"whether {what} is reachable cannot be seen: {error}"
    ready = any(subset.get("addresses") for subset in endpoints.get("subsets") or ())
    return "" if ready else f"{what} is not reachable: {where} has no ready address."


def check_sei(context: RolloutContext, release: Release) -> Iterator[Check]:
    """SEI's nodes say which chain they serve; asked through the cluster where it has a Service for them."""
    urls = _variables(release, "SEI_RPC_URL")
    try:
        inside = context.client.get(SERVICE, SEI, context.cluster.ops_namespace) if urls else None
    except OperationError as error:
        yield Check("SEI RPC reachable", f"whether SEI is reachable cannot be seen: {error}")
        return
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    for url in urls[:1] if inside else urls:
        where = f"the Service {SEI} in namespace {context.cluster.ops_namespace}" if inside else _shown(url)
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


def _shown(url: str) -> str:
    """Scheme, host and port: the rest may hold a provider's key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


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
