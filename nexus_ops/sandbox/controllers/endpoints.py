"""Endpoints and EndpointSlices of Services with a selector, and the replicas that autoscalers want."""

from __future__ import annotations

from typing import Any

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.workloads import is_leaving, is_ready
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store

Object = dict[str, Any]


class EndpointsController:
    """The addresses behind each Service: pods that match and are ready, and are not leaving."""

    name = "endpoints"

    def __init__(self, store: Store) -> None:
        self.store = store

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        if event.key == "services":
            return [(meta["namespace"], meta["name"])]
        if event.key != "pods":
            return []
        if event.old is not None and event.type == "MODIFIED" and _serves(event.old) == _serves(event.object):
            return []
        labels = (meta.get("labels") or {}).items()
        return [
            (meta["namespace"], service["metadata"]["name"])
            for service in self.store.list("services", meta["namespace"])
            if (selector := service["spec"].get("selector")) and selector.items() <= labels
        ]

    def reconcile(self, namespace: str, name: str) -> float | None:
        service = self.store.find("services", namespace, name)
        if service is None:
            for key in ("endpoints", "endpointslices.discovery.k8s.io"):
                if self.store.find(key, namespace, name) is not None:
                    self.store.delete(key, namespace, name)
            return None
        selector = service["spec"].get("selector")
        if not selector:
            return None  # whoever made it keeps its endpoints
        pods = [pod for pod in self.store.list("pods", namespace, selector) if pod.get("status", {}).get("podIP")]
        labels = dict(service["metadata"].get("labels") or {})  # both carry the Service's own
        if service["spec"].get("clusterIP") == "None":
            labels["service.kubernetes.io/headless"] = ""
        self._write("endpoints", namespace, name, labels, _endpoints(service, pods))
        labels |= {
            "kubernetes.io/service-name": name,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        self._write("endpointslices.discovery.k8s.io", namespace, name, labels, _slice(service, pods))
        return None

    def _write(self, key: str, namespace: str, name: str, labels: dict[str, str], body: Object) -> None:
        if self.store.find(key, namespace, name) is None:
            self.store.create(key, {"metadata": {"name": name, "namespace": namespace, "labels": labels}, **body})
            return

        def change(obj: Object) -> None:
            obj["metadata"]["labels"] = labels
            obj.update(body)

        self.store.edit(key, namespace, name, change)


def _serves(pod: Object) -> tuple[bool, str, str]:
    status = pod.get("status", {})
    return is_ready(pod) and not is_leaving(pod), status.get("podIP", ""), str(pod["metadata"].get("labels"))


def _ports(service: Object, pod: Object | None) -> list[Object]:
    result: list[Object] = []
    for port in service["spec"].get("ports") or ():
        number = port.get("targetPort", port["port"])
        if isinstance(number, str):
            named = [
                p["containerPort"]
                for container in (pod or {"spec": {"containers": []}})["spec"]["containers"]
                for p in container.get("ports") or ()
                if p.get("name") == number
            ]
            if not named:
                continue
            number = named[0]
        entry = {"port": number, "protocol": port.get("protocol", "TCP")}
        result.append({"name": port["name"], **entry} if port.get("name") else entry)
    return result


def _target(pod: Object) -> Object:
    meta = pod["metadata"]
    return {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}


def _endpoints(service: Object, pods: list[Object]) -> Object:
    def address(pod: Object) -> Object:
        return {"ip": pod["status"]["podIP"], "nodeName": pod["spec"].get("nodeName"), "targetRef": _target(pod)}

    ready = [address(pod) for pod in pods if is_ready(pod) and not is_leaving(pod)]
    waiting = [address(pod) for pod in pods if not is_ready(pod) and not is_leaving(pod)]
    if not ready and not waiting:
        return {"subsets": []}
    subset: Object = {"ports": _ports(service, pods[0])}
    if ready:
        subset["addresses"] = ready
    if waiting:
        subset["notReadyAddresses"] = waiting
    return {"subsets": [subset]}


def _slice(service: Object, pods: list[Object]) -> Object:
    endpoints = [
        {
            "addresses": [pod["status"]["podIP"]],
            "conditions": {
                "ready": is_ready(pod) and not is_leaving(pod),
                "serving": is_ready(pod),
                "terminating": is_leaving(pod),
            },
            "nodeName": pod["spec"].get("nodeName"),
            "targetRef": _target(pod),
        }
        for pod in pods
    ]
    ports = [{"name": "", **port} for port in _ports(service, pods[0] if pods else None)]  # kubectl needs the name
    return {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}


class AutoscalerController:
    """Keeps a Deployment within its autoscaler's bounds; like the real one, it leaves 0 replicas alone."""

    name = "autoscaler"

    def __init__(self, store: Store) -> None:
        self.store = store

    def keys(self, event: Event) -> list[Key]:
        meta = event.object["metadata"]
        if event.key == "horizontalpodautoscalers.autoscaling" and event.type != "DELETED":
            return [(meta["namespace"], meta["name"])]
        if event.key == "deployments.apps":
            return [(meta["namespace"], meta["name"])]  # autoscalers are named like what they scale, here
        return []

    def reconcile(self, namespace: str, name: str) -> float | None:
        key = "horizontalpodautoscalers.autoscaling"
        scaler = self.store.find(key, namespace, name)
        if scaler is None or is_leaving(scaler):
            return None
        spec = scaler["spec"]
        target = self.store.find("deployments.apps", namespace, spec["scaleTargetRef"]["name"])
        if target is None:
            return None
        now = target["spec"]["replicas"]
        wanted = now and min(max(now, spec.get("minReplicas", 1)), spec["maxReplicas"])
        if wanted != now:
            self.store.edit(
                "deployments.apps", namespace, target["metadata"]["name"],
                lambda obj: obj["spec"].update(replicas=wanted), manager="kube-controller-manager", subresource="scale",
            )  # fmt: skip
        active = bool(now)
        condition = {
            "type": "ScalingActive", "status": str(active), "lastTransitionTime": timestamp(),
            "reason": "ValidMetricFound" if active else "ScalingDisabled",
            "message": "the HPA was able to compute the replica count" if active
            else "scaling is disabled since the replica count of the target is zero",
        }  # fmt: skip
        status = {"currentReplicas": target.get("status", {}).get("replicas", 0), "desiredReplicas": wanted}
        before = scaler.get("status") or {}
        was = next((c for c in before.get("conditions") or () if c["type"] == "ScalingActive"), None)
        if was and was["status"] == condition["status"]:
            condition = was
        status |= {"conditions": [condition], "currentMetrics": None}
        if status != before:
            self.store.edit(key, namespace, name, lambda obj: obj.update(status=status), subresource="status")
        return None
