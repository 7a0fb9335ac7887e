"""Waiting until workloads are ready, and saying early why they never will be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nexus_ops.clusters.client import DEPLOYMENT, POD, ClusterClient
from nexus_ops.clusters.errors import NotReady

Object = dict[str, Any]
HOPELESS = {
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "InvalidImageName": "its image's name is invalid",
    "CreateContainerConfigError": "its configuration is missing",
    "CrashLoopBackOff": "it crashes again and again",
}
CRASHES = 2
"""So many restarts make a crash loop: one may be bad luck."""


@dataclass(frozen=True)
class Waiting:
    """Not ready yet, in a sentence."""

    why: str


@dataclass(frozen=True)
class Failed:
    """It will not become ready by waiting; the pod whose log says more, where there is one."""

    why: str
    pod: str | None = None


def check_ready(deployment: Object | None, pods: Iterable[Object], wanted: int) -> Waiting | Failed | None:
    """None when `wanted` pods of the Deployment's present template are ready. Pure."""
    if deployment is None:
        return Waiting("it does not exist yet")
    status, name = deployment.get("status") or {}, deployment["metadata"]["name"]
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return Waiting("its controller has not seen it yet")
    for condition in status.get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return Failed(f"its pods cannot be created: {condition['message']}")
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return Failed(f"it made no progress in time: {condition['message']}")
    present = _images(deployment["spec"]["template"]["spec"])
    own = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    for pod in [pod for pod in own if _images(pod["spec"]) == present]:  # others are of a template before this one
        if failure := _failure(pod):
            return failure
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    if deployment["spec"].get("replicas", 0) < wanted:
        return Waiting(f"{name} is to have {wanted} pods and is set to {deployment['spec'].get('replicas', 0)}")
    if ready < wanted or updated < wanted or status.get("replicas", 0) > max(updated, wanted):
        return Waiting(f"{ready} of {wanted} pods are ready")
    return None


def _images(spec: Object) -> list[str]:
    return [container["image"] for container in spec["containers"]]


def _failure(pod: Object) -> Failed | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Failed(f"pod {name} fits no node: {condition.get('message', '')}")
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason == "CrashLoopBackOff" and container.get("restartCount", 0) < CRASHES:
            continue
        if reason in HOPELESS:
            return Failed(f"pod {name}: {HOPELESS[reason]} ({reason}: {waiting.get('message', '')})", pod=name)
    return None


def wait_ready(
    client: ClusterClient,
    namespace: str,
    wanted: dict[str, int],
    *,
    seconds: float,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Wait until each Deployment has so many ready pods; what is not ready in time, with why.

    `NotReady` as soon as one of them never will be, with the pod's last log lines.
    """
    deadline, open_ones = time.monotonic() + seconds, dict(wanted)
    said: dict[str, str] = {}
    while open_ones:
        deployments = {
            d["metadata"]["name"]: d for d in client.list(DEPLOYMENT, namespace) if d["metadata"]["name"] in open_ones
        }
        unready = {
            name: number
            for name, number in open_ones.items()
            if check_ready(deployments.get(name), (), number) is not None
        }
        for name in set(open_ones) - set(unready):
            report(f"{name}: {open_ones.pop(name)} pods ready")
            said.pop(name, None)
        for name, number in unready.items():
            labels = (deployments[name]["spec"]["selector"]["matchLabels"]) if name in deployments else None
            pods = client.list(POD, namespace, labels) if labels else []
            found = check_ready(deployments.get(name), pods, number)
            if isinstance(found, Failed):
                raise NotReady(
                    f"{found.why}{_last_lines(client, namespace, found.pod)}", target=f"{client.name}/{name}"
                )
            if found is not None:
                said[name] = found.why
        left = deadline - time.monotonic()
        if not open_ones or left <= 0:
            break
        _wait_for_change(client, namespace, min(left, 2.0))
    return {name: said.get(name, "not ready yet") for name in open_ones}


def _wait_for_change(client: ClusterClient, namespace: str, seconds: float) -> None:
    """Until a Deployment's status moves, at most so long."""
    started = time.monotonic()
    for _ in client.watch(DEPLOYMENT, namespace, seconds=seconds):
        if time.monotonic() - started > 0.15:  # the first events are only what is there already
            return


def _last_lines(client: ClusterClient, namespace: str, pod: str | None, lines: int = 5) -> str:
    if pod is None:
        return ""
    answer = client.proxy(f"namespaces/{namespace}/pods/{pod}/log", query={"tailLines": lines})
    text = answer.text.strip() if answer.status_code == 200 else ""
    return f" Its last words: {' | '.join(text.splitlines())}" if text else ""
