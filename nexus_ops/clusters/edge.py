"""Where users come in: the address of the edge, and what answers there."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from nexus_ops.clusters.client import GATEWAY, INGRESS, SERVICE, ClusterClient, Kind, Object
from nexus_ops.clusters.tls import authorities
from nexus_ops.errors import TemporaryError
from nexus_ops.topology import RouterKind

EDGE_URL = "nexus.ai/edge-url"
CERTIFICATE = "alb.ingress.kubernetes.io/certificate-arn"
ENTRANCES: dict[RouterKind, tuple[Kind, str]] = {
    "gateway-api": (GATEWAY, "nexus-gateway"),
    "alb": (INGRESS, "nexus-api"),
    "service-selector": (SERVICE, "nexus-load-balancer"),
}
"""The object behind which users come in, by router."""
THREADS = 8
"""Requests at the edge that are under way at once."""


class EdgeUnknown(TemporaryError):
    """The edge has no address yet."""


def edge_url(client: ClusterClient, namespace: str, router: RouterKind) -> str:
    """Where users come in, by the object that the router of the environment leads through.

    Its annotation nexus.ai/edge-url where one is set, else the address in its status; `EdgeUnknown` while there is neither.
    """
    kind, name = ENTRANCES[router]
    found = client.get(kind, name, namespace) or {"metadata": {}}
    if url := (found["metadata"].get("annotations") or {}).get(EDGE_URL):
        return url
    status = found.get("status") or {}
    entries = (status.get("addresses") or []) + ((status.get("loadBalancer") or {}).get("ingress") or [])
    if not entries:
        raise EdgeUnknown(f"the {kind.kind} {name} has no address yet.", target=client.name)
    address = entries[0].get("value") or entries[0].get("hostname") or entries[0].get("ip")
    return f"{'https' if _encrypted(found) else 'http'}://{address}"


def _encrypted(entrance: Object) -> bool:
    """Whether users are served over TLS there."""
    listeners = (entrance.get("spec") or {}).get("listeners") or ()
    return any(listener["protocol"] == "HTTPS" for listener in listeners) or CERTIFICATE in (
        entrance["metadata"].get("annotations") or {}
    )


def edge_client() -> httpx.Client:
    """Connections to an edge that are used again; to be closed."""
    return httpx.Client(verify=authorities(), timeout=5, limits=httpx.Limits(max_connections=THREADS))


def ask_edge(http: httpx.Client, url: str, host: str, times: int) -> Counter[str]:
    """Send real requests through the edge; how many each colour answered.

    `none` are those that the edge itself answered, for nobody serves them; `silent` those without any answer.

    The address may be a load balancer's: over TLS the host is what is asked for, and whose certificate must be shown.
    """
    named = {"sni_hostname": host} if url.startswith("https") else {}

    def ask(_: int) -> str:
        try:
            return http.get(url, headers={"Host": host}, extensions=named).headers.get("x-nexus-colour", "none")
        except httpx.TransportError:
            return "silent"

    with ThreadPoolExecutor(THREADS) as pool:
        return Counter(pool.map(ask, range(times)))
