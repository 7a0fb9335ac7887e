"""Writing objects as a client asks: decode, default, validate, merge, store."""

from __future__ import annotations

import copy
import itertools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nexus_ops.sandbox.kube import ownership
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.defaults import fill_from_schema, set_defaults
from nexus_ops.sandbox.kube.errors import ApiError, Cause, invalid, stale
from nexus_ops.sandbox.kube.patch import json_patch, merge_patch, strategic_merge
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.schema import resolve, schema_of
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.kube.validation import MICRO_TIME, drop_empty, problems, prune, wrong_types

Object = dict[str, Any]

LONGEST_PREFIX = 58
"""How much of generateName is used, so that the name is a label's length at most."""
SCALE = Resource("autoscaling", "v1", "scale", "Scale")
SERVER_CHOSEN = {
    "services": ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"),
    "pods": ("preemptionPolicy", "priority", "serviceAccount", "serviceAccountName", "tolerations"),
}
"""Parts of a spec that the server picks after the writer's fields were noted: nobody owns them."""


@dataclass(frozen=True)
class Request:
    """Who writes what, and how."""

    resource: Resource
    namespace: str | None
    name: str | None
    manager: str
    subresource: str | None = None
    dry_run: bool = False
    force: bool = False
    validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)


class Registry:
    """The write side of the API server, over a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._addresses = itertools.count(1)

    def create(self, request: Request, body: Object) -> Object:
        """POST: a new object."""
        resource = request.resource
        if body.get("metadata", {}).get("resourceVersion"):
            raise ApiError(500, "resourceVersion should not be set on objects to be created", "")
        obj = self._decode(request, body)
        self._check_namespace(replace(request, name=obj["metadata"].get("name")))
        given = obj.get("spec") or {}
        unowned = {("f:spec", f"f:{name}") for name in SERVER_CHOSEN.get(resource.key, ()) if name not in given}
        self._prepare(request, obj, None)
        return self._dry(
            request, lambda: self.store.create(resource.key, obj, manager=request.manager, unowned=unowned)
        )

    def update(self, request: Request, body: Object) -> Object:
        """PUT: a whole object in place of the stored one."""
        if request.subresource == "scale":
            return self._scale(request, lambda _: body)
        resource, name = request.resource, request.name or ""
        obj = self._decode(request, body)
        if not obj["metadata"].get("name"):
            raise ApiError(
                400, f"name must be provided: the name of the object () does not match the name on the URL ({name})"
            )
        old = self.store.find(resource.key, request.namespace, name)
        if old is None and resource.key == "leases.coordination.k8s.io":
            self._check_namespace(request)
            self._prepare(request, obj, None)
            return self._dry(request, lambda: self.store.create(resource.key, obj, manager=request.manager))
        old = self.store.get(resource.key, request.namespace, name)
        conditional = resource.custom or resource.key == "leases.coordination.k8s.io"
        if conditional and not obj["metadata"].get("resourceVersion"):
            text = "Invalid value: 0x0: must be specified for an update"
            raise invalid(resource.plural, resource.group, name, [Cause("metadata.resourceVersion", text)])
        return self._write(request, old, obj)

    def patch(self, request: Request, kind: str, patch: Any) -> Object:
        """PATCH with a JSON, merge or strategic merge patch."""

        def change(obj: Object, schema: Any) -> Object:
            if kind == "json-patch":
                return json_patch(obj, patch)
            if kind == "merge-patch":
                return merge_patch(obj, patch)
            return strategic_merge(obj, patch, schema)

        if request.subresource == "scale":
            return self._scale(request, lambda scale: change(scale, {}))
        resource = request.resource
        old = self.store.get(resource.key, request.namespace, request.name or "")
        changed = change(old, resolve(schema_of(resource)))
        if not isinstance(changed, dict):
            raise ApiError(400, "the patch leaves no object")
        wanted = changed.get("metadata", {}).get("resourceVersion")
        if isinstance(patch, dict) and not patch.get("metadata", {}).get("resourceVersion"):
            changed = {**changed, "metadata": {**changed["metadata"]}}
            changed["metadata"].pop("resourceVersion", None)
        elif wanted is None:
            changed["metadata"].pop("resourceVersion", None)
        obj = self._decode(request, changed, patched=True)
        if obj["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            text = f'Invalid value: "{obj["metadata"]["uid"]}": field is immutable'
            raise invalid(resource.kind, resource.group, request.name or "", [Cause("metadata.uid", text)] * 2)
        return self._write(request, old, obj)

    def apply(self, request: Request, body: Object) -> tuple[Object, bool]:
        """Server-side apply; (object, whether it was created)."""
        resource, name = request.resource, request.name or ""
        if request.subresource == "scale":
            return self._scale(request, lambda scale: merge_patch(scale, body), applied=body), False
        if not body.get("metadata", {}).get("name"):
            body = {**body, "metadata": {**body.get("metadata", {})}}
            raise ApiError(400, f"metadata.name is required: the name of the object () does not match ({name})")
        if body["metadata"].get("managedFields"):
            raise ApiError(400, "metadata.managedFields must be nil")
        schema = resolve(schema_of(resource))
        if wrong := wrong_types(body, schema):
            raise ApiError(500, f"failed to create typed patch object: .{wrong[0][0]}: expected {wrong[0][1]}", "")
        _, unknown = prune(body, schema)
        if unknown:
            raise ApiError(500, f"failed to create typed patch object: .{unknown[0]}: field not declared in schema", "")
        applied = self._decode(request, body)
        live = self.store.find(resource.key, request.namespace, name)
        if live is None:
            self._check_namespace(request)
        uid = applied["metadata"].get("uid")
        if live is not None and uid and uid != live["metadata"]["uid"]:
            text = f'Invalid value: "{uid}": field is immutable'
            raise invalid(resource.kind, resource.group, name, [Cause("metadata.uid", text)])
        if live is None and uid:
            raise stale(
                resource.plural,
                resource.group,
                name,
                f"uid mismatch: the provided object specified uid {uid}, and no existing object was found",
            )
        version = applied["metadata"].pop("resourceVersion", None)
        if live is not None and version and version != live["metadata"]["resourceVersion"]:
            raise stale(resource.plural, resource.group, name)
        merged, entries = ownership.apply(
            live,
            applied,
            resource,
            request.manager,
            force=request.force,
            now=timestamp(),
            subresource=request.subresource,
        )
        if live is None:
            self._prepare(request, merged, None)
            created = self._dry(request, lambda: self.store.create(resource.key, merged, apply_fields=entries))
            return created, True
        self._prepare(request, merged, live)
        merged["metadata"].pop("resourceVersion", None)
        return (
            self._dry(
                request,
                lambda: self.store.update(resource.key, merged, subresource=request.subresource, fields=entries),
            ),
            False,
        )

    # ------------------------------------------------------------------ inside

    def _write(self, request: Request, old: Object, obj: Object) -> Object:
        if request.subresource != "status":
            self._prepare(request, obj, old)
        return self._dry(
            request,
            lambda: self.store.update(
                request.resource.key, obj, manager=request.manager, subresource=request.subresource
            ),
        )

    def _dry(self, request: Request, write: Callable[[], Object]) -> Object:
        if not request.dry_run:
            return write()
        self.store.dry_run = True
        try:
            return write()
        finally:
            self.store.dry_run = False

    def _decode(self, request: Request, body: Any, *, patched: bool = False) -> Object:
        """The object of a body, checked against path and schema."""
        resource = request.resource
        if not isinstance(body, dict):
            raise ApiError(400, f"the object provided is unrecognized (must be of type {resource.kind})")
        version, kind = body.get("apiVersion") or resource.api_version, body.get("kind") or resource.kind
        if kind != resource.kind or version != resource.api_version:
            self._wrong_kind(resource, kind, version, body, patched)
        meta = body.get("metadata")
        if meta is not None and not isinstance(meta, dict):
            raise ApiError(
                400,
                f'{kind} in version "{resource.version}" cannot be handled as a {kind}: json: cannot unmarshal metadata',
            )
        schema = resolve(schema_of(resource))
        if not resource.custom and (wrong := wrong_types(body, schema)):
            path, wanted, value = wrong[0]
            text = f"json: cannot unmarshal {_go_kind(value)} into Go struct field {kind}.{path} of type {wanted}"
            if patched:
                shown = json.dumps(body, separators=(",", ":"), sort_keys=True)
                raise invalid("", "", "", [Cause("patch", f"Invalid value: {json.dumps(shown)}: {text}")])
            raise ApiError(400, f'{kind} in version "{resource.version}" cannot be handled as a {kind}: {text}')
        pruned, unknown = prune(body, schema)
        if unknown and request.validation == "Strict":
            text = ", ".join(f'unknown field "{path}"' for path in unknown)
            if patched:
                raise invalid("", "", "", [Cause("patch", f"Invalid value: strict decoding error: {text}")])
            raise ApiError(
                400,
                f'{kind} in version "{resource.version}" cannot be handled as a {kind}: strict decoding error: {text}',
            )
        if unknown and request.validation == "Warn":
            request.warnings.extend(f'unknown field "{path}"' for path in unknown)
        obj: Object = {**copy.deepcopy(pruned), "apiVersion": version, "kind": kind}
        meta = obj["metadata"] = obj.get("metadata") or {}
        for part in ("labels", "annotations", "finalizers", "ownerReferences"):
            if part in meta and not meta[part]:
                del meta[part]
        if meta.get("managedFields") == [{}]:
            meta["managedFields"] = []  # how a client gives up the book-keeping
        self._match_path(request, meta)
        if resource.key == "leases.coordination.k8s.io":
            _check_times(obj, resource)
        return obj

    @staticmethod
    def _wrong_kind(resource: Resource, kind: str, version: str, body: Object, patched: bool) -> None:
        short = version.rsplit("/", 1)[-1]
        if kind != resource.kind:
            text = f"converting ({short}.{kind}) to (core.{resource.kind}): unknown conversion"
        else:
            text = f'no kind "{kind}" is registered for version "{version}" in scheme'
        if patched:
            shown = json.dumps(body, separators=(",", ":"), sort_keys=True)
            raise invalid("", "", "", [Cause("patch", f"Invalid value: {json.dumps(shown)}: {text}")])
        raise ApiError(400, f'{kind} in version "{short}" cannot be handled as a {resource.kind}: {text}')

    @staticmethod
    def _match_path(request: Request, meta: Object) -> None:
        if request.name and meta.get("name") and meta["name"] != request.name:
            raise ApiError(
                400, f"the name of the object ({meta['name']}) does not match the name on the URL ({request.name})"
            )
        if request.resource.namespaced:
            if meta.get("namespace") and meta["namespace"] != request.namespace:
                raise ApiError(
                    400, "the namespace of the provided object does not match the namespace sent on the request"
                )
            meta["namespace"] = request.namespace
        else:
            meta.pop("namespace", None)

    def _check_namespace(self, request: Request) -> None:
        if not request.resource.namespaced:
            return
        space = self.store.get("namespaces", None, request.namespace or "")
        if space.get("status", {}).get("phase") == "Terminating":
            plural = request.resource.plural
            name = request.name or ""
            raise ApiError(
                403,
                f'{plural} "{name}" is forbidden: unable to create new content in namespace {request.namespace} because it is being terminated',
                details={
                    "name": name,
                    "kind": plural,
                    "causes": [
                        {
                            "reason": "NamespaceTerminating",
                            "message": f"namespace {request.namespace} is being terminated",
                            "field": "metadata.namespace",
                        }
                    ],
                },
            )

    def _prepare(self, request: Request, obj: Object, old: Object | None) -> None:
        """Defaults and validation of the object that is about to be stored."""
        resource = request.resource
        if not resource.custom:
            obj.update(kept := drop_empty(obj, resolve(schema_of(resource))))
            for name in obj.keys() - kept.keys():
                del obj[name]
        if resource.status and resource.key != "namespaces" and old is None:
            obj.pop("status", None)
        if old is None or resource.key != "namespaces":
            if resource.custom:
                fill_from_schema({k: v for k, v in obj.items() if k != "metadata"}, resource.schema or {})
            else:
                set_defaults(resource.key, obj)
        if resource.key == "namespaces" and old is not None:
            obj["spec"] = old["spec"]
            obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        if resource.key == "services":
            self._allocate(obj, old)
        meta = obj["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"][:LONGEST_PREFIX] + uuid.uuid4().hex[:5]
        if causes := problems(resource, obj, old):
            raise invalid(resource.kind, resource.group, meta.get("name") or "", causes)

    def _allocate(self, service: Object, old: Object | None) -> None:
        """A cluster IP for a new service (addresses that nothing answers on; traffic goes by endpoints)."""
        spec = service["spec"]
        if spec["type"] == "ExternalName":
            return
        if old is not None and "clusterIP" not in spec:
            spec["clusterIP"] = old["spec"].get("clusterIP")
        if not spec.get("clusterIP"):
            number = next(self._addresses)
            spec["clusterIP"] = f"10.96.{number // 250}.{number % 250 + 1}"
        spec["clusterIPs"] = [spec["clusterIP"]]
        if spec["type"] in ("LoadBalancer", "NodePort"):
            for index, port in enumerate(spec.get("ports") or ()):
                port.setdefault("nodePort", 30000 + (next(self._addresses) + index) % 2767)

    def _scale(self, request: Request, change: Callable[[Object], Object], applied: Object | None = None) -> Object:
        """Write a Scale: it changes spec.replicas of the object behind it."""
        resource = request.resource
        old = self.store.get(resource.key, request.namespace, request.name or "")
        scale = change(copy.deepcopy(scale_of(old)))
        replicas = (scale.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or replicas < 0:
            text = f"Invalid value: {replicas}: must be greater than or equal to 0"
            raise invalid("Scale", "autoscaling", request.name or "", [Cause("spec.replicas", text)])
        version = (scale.get("metadata") or {}).get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise stale(resource.plural, resource.group, request.name or "")
        if applied is not None:
            self._scale_conflict(request, old, replicas)
        obj = copy.deepcopy(old)
        obj["spec"]["replicas"] = replicas
        obj["metadata"].pop("resourceVersion")
        writer = replace(request, subresource="scale")
        return scale_of(
            self._dry(
                writer, lambda: self.store.update(resource.key, obj, manager=request.manager, subresource="scale")
            )
        )

    @staticmethod
    def _scale_conflict(request: Request, old: Object, replicas: int) -> None:
        if replicas == old["spec"].get("replicas") or request.force or not old["spec"].get("replicas"):
            return
        conflicts = [
            ownership.Conflict(
                entry["manager"], entry["operation"], SCALE.api_version, ("f:spec", "f:replicas"),
                entry.get("time", ""), entry.get("subresource", ""),
            )
            for entry in old["metadata"].get("managedFields") or ()
            if "f:replicas" in entry["fieldsV1"].get("f:spec", {}) and entry["manager"] != request.manager
        ]  # fmt: skip
        if conflicts:
            raise ownership.conflict_error(conflicts)


def scale_of(obj: Object) -> Object:
    """The Scale of a workload."""
    meta = obj["metadata"]
    labels = ((obj["spec"].get("selector") or {}).get("matchLabels")) or {}
    spec = {"replicas": obj["spec"]["replicas"]} if obj["spec"].get("replicas") else {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            name: meta[name]
            for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            if name in meta
        },
        "spec": spec,
        "status": {
            "replicas": obj.get("status", {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def _go_kind(value: Any) -> str:
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _check_times(obj: Object, resource: Resource) -> None:
    for name in ("acquireTime", "renewTime"):
        value = (obj.get("spec") or {}).get(name)
        if value is not None and not MICRO_TIME.match(value):
            text = f'parsing time "{value}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000"'
            raise ApiError(400, f'{resource.kind} in version "v1" cannot be handled as a {resource.kind}: {text}')
