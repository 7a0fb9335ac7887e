"""What the API server refuses of pods: in their own spec, in a template, and when one is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from nexus_ops.sandbox.kube.errors import ApiError, Cause

Object = dict[str, Any]
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
PORT_NAME = re.compile(r"^(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))([numkMGTPE]|[KMGTPE]i|[eE][-+]?\d+)?$")
POWERS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
PORT_RANGE = "must be between 1 and 65535, inclusive"
CHANGEABLE = {"tolerations", "schedulingGates", "activeDeadlineSeconds", "terminationGracePeriodSeconds"}


def required(part: Object, name: str, place: str) -> list[Cause]:
    """The complaint about a field that is not there."""
    if part.get(name) not in (None, "", [], {}):
        return []
    return [Cause(f"{place}.{name}", "Required value", "FieldValueRequired")]


def unsupported(place: str, value: Any, allowed: Sequence[str]) -> Cause:
    """The complaint about a value that is none of those allowed."""
    listed = ", ".join(f'"{one}"' for one in allowed)
    return Cause(place, f'Unsupported value: "{value}": supported values: {listed}', "FieldValueNotSupported")


def not_negative(part: Object, place: str, names: Iterable[str]) -> list[Cause]:
    """The complaints about numbers below 0."""
    return [
        Cause(f"{place}.{name}", f"Invalid value: {part[name]}: must be greater than or equal to 0")
        for name in names
        if isinstance(part.get(name), int) and part[name] < 0
    ]


def quantity(value: Any) -> float:
    """A quantity as a number; ApiError 400 when it is none, as when a real server decodes it."""
    match = QUANTITY.match(str(value))
    if match is None:
        text = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        raise ApiError(400, text)
    unit = match[2] or ""
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit[1:] != "i":
        return float(match[1]) * 10 ** int(unit[1:])
    return float(match[1]) * (BINARY.get(unit) or POWERS[unit])


def pod_spec(spec: Object, path: str) -> list[Cause]:
    """What is wrong with a pod's spec."""
    found = required(spec, "containers", path)
    volumes = [volume.get("name") for volume in spec.get("volumes") or ()]
    for index, name in enumerate(volumes):
        if name in volumes[:index]:
            found.append(Cause(f"{path}.volumes[{index}].name", f'Duplicate value: "{name}"', "FieldValueDuplicate"))
    names: set[Any] = set()
    for part in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(part) or ()):
            place = f"{path}.{part}[{index}]"
            if (name := container.get("name")) and name in names:
                found.append(Cause(f"{place}.name", f'Duplicate value: "{name}"', "FieldValueDuplicate"))
            names.add(name)
            found += _container(container, place, volumes)
    return found


def _container(container: Object, place: str, volumes: list[Any]) -> list[Cause]:
    found = required(container, "name", place) + required(container, "image", place)
    if (name := container.get("name")) and not LABEL.match(name):
        text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
        found.append(Cause(f"{place}.name", f'Invalid value: "{name}": {text}'))
    for index, port in enumerate(container.get("ports") or ()):
        found += _port(port, f"{place}.ports[{index}]")
    policies = ("Always", "IfNotPresent", "Never")
    if (policy := container.get("imagePullPolicy")) not in (None, *policies):
        found.append(unsupported(f"{place}.imagePullPolicy", policy, policies))
    for index, variable in enumerate(container.get("env") or ()):
        found += required(variable, "name", f"{place}.env[{index}]")
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{place}.volumeMounts[{index}]"
        if mount.get("name") not in volumes:
            found.append(Cause(f"{where}.name", f'Not found: "{mount.get("name")}"', "FieldValueNotFound"))
        found += required(mount, "mountPath", where)
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        for action in ("httpGet", "tcpSocket"):
            port = ((container.get(kind) or {}).get(action) or {"port": 1}).get("port", 0)
            if isinstance(port, int) and not 0 < port < 65536:
                found.append(Cause(f"{place}.{kind}.{action}.port", f"Invalid value: {port}: {PORT_RANGE}"))
    return found + _resources(container.get("resources") or {}, f"{place}.resources")


def _port(port: Object, place: str) -> list[Cause]:
    number, name, found = port.get("containerPort") or 0, port.get("name"), list[Cause]()
    if not number:
        found.append(Cause(f"{place}.containerPort", "Required value", "FieldValueRequired"))
    elif not 0 < number < 65536:
        found.append(Cause(f"{place}.containerPort", f"Invalid value: {number}: {PORT_RANGE}"))
    if name and len(name) > 15:
        found.append(Cause(f"{place}.name", f'Invalid value: "{name}": must be no more than 15 characters'))
    elif name and not PORT_NAME.match(name):
        text = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
        found.append(Cause(f"{place}.name", f'Invalid value: "{name}": {text}'))
    if (protocol := port.get("protocol", "TCP")) not in ("SCTP", "TCP", "UDP"):
        found.append(unsupported(f"{place}.protocol", protocol, ("SCTP", "TCP", "UDP")))
    return found


def _resources(resources: Object, place: str) -> list[Cause]:
    limits = {name: quantity(value) for name, value in (resources.get("limits") or {}).items()}
    return [
        Cause(
            f"{place}.requests",
            f'Invalid value: "{value}": must be less than or equal to {name} limit of {resources["limits"][name]}',
        )
        for name, value in (resources.get("requests") or {}).items()
        if (asked := quantity(value)) > limits.get(name, asked)
    ]


def pod_changes(old: Object, new: Object) -> list[Cause]:
    """What may not be changed of a pod that is there."""
    found: list[Cause] = []
    gates = [gate["name"] for gate in old.get("schedulingGates") or ()]
    for index, gate in enumerate(new.get("schedulingGates") or ()):
        if gate["name"] not in gates:
            text = f"Forbidden: only deletion is allowed, but found new scheduling gate '{gate['name']}'"
            found.append(Cause(f"spec.schedulingGates[{index}].name", text, "FieldValueForbidden"))
    if not all(
        _without_seconds(one) in map(_without_seconds, new.get("tolerations") or ())
        for one in old.get("tolerations") or ()
    ):
        text = "Forbidden: existing toleration can not be modified except its tolerationSeconds"
        found.append(Cause("spec.tolerations", text, "FieldValueForbidden"))
    if _fixed(old) != _fixed(new):
        text = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.tolerations` (only additions)"
        found.append(Cause("spec", text, "FieldValueForbidden"))
    return found


def _without_seconds(toleration: Object) -> Object:
    return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}


def _fixed(spec: Object) -> Object:
    """A pod's spec without what may be changed."""
    kept = {key: value for key, value in spec.items() if key not in CHANGEABLE}
    for part in ("initContainers", "containers"):
        if part in kept:
            kept[part] = [{key: value for key, value in one.items() if key != "image"} for one in kept[part]]
    return kept
