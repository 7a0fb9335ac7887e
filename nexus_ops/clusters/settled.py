"""Whether an object of any kind has become what it was asked to be, as its own controller says. Pure, but for the wait.

Deployments are readiness.py's, since a rollout counts their pods. What no rule is here for is settled once it is there.
Sources: the status of each kind in the Kubernetes API reference, and the Gateway API, CloudNativePG, Prometheus and Redis
operators' own definitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.clusters.errors import NotReady
from nexus_ops.clusters.readiness import Failed, Waiting

Object = dict[str, Any]
State = Waiting | Failed | None
"""None: it is as it was asked for."""
LOOK_AGAIN = 0.3
FIRST: tuple[str, ...] = ("Namespace", "CustomResourceDefinition")
"""Kinds that what is applied after them cannot do without."""


def check_settled(obj: Object | None) -> State:
    """Whether the object is as it was asked for; why not yet, or why it will not be by waiting."""
    if obj is None:
        return Waiting("it does not exist yet")
    status = obj.get("status") or {}
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0) and obj["kind"] in _COUNTED:
        return Waiting("its controller has not seen it yet")
    rule = _RULES.get(obj["kind"])
    return rule(obj, status) if rule else None


def _namespace(obj: Object, status: Object) -> State:
    del obj
    phase = status.get("phase", "Active")
    return None if phase == "Active" else Waiting(f"it is {phase.lower()}")


def _definition(obj: Object, status: Object) -> State:
    del obj
    conditions = _conditions(status)
    if (names := conditions.get("NamesAccepted")) and names["status"] == "False":
        return Failed(f"its names are not accepted: {names.get('message', '')}", todo="Another definition has them.")
    return None if _is(conditions, "Established") else Waiting("it is not served yet")


def _stateful_set(obj: Object, status: Object) -> State:
    wanted, ready = obj["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    moving = status.get("updateRevision") != status.get("currentRevision") and obj["spec"].get(
        "updateStrategy", {}
    ).get("type", "RollingUpdate") == "RollingUpdate"  # fmt: skip
    current = status.get("updatedReplicas", 0) if moving else wanted
    return None if min(ready, current) >= wanted else Waiting(f"{min(ready, current)} of {wanted} pods are ready")


def _daemon_set(obj: Object, status: Object) -> State:
    del obj
    wanted = status.get("desiredNumberScheduled", 0)
    ready = min(status.get("numberReady", 0), status.get("updatedNumberScheduled", 0))
    return None if ready >= wanted else Waiting(f"{ready} of {wanted} nodes have a ready pod of it")


def _job(obj: Object, status: Object) -> State:
    conditions = _conditions(status)
    if _is(conditions, "Failed"):
        said = conditions["Failed"]
        return Failed(f"it failed: {said.get('reason', '')}: {said.get('message', '')}")
    if _is(conditions, "Complete"):
        return None
    return Waiting(f"{status.get('succeeded', 0)} of {obj['spec'].get('completions', 1)} of its pods have succeeded")


def _claim(obj: Object, status: Object) -> State:
    del obj
    phase = status.get("phase", "Pending")
    if phase == "Lost":
        return Failed("its volume is lost")
    return None if phase == "Bound" else Waiting("it has no volume yet")


def _gateway(obj: Object, status: Object) -> State:
    conditions = _conditions(status, obj["metadata"].get("generation", 0))
    if (accepted := conditions.get("Accepted")) and accepted["status"] == "False":
        return Failed(f"its controller does not accept it: {accepted.get('message', '')}")
    return None if _is(conditions, "Programmed") else Waiting("it is not programmed yet")


def _ingress(obj: Object, status: Object) -> State:
    del obj
    given = (status.get("loadBalancer") or {}).get("ingress")
    return None if given else Waiting("its load balancer has no address yet")


def _postgres(obj: Object, status: Object) -> State:
    wanted, ready = obj["spec"].get("instances", 1), status.get("readyInstances", 0)
    phase = f" ({status['phase']})" if status.get("phase") else ""
    return None if ready >= wanted else Waiting(f"{ready} of {wanted} instances are ready{phase}")


def _redis(obj: Object, status: Object) -> State:
    size = obj["spec"].get("clusterSize", 1)
    leaders, followers = status.get("readyLeaderReplicas", 0), status.get("readyFollowerReplicas", 0)
    if leaders >= size and followers >= size:
        return None
    return Waiting(f"{leaders} of {size} leaders and {followers} of {size} followers are ready")


def _monitoring(obj: Object, status: Object) -> State:
    del obj
    available = _conditions(status).get("Available")
    if available is None:
        return Waiting("its operator has not looked at it yet")
    said = available.get("message") or available.get("reason") or "it is not available"
    return None if available["status"] == "True" else Waiting(said)


_COUNTED = ("StatefulSet", "DaemonSet")
_RULES: Mapping[str, Callable[[Object, Object], State]] = {
    "Namespace": _namespace,
    "CustomResourceDefinition": _definition,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "PersistentVolumeClaim": _claim,
    "Gateway": _gateway,
    "Ingress": _ingress,
    "Cluster": _postgres,
    "RedisCluster": _redis,
    "Prometheus": _monitoring,
    "Alertmanager": _monitoring,
}


def _conditions(status: Object, generation: int = 0) -> dict[str, Object]:
    """Conditions by type; those about an earlier generation say nothing of this one."""
    return {
        condition["type"]: condition
        for condition in status.get("conditions") or ()
        if condition.get("observedGeneration", generation) >= generation
    }


def _is(conditions: Mapping[str, Object], name: str) -> bool:
    return conditions.get(name, {}).get("status") == "True"


def unsettled(client: ClusterClient, objects: Iterable[Object]) -> dict[str, Waiting | Failed]:
    """Those of the objects that are not yet as they were asked for, by kind and name. Looks once."""
    found: dict[str, Waiting | Failed] = {}
    for obj in objects:
        if obj["kind"] in _RULES:
            meta = obj["metadata"]
            state = check_settled(client.get(Kind.of(obj), meta["name"], meta.get("namespace")))
            if state is not None:
                found[f"{obj['kind']} {meta['name']}"] = state
    return found


def wait_settled(client: ClusterClient, objects: Iterable[Object], *, seconds: float) -> None:
    """Wait until all of them are as they were asked for; `NotReady` when one never will be, or is not in time."""
    listed, deadline = list(objects), time.monotonic() + seconds
    while left := unsettled(client, listed):
        failed = {name: state for name, state in left.items() if isinstance(state, Failed)}
        if failed or time.monotonic() >= deadline:
            name, state = next(iter((failed or left).items()))
            late = "" if failed else f" after {seconds:.0f} s"
            raise NotReady(
                f"{state.why}{late}.",
                target=f"{client.name}/{name}",
                todo=state.todo if isinstance(state, Failed) else "Look at its controller.",
            )
        client.pause(LOOK_AGAIN)
