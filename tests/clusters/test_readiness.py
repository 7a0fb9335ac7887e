"""A wait ends when it is ready, or early with the reason when it never will be."""

from __future__ import annotations

import copy
import time
from datetime import timedelta
from typing import Any

import pytest
from cluster_objects import CRASHING, IMAGE, NOW, Object, apply, deployment

from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.errors import NotReady
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.readiness import Failed, Waiting, check_ready, wait_ready


def test_a_deployment_without_wanted_pods_is_ready(
    fenced: Fenced, client: ClusterClient, blue: ApplySet, namespace: str
) -> None:
    apply(fenced, blue, deployment(namespace))
    assert wait_ready(client, namespace, {"d": 0}, seconds=15) == {}


@pytest.mark.sandbox_only
def test_ready_is_reported_as_it_comes(fenced: Fenced, client: ClusterClient, blue: ApplySet, namespace: str) -> None:
    apply(fenced, blue, deployment(namespace), replicas={"d": 2})
    said: list[str] = []
    assert wait_ready(client, namespace, {"d": 2}, seconds=20, report=said.append) == {}
    assert said == ["d: 2 pods ready"]


@pytest.mark.parametrize(
    ("image", "cpu", "reason"),
    [
        pytest.param("nexus.invalid/x@sha256:" + "0" * 64, "10m", r"d: pod d-\S+: its image cannot be pulled", id="image"),
        pytest.param(IMAGE, "9000", r"d: pod d-\S+ fits no node: 0/\d+ nodes are available: .*Insufficient cpu", id="room"),
        pytest.param(
            CRASHING,
            "10m",
            r"d: pod d-\S+: it crashes again and again .* Its last words: .*key PRICE_FEED is missing",
            id="crash",
            marks=pytest.mark.sandbox_only,
        ),
    ],
)  # fmt: skip
def test_a_wait_that_is_in_vain_ends_early_with_the_reason(
    fenced: Fenced, client: ClusterClient, blue: ApplySet, namespace: str, image: str, cpu: str, reason: str
) -> None:
    apply(fenced, blue, deployment(namespace, image=image, cpu=cpu), replicas={"d": 1})
    started = time.monotonic()
    with pytest.raises(NotReady, match=reason):
        wait_ready(client, namespace, {"d": 1}, seconds=60, room=timedelta())
    assert time.monotonic() - started < 30


def test_what_is_not_ready_in_time_is_named_with_why(client: ClusterClient, namespace: str) -> None:
    assert wait_ready(client, namespace, {"nowhere": 1}, seconds=0.2) == {"nowhere": "it does not exist yet"}


def seen(replicas: int, ready: int, updated: int, **status: Any) -> Object:
    counts = {"replicas": replicas, "readyReplicas": ready, "updatedReplicas": updated, "observedGeneration": 2}
    made = deployment("n", replicas=2)
    return {**made, "metadata": {**made["metadata"], "generation": 2}, "status": {**counts, **status}}


@pytest.mark.parametrize(
    ("live", "verdict"),
    [
        (None, Waiting("it does not exist yet")),
        (seen(2, 2, 2), None),
        (seen(2, 1, 2), Waiting("1 of 2 pods are ready")),
        (seen(2, 2, 2, observedGeneration=1), Waiting("its controller has not seen it yet")),
        (seen(3, 2, 1), Waiting("2 of 2 pods are ready")),  # two of them are of the template before
        (
            seen(0, 0, 0, conditions=[{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: q"}]),
            Failed("its pods cannot be created: exceeded quota: q", todo="Raise the quota, or free what it counts."),
        ),
    ],
)
def test_ready_is_what_the_present_template_has(live: Object | None, verdict: object) -> None:
    assert check_ready(live, (), 2, now=NOW) == verdict


def crashing(restarts: int, image: str = IMAGE) -> Object:
    """A pod that crashed so often."""
    crash = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": restarts}
    spec = {"containers": [{"name": "agent", "image": image}]}
    return {"metadata": {"name": "p"}, "spec": spec, "status": {"containerStatuses": [crash]}}


def test_a_pod_that_leaves_does_not_fail_the_wait() -> None:
    """What crashes on its way out says nothing of what comes."""
    pod = crashing(9)
    assert isinstance(check_ready(seen(2, 1, 2), [pod], 2, now=NOW), Failed)
    leaving = copy.deepcopy(pod)
    leaving["metadata"]["deletionTimestamp"] = "2025-01-01T00:00:00Z"
    assert isinstance(check_ready(seen(2, 1, 2), [leaving], 2, now=NOW), Waiting)


def test_one_restart_is_bad_luck_and_no_crash_loop() -> None:
    assert isinstance(check_ready(seen(2, 1, 2), [crashing(1)], 2, now=NOW), Waiting)


def test_what_a_template_before_left_behind_does_not_fail_the_wait() -> None:
    """The version that mends a crash must not be judged by the pods that it replaces."""
    assert isinstance(check_ready(seen(3, 1, 1), [crashing(9, image=CRASHING)], 2, now=NOW), Waiting)
