"""What a real API server prints of each built-in kind (its pkg/printers/internalversion/printers.go)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from nexus_ops.sandbox.kube.tables import AGE, NAME, Column, at, human, since

Object = dict[str, Any]


def _text(path: str, default: str = "<none>") -> Callable[[Object], str]:
    return lambda obj: str(at(obj, path, default))


def _count(path: str) -> Callable[[Object], int]:
    return lambda obj: at(obj, path, 0)


def _listed(items: Iterable[str]) -> str:
    return ",".join(items) or "<none>"


def _selector(selector: Object | None) -> str:
    """A label selector as kubectl writes it."""
    if selector is None:
        return "<none>"
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        values = ",".join(one.get("values") or ())
        forms = {"Exists": one["key"], "DoesNotExist": f"!{one['key']}"}
        parts.append(forms.get(one["operator"], f"{one['key']} {one['operator'].lower()} ({values})"))
    return _listed(parts)


def _containers(path: str) -> tuple[Column, Column]:
    def read(field: str) -> Callable[[Object], str]:
        return lambda obj: ",".join(container.get(field, "") for container in at(obj, f"{path}.containers", []))

    return Column("Containers", read("name"), priority=1), Column("Images", read("image"), priority=1)


def _pod_status(pod: Object) -> str:
    status = pod.get("status") or {}
    phase = status.get("phase", "Unknown")
    reason = status.get("reason") or phase
    if any(
        c["type"] == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in status.get("conditions") or ()
    ):
        reason = "SchedulingGated"
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        ended = state.get("terminated")
        if at(state, "waiting.reason"):
            reason = state["waiting"]["reason"]
        elif ended is not None:
            reason = ended.get("reason") or f"ExitCode:{ended.get('exitCode', 0)}"
        elif container.get("ready") and "running" in state:
            running = True
    if reason == "Completed" and running:
        reason = "Running"
    if "deletionTimestamp" in pod["metadata"] and phase not in ("Succeeded", "Failed"):
        return "Terminating"
    return reason


def _ready(pod: Object) -> str:
    containers = at(pod, "status.containerStatuses", [])
    return f"{sum(c.get('ready', False) for c in containers)}/{len(pod['spec']['containers'])}"


def _restarts(pod: Object) -> str:
    containers = at(pod, "status.containerStatuses", [])
    number = sum(c.get("restartCount", 0) for c in containers)
    ends = [end for c in containers if (end := at(c, "lastState.terminated.finishedAt"))]
    return f"{number} ({since(max(ends))} ago)" if number and ends else str(number)


def _gates(pod: Object) -> str:
    gates = at(pod, "spec.readinessGates", [])
    true = {c["type"] for c in at(pod, "status.conditions", []) if c["status"] == "True"}
    return f"{sum(gate['conditionType'] in true for gate in gates)}/{len(gates)}" if gates else "<none>"


def _external(service: Object) -> str:
    spec = service["spec"]
    outside = spec.get("externalIPs") or []
    if spec.get("type") == "ExternalName":
        return spec.get("externalName", "<none>")
    if spec.get("type") == "LoadBalancer":
        places = [i.get("ip") or i.get("hostname", "") for i in at(service, "status.loadBalancer.ingress", [])]
        return ",".join([*places, *outside]) or "<pending>"
    return _listed(outside)


def _ports(service: Object) -> str:
    return _listed(
        f"{p['port']}:{p['nodePort']}/{p.get('protocol', 'TCP')}" if p.get("nodePort")
        else f"{p['port']}/{p.get('protocol', 'TCP')}"
        for p in service["spec"].get("ports") or ()
    )  # fmt: skip


def _few(items: list[str], most: int = 3) -> str:
    """The first items, and how many more there are."""
    more = f" + {len(items) - most} more..." if len(items) > most else ""
    return _listed(items[:most]) + more


def _endpoints(endpoints: Object) -> str:
    return _few([
        f"{address['ip']}:{port['port']}"
        for subset in endpoints.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ])  # fmt: skip


def _slice_ports(obj: Object) -> str:
    return _few([str(port.get("port", "*")) for port in obj.get("ports") or ()]) if obj.get("ports") else "<unset>"


def _slice_endpoints(obj: Object) -> str:
    return _few([address for endpoint in obj.get("endpoints") or () for address in endpoint["addresses"]])


def _node_status(node: Object) -> str:
    ready = next((c for c in at(node, "status.conditions", []) if c["type"] == "Ready"), None)
    said = "Unknown" if ready is None else ("Ready" if ready["status"] == "True" else "NotReady")
    return said + (",SchedulingDisabled" if at(node, "spec.unschedulable") else "")


def _roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    return _listed(
        sorted(label[len(prefix) :] for label in at(node, "metadata.labels", {}) if label.startswith(prefix))
    )


def _address(kind: str) -> Callable[[Object], str]:
    return lambda node: next((a["address"] for a in at(node, "status.addresses", []) if a["type"] == kind), "<none>")


def _targets(scaler: Object) -> str:
    """`cpu: <unknown>/70%` for each metric."""
    current = {
        at(metric, "resource.name"): at(metric, "resource.current.averageUtilization")
        for metric in at(scaler, "status.currentMetrics", [])
    }
    parts: list[str] = []
    for metric in at(scaler, "spec.metrics", []):
        name = at(metric, "resource.name", "")
        if (wanted := at(metric, "resource.target.averageUtilization")) is not None:
            now = current.get(name)
            parts.append(f"{name}: {'<unknown>' if now is None else f'{now}%'}/{wanted}%")
        else:
            parts.append(f"<unknown>/{at(metric, 'resource.target.averageValue', '<auto>')}")
    return ", ".join(parts) or "<none>"


def _job_status(job: Object) -> str:
    true = [c["type"] for c in at(job, "status.conditions", []) if c["status"] == "True"]
    forms = (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
    )
    if found := next((said for kind, said in forms if kind in true), None):
        return found
    if "deletionTimestamp" in job["metadata"]:
        return "Terminating"
    return "SuccessCriteriaMet" if "SuccessCriteriaMet" in true else "Running"


def _completions(job: Object) -> str:
    done, wanted = at(job, "status.succeeded", 0), at(job, "spec.completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    parallel = at(job, "spec.parallelism", 0)
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _duration(job: Object) -> str:
    began, ended = at(job, "status.startTime"), at(job, "status.completionTime")
    if not began:
        return ""
    if not ended:
        return since(began)
    return human((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())


def _hosts(ingress: Object) -> str:
    return _few([rule["host"] for rule in at(ingress, "spec.rules", []) if rule.get("host")]).replace("<none>", "*")


def _subjects(kind: str) -> Callable[[Object], str]:
    def read(binding: Object) -> str:
        found = [s for s in binding.get("subjects") or () if s["kind"] == kind]
        return ", ".join(f"{s['namespace']}/{s['name']}" if s.get("namespace") else s["name"] for s in found)

    return read


def _event_object(event: Object) -> str:
    return f"{at(event, 'involvedObject.kind', '').lower()}/{at(event, 'involvedObject.name', '')}"


def _last_seen(event: Object) -> str:
    return since(at(event, "series.lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime"))


def _first_seen(event: Object) -> str:
    return since(event.get("firstTimestamp") or event.get("eventTime"))


def _wide(name: str, read: Callable[[Object], Any]) -> Column:
    return Column(name, read, priority=1)


def _number(name: str, path: str) -> Column:
    return Column(name, _count(path), "integer")


TEMPLATE = _containers("spec.template.spec")
MATCHED = _wide("Selector", lambda obj: _selector(at(obj, "spec.selector")))
BINDING = (
    NAME, Column("Role", lambda b: f"{b['roleRef']['kind']}/{b['roleRef']['name']}"), AGE,
    _wide("Users", _subjects("User")), _wide("Groups", _subjects("Group")),
    _wide("ServiceAccounts", _subjects("ServiceAccount")),
)  # fmt: skip

COLUMNS: dict[str, tuple[Column, ...]] = {
    "pods": (
        NAME, Column("Ready", _ready), Column("Status", _pod_status), Column("Restarts", _restarts), AGE,
        _wide("IP", _text("status.podIP")), _wide("Node", _text("spec.nodeName")),
        _wide("Nominated Node", _text("status.nominatedNodeName")), _wide("Readiness Gates", _gates),
    ),
    "deployments.apps": (
        NAME, Column("Ready", lambda d: f"{at(d, 'status.readyReplicas', 0)}/{at(d, 'spec.replicas', 0)}"),
        Column("Up-to-date", _count("status.updatedReplicas")), Column("Available", _count("status.availableReplicas")),
        AGE, *TEMPLATE, MATCHED,
    ),
    "replicasets.apps": (
        NAME, _number("Desired", "spec.replicas"), _number("Current", "status.replicas"),
        _number("Ready", "status.readyReplicas"), AGE, *TEMPLATE, MATCHED,
    ),
    "statefulsets.apps": (
        NAME, Column("Ready", lambda s: f"{at(s, 'status.readyReplicas', 0)}/{at(s, 'spec.replicas', 0)}"), AGE,
        *TEMPLATE,
    ),
    "daemonsets.apps": (
        NAME, _number("Desired", "status.desiredNumberScheduled"), _number("Current", "status.currentNumberScheduled"),
        _number("Ready", "status.numberReady"), _number("Up-to-date", "status.updatedNumberScheduled"),
        _number("Available", "status.numberAvailable"),
        Column("Node Selector", lambda d: _selector({"matchLabels": at(d, "spec.template.spec.nodeSelector", {})})),
        AGE, *TEMPLATE, MATCHED,
    ),
    "controllerrevisions.apps": (
        NAME, Column("Controller", lambda r: _listed(o["name"] for o in at(r, "metadata.ownerReferences", []))),
        Column("Revision", _count("revision")), AGE,
    ),
    "jobs.batch": (
        NAME, Column("Status", _job_status), Column("Completions", _completions), Column("Duration", _duration), AGE,
        *TEMPLATE, MATCHED,
    ),
    "cronjobs.batch": (
        NAME, Column("Schedule", _text("spec.schedule")), Column("Timezone", _text("spec.timeZone")),
        Column("Suspend", lambda c: str(at(c, "spec.suspend", False)), "boolean"),
        Column("Active", lambda c: len(at(c, "status.active", [])), "integer"),
        Column("Last Schedule", lambda c: since(t) if (t := at(c, "status.lastScheduleTime")) else "<none>"), AGE,
        *_containers("spec.jobTemplate.spec.template.spec"),
        _wide("Selector", lambda c: _selector(at(c, "spec.jobTemplate.spec.selector"))),
    ),
    "services": (
        NAME, Column("Type", _text("spec.type")), Column("Cluster-IP", _text("spec.clusterIP")),
        Column("External-IP", _external), Column("Port(s)", _ports), AGE,
        _wide("Selector", lambda s: _selector({"matchLabels": at(s, "spec.selector", {})})),
    ),
    "endpoints": (NAME, Column("Endpoints", _endpoints), AGE),
    "endpointslices.discovery.k8s.io": (
        NAME, Column("AddressType", _text("addressType")), Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints), AGE,
    ),
    "ingresses.networking.k8s.io": (
        NAME, Column("Class", _text("spec.ingressClassName")), Column("Hosts", _hosts),
        Column("Address", lambda i: ",".join(
            p.get("ip") or p.get("hostname", "") for p in at(i, "status.loadBalancer.ingress", []))),
        Column("Ports", lambda i: "80, 443" if at(i, "spec.tls") else "80"), AGE,
    ),
    "ingressclasses.networking.k8s.io": (
        NAME, Column("Controller", _text("spec.controller")), Column("Parameters", _text("spec.parameters.name")), AGE,
    ),
    "networkpolicies.networking.k8s.io": (
        NAME, Column("Pod-Selector", lambda n: _selector(at(n, "spec.podSelector"))), AGE,
    ),
    "poddisruptionbudgets.policy": (
        NAME, Column("Min Available", _text("spec.minAvailable", "N/A")),
        Column("Max Unavailable", _text("spec.maxUnavailable", "N/A")),
        _number("Allowed Disruptions", "status.disruptionsAllowed"), AGE,
    ),
    "horizontalpodautoscalers.autoscaling": (
        NAME, Column("Reference", lambda h: f"{h['spec']['scaleTargetRef']['kind']}/{h['spec']['scaleTargetRef']['name']}"),
        Column("Targets", _targets), Column("MinPods", _text("spec.minReplicas", "<unset>")),
        Column("MaxPods", _count("spec.maxReplicas")), Column("Replicas", _count("status.currentReplicas")), AGE,
    ),
    "namespaces": (NAME, Column("Status", _text("status.phase", "")), AGE),
    "nodes": (
        NAME, Column("Status", _node_status), Column("Roles", _roles), AGE,
        Column("Version", _text("status.nodeInfo.kubeletVersion", "")), _wide("Internal-IP", _address("InternalIP")),
        _wide("External-IP", _address("ExternalIP")), _wide("OS-Image", _text("status.nodeInfo.osImage", "<unknown>")),
        _wide("Kernel-Version", _text("status.nodeInfo.kernelVersion", "<unknown>")),
        _wide("Container-Runtime", _text("status.nodeInfo.containerRuntimeVersion", "<unknown>")),
    ),
    "configmaps": (
        NAME, Column("Data", lambda c: len(c.get("data") or {}) + len(c.get("binaryData") or {})), AGE,
    ),
    "secrets": (NAME, Column("Type", _text("type")), Column("Data", lambda s: len(s.get("data") or {})), AGE),
    "serviceaccounts": (NAME, Column("Secrets", lambda s: len(s.get("secrets") or ()), "integer"), AGE),
    "leases.coordination.k8s.io": (NAME, Column("Holder", _text("spec.holderIdentity", "")), AGE),
    "events": (
        Column("Last Seen", _last_seen), Column("Type", _text("type", "")), Column("Reason", _text("reason", "")),
        Column("Object", _event_object), _wide("Subobject", _text("involvedObject.fieldPath", "")),
        _wide("Source", _text("source.component", "")), Column("Message", _text("message", "")),
        _wide("First Seen", _first_seen), _wide("Count", lambda e: max(1, at(e, "count", 1))),
        _wide("Name", NAME.read),
    ),
    "persistentvolumeclaims": (
        NAME, Column("Status", _text("status.phase", "")), Column("Volume", _text("spec.volumeName", "")),
        Column("Capacity", _text("status.capacity.storage", "")),
        Column("Access Modes", lambda c: ",".join(at(c, "status.accessModes", []))),
        Column("StorageClass", _text("spec.storageClassName", "")),
        Column("VolumeAttributesClass", _text("spec.volumeAttributesClassName", "<unset>")), AGE,
        _wide("VolumeMode", _text("spec.volumeMode", "<unset>")),
    ),
    "storageclasses.storage.k8s.io": (
        NAME, Column("Provisioner", _text("provisioner")), Column("ReclaimPolicy", _text("reclaimPolicy", "Delete")),
        Column("VolumeBindingMode", _text("volumeBindingMode", "Immediate")),
        Column("AllowVolumeExpansion", lambda s: bool(s.get("allowVolumeExpansion"))), AGE,
    ),
    "priorityclasses.scheduling.k8s.io": (
        NAME, Column("Value", _count("value")), Column("Global-Default", lambda p: bool(p.get("globalDefault")), "boolean"),
        AGE, Column("PreemptionPolicy", _text("preemptionPolicy", "PreemptLowerPriority")),
    ),
    "rolebindings.rbac.authorization.k8s.io": BINDING,
    "clusterrolebindings.rbac.authorization.k8s.io": BINDING,
}  # fmt: skip
