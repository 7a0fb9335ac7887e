"""What a client accepts: plain JSON or YAML, or an object shown as something else (Table, PartialObjectMetadata)."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_ops.sandbox.kube.errors import ApiError

SHAPES = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
VERSIONS = ("v1", "v1beta1")
SPOKEN = {"application/json": "json", "application/yaml": "yaml", "application/*": "json", "*/*": "json"}


@dataclass(frozen=True)
class Form:
    """How an answer is written."""

    text: str = "json"
    """json or yaml"""
    shape: str = ""
    """One of SHAPES; empty: the object itself."""


def negotiate(accept: str) -> Form:
    """The first form of an Accept header that this server speaks; 406 when there is none."""
    for clause in filter(None, (part.strip() for part in accept.split(","))):
        kind, *rest = (part.strip() for part in clause.split(";"))
        options = dict(part.split("=", 1) for part in rest if "=" in part)
        if kind not in SPOKEN:
            continue
        shape = options.get("as", "")
        if not shape:
            return Form(SPOKEN[kind])
        if shape in SHAPES and options.get("g") == "meta.k8s.io" and options.get("v") in VERSIONS:
            return Form(SPOKEN[kind], shape)
    if not accept.strip():
        return Form()
    message = "only the following media types are accepted: application/json, application/yaml"
    raise ApiError(406, message, details=None if "as=" in accept else {})
