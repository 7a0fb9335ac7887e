"""The API server's proxy: requests to a Service or a Pod through the one address that a client knows."""

from __future__ import annotations

import itertools
import re
from typing import Any

import aiohttp
from aiohttp import web

from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Store

TARGET = re.compile(r"^(?:(https?):)?([a-z0-9.-]+?)(?::([a-z0-9-]+))?$")
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "upgrade"}


class Proxy:
    """Forwards requests to endpoints, in turn."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._turn = itertools.count()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def forward(self, request: web.Request, kind: str, namespace: str, target: str, path: str) -> web.Response:
        """Answer what the endpoint answers; 503 when there is none."""
        match = TARGET.match(target)
        if not match:
            raise ApiError(400, f"invalid service request {target!r}")
        find = self._pod if kind == "pods" else self._service
        host, port = find(namespace, match[2], match[3])
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=30))
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_HEADERS}
        query = f"?{request.query_string}" if request.query_string else ""
        url = f"{match[1] or 'http'}://{host}:{port}/{path}{query}"
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
            ) as answer:
                body = await answer.read()
                kept = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_HEADERS}
                return web.Response(status=answer.status, body=body, headers=kept)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(
                503, f"error trying to reach service: {type(error).__name__}", "ServiceUnavailable"
            ) from None

    def _pod(self, namespace: str, name: str, port: str | None) -> tuple[str, int]:
        pod = self.store.get("pods", namespace, name)
        address = pod.get("status", {}).get("podIP")
        ports = [p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports") or ()]
        if not address or not (port or ports):
            raise ApiError(503, f'pod "{name}" has no address')
        return address, int(port or ports[0])

    def _service(self, namespace: str, name: str, port: str | None) -> tuple[str, int]:
        self.store.get("services", namespace, name)
        endpoints = self.store.find("endpoints", namespace, name)
        found: list[tuple[str, int]] = []
        subsets: list[dict[str, Any]] = (endpoints or {}).get("subsets") or []
        for subset in subsets:
            ports = subset.get("ports") or []
            wanted = [p for p in ports if not port or p.get("name") == port or str(p["port"]) == port]
            if not wanted and port and port.isdigit():
                wanted = self._by_service_port(namespace, name, int(port), ports)
            found += [(a["ip"], p["port"]) for a in subset.get("addresses") or () for p in wanted[:1]]
        if not found:
            raise ApiError(503, f'no endpoints available for service "{name}"')
        return found[next(self._turn) % len(found)]

    def _by_service_port(
        self, namespace: str, name: str, port: int, ports: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Endpoint ports of the service port with this number."""
        service = self.store.get("services", namespace, name)
        names = [p.get("name") for p in service["spec"].get("ports") or () if p["port"] == port]
        return [p for p in ports if p.get("name") in names]
