"""Waiting until workloads are ready, and saying early why they never will be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nexus_ops.clusters.client import DEPLOYMENT, POD, ClusterClient
from nexus_ops.clusters.errors import ClusterUnreachable, Crashes, NotReady
from nexus_ops.clusters.watch import watch

Object = dict[str, Any]
HOPELESS = {
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImageNeverPull": "its image is not on the node and must not be pulled",
    "InvalidImageName": "its image's name is invalid",
    "CreateContainerConfigError": "its configuration is missing",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
    "CrashLoopBackOff": "it crashes again and again",
}
CRASHES = 2
"""So many restarts make a crash loop: one may be bad luck."""
ROOM = timedelta(minutes=3)
"""How long a pod may fit no node: the cluster autoscaler brings a new one in one to three minutes."""
LOOK_AGAIN = 2.0
"""Seconds after which pods are looked at although no Deployment changed: a pod's trouble does not change one."""
SETTLE = 0.1
"""Seconds after a change before all is read again: changes come in swarms."""


@dataclass(frozen=True)
class Waiting:
    """Not ready yet, in a sentence."""

    why: str


@dataclass(frozen=True)
class Failed:
    """It will not become ready by waiting; the pod and container whose log says more, where there is one."""

    why: str
    pod: str | None = None
    container: str | None = None
    todo: str | None = None
    crashes: bool = False
    """Whether it is its own program that ends again and again."""


def check_ready(
    deployment: Object | None, pods: Iterable[Object], wanted: int, *, now: datetime, room: timedelta = ROOM
) -> Waiting | Failed | None:
    """None when `wanted` pods of the Deployment's present template are ready. Pure.

    `pods` are the Deployment's own; those of a template before the present one do not count. One that fits no node is
    waited for as long as `room`, since a node may be on its way.
    """
    if deployment is None:
        return Waiting("it does not exist yet")
    spec, status, name = deployment["spec"], deployment.get("status") or {}, deployment["metadata"]["name"]
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return Waiting("its controller has not seen it yet")
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    enough = ready >= wanted and updated >= wanted and status.get("replicas", 0) <= max(updated, wanted)
    if enough and spec.get("replicas", 0) >= wanted:
        return None
    for condition in status.get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            todo = "Raise the quota, or free what it counts." if "quota" in condition["message"] else None
            return Failed(f"its pods cannot be created: {condition['message']}", todo=todo)
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return Failed(f"it made no progress in time: {condition['message']}")
    found = [_trouble(pod, now, room) for pod in pods if _present(pod, spec["template"]["spec"])]
    if failed := [trouble for trouble in found if isinstance(trouble, Failed)]:
        return failed[0]
    if spec.get("replicas", 0) < wanted:
        return Waiting(f"{name} is to have {wanted} pods and is set to {spec.get('replicas', 0)}")
    because = next((f"; {trouble.why}" for trouble in found if trouble), "")
    return Waiting(f"{ready} of {wanted} pods are ready{because}")


def _present(pod: Object, template: Object) -> bool:
    """Whether a pod is of this template and here to stay. Others may add containers to it (a service mesh does)."""
    images = {container["image"] for container in pod["spec"]["containers"]}
    return "deletionTimestamp" not in pod["metadata"] and all(
        container["image"] in images for container in template["containers"]
    )


def _trouble(pod: Object, now: datetime, room: timedelta) -> Waiting | Failed | None:
    """Why a pod is not ready, and whether waiting helps."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            why = f"pod {name} fits no node: {condition.get('message', '')}"
            since = condition.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
            if since and now - datetime.fromisoformat(since) < room:
                return Waiting(why)
            return Failed(why, todo="Raise the node group's maximum, or lower the requests.")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason == "CrashLoopBackOff" and container.get("restartCount", 0) < CRASHES:
            continue
        if reason in HOPELESS:
            why = f"pod {name}: {HOPELESS[reason]} ({reason}: {waiting.get('message', '')}{_ended(container)})"
            return Failed(why, pod=name, container=container.get("name"), crashes=reason == "CrashLoopBackOff")
    return None


def _ended(container: Object) -> str:
    """How the container ended last, where it did: `; OOMKilled, exit code 137`."""
    ended = (container.get("lastState") or {}).get("terminated")
    return f"; {ended.get('reason') or 'ended'}, exit code {ended.get('exitCode')}" if ended else ""


def wait_ready(
    client: ClusterClient,
    namespace: str,
    wanted: Mapping[str, int],
    *,
    seconds: float,
    room: timedelta = ROOM,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Wait until each Deployment has so many ready pods; what is not ready in time, with why.

    `NotReady` as soon as one of them never will be, with the pod's last log lines. `room`: how long a pod may fit no
    node, which is how long a new node may take.
    """
    deadline, open_ones = time.monotonic() + seconds, dict(wanted)
    said: dict[str, str] = {}
    while open_ones:
        listed, version = client.list_at(DEPLOYMENT, namespace)
        pods, now = client.list(POD, namespace), datetime.now(UTC)
        deployments = {deployment["metadata"]["name"]: deployment for deployment in listed}
        for name, number in list(open_ones.items()):
            found = check_ready(deployments.get(name), _own(deployments.get(name), pods), number, now=now, room=room)
            if found is None:
                report(f"{name}: {open_ones.pop(name)} pods ready")
                said.pop(name, None)
            elif isinstance(found, Failed):
                why = f"{found.why}{_last_lines(client, namespace, found)}"
                error = Crashes if found.crashes else NotReady
                raise error(why, target=f"{client.name}/{name}", todo=found.todo)
            else:
                said[name] = found.why
        left = deadline - time.monotonic()
        if not open_ones or left <= 0:
            break
        _wait_for_change(client, namespace, version, min(left, LOOK_AGAIN))
    return {name: said.get(name, "not ready yet") for name in open_ones}


def _own(deployment: Object | None, pods: Iterable[Object]) -> list[Object]:
    """The pods that a Deployment selects."""
    selects = deployment["spec"]["selector"].get("matchLabels") or {} if deployment else {}
    return [pod for pod in pods if selects and selects.items() <= (pod["metadata"].get("labels") or {}).items()]


def _wait_for_change(client: ClusterClient, namespace: str, version: str, seconds: float) -> None:
    """Until a Deployment changes after the version that was read; at most so long."""
    for changed in watch(client, DEPLOYMENT, namespace, seconds=seconds, since=version):
        if changed is not None:
            client.pause(SETTLE)
            return


def _last_lines(client: ClusterClient, namespace: str, failed: Failed, lines: int = 5) -> str:
    """What the container said last. That it cannot be read must not hide why the wait has failed."""
    if failed.pod is None or failed.container is None:
        return ""
    query = {"tailLines": lines, "container": failed.container}
    try:
        answer = client.proxy(f"namespaces/{namespace}/pods/{failed.pod}/log", query=query)
    except ClusterUnreachable:
        return ""
    text = answer.text.strip() if answer.status_code == 200 else ""
    return f". Its last words: {' | '.join(text.splitlines())}" if text else ""
