"""What the API server fills in when an object is written: the defaults that others rely on."""

from __future__ import annotations

import copy
from typing import Any

from nexus_ops.sandbox.kube.clock import timestamp

Object = dict[str, Any]


def set_defaults(key: str, obj: Object) -> None:
    """Fill in the defaults of a built-in kind, in place."""
    if function := _BY_KEY.get(key):
        function(obj)


def fill_from_schema(value: Any, schema: Object) -> None:
    """Fill in the defaults that a custom resource's own schema declares, in place."""
    if isinstance(value, dict):
        for name, part in (schema.get("properties") or {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                fill_from_schema(value[name], part)
        inner = schema.get("additionalProperties")
        for item in value.values() if isinstance(inner, dict) else ():
            fill_from_schema(item, inner or {})
    elif isinstance(value, list):
        for item in value:
            fill_from_schema(item, schema.get("items") or {})


def _pod_spec(spec: Object) -> None:
    for name, value in (
        ("restartPolicy", "Always"), ("terminationGracePeriodSeconds", 30), ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"), ("securityContext", {}),
    ):  # fmt: skip
        spec.setdefault(name, value)
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        if isinstance(container, dict):
            _container(container)
    for constraint in spec.get("topologySpreadConstraints") or ():
        constraint.setdefault("whenUnsatisfiable", "DoNotSchedule")
    for volume in spec.get("volumes") or ():
        for kind in ("configMap", "secret", "projected"):
            if isinstance(volume.get(kind), dict):
                volume[kind].setdefault("defaultMode", 420)
        if isinstance(volume.get("hostPath"), dict):
            volume["hostPath"].setdefault("type", "")


def _container(container: Object) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    image = str(container.get("image") or "")
    latest = "@" not in image and (image.endswith(":latest") or ":" not in image.rsplit("/", 1)[-1])
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("resources", {})
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or ():
        source = (variable.get("valueFrom") or {}).get("fieldRef")
        if source:
            source.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe := container.get(name):
            for field, value in (
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ):
                probe.setdefault(field, value)
            _http(probe)
    for hook in (container.get("lifecycle") or {}).values():
        _http(hook)


def _http(action: Object) -> None:
    if isinstance(action, dict) and "httpGet" in action:
        action["httpGet"].setdefault("scheme", "HTTP")
        action["httpGet"].setdefault("path", "/")


def _template(obj: Object) -> None:
    spec = (obj.get("spec") or {}).get("template", {}).get("spec")
    if isinstance(spec, dict):
        _pod_spec(spec)


def _deployment(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    _template(obj)


def _replica_set(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("replicas", 1)
    _template(obj)


def _stateful_set(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("revisionHistoryLimit", 10)
    _template(obj)


def _job(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for name, value in (("completions", 1), ("parallelism", 1), ("backoffLimit", 6), ("completionMode", "NonIndexed"),
                        ("suspend", False), ("manualSelector", False), ("podReplacementPolicy", "TerminatingOrFailed")):  # fmt: skip
        spec.setdefault(name, value)
    _template(obj)


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("ipFamilies", ["IPv4"])
    if spec["type"] in ("LoadBalancer", "NodePort"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    obj.setdefault("status", {"loadBalancer": {}})


def _autoscaler(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("minReplicas", 1)
    spec.setdefault(
        "metrics",
        [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ],
    )
    obj.setdefault("status", {"desiredReplicas": 0, "currentMetrics": None})


def _namespace(obj: Object) -> None:
    obj.setdefault("metadata", {}).setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    obj["spec"] = {"finalizers": ["kubernetes"]}
    obj["status"] = {"phase": "Active"}


def _pod(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _pod_spec(spec)
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        if limits := (container.get("resources") or {}).get("limits"):
            container["resources"]["requests"] = {**limits, **(container["resources"].get("requests") or {})}
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(one.get("key", key) == key and one.get("effect", "NoExecute") == "NoExecute" for one in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    if "status" not in obj:
        status: Object = {"phase": "Pending", "qosClass": quality(spec)}
        obj["status"] = status
        if spec.get("schedulingGates"):
            gated: Object = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "lastProbeTime": None,
            }
            gated |= {
                "lastTransitionTime": timestamp(),
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
            status["conditions"] = [gated]


def quality(spec: Object) -> str:
    """The quality of service class of a pod's spec."""
    parts = [c.get("resources") or {} for c in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]]
    if not any(part.get("requests") or part.get("limits") for part in parts):
        return "BestEffort"
    full = all(
        (limit := (part.get("limits") or {}).get(name)) and (part.get("requests") or {}).get(name, limit) == limit
        for part in parts
        for name in ("cpu", "memory")
    )
    return "Guaranteed" if full else "Burstable"


def _definition(obj: Object) -> None:
    spec = obj["spec"]
    spec.setdefault("conversion", {"strategy": "None"})
    names = spec["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", names["kind"] + "List")
    now = timestamp()
    said = [("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted")]  # fmt: skip
    obj["status"] = {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
            for kind, reason, message in said
        ],
        "acceptedNames": {key: names[key] for key in ("plural", "singular", "kind", "listKind")},
        "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
    }


def _network_policy(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("policyTypes", ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
        for port in rule.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _ingress(obj: Object) -> None:
    obj.setdefault("status", {"loadBalancer": {}})


def _secret(obj: Object) -> None:
    import base64

    obj.setdefault("type", "Opaque")
    if text := obj.pop("stringData", None):
        obj["data"] = {
            **(obj.get("data") or {}),
            **{key: base64.b64encode(value.encode()).decode() for key, value in text.items()},
        }


_BY_KEY = {
    "pods": _pod,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    "statefulsets.apps": _stateful_set,
    "daemonsets.apps": _template,
    "jobs.batch": _job,
    "services": _service,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "namespaces": _namespace,
    "secrets": _secret,
    "networkpolicies.networking.k8s.io": _network_policy,
    "ingresses.networking.k8s.io": _ingress,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
}
