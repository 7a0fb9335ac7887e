"""Whether a Deployment gets on: its condition Progressing, as kube-controller-manager's deployment/progress.go has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Object = dict[str, Any]
ENDLESS = 2**31 - 1
"""A deadline of so many seconds is none."""
AVAILABLE, EXCEEDED, PAUSED = "NewReplicaSetAvailable", "ProgressDeadlineExceeded", "DeploymentPaused"


@dataclass(frozen=True)
class Progress:
    """What the condition says now."""

    status: str
    reason: str
    message: str
    moved: bool = False
    """Something happened: the deadline counts from now."""
    due: float | None = None
    """Seconds until the deadline."""


def progress(
    deployment: Object, counts: dict[str, int], newest: str | None, now: datetime, *, created: bool
) -> Progress | None:
    """The condition, from the status before, the pods counted now, and the newest ReplicaSet.

    `created`: this ReplicaSet was made just now. None without a deadline.
    """
    spec, old = deployment["spec"], deployment.get("status") or {}
    deadline = spec.get("progressDeadlineSeconds", ENDLESS)
    if deadline == ENDLESS:
        return None
    current = next((c for c in old.get("conditions") or () if c["type"] == "Progressing"), None)
    if spec.get("paused"):
        return Progress("Unknown", PAUSED, "Deployment is paused")
    what = f'ReplicaSet "{newest}"' if newest else f'Deployment "{deployment["metadata"]["name"]}"'
    now_is = Progress(current["status"], current["reason"], current["message"]) if current else None
    if created or now_is is None:
        reason, verb = ("NewReplicaSetCreated", "Created") if created else ("FoundNewReplicaSet", "Found")
        now_is = Progress("True", reason, f'{verb} new replica set "{newest}"', moved=True)
    elif now_is.reason == PAUSED:
        now_is = Progress("Unknown", "DeploymentResumed", "Deployment is resumed", moved=True)
    if now_is.reason == AVAILABLE and counts["replicas"] == counts["updatedReplicas"]:
        return now_is
    total = spec["replicas"]
    if counts["updatedReplicas"] == counts["replicas"] == counts["availableReplicas"] == total:
        return Progress("True", AVAILABLE, f"{what} has successfully progressed.", moved=True)
    if _got_on(old, counts):
        return Progress("True", "ReplicaSetUpdated", f"{what} is progressing.", moved=True, due=deadline)
    if now_is.reason in (AVAILABLE, EXCEEDED):
        return now_is
    if now_is.moved or current is None:
        return Progress(now_is.status, now_is.reason, now_is.message, moved=True, due=deadline)
    left = datetime.fromisoformat(current["lastUpdateTime"]) + timedelta(seconds=deadline) - now
    if left < timedelta():
        return Progress("False", EXCEEDED, f"{what} has timed out progressing.", moved=True)
    return Progress(now_is.status, now_is.reason, now_is.message, due=left.total_seconds())


def _got_on(old: Object, counts: dict[str, int]) -> bool:
    """More pods are new, ready or available than before, or fewer are old."""

    def outdated(status: Object) -> int:
        return status.get("replicas", 0) - status.get("updatedReplicas", 0)

    more = any(counts[name] > old.get(name, 0) for name in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    return more or outdated(counts) < outdated(old)
