"""A Kubernetes API client over plain objects: get, list, apply, replace, delete, proxy, watch.

Kubeconfig, certificates and credential plug-ins are lightkube's. What is busy (429, 5xx, a lost connection) is tried
again with growing pauses until a deadline; what is refused is raised with the server's own answer.
"""

from __future__ import annotations

import builtins
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from lightkube.config.client_adapter import Client as adapted
from lightkube.core.exceptions import ConfigError

from nexus_ops.clusters.errors import ClusterUnreachable, Conflict, FieldConflict, NoCredentials, Refused
from nexus_ops.clusters.kubeconfig import find_context
from nexus_ops.clusters.tls import Connection
from nexus_ops.topology import Cluster

Object = dict[str, Any]
BUSY = (429, 500, 502, 503, 504)
USER_AGENT = "nexus-ops"


@dataclass(frozen=True)
class Kind:
    """A kind of object by API version."""

    api_version: str
    kind: str

    @classmethod
    def of(cls, obj: Object) -> Kind:
        return cls(obj["apiVersion"], obj["kind"])


CONFIG_MAP = Kind("v1", "ConfigMap")
SERVICE = Kind("v1", "Service")
POD = Kind("v1", "Pod")
NAMESPACE = Kind("v1", "Namespace")
DEPLOYMENT = Kind("apps/v1", "Deployment")
AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler")
LEASE = Kind("coordination.k8s.io/v1", "Lease")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute")
INGRESS = Kind("networking.k8s.io/v1", "Ingress")
GATEWAY = Kind("gateway.networking.k8s.io/v1", "Gateway")


def selector(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Labels as a query."""
    return {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}


def group_of(api_version: str) -> str:
    """The API group of a version; empty for the core."""
    return api_version.rpartition("/")[0]


class ClusterClient:
    """One cluster's API. Safe to use from several threads."""

    def __init__(
        self, http: Any, name: str, *, patience: float = 20.0, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """`patience`: seconds for which a busy server is tried again; `pause` waits between tries."""
        self.name = name
        self._http = http
        self._patience = patience
        self.pause = pause
        self._resources: dict[Kind, tuple[str, bool]] = {}

    @classmethod
    def connect(cls, cluster: Cluster, *, kubeconfig: Path | None = None, patience: float = 20.0) -> ClusterClient:
        """A client by the cluster's kube context (clusters.kubeconfig). Does not talk yet."""
        single = find_context(cluster, kubeconfig)
        http: Any = adapted(single, Connection(timeout=httpx2.Timeout(10, read=30)))
        http.headers["User-Agent"] = USER_AGENT
        return cls(http, cluster.name, patience=patience)

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------------ reading

    def version(self) -> str:
        """The server's version."""
        return self.request("GET", "/version").json()["gitVersion"]

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """An object, or None when the API server itself says that there is none. A failed read is an error."""
        try:
            return self.request("GET", self.path(kind, namespace, name)).json()
        except Refused as error:
            if error.reason == "NotFound":
                return None
            raise

    def list(self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of a kind, every page of them."""
        return self.list_at(kind, namespace, labels)[0]

    def list_at(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> tuple[builtins.list[Object], str]:
        """All objects of a kind, and the version at which they were seen: where a watch goes on."""
        query = {"limit": "500", **selector(labels)}
        found: list[Object] = []
        while True:
            try:
                page = self.request("GET", self.path(kind, namespace), query=query).json()
            except Refused as error:
                if error.reason == "Expired" and query.pop("continue", None):
                    found = []  # the pages have grown too old to go on with: from the first one again
                    continue
                raise
            found += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page["items"] or ()]
            if not (token := page["metadata"].get("continue")):
                return found, page["metadata"]["resourceVersion"]
            query["continue"] = token

    def serves(self, kind: Kind) -> bool:
        """Whether the cluster knows a kind at all."""
        try:
            self._resource(kind)
        except Refused as error:
            if error.reason == "NotFound":
                return False
            raise
        return True

    def versions(self, group: str) -> builtins.list[str]:
        """The API versions in which the cluster serves a group, the preferred one first; none when it knows no such."""
        if not group:
            return ["v1"]
        for entry in self.request("GET", "/apis").json()["groups"]:
            if entry["name"] == group:
                preferred = entry["preferredVersion"]["groupVersion"]
                served = [version["groupVersion"] for version in entry["versions"]]
                return [preferred, *(version for version in served if version != preferred)]
        return []

    def stream(self, path: str, query: Mapping[str, str], *, seconds: float) -> AbstractContextManager[httpx2.Response]:
        """An answer that is read as it comes (clusters.watch)."""
        return self._http.stream("GET", path, params=query, timeout=httpx2.Timeout(10, read=seconds + 1))

    def proxy(
        self, path: str, *, method: str = "GET", query: Mapping[str, Any] | None = None, body: Any = None
    ) -> httpx2.Response:
        """What a Service or Pod answers through the API server; its errors are answers too, not exceptions.

        `path`: `namespaces/<ns>/services/http:<name>:<port>/proxy/<path>`, or the same of pods.
        """
        try:
            return self._http.request(method, f"/api/v1/{path}", params=dict(query or {}), json=body)
        except httpx2.TransportError as error:
            raise ClusterUnreachable(
                f"the API server's proxy did not answer: {type(error).__name__}.", target=self.name
            ) from None

    # ------------------------------------ writing (only clusters.fence calls these, and clusters.dry_run, which stores nothing)

    def apply(self, obj: Object, *, manager: str, force: bool = False, dry_run: bool = False) -> Object:
        """Server-side apply. A field owned by another manager is a `FieldConflict`, unless forced."""
        meta = obj["metadata"]
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        path = self.path(Kind.of(obj), meta.get("namespace"), meta["name"])
        return self.request("PATCH", path, query=query, body=obj, media="application/apply-patch+yaml").json()

    def create(self, obj: Object, *, manager: str) -> Object:
        """POST; `Conflict` when it is there."""
        path = self.path(Kind.of(obj), obj["metadata"].get("namespace"))
        return self.request("POST", path, query={"fieldManager": manager}, body=obj).json()

    def replace(self, obj: Object, *, manager: str) -> Object:
        """PUT of an object with the resourceVersion that was read; `Conflict` when it is old."""
        meta = obj["metadata"]
        path = self.path(Kind.of(obj), meta.get("namespace"), meta["name"])
        return self.request("PUT", path, query={"fieldManager": manager}, body=obj).json()

    def delete(self, kind: Kind, name: str, namespace: str | None, *, version: str | None = None) -> None:
        """Delete in the background; gone already is success. `version` is the resourceVersion it must have."""
        body: Object = {"propagationPolicy": "Background"}
        if version:
            body["preconditions"] = {"resourceVersion": version}
        try:
            self.request("DELETE", self.path(kind, namespace, name), body=body)
        except Refused as error:
            if error.reason != "NotFound":
                raise

    # ------------------------------------------------------------------ the wire

    def path(self, kind: Kind, namespace: str | None = None, name: str | None = None) -> str:
        """The URL path of a kind's collection or object."""
        plural, namespaced = self._resource(kind)
        root = "/api/v1" if kind.api_version == "v1" else f"/apis/{kind.api_version}"
        space = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{root}{space}/{plural}" + (f"/{name}" if name else "")

    def _resource(self, kind: Kind) -> tuple[str, bool]:
        """Plural name and whether namespaced, from discovery (asked once per group version)."""
        if kind not in self._resources:
            root = "/api/v1" if kind.api_version == "v1" else f"/apis/{kind.api_version}"
            try:
                served = self.request("GET", root).json()["resources"]
            except Refused as error:
                # A 404 is not the server's word that there is no such group: a proxy in between says it, too.
                if error.status["code"] != 404 or kind.api_version in self.versions(group_of(kind.api_version)):
                    raise
                served = []
            for entry in served:
                if "/" not in entry["name"]:
                    self._resources[Kind(kind.api_version, entry["kind"])] = entry["name"], entry["namespaced"]
        if kind not in self._resources:
            message = f"the cluster knows no {kind.api_version} {kind.kind}"
            raise Refused(self.name, {"reason": "NotFound", "code": 404, "message": message})
        return self._resources[kind]

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        media: str = "application/json",
    ) -> httpx2.Response:
        """One request, tried again while the server is busy; errors by type. Never longer than our patience."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": media} if content else {}
        deadline, wait = time.monotonic() + self._patience, 0.1
        while True:
            left = max(1.0, deadline - time.monotonic())
            try:
                answer = self._http.request(
                    method,
                    path,
                    params=dict(query or {}),
                    content=content,
                    headers=headers,
                    timeout=httpx2.Timeout(min(10.0, left), read=left),
                )
                if answer.status_code < 400:
                    return answer
                if answer.status_code not in BUSY:
                    raise self.refusal(path.rsplit("/", 1)[-1], answer)
                problem = f"it answers {answer.status_code}"
                if after := answer.headers.get("Retry-After"):
                    wait = max(wait, float(after)) if after.isdigit() else wait
                if answer.status_code == 500 and "typed patch" in answer.text:
                    raise self.refusal(path.rsplit("/", 1)[-1], answer)
            except httpx2.TransportError as error:
                problem = type(error).__name__
            except (ConfigError, OSError) as error:  # the kubeconfig's credential plug-in, run for the first request
                raise NoCredentials(self.name, error) from error
            if time.monotonic() + wait > deadline:
                raise ClusterUnreachable(
                    f"the API server did not serve {method} {path} in {self._patience:.0f} s: {problem}.",
                    target=self.name,
                    todo="Check that the cluster is up and that its kube context leads to it.",
                )
            self.pause(wait * random.uniform(0.8, 1.2))
            wait = min(wait * 2, 3.0)

    def refusal(self, target: str, answer: Any) -> Exception:
        """The error that an answer is."""
        try:
            status: Object = answer.json()
        except ValueError:
            status = {"message": answer.text[:300]}
        status["code"] = answer.status_code
        where = f"{self.name}/{target}"
        causes = (status.get("details") or {}).get("causes") or []
        if answer.status_code == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
            return FieldConflict(where, causes)
        if answer.status_code == 409:
            return Conflict(f"{status.get('message', 'changed meanwhile')}.", target=where)
        return Refused(where, status)
