"""What a release must pass before it may be applied: schema, policy, capacity.

The release's asset checks run these gates, and every deploy runs them again for what it is about to apply, since a
check only stops what is downstream of it in the same run.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources as package
from typing import Any, Literal

from nexus_ops.releases.capacity import Sizes, capacity_problems
from nexus_ops.releases.policy import name_of, policy_problems
from nexus_ops.releases.rendering import Rendering
from nexus_ops.topology import Topology

Object = dict[str, Any]
Gate = Literal["schema", "policy", "capacity"]
GATES: tuple[Gate, ...] = ("schema", "policy", "capacity")
KUBERNETES = "1.32"
"""The oldest version of the API server that must understand every object."""
LONGEST = 200
"""Characters of a validator's message: some repeat the whole value."""


@dataclass(frozen=True)
class GateResult:
    """Whether a gate lets a release pass, and each thing that speaks against it."""

    name: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems


def evaluate(renderings: Iterable[Rendering], topology: Topology) -> tuple[GateResult, ...]:
    """All gates over the parts of one release on one cluster: its shared part, and both colours or one of them."""
    parts = list(renderings)
    return tuple(judge(name, parts, topology) for name in GATES)


def judge(gate: Gate, renderings: Iterable[Rendering], topology: Topology) -> GateResult:
    """One gate by its name, as `evaluate` asks it."""
    parts = list(renderings)
    objects = [obj for rendering in parts for obj in rendering.objects]
    match gate:
        case "schema":
            return check_schema(objects)
        case "policy":
            return check_policy(objects)
        case "capacity":
            return check_capacity(parts, topology)


def check_schema(objects: Iterable[Object]) -> GateResult:
    """Every object is valid: built-in kinds by Kubernetes' schemas, custom ones strictly by their definitions.

    What a server checks beyond a schema (rules in CEL, references between objects) it checks when it is asked to apply.
    """
    return GateResult("schema", tuple(problem for obj in objects for problem in _schema_problems(obj)))


def _schema_problems(obj: Object) -> Iterator[str]:
    validator = _validator(obj["apiVersion"], obj["kind"])
    if validator is None:
        yield f"{name_of(obj)}: {obj['apiVersion']} {obj['kind']} is no kind that is known; add its definition to releases/schemas."
        return
    for error in validator.iter_errors(obj):
        yield _sentence(obj, error.absolute_path, error.message)


@cache
def _validator(api_version: str, kind: str) -> Any:
    """What judges a kind, made once: reading its schema takes longer than all objects of a release."""
    import jsonschema

    custom = custom_schemas().get((api_version, kind))
    if custom is not None:
        return jsonschema.Draft7Validator(custom)
    group = api_version.rpartition("/")[0].partition(".")[0]  # apps/v1 is apps-v1, networking.k8s.io/v1 networking-v1
    version = api_version.rpartition("/")[2]
    try:
        schema = _kubernetes_schema(f"{kind.lower()}-{group}-{version}" if group else f"{kind.lower()}-{version}")
    except FileNotFoundError:
        return None
    return jsonschema.Draft202012Validator(schema, registry=_kubernetes_definitions())


@cache
def _kubernetes_definitions() -> Any:
    from referencing import Registry, Resource

    return Resource.from_contents(_kubernetes_schema("_definitions")) @ Registry()


def _kubernetes_schema(name: str) -> Any:
    """A strict schema of the oldest Kubernetes version, out of kubernetes-validate's data."""
    folder = package.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    return json.loads((folder / f"{name}.json").read_text())


def _sentence(obj: Object, path: Iterable[Any], message: str) -> str:
    """Object, field and what is wrong with it; a long value within the message is cut."""
    what = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    return f"{name_of(obj)}: {'.'.join(map(str, path)) or 'object'}: {what}; correct the chart or its values."


@cache
def custom_schemas() -> dict[tuple[str, str], Object]:
    """Strict JSON schemas of the custom resources, by apiVersion and kind."""
    found: dict[tuple[str, str], Object] = {}
    for entry in package.files("nexus_ops.releases").joinpath("schemas").iterdir():
        if not entry.name.endswith(".json.gz"):
            continue
        spec = json.loads(gzip.decompress(entry.read_bytes()))["spec"]
        for version in (version for version in spec["versions"] if version["served"]):
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def _strict(schema: Any) -> Any:
    """A structural schema under which a field that it does not know is an error."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        result["type"] = [schema["type"], "null"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        result["additionalProperties"] = False
    return result


def check_policy(objects: Iterable[Object]) -> GateResult:
    """Images by digest, requests and limits everywhere, nothing privileged, no secret values."""
    return GateResult("policy", tuple(problem for obj in objects for problem in policy_problems(obj)))


def check_capacity(renderings: Iterable[Rendering], topology: Topology, sizes: Sizes | None = None) -> GateResult:
    """Both colours at once fit the node groups at their maximum; `sizes`, where more pods run than are declared."""
    return GateResult("capacity", tuple(capacity_problems(renderings, topology, sizes)))
