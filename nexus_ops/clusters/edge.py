"""Where users come in: the gateway's address, and what answers there."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from nexus_ops.clusters.client import GATEWAY, ClusterClient
from nexus_ops.errors import TemporaryError

EDGE_URL = "nexus.ai/edge-url"


class EdgeUnknown(TemporaryError):
    """The gateway has no address yet."""


def edge_url(client: ClusterClient, namespace: str) -> str:
    """The URL of the gateway: the annotation nexus.ai/edge-url where one is set, else its status address."""
    gateway = client.get(GATEWAY, "nexus-gateway", namespace)
    found = (gateway or {"metadata": {}})["metadata"].get("annotations") or {}
    if EDGE_URL in found:
        return found[EDGE_URL]
    addresses = ((gateway or {}).get("status") or {}).get("addresses") or []
    if not addresses:
        raise EdgeUnknown("the gateway has no address yet.", target=f"{client.name}/nexus-gateway")
    listeners = {listener["protocol"] for listener in (gateway or {})["spec"]["listeners"]}
    return f"{'https' if 'HTTPS' in listeners else 'http'}://{addresses[0]['value']}"


def ask_edge(url: str, host: str, times: int) -> Counter[str]:
    """Send real requests through the gateway; how many each colour answered (`none`: nobody did).

    The address may be a load balancer's: over TLS the host is what is asked for, and whose certificate must be shown.
    """
    named = {"sni_hostname": host} if url.startswith("https") else {}

    def ask(http: httpx.Client) -> str:
        try:
            return http.get(url, headers={"Host": host}, extensions=named).headers.get("x-nexus-colour", "none")
        except httpx.TransportError:
            return "none"

    with httpx.Client(timeout=5) as http, ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(ask, [http] * times))
