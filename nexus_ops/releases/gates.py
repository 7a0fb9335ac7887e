"""What a release must pass before it may be applied: schema, policy, capacity.

The release's asset checks run these gates, and every deploy runs them again for what it is about to apply, since a
check only stops what is downstream of it in the same run.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources as package
from typing import Any

from nexus_ops.releases.rendering import Rendering
from nexus_ops.topology import Component, Topology

Object = dict[str, Any]
KUBERNETES = "1.32"
SECRET_NAME = re.compile(r"(?i)(password|passwd|secret|token|api_?key|private_?key|credential)")
SECRET_VALUE = re.compile(r"(?i)(-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:]+:[^@/\s]+@|\bAKIA[0-9A-Z]{16}\b)")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")


@dataclass(frozen=True)
class GateResult:
    """Whether a gate lets a release pass, and each thing that speaks against it."""

    name: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems


def evaluate(renderings: Iterable[Rendering], topology: Topology) -> tuple[GateResult, ...]:
    """All gates over the parts of one release on one cluster."""
    objects = [obj for rendering in renderings for obj in rendering.objects]
    return (check_schema(objects), check_policy(objects), check_capacity(topology))


def check_schema(objects: Iterable[Object]) -> GateResult:
    """Every object is valid: built-in kinds by Kubernetes' schemas, custom ones strictly by their definitions."""
    return GateResult("schema", tuple(problem for obj in objects for problem in _schema_problems(obj)))


def _schema_problems(obj: Object) -> Iterator[str]:
    import jsonschema
    import kubernetes_validate

    custom = custom_schemas().get((obj["apiVersion"], obj["kind"]))
    if custom is not None:
        for error in jsonschema.Draft7Validator(custom).iter_errors(obj):
            yield f"{_name(obj)}: {'.'.join(map(str, error.absolute_path)) or 'object'}: {error.message[:200]}."
        return
    try:
        kubernetes_validate.validate(obj, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{_name(obj)}: {'.'.join(map(str, error.path)) or 'object'}: {error.message[:200]}."
    except (kubernetes_validate.InvalidSchemaError, kubernetes_validate.SchemaNotFoundError):
        yield f"{_name(obj)}: {obj['apiVersion']} {obj['kind']} is no kind that is known; add its definition to releases/schemas."


@cache
def custom_schemas() -> dict[tuple[str, str], Object]:
    """Strict JSON schemas of the custom resources, by apiVersion and kind."""
    found: dict[tuple[str, str], Object] = {}
    for entry in package.files("nexus_ops.releases").joinpath("schemas").iterdir():
        if not entry.name.endswith(".json.gz"):
            continue
        spec = json.loads(gzip.decompress(entry.read_bytes()))["spec"]
        for version in spec["versions"]:
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
        return {"type": ["integer", "string"]}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        result["additionalProperties"] = False
    return result


def check_policy(objects: Iterable[Object]) -> GateResult:
    """Images by digest, requests and limits everywhere, nothing privileged, no secret values."""
    return GateResult("policy", tuple(problem for obj in objects for problem in _policy_problems(obj)))


def _policy_problems(obj: Object) -> Iterator[str]:
    name = _name(obj)
    if obj["kind"] == "Secret" and (obj.get("data") or obj.get("stringData")):
        yield f"{name}: holds a secret's value; refer to a Secret that exists in the cluster instead."
    if obj["kind"] == "ConfigMap":
        for key, value in (obj.get("data") or {}).items():
            if SECRET_NAME.search(key) or SECRET_VALUE.search(str(value)):
                yield f"{name}: data.{key} looks like a secret; refer to a Secret instead."
    if obj["kind"] not in WORKLOADS:
        return
    work = obj["spec"]["jobTemplate"]["spec"] if obj["kind"] == "CronJob" else obj["spec"]
    pod = work["template"]["spec"]
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{name}: {field} is set; agents need no access to the node."
    for volume in pod.get("volumes") or ():
        if "hostPath" in volume:
            yield f"{name}: volume {volume['name']} is a hostPath; agents need no access to the node."
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        yield from _container_problems(f"{name}: container {container['name']}", pod, container)


def _container_problems(where: str, pod: Object, container: Object) -> Iterator[str]:
    image = container.get("image", "")
    if not re.search(r"@sha256:[0-9a-f]{64}$", image):
        yield f"{where}: image {image!r} has no digest; a tag can move."
    if image.split("@")[0].endswith(":latest"):
        yield f"{where}: image {image!r} is tagged latest; name a version."
    resources = container.get("resources") or {}
    for part in ("requests", "limits"):
        for what in ("cpu", "memory"):
            if not (resources.get(part) or {}).get(what):
                yield f"{where}: resources.{part}.{what} is missing."
    security = container.get("securityContext") or {}
    if security.get("privileged"):
        yield f"{where}: privileged; agents need no access to the node."
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: securityContext.allowPrivilegeEscalation must be false."
    # A container's own word overrides its pod's.
    if not security.get("runAsNonRoot", (pod.get("securityContext") or {}).get("runAsNonRoot")):
        yield f"{where}: runAsNonRoot must be true."
    if (security.get("capabilities") or {}).get("drop") != ["ALL"]:
        yield f"{where}: securityContext.capabilities.drop must be [ALL]."
    if added := (security.get("capabilities") or {}).get("add"):
        yield f"{where}: capabilities {', '.join(added)} are added; agents need none."
    if any(SECRET_VALUE.search(str(word)) for word in [*container.get("command", []), *container.get("args", [])]):
        yield f"{where}: its command line holds a secret; refer to a Secret instead."
    for variable in container.get("env") or ():
        value = variable.get("value")
        if value and (SECRET_VALUE.search(value) or SECRET_NAME.search(variable["name"])):
            yield f"{where}: env {variable['name']} looks like a secret; use valueFrom.secretKeyRef."


def check_capacity(topology: Topology) -> GateResult:
    """Both colours at once fit the node groups at their maximum."""
    problems: list[str] = []
    for row in capacity(topology):
        for what, unit, used, room in (
            ("cpu", "cores", row.cpu_used, row.cpu),
            ("memory", "GiB", row.memory_used, row.memory),
        ):
            if used > room:
                problems.append(
                    f"node group {row.group}: both colours ask for {used:.1f} {unit} of {what}, {row.group} has "
                    f"{room:.1f} at its maximum; raise its max or lower the replicas."
                )
    return GateResult("capacity", tuple(problems))


@dataclass(frozen=True)
class Capacity:
    """What both colours ask of a node group, beside what it has at its maximum (cores, GiB)."""

    group: str
    cpu_used: float
    cpu: float
    memory_used: float
    memory: float


def capacity(topology: Topology) -> tuple[Capacity, ...]:
    """A row for each node group that a component runs on."""
    rows: list[Capacity] = []
    for name, group in topology.node_groups.items():
        members = [component for component in topology.components.values() if component.node_group == name]
        if members:
            rows.append(
                Capacity(
                    name,
                    sum(_copies(member) * cores(member.resources.requests.cpu) for member in members),
                    group.max * cores(group.cpu),
                    sum(_copies(member) * gibibytes(member.resources.requests.memory) for member in members),
                    group.max * gibibytes(group.memory),
                )
            )
    return tuple(rows)


def _copies(component: Component) -> int:
    """How many pods a component has while both colours run: exclusive work is in one colour only."""
    return component.replicas if component.work == "exclusive" else 2 * component.replicas


def cores(quantity: str) -> float:
    """CPU cores of a quantity."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def gibibytes(quantity: str) -> float:
    """GiB of a memory quantity."""
    powers = {"Ki": -20, "Mi": -10, "Gi": 0, "Ti": 10}
    return float(quantity[:-2]) * 2.0 ** powers[quantity[-2:]]


def _name(obj: Object) -> str:
    return f"{obj['kind']} {obj['metadata']['name']}"
