"""What is applied is waited for by what its own controller says, whatever kind it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from nexus_ops.clusters.apply import apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.clusters.errors import NotReady
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.readiness import Failed, Waiting
from nexus_ops.clusters.settled import check_settled, unsettled, wait_settled

Object = dict[str, Any]
DEFINITION = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
CLAIM = Kind("v1", "PersistentVolumeClaim")


def thing(kind: str, spec: Object | None = None, status: Object | None = None, generation: int = 1) -> Object:
    return {
        "apiVersion": "v1", "kind": kind, "metadata": {"name": "it", "generation": generation},
        "spec": spec or {}, "status": status or {},
    }  # fmt: skip


def said(name: str, status: str, message: str = "", **more: Any) -> Object:
    return {"conditions": [{"type": name, "status": status, "message": message, **more}]}


TWO_OF_THREE = {"observedGeneration": 1, "readyReplicas": 2}
HALF_MOVED = {
    "observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b",
}  # fmt: skip


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (thing("StatefulSet", {"replicas": 3}, {"observedGeneration": 0}), "its controller has not seen it yet"),
        (thing("StatefulSet", {"replicas": 3}, TWO_OF_THREE), "2 of 3 pods are ready"),
        (thing("StatefulSet", {"replicas": 3}, HALF_MOVED), "1 of 3 pods are ready"),
        (
            thing(
                "DaemonSet",
                status={
                    "observedGeneration": 1,
                    "desiredNumberScheduled": 4,
                    "numberReady": 4,
                    "updatedNumberScheduled": 3,
                },
            ),
            "3 of 4 nodes have a ready pod of it",
        ),
        (thing("Job", {"completions": 2}, {"succeeded": 1}), "1 of 2 of its pods have succeeded"),
        (thing("Namespace", status={"phase": "Terminating"}), "it is terminating"),
        (thing("CustomResourceDefinition"), "it is not served yet"),
        (thing("PersistentVolumeClaim", status={"phase": "Pending"}), "it has no volume yet"),
        (thing("Gateway", status=said("Programmed", "True", observedGeneration=0)), "it is not programmed yet"),
        (thing("Ingress"), "its load balancer has no address yet"),
        (
            thing("Cluster", {"instances": 3}, {"readyInstances": 1, "phase": "Creating a new replica"}),
            "1 of 3 instances are ready (Creating a new replica)",
        ),
        (
            thing("RedisCluster", {"clusterSize": 3}, {"readyLeaderReplicas": 3}),
            "3 of 3 leaders and 0 of 3 followers are ready",
        ),
        (thing("Prometheus"), "its operator has not looked at it yet"),
        (thing("Alertmanager", status=said("Available", "False", "shard 0: no claim")), "shard 0: no claim"),
        (None, "it does not exist yet"),
    ],
)
def test_what_is_not_there_yet_says_how_far_it_is(obj: Object | None, why: str) -> None:
    assert check_settled(obj) == Waiting(why)


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (
            thing("Job", status=said("Failed", "True", "Job has reached the backoff limit", reason="BackoffLimit")),
            "backoff limit",
        ),
        (thing("PersistentVolumeClaim", status={"phase": "Lost"}), "volume is lost"),
        (thing("CustomResourceDefinition", status=said("NamesAccepted", "False", "taken")), "names are not accepted"),
        (
            thing("Gateway", status=said("Accepted", "False", "no such class", observedGeneration=1)),
            "does not accept it: no such class",
        ),
    ],
)
def test_what_will_not_come_by_waiting_fails_at_once_with_its_reason(obj: Object, why: str) -> None:
    state = check_settled(obj)
    assert isinstance(state, Failed)
    assert why in state.why


@pytest.mark.parametrize(
    "obj",
    [
        thing("StatefulSet", {"replicas": 2}, {"observedGeneration": 1, "readyReplicas": 2}),
        thing("StatefulSet", {"replicas": 0}, {"observedGeneration": 1}),
        thing(
            "DaemonSet",
            status={
                "observedGeneration": 1,
                "desiredNumberScheduled": 2,
                "numberReady": 2,
                "updatedNumberScheduled": 2,
            },
        ),
        thing("Job", status=said("Complete", "True")),
        thing("Namespace", status={"phase": "Active"}),
        thing("CustomResourceDefinition", status=said("Established", "True")),
        thing("PersistentVolumeClaim", status={"phase": "Bound"}),
        thing("Gateway", status=said("Programmed", "True", observedGeneration=1)),
        thing("Ingress", status={"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}),
        thing("Cluster", {"instances": 3}, {"readyInstances": 3}),
        thing("RedisCluster", {"clusterSize": 3}, {"readyLeaderReplicas": 3, "readyFollowerReplicas": 3}),
        thing("Prometheus", status=said("Available", "True")),
        thing("ConfigMap"),
    ],
)
def test_what_its_controller_calls_ready_is_settled(obj: Object) -> None:
    assert check_settled(obj) is None


@pytest.fixture
def definition(client: ClusterClient) -> Iterator[Object]:
    """The definition of a kind that nobody else has."""
    word = f"w{uuid.uuid4().hex[:8]}"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    yield {
        "apiVersion": DEFINITION.api_version, "kind": DEFINITION.kind,
        "metadata": {"name": f"{word}s.test.nexus-ops.example"},
        "spec": {
            "group": "test.nexus-ops.example", "scope": "Namespaced",
            "names": {"plural": f"{word}s", "singular": word, "kind": word.capitalize(), "listKind": f"{word.capitalize()}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }  # fmt: skip
    client.delete(DEFINITION, f"{word}s.test.nexus-ops.example", None)


def test_a_definition_is_served_before_an_object_of_it_is_applied(
    fenced: Fenced, namespace: str, definition: Object
) -> None:
    """Applied in one go: an object that comes before its kind is served is refused."""
    kind = definition["spec"]["names"]["kind"]
    own = {
        "apiVersion": "test.nexus-ops.example/v1", "kind": kind,
        "metadata": {"name": "one", "namespace": namespace}, "spec": {"a": 1},
    }  # fmt: skip
    result = apply_rendering(fenced, [own, definition], ApplySet("applyset-blue", namespace), replicas={})
    assert f"{kind}/one" in result.changed


def test_a_wait_in_vain_names_the_object_and_why(client: ClusterClient, fenced: Fenced, namespace: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "p", "namespace": namespace}, "spec": spec,
    }  # fmt: skip
    apply_rendering(fenced, [claim], ApplySet("applyset-blue", namespace), replicas={})
    assert unsettled(client, [claim]) == {"PersistentVolumeClaim p": Waiting("it has no volume yet")}
    with pytest.raises(NotReady, match=r"PersistentVolumeClaim p: it has no volume yet after 1 s\."):
        wait_settled(client, [claim], seconds=1)
