"""What is applied is there afterwards, once, and nothing that belongs to others is taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cluster_objects import PAST, Object, apply, autoscaler, config, deployment, until

from nexus_ops.clusters.apply import MANY, ApplyResult
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import AUTOSCALER, CONFIG_MAP, DEPLOYMENT, POD, ClusterClient
from nexus_ops.clusters.errors import FenceLost, FieldConflict, Refused
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import HeldLease, fence_of


def test_many_objects_of_a_kind_are_applied_as_few_are(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """They are listed and not read one by one: what is new, unchanged, somebody else's or gone has to be seen all the same."""
    objects = [config(namespace, f"c{number}", a="1") for number in range(MANY + 5)]
    assert len(apply(fenced, blue, *objects).changed) == len(objects)
    assert apply(fenced, blue, *objects).changed == []
    objects[3] = config(namespace, "c3", a="2")
    again = apply(fenced, blue, *objects[:-1])
    assert (again.changed, again.pruned) == (["ConfigMap/c3"], [f"ConfigMap/c{MANY + 4}"])
    other = {**config(namespace, "c99", a="1")}
    other["metadata"]["annotations"] = {"meta.helm.sh/release-name": "theirs"}
    fenced.client.create(other, manager="helm")
    with pytest.raises(Refused, match="it belongs to the Helm release theirs"):
        apply(fenced, blue, *objects, config(namespace, "c99", a="2"))


def test_what_was_listed_and_changed_since_is_read_anew(
    fenced: Fenced, take: Callable[[], HeldLease], clock: Any, namespace: str
) -> None:
    """A list is older than a read: a driver that was paused after it must not write over a later one's work."""
    fenced.apply_release(config(namespace, a="1"))
    stale = {"c": fenced.client.get(CONFIG_MAP, "c", namespace) or {}}
    fenced.client.replace({**stale["c"], "data": {"a": "1", "theirs": "1"}}, manager="other")
    assert fenced.apply_release(config(namespace, a="2"), seen=stale)[0]["data"] == {"a": "2", "theirs": "1"}
    stale = {"c": fenced.client.get(CONFIG_MAP, "c", namespace) or {}}
    clock.ahead = timedelta(minutes=1)
    later = Fenced(fenced.client, take())
    later.write_config_map("c", namespace, lambda data: data)
    clock.ahead = timedelta()
    with pytest.raises(FenceLost, match="written by a later driver"):
        fenced.apply_release(config(namespace, a="3"), seen=stale)


def test_applying_twice_changes_nothing(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    objects = [config(namespace, a="1"), deployment(namespace), autoscaler(namespace)]
    first = apply(fenced, blue, *objects)
    assert sorted(first.changed) == ["ConfigMap/c", "Deployment/d", "HorizontalPodAutoscaler/d"]
    until(lambda: (fenced.client.get(DEPLOYMENT, "d", namespace) or {}).get("status", {}).get("observedGeneration"))
    second = apply(fenced, blue, *objects)
    assert sorted(second.unchanged) == sorted(first.changed)
    assert (second.changed, second.pruned, second.kept_back) == ([], [], [])


def test_only_what_changed_is_changed(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    apply(fenced, blue, config(namespace, "one", a="1"), config(namespace, "two", a="1"))
    result = apply(fenced, blue, config(namespace, "one", a="1"), config(namespace, "two", a="2"))
    assert (result.changed, result.unchanged) == (["ConfigMap/two"], ["ConfigMap/one"])


def test_a_new_deployment_starts_with_the_pods_it_was_asked_for(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """An exclusive component of the candidate must not have a pod, not even for a moment; the rollout owns replicas."""
    apply(fenced, blue, deployment(namespace), deployment(namespace, "exclusive"), replicas={"d": 1})
    until(lambda: fenced.client.list(POD, namespace, {"app": "d"}))
    assert fenced.client.list(POD, namespace, {"app": "exclusive"}) == []
    live = fenced.client.get(DEPLOYMENT, "exclusive", namespace)
    assert live is not None
    assert live["spec"]["replicas"] == 0
    owned = {entry["manager"]: entry["fieldsV1"] for entry in live["metadata"]["managedFields"]}
    assert "f:replicas" not in owned["nexus-release"]["f:spec"]
    assert set(owned["nexus-rollout"]["f:spec"]) == {"f:replicas"}


class Killed(BaseException):
    """A driver ends here."""


@pytest.mark.parametrize("steps", range(5))
def test_a_driver_killed_while_it_makes_a_deployment_blocks_nobody(
    client: ClusterClient,
    take: Callable[[], HeldLease],
    namespace: str,
    blue: ApplySet,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    """After any step of the making; the next driver comes with another version, and it must win every field."""
    first, done, whole = Fenced(client, take()), itertools.count(), client.apply

    def dying(obj: Object, **options: Any) -> Object:
        if obj["kind"] == "Deployment" and next(done) == steps:
            raise Killed
        return whole(obj, **options)

    with monkeypatch.context() as patch:
        patch.setattr(client, "apply", dying)
        try:
            apply(first, blue, deployment(namespace), replicas={"d": 1})
        except Killed:
            pass
        else:
            assert steps == 4, "the making has fewer steps than this test kills it after"
    first.lease.release()
    second, changed = Fenced(client, take()), deployment(namespace, cpu="20m")
    del changed["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    apply(second, blue, changed, replicas={"d": 1})
    live = client.get(DEPLOYMENT, "d", namespace) or {}
    assert live["spec"]["replicas"] == 1
    amounts = live["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert amounts == {"requests": {"cpu": "20m", "memory": "16Mi"}}
    owners = {entry["manager"] for entry in live["metadata"]["managedFields"] if entry["operation"] == "Apply"}
    assert owners == {"nexus-release", "nexus-rollout"}


def test_a_creation_that_comes_too_late_changes_nothing(
    client: ClusterClient,
    take: Callable[[], HeldLease],
    clock: Any,
    namespace: str,
    blue: ApplySet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frozen between the look (there is none) and the creation: by then a later driver has made and scaled it."""
    first = Fenced(client, take())
    clock.ahead += PAST
    second = Fenced(client, take())
    apply(second, blue, deployment(namespace), replicas={"d": 1})
    scaled = second.scale("d", namespace, 2)
    clock.ahead -= PAST  # the first one's clock says that its lease is good
    seen, look = [None], client.get
    with monkeypatch.context() as patch:
        patch.setattr(client, "get", lambda *what: seen.pop() if seen else look(*what))
        with pytest.raises(FenceLost):
            first.apply_workload(deployment(namespace), 0)
    live = client.get(DEPLOYMENT, "d", namespace) or {}
    assert live["spec"] == scaled["spec"]
    assert fence_of(live) == 2


def test_a_release_leaves_the_replicas_that_the_rollout_set(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    apply(fenced, blue, deployment(namespace))
    fenced.scale("d", namespace, 2)
    changed = deployment(namespace)
    changed["spec"]["template"]["metadata"]["annotations"] = {"release": "next"}
    assert apply(fenced, blue, changed).changed == ["Deployment/d"]
    assert (fenced.client.get(DEPLOYMENT, "d", namespace) or {})["spec"]["replicas"] == 2


def test_the_autoscalers_floor_stays_within_its_ceiling(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    apply(fenced, blue, deployment(namespace), autoscaler(namespace))
    assert fenced.pin_floor("d", namespace, 50)["spec"]["minReplicas"] == 5
    assert fenced.pin_floor("d", namespace, 0)["spec"]["minReplicas"] == 1
    apply(fenced, blue, deployment(namespace), autoscaler(namespace))
    assert (fenced.client.get(AUTOSCALER, "d", namespace) or {})["spec"]["minReplicas"] == 1


def test_routed_objects_are_left_to_the_router(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """A release that wrote its weights of 0 would take everyone's traffic away."""
    routed = config(namespace, weight="0")
    routed["metadata"]["labels"] = {"nexus.ai/routed": "true"}
    assert apply(fenced, blue, routed) == ApplyResult()
    fenced.apply_routed({**routed, "data": {"weight": "100"}})
    apply(fenced, blue, routed)
    assert (fenced.client.get(CONFIG_MAP, "c", namespace) or {})["data"] == {"weight": "100"}


def test_an_invalid_object_is_refused_with_the_servers_reason(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    wrong = deployment(namespace)
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "another"}
    with pytest.raises(Refused, match="selector"):
        apply(fenced, blue, wrong)


@pytest.mark.parametrize("owner", ["helm", "another set"])
def test_an_object_of_somebody_else_is_refused_unless_adopted(
    fenced: Fenced, blue: ApplySet, namespace: str, owner: str
) -> None:
    foreign = config(namespace, a="theirs")
    if owner == "helm":
        foreign["metadata"]["annotations"] = {"meta.helm.sh/release-name": "grafana"}
    else:
        foreign["metadata"]["labels"] = {"applyset.kubernetes.io/part-of": "applyset-other-v1"}
    fenced.client.apply(foreign, manager="helm")
    whose = "the Helm release grafana" if owner == "helm" else "the apply-set applyset-other-v1"
    with pytest.raises(Refused, match=f"ConfigMap/c: .*it belongs to {whose}; take it over with adopt: true"):
        apply(fenced, blue, config(namespace, a="ours"))
    assert (fenced.client.get(CONFIG_MAP, "c", namespace) or {})["data"] == {"a": "theirs"}
    assert apply(fenced, blue, config(namespace, a="ours"), adopt=True).changed == ["ConfigMap/c"]
    assert (fenced.client.get(CONFIG_MAP, "c", namespace) or {})["data"] == {"a": "ours"}
    assert apply(fenced, blue, config(namespace, a="ours")).unchanged == ["ConfigMap/c"]  # it is ours from now on


def test_a_conflict_names_the_field_and_its_manager(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """Drift is shown to a person, not forced away."""
    fenced.client.apply(config(namespace, a="by hand"), manager="kubectl-edit")
    with pytest.raises(FieldConflict) as conflict:
        apply(fenced, blue, config(namespace, a="by release"))
    assert ".data.a" in str(conflict.value)
    assert "kubectl-edit" in str(conflict.value)
    assert (fenced.client.get(CONFIG_MAP, "c", namespace) or {})["data"] == {"a": "by hand"}
