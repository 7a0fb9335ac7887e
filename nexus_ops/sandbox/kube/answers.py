"""How answers are written: JSON or YAML, objects as they are, as tables, or as their metadata alone."""

from __future__ import annotations

import json
from typing import Any

import yaml
from aiohttp import web

from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.negotiation import Form, negotiate
from nexus_ops.sandbox.kube.resources import Resource
from nexus_ops.sandbox.kube.tables import partial, table

Object = dict[str, Any]
JSON_TYPE = "application/json"
INCLUDES = ("None", "Metadata", "Object")


def answer(
    body: Any, status: int = 200, warnings: list[str] | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """A JSON answer whose Content-Type is exactly application/json."""
    response = web.Response(status=status, body=json.dumps(body).encode(), headers=headers)
    response.headers["Content-Type"] = JSON_TYPE
    for text in warnings or ():
        response.headers.add("Warning", f'299 - "{text}"')
    return response


def form_of(request: web.Request) -> tuple[Form, str]:
    """The form that a request wants, and what its table rows are to carry."""
    form = negotiate(request.headers.get("Accept", ""))
    include = request.query.get("includeObject", "Metadata")
    if form.shape == "Table" and include not in INCLUDES:
        raise ApiError(400, f'unrecognized includeObject value: "{include}"')
    return form, include


def shaped(body: Object, resource: Resource, form: Form, include: str) -> Object:
    """An object or a list in the shape that was asked for; a Status stays one."""
    listed = body.get("kind") == f"{resource.kind}List" and "items" in body
    if not form.shape or not (listed or body.get("kind") == resource.kind):
        return body
    if form.shape == "Table":
        meta = body["metadata"] if listed else {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        return table(resource, body["items"] if listed else [body], meta, include)
    if not listed:
        return partial(body)
    kind = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"]}
    return {**kind, "items": [partial(item) for item in body["items"]]}


def shown(
    request: web.Request, resource: Resource, body: Object, status: int = 200, warnings: list[str] | None = None
) -> web.Response:
    """An answer in the form that the request accepts."""
    form, include = form_of(request)
    body = shaped(body, resource, form, include)
    if form.text == "yaml":
        text = yaml.safe_dump(body).encode()
        return web.Response(status=status, body=text, headers={"Content-Type": "application/yaml"})
    return answer(body, status, warnings)
