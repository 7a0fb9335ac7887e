"""What the API server refuses of single kinds, beside what pods may not (pod_checks)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from nexus_ops.sandbox.kube.errors import Cause
from nexus_ops.sandbox.kube.pod_checks import not_negative, pod_changes, pod_spec, required, unsupported

Object = dict[str, Any]
CONFIG_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
PERCENT = re.compile(r"^[0-9]+%$")
IMMUTABLE = "field is immutable"


def kind_problems(key: str, obj: Object, old: Object | None) -> list[Cause]:
    """What is wrong with an object by the rules of its kind; `old` is what it replaces."""
    function = _BY_KEY.get(key)
    return function(obj, old) if function else []


def _config_map(obj: Object, old: Object | None) -> list[Cause]:
    text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
    found = [
        Cause(f"{part}[{key}]", f'Invalid value: "{key}": {text}')
        for part in ("data", "binaryData")
        for key in obj.get(part) or {}
        if not CONFIG_KEY.match(key)
    ]
    twice = (obj.get("data") or {}).keys() & (obj.get("binaryData") or {}).keys()
    found += [
        Cause(f"data[{k}]", f'Invalid value: "{k}": duplicate of key present in binaryData') for k in sorted(twice)
    ]
    if old and old.get("immutable"):
        text = "Forbidden: field is immutable when `immutable` is set"
        parts = [part for part in ("data", "binaryData") if obj.get(part) != old.get(part)]
        parts += [] if obj.get("immutable") else ["immutable"]
        found += [Cause(part, text, "FieldValueForbidden") for part in parts]
    return found


def _secret(obj: Object, old: Object | None) -> list[Cause]:
    found = _config_map({**obj}, old)
    if old and obj.get("type") != old.get("type"):
        found.append(Cause("type", f'Invalid value: "{obj.get("type")}": {IMMUTABLE}'))
    return found


def _matches(selector: Object, labels: Object) -> bool:
    """Whether a label selector picks these labels."""
    for one in selector.get("matchExpressions") or ():
        key, values = one["key"], one.get("values") or ()
        fits = {
            "In": labels.get(key) in values, "NotIn": labels.get(key) not in values,
            "Exists": key in labels, "DoesNotExist": key not in labels,
        }  # fmt: skip
        if not fits.get(one["operator"], False):
            return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def _workload(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found = not_negative(spec, "spec", ("replicas", "minReadySeconds", "revisionHistoryLimit"))
    selector, template = spec.get("selector"), spec.get("template") or {}
    if selector is None:
        found += required(spec, "selector", "spec")
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        found.append(Cause("spec.selector", "Invalid value: empty selector is invalid"))
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector is None or not _matches(selector, labels):
        text = f"Invalid value: {labels}: `selector` does not match template `labels`"
        found.append(Cause("spec.template.metadata.labels", text))
    inner = template.get("spec") or {}
    found += pod_spec(inner, "spec.template.spec")
    if (policy := inner.get("restartPolicy")) not in (None, "Always"):
        found.append(unsupported("spec.template.spec.restartPolicy", policy, ("Always",)))
    if old and old["spec"].get("selector") != selector:
        found.append(Cause("spec.selector", f"Invalid value: {selector}: {IMMUTABLE}"))
    return found


def _deployment(obj: Object, old: Object | None) -> list[Cause]:
    found, spec = _workload(obj, old), obj.get("spec") or {}
    strategy = spec.get("strategy") or {}
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    place = "spec.strategy.rollingUpdate"
    if kind not in ("Recreate", "RollingUpdate"):
        found.append(unsupported("spec.strategy.type", kind, ("Recreate", "RollingUpdate")))
    if kind == "Recreate" and rolling:
        text = "Forbidden: may not be specified when strategy `type` is 'Recreate'"
        found.append(Cause(place, text, "FieldValueForbidden"))
    if kind == "RollingUpdate" and rolling:
        for name in ("maxUnavailable", "maxSurge"):
            found += _share(rolling.get(name), f"{place}.{name}", most=100 if name == "maxUnavailable" else None)
        if all(rolling.get(name) in (0, "0%") for name in ("maxUnavailable", "maxSurge")):
            found.append(Cause(f"{place}.maxUnavailable", "Invalid value: may not be 0 when `maxSurge` is 0"))
    deadline = spec.get("progressDeadlineSeconds")
    if isinstance(deadline, int) and deadline <= spec.get("minReadySeconds", 0):
        text = f"Invalid value: {deadline}: must be greater than minReadySeconds"
        found.append(Cause("spec.progressDeadlineSeconds", text))
    return found


def _share(value: Any, place: str, *, most: int | None) -> list[Cause]:
    """A number that is not negative, or a percentage (of `most` at most)."""
    if isinstance(value, str):
        if not PERCENT.match(value):
            text = "a valid percent string must be a numeric string followed by an ending '%'"
            return [Cause(place, f'Invalid value: "{value}": {text}')]
        if most is not None and int(value[:-1]) > most:
            return [Cause(place, f'Invalid value: "{value}": must not be greater than {most}%')]
    elif isinstance(value, int) and value < 0:
        return [Cause(place, f"Invalid value: {value}: must be greater than or equal to 0")]
    return []


def _job(obj: Object, _: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    names = ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
    found = not_negative(spec, "spec", names)
    inner = (spec.get("template") or {}).get("spec") or {}
    found += pod_spec(inner, "spec.template.spec")
    if inner.get("restartPolicy") not in ("OnFailure", "Never"):
        text = 'Required value: valid values: "OnFailure", "Never"'
        found.append(Cause("spec.template.spec.restartPolicy", text, "FieldValueRequired"))
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        text = "Required value: when completion mode is Indexed"
        found.append(Cause("spec.completions", text, "FieldValueRequired"))
    return found


def _service(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found: list[Cause] = []
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        found.append(Cause("spec.ports", "Required value", "FieldValueRequired"))
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        place = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            found.append(Cause(f"{place}.name", "Required value", "FieldValueRequired"))
        if not isinstance(port.get("port"), int) or not 0 < port["port"] < 65536:
            text = f"Invalid value: {port.get('port')}: must be between 1 and 65535, inclusive"
            found.append(Cause(f"{place}.port", text))
        if (port.get("port"), port.get("protocol")) in seen:
            found.append(Cause(place, f'Duplicate value: {{"port":{port.get("port")}}}', "FieldValueDuplicate"))
        seen.add((port.get("port"), port.get("protocol")))
    if old and old["spec"].get("clusterIP") and spec.get("clusterIP") != old["spec"]["clusterIP"]:
        found.append(Cause("spec.clusterIPs[0]", f'Invalid value: "{spec.get("clusterIP")}": may not change once set'))
    return found


def _autoscaler(obj: Object, _: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    low, high = spec.get("minReplicas", 1), spec.get("maxReplicas") or 0
    target = spec.get("scaleTargetRef") or {}
    found = required(target, "kind", "spec.scaleTargetRef") + required(target, "name", "spec.scaleTargetRef")
    if high < 1:
        found.append(Cause("spec.maxReplicas", f"Invalid value: {high}: must be greater than 0"))
    if low > high:
        text = f"Invalid value: {high}: must be greater than or equal to `minReplicas`"
        found.append(Cause("spec.maxReplicas", text))
    for index, metric in enumerate(spec.get("metrics") or ()):
        found += _metric(metric, f"spec.metrics[{index}]")
    return found


def _metric(metric: Object, place: str) -> list[Cause]:
    kind = metric.get("type") or ""
    source = kind[:1].lower() + kind[1:]
    if not metric.get(source):
        text = "Required value: must populate information for the given metric source"
        return [Cause(f"{place}.{source}", text, "FieldValueRequired")]
    wanted = (metric[source].get("target") or {}).get("averageUtilization")
    if isinstance(wanted, int) and wanted < 1:
        where = f"{place}.{source}.target.averageUtilization"
        return [Cause(where, f"Invalid value: {wanted}: must be greater than 0")]
    return []


def _budget(obj: Object, _: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found: list[Cause] = []
    if "minAvailable" in spec and "maxUnavailable" in spec:
        found.append(Cause("spec", "Invalid value: minAvailable and maxUnavailable cannot be both set"))
    for name in ("minAvailable", "maxUnavailable"):
        found += _share(spec.get(name), f"spec.{name}", most=100)
    return found


def _lease(obj: Object, _: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found = not_negative(spec, "spec", ("leaseTransitions",))
    seconds = spec.get("leaseDurationSeconds")
    if isinstance(seconds, int) and seconds < 1:
        found.append(Cause("spec.leaseDurationSeconds", f"Invalid value: {seconds}: must be greater than 0"))
    return found


def _pod(obj: Object, old: Object | None) -> list[Cause]:
    found = pod_spec(obj.get("spec") or {}, "spec")
    if old is None:
        return found
    return found * 2 + pod_changes(old["spec"], obj.get("spec") or {})  # a real server checks an update twice


def _definition(obj: Object, _: Object | None) -> list[Cause]:
    """Names and versions of a CustomResourceDefinition, as far as serving it needs them."""
    spec = obj.get("spec") or {}
    names = spec.get("names") or {}
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if obj["metadata"].get("name") != wanted:
        return [Cause("metadata.name", f'Invalid value: "{obj["metadata"].get("name")}": must be {wanted}')]
    return _one_storage(spec.get("versions") or ())


def _one_storage(versions: Iterable[Object]) -> list[Cause]:
    if sum(bool(version.get("storage")) for version in versions) == 1:
        return []
    return [Cause("spec.versions", "Invalid value: must have exactly one version marked as storage version")]


_BY_KEY = {
    "configmaps": _config_map,
    "secrets": _secret,
    "pods": _pod,
    "services": _service,
    "deployments.apps": _deployment,
    "replicasets.apps": _workload,
    "statefulsets.apps": _workload,
    "jobs.batch": _job,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "poddisruptionbudgets.policy": _budget,
    "leases.coordination.k8s.io": _lease,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
}
