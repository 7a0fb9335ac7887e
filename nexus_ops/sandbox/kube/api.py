"""The HTTP face of the emulated API server: paths, media types, verbs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from nexus_ops.sandbox.kube import discovery
from nexus_ops.sandbox.kube.answers import JSON_TYPE, answer, form_of, shaped, shown
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.faults import Faults
from nexus_ops.sandbox.kube.options import check_delete_options, check_list_options, check_write_options
from nexus_ops.sandbox.kube.proxy import Proxy
from nexus_ops.sandbox.kube.registry import Registry, Request, scale_of
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.kube.watch import Selection, check_watch, list_objects, watch_events

Object = dict[str, Any]
LogReader = Callable[[str, str, Mapping[str, str]], str]
LogFollower = Callable[[str, str, Mapping[str, str]], AsyncIterator[str]]
Evict = Callable[[str, str], None]

PATCHES = {
    "application/json-patch+json": "json-patch",
    "application/merge-patch+json": "merge-patch",
    "application/strategic-merge-patch+json": "strategic-merge-patch",
    "application/apply-patch+yaml": "apply",
    "application/apply-patch+cbor": "apply",
}
PATH = re.compile(r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))/(?P<rest>.+)$")
NO_RESOURCE = "the server could not find the requested resource"


@dataclass(frozen=True)
class Target:
    """What a path is about."""

    resource: Resource
    namespace: str | None
    name: str | None
    subresource: str | None
    rest: str
    watch: bool


class Api:
    """One API server over a store."""

    def __init__(
        self,
        store: Store,
        faults: Faults,
        read_log: LogReader | None = None,
        follow_log: LogFollower | None = None,
    ) -> None:
        self.store = store
        self.faults = faults
        self.registry = Registry(store)
        self.proxy = Proxy(store)
        self.read_log = read_log
        self.follow_log = follow_log

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{tail:.*}", self._handle)

        async def close(_: web.Application) -> None:
            await self.proxy.close()

        app.on_cleanup.append(close)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            agent = request.headers.get("User-Agent", "")
            held = await self.faults.before(request.method, request.path, agent, dry="dryRun" in request.query)
            response = await self._dispatch(request)
            await self.faults.after(held, request.method, request.path)
            return response
        except ApiError as error:
            return answer(error.body(), error.code, headers=error.headers)
        except ConnectionResetError:
            raise asyncio.CancelledError from None  # a watcher has gone, as they do
        except ConnectionAbortedError:
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from None

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith(("/api/", "/apis/")) and (match := PATH.match(path)):
            target = self._target(match, request)
            if target is None:
                group, version = match["group"] or "", match["core"] or match["version"]
                if version not in self.store.resources.versions().get(group, ()):
                    return web.Response(status=404, text="404 page not found\n")
                raise ApiError(404, NO_RESOURCE, details={})
            return await self._serve(request, target)
        return self._meta(path.rstrip("/") or "/")

    def _meta(self, path: str) -> web.Response:
        """Discovery, health, version."""
        resources, parts = self.store.resources, path.strip("/").split("/")
        if path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if path == "/version":
            return answer(discovery.VERSION)
        if path == "/api":
            addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}]
            return answer({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses})
        if path == "/apis":
            return answer(discovery.groups(resources))
        if path == "/openapi/v3":
            return web.Response(text=json.dumps(discovery.openapi_index(resources)))
        found: Object | None = None
        if parts[:2] == ["openapi", "v3"] and len(parts) > 3:
            group, version = ("", parts[3]) if parts[2] == "api" else (parts[3], parts[-1])
            found = discovery.openapi(resources, group, version)
        elif parts == ["api", "v1"]:
            found = discovery.resource_list(resources, "", "v1")
        elif parts[0] == "apis" and len(parts) == 2:
            found = discovery.group(resources, parts[1])
        elif parts[0] == "apis" and len(parts) == 3:
            found = discovery.resource_list(resources, parts[1], parts[2])
        if found is not None:
            return answer(found)
        if parts[0] == "apis" and len(parts) == 3 and discovery.group(resources, parts[1]):
            raise ApiError(404, NO_RESOURCE, details={})
        return web.Response(status=404, text="404 page not found\n")

    def _target(self, match: re.Match[str], request: web.Request) -> Target | None:
        group, version = ("", match["core"]) if match["core"] else (match["group"], match["version"])
        parts = [part for part in match["rest"].split("/") if part]
        watch = request.query.get("watch") in ("true", "1")
        if parts[:1] == ["watch"]:
            parts, watch = parts[1:], True
        namespace: str | None = None
        if parts[:1] == ["namespaces"] and len(parts) >= 3 and parts[2] not in ("status", "finalize"):
            namespace, parts = parts[1], parts[2:]
        resource = self.store.resources.find(group, version, parts[0]) if parts else None
        if resource is None or (namespace and not resource.namespaced):
            return None
        name = parts[1] if len(parts) > 1 else None
        return Target(resource, namespace, name, parts[2] if len(parts) > 2 else None, "/".join(parts[3:]), watch)

    async def _serve(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource, sub = target.resource, target.subresource
        if sub == "proxy" and resource.key in ("pods", "services"):
            return await self.proxy.forward(
                request, resource.plural, target.namespace or "", target.name or "", target.rest
            )
        if sub == "log" and resource.key == "pods":
            return await self._log(request, target)
        if sub == "eviction" and resource.key == "pods" and request.method == "POST":
            return self._evict(target)
        known = {"status": resource.status, "scale": resource.scale, "finalize": resource.plural == "namespaces"}
        if sub is not None and not known.get(sub):
            raise ApiError(404, NO_RESOURCE, details={})
        handler = self._verb(request.method, target)
        return await handler(request, target)

    def _verb(self, method: str, target: Target) -> Callable[[web.Request, Target], Awaitable[web.StreamResponse]]:
        single = {"GET": self._get, "PUT": self._put, "PATCH": self._patch, "DELETE": self._delete}
        many = {"GET": self._list, "POST": self._post, "DELETE": self._delete_collection}
        handler = (many if target.name is None else single).get(method)
        if handler is None or (method == "POST" and target.resource.namespaced and target.namespace is None):
            raise ApiError(405, "the server does not allow this method on the requested resource", details={})
        return handler

    # ------------------------------------------------------------------ reading

    async def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        obj = self.store.get(target.resource.key, target.namespace, target.name or "")
        if target.subresource == "scale":
            obj = scale_of(obj)
        return shown(request, target.resource, obj)

    async def _list(self, request: web.Request, target: Target) -> web.StreamResponse:
        selection = Selection.parse(target.resource, target.namespace, request.query)
        if target.watch:
            return await self._watch(request, selection)
        check_list_options(request.query)
        found = list_objects(self.store, selection, request.query)
        return shown(request, target.resource, found)

    async def _watch(self, request: web.Request, selection: Selection) -> web.StreamResponse:
        check_watch(request.query)
        form, include = form_of(request)
        response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
        response.enable_chunked_encoding()
        await response.prepare(request)
        drops = [rule for rule in self.faults.rules if rule.action == "drop-watch"]
        async for event in watch_events(self.store, selection, request.query):
            if form.shape and event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                event = {**event, "object": shaped(event["object"], selection.resource, form, include)}
            await response.write(json.dumps(event).encode() + b"\n")
            if any(rule.due("WATCH", request.path, request.headers.get("User-Agent", "")) for rule in drops):
                raise ConnectionAbortedError
        await response.write_eof()
        return response

    async def _log(self, request: web.Request, target: Target) -> web.StreamResponse:
        """A pod's log; with `follow` as it grows. Restarts go on in one log, so that `previous` is the same."""
        namespace, name, query = target.namespace or "", target.name or "", request.query
        pod = self.store.get("pods", namespace, name)
        if self.read_log is None or self.follow_log is None:
            raise ApiError(404, NO_RESOURCE, details={})
        states: list[Object] = pod.get("status", {}).get("containerStatuses") or []
        if query.get("previous") in ("true", "1") and not any(state.get("restartCount") for state in states):
            container = query.get("container") or pod["spec"]["containers"][0]["name"]
            raise ApiError(400, f'previous terminated container "{container}" in pod "{name}" not found')
        if query.get("follow") not in ("true", "1"):
            return web.Response(text=self.read_log(namespace, name, query))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for text in self.follow_log(namespace, name, query):
            await response.write(text.encode())
        await response.write_eof()
        return response

    # ------------------------------------------------------------------ writing

    def _request(self, request: web.Request, target: Target) -> Request:
        query = request.query
        kinds = {"POST": "CreateOptions", "PUT": "UpdateOptions"}
        check_write_options(query, kinds.get(request.method, "PatchOptions"))
        agent = request.headers.get("User-Agent", "unknown").split("/", 1)[0]
        return Request(
            resource=target.resource,
            namespace=target.namespace,
            name=target.name,
            manager=query.get("fieldManager") or agent,
            subresource=target.subresource,
            dry_run=query.get("dryRun") == "All",
            force=query.get("force") in ("true", "1"),
            validation=query.get("fieldValidation") or "Warn",
        )

    async def _body(self, request: web.Request, kind: str) -> Any:
        text = await request.text()
        try:
            if "yaml" in request.content_type:
                return yaml.safe_load(text)
            return json.loads(text) if text else {}
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            if request.method == "PATCH":
                raise ApiError(400, f"error decoding patch: {error}") from None
            text = "couldn't get version/kind; json parse error"
            raise ApiError(
                400, f"the object provided is unrecognized (must be of type {kind}): {text}: {error}"
            ) from None

    async def _post(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._check_media(request)
        writer = self._request(request, target)
        obj = self.registry.create(writer, await self._body(request, target.resource.kind))
        return shown(request, target.resource, obj, 201, writer.warnings)

    async def _put(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._check_media(request)
        writer = self._request(request, target)
        body = await self._body(request, target.resource.kind)
        there = self.store.find(target.resource.key, target.namespace, target.name or "") is not None
        if target.subresource == "finalize":
            return shown(request, target.resource, self._finalize(target, body))
        obj = self.registry.update(writer, body)
        return shown(request, target.resource, obj, 200 if there else 201, writer.warnings)

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        kind = PATCHES.get(request.content_type)
        if kind is None or (kind == "strategic-merge-patch" and target.resource.custom):
            allowed = [
                name for name in PATCHES if not (target.resource.custom and name.startswith("application/strategic"))
            ]
            text = (
                f"the body of the request was in an unknown format - accepted media types include: {', '.join(allowed)}"
            )
            raise ApiError(415, text, details=None if target.resource.custom else {})
        writer = self._request(request, target)
        body = await self._body(request, target.resource.kind)
        if kind != "apply":
            return shown(request, target.resource, self.registry.patch(writer, kind, body), 200, writer.warnings)
        if not request.query.get("fieldManager"):
            message = (
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
            )
            cause = {
                "reason": "FieldValueRequired",
                "message": "Required value: is required for apply patch",
                "field": "fieldManager",
            }
            details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]}
            raise ApiError(422, message, details=details)
        obj, created = self.registry.apply(writer, body)
        return shown(request, target.resource, obj, 201 if created else 200, writer.warnings)

    async def _delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await self._options(request)
        resource, name = target.resource, target.name or ""
        if resource.key == "namespaces" and name in ("default", "kube-system", "kube-public"):
            details = {"name": name, "kind": "namespaces"}
            raise ApiError(403, f'namespaces "{name}" is forbidden: this namespace may not be deleted', details=details)
        old = self.store.get(resource.key, target.namespace, name)
        self._check_preconditions(target, old, options.get("preconditions") or {})
        if options.get("dryRun"):
            obj, gone = old, True
        else:
            obj, gone = self.store.delete(
                resource.key, target.namespace, name,
                grace_seconds=options.get("gracePeriodSeconds"), propagation=options.get("propagationPolicy"),
            )  # fmt: skip
        if not gone or resource.key == "pods":
            return answer(obj)
        details = {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}
        details["uid"] = obj["metadata"]["uid"]
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    async def _delete_collection(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await self._options(request)
        selection = Selection.parse(target.resource, target.namespace, request.query)
        found = list_objects(self.store, selection, request.query)
        for obj in found["items"]:
            meta = obj["metadata"]
            self.store.delete(
                target.resource.key, meta.get("namespace"), meta["name"],
                grace_seconds=options.get("gracePeriodSeconds"), propagation=options.get("propagationPolicy"),
            )  # fmt: skip
        return answer(found)

    async def _options(self, request: web.Request) -> Object:
        body = await self._body(request, "DeleteOptions") if request.can_read_body else {}
        options: Object = body if isinstance(body, dict) else {}
        if "gracePeriodSeconds" in request.query:
            options["gracePeriodSeconds"] = int(request.query["gracePeriodSeconds"])
        if "propagationPolicy" in request.query:
            options["propagationPolicy"] = request.query["propagationPolicy"]
        if "dryRun" in request.query:
            options["dryRun"] = request.query.getall("dryRun")
        check_delete_options(options)
        return options

    @staticmethod
    def _check_preconditions(target: Target, old: Object, wanted: Object) -> None:
        for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            if wanted.get(field) and wanted[field] != old["metadata"][field]:
                what = f"the {label} in the precondition ({wanted[field]}) does not match the {label} in record ({old['metadata'][field]}). The object might have been deleted and then recreated"
                name, resource = target.name or "", target.resource
                raise ApiError(
                    409,
                    f'Operation cannot be fulfilled on {resource.key} "{name}": {what}',
                    details={"name": name, "kind": resource.kind},
                )

    def _finalize(self, target: Target, body: Object) -> Object:
        def change(obj: Object) -> None:
            obj["spec"]["finalizers"] = (body.get("spec") or {}).get("finalizers") or []

        return self.store.edit("namespaces", None, target.name or "", change, subresource="finalize")

    def _evict(self, target: Target) -> web.Response:
        pod = self.store.get("pods", target.namespace, target.name or "")
        for budget in self.store.list("poddisruptionbudgets.policy", target.namespace):
            labels = ((budget["spec"].get("selector") or {}).get("matchLabels")) or {}
            if (
                labels.items() <= (pod["metadata"].get("labels") or {}).items()
                and budget.get("status", {}).get("disruptionsAllowed", 0) < 1
            ):
                cause = {
                    "reason": "DisruptionBudget",
                    "message": f"The disruption budget {budget['metadata']['name']} needs {budget['status'].get('desiredHealthy', 0)} healthy pods and has {budget['status'].get('currentHealthy', 0)} currently",
                }
                raise ApiError(
                    429,
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    details={"causes": [cause]},
                )
        self.store.delete("pods", target.namespace, target.name or "")
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    @staticmethod
    def _check_media(request: web.Request) -> None:
        kind = request.content_type
        if kind not in (JSON_TYPE, "application/yaml", "application/octet-stream"):
            text = "application/json, application/yaml"
            raise ApiError(
                415, f"the body of the request was in an unknown format - accepted media types include: {text}"
            )
