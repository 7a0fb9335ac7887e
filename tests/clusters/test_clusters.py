"""Changing a cluster through its real API: applied once, pruned exactly, fenced, and honest about what fails."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_ops.clusters.apply import MANY, ApplyResult, apply_rendering
from nexus_ops.clusters.applyset import ApplySet, inventory
from nexus_ops.clusters.client import (
    AUTOSCALER,
    CONFIG_MAP,
    DEPLOYMENT,
    HTTP_ROUTE,
    LEASE,
    NAMESPACE,
    POD,
    ClusterClient,
    Kind,
)
from nexus_ops.clusters.errors import (
    ClusterUnreachable,
    FenceLost,
    FieldConflict,
    LeaseHeld,
    MissingContext,
    NotReady,
    Refused,
)
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import DURATION, SKEW, HeldLease, fence_of
from nexus_ops.clusters.readiness import Failed, Waiting, check_ready, wait_ready
from nexus_ops.clusters.watch import watch
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.rendering import render
from nexus_ops.topology import Cluster, Topology, default_path

Object = dict[str, Any]
CATALOGUE = FileCatalogue(default_path().parent / "images.yaml")
IMAGE, CRASHING = (CATALOGUE.images(version).images["risk-manager"] for version in ("v1.0.0", "v1.4.0"))
SECRET, CLAIM = Kind("v1", "Secret"), Kind("v1", "PersistentVolumeClaim")
POSTGRES = Kind("postgresql.cnpg.io/v1", "Cluster")
REDIS = Kind("redis.redis.opstreelabs.in/v1beta2", "RedisCluster")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAST = DURATION + SKEW + timedelta(seconds=1)


def config(namespace: str, name: str = "c", kind: str = "ConfigMap", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "data": data}


def deployment(namespace: str, name: str = "d", image: str = IMAGE, cpu: str = "10m", replicas: int = 9) -> Object:
    amounts = {"cpu": cpu, "memory": "16Mi"}
    ports = [{"name": "http", "containerPort": 8080}]
    container = {"name": "agent", "image": image, "ports": ports, "resources": {"requests": amounts, "limits": amounts}}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }  # fmt: skip


def autoscaler(namespace: str, name: str = "d") -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 5, "metrics": [cpu]},
    }  # fmt: skip


def data_layer() -> tuple[Object, ...]:
    """The databases as the chart renders them."""
    topology = Topology.load(default_path())
    chart, folder = read_chart(default_path().parent / "helm" / "nexus-ai-defi"), default_path().parent / "helm"
    built = build_release(topology, "staging", "v1.0.0", CATALOGUE, chart, folder / "values-staging.yaml")
    return render(built, topology.primary("staging"), "shared", chart).objects


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What the condition gives once it holds."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to hold in time"
        pause.wait(0.05)
    return value


@pytest.fixture
def blue(namespace: str) -> ApplySet:
    return ApplySet("applyset-blue", namespace)


@pytest.fixture
def impatient(cluster: Cluster, kubeconfig: Path) -> Iterator[ClusterClient]:
    """A client that gives up after a second."""
    found = ClusterClient.connect(cluster, kubeconfig=kubeconfig, patience=1.0)
    yield found
    found.close()


def apply(fenced: Fenced, applyset: ApplySet, *objects: Object, **options: Any) -> ApplyResult:
    return apply_rendering(fenced, objects, applyset, replicas=options.pop("replicas", {}), **options)


# ---------------------------------------------------------------- applying


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


# ---------------------------------------------------------------- pruning


def test_what_left_the_set_is_pruned_and_nothing_else(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    green = ApplySet("applyset-green", namespace)
    apply(fenced, blue, config(namespace, "stays"), config(namespace, "goes"), deployment(namespace))
    apply(fenced, green, config(namespace, "of-green"))
    fenced.client.create(config(namespace, "of-nobody"), manager="kubectl")
    result = apply(fenced, blue, config(namespace, "stays"))
    assert sorted(result.pruned) == ["ConfigMap/goes", "Deployment/d"]
    left = {obj["metadata"]["name"] for obj in fenced.client.list(CONFIG_MAP, namespace)}
    assert {"stays", "of-green", "of-nobody"} <= left
    assert "goes" not in left
    assert [name for *_, name in inventory(fenced.client, blue)] == ["stays"]


def test_what_holds_data_is_never_pruned(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """A mistake in a chart must not be able to delete a database."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "p", "namespace": namespace}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    apply(fenced, blue, config(namespace), config(namespace, "s", "Secret"), {**claim, "spec": spec}, space)
    result = apply(fenced, blue)
    assert result.pruned == ["ConfigMap/c"]
    assert sorted(result.kept_back) == [f"Namespace/{namespace}", "PersistentVolumeClaim/p", "Secret/s"]
    for kind, name, where in ((SECRET, "s", namespace), (CLAIM, "p", namespace), (NAMESPACE, namespace, None)):
        live = fenced.client.get(kind, name, where)
        assert live is not None
        assert "deletionTimestamp" not in live["metadata"]


@pytest.mark.parametrize("kind", [POSTGRES, REDIS])
def test_no_database_of_an_operator_is_ever_pruned(fenced: Fenced, blue: ApplySet, namespace: str, kind: Kind) -> None:
    if not fenced.client.serves(kind):
        pytest.skip(f"the cluster does not serve {kind.kind}")
    rendering = [obj for obj in data_layer() if Kind.of(obj) == kind]
    (database,) = [{**obj, "metadata": {"name": "db", "namespace": namespace}} for obj in rendering]
    apply(fenced, blue, database)
    assert apply(fenced, blue).kept_back == [f"{kind.kind}/db"]
    assert fenced.client.get(kind, "db", namespace)
    fenced.client.delete(kind, "db", namespace)


STEPS = st.lists(st.tuples(st.sets(st.sampled_from("abcde"), max_size=4), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, last=st.sets(st.sampled_from("abcde"), max_size=4))
def test_whatever_was_applied_and_cut_short_before_in_the_end_there_is_the_last_set(
    fenced: Fenced, namespace: str, steps: list[tuple[set[str], bool]], last: set[str]
) -> None:
    """`cut`: the driver is killed when the objects are there and nothing has been pruned yet, or before both."""
    whole = ApplySet("applyset-property", namespace)

    def die(_: str) -> None:
        raise KeyboardInterrupt

    for names, cut in steps:
        with contextlib.suppress(KeyboardInterrupt):
            apply(fenced, whole, *(config(namespace, name) for name in names), **({"report": die} if cut else {}))
    apply(fenced, whole, *(config(namespace, name) for name in last))
    ours = {"applyset.kubernetes.io/part-of": whole.id}
    assert {obj["metadata"]["name"] for obj in fenced.client.list(CONFIG_MAP, namespace, ours)} == last
    assert {name for *_, name in inventory(fenced.client, whole)} == last


def test_an_object_that_changed_hands_is_not_pruned(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """The list says what the set may own; the object's label says whose it is."""
    apply(fenced, blue, config(namespace))
    apply(fenced, ApplySet("applyset-green", namespace), config(namespace), adopt=True)
    assert apply(fenced, blue).pruned == []
    assert fenced.client.get(CONFIG_MAP, "c", namespace)


def test_a_driver_killed_before_it_pruned_leaves_nothing_unknown(
    fenced: Fenced, blue: ApplySet, namespace: str
) -> None:
    """The list is the union of old and new until the pruning is done."""
    apply(fenced, blue, config(namespace, "old"))

    def die(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(fenced, blue, config(namespace, "new"), report=die)
    assert {name for *_, name in inventory(fenced.client, blue)} == {"old", "new"}
    assert apply(fenced, blue, config(namespace, "new")).pruned == ["ConfigMap/old"]


@given(names=st.tuples(st.text(min_size=1), st.text(min_size=1)), spaces=st.tuples(st.text(), st.text()))
def test_the_id_of_a_set_is_a_label_value_of_its_own(names: tuple[str, str], spaces: tuple[str, str]) -> None:
    one, two = (ApplySet(name, space).id for name, space in zip(names, spaces, strict=True))
    assert len(one) <= 63
    assert one.startswith("applyset-")
    assert one.endswith("-v1")
    if f"{names[0]}.{spaces[0]}" != f"{names[1]}.{spaces[1]}":
        assert one != two


# ---------------------------------------------------------------- what belongs to others


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


# ---------------------------------------------------------------- the lease and the fence


def test_a_second_driver_is_told_who_holds_the_lease_and_until_when(take: Callable[[], HeldLease]) -> None:
    take()
    with pytest.raises(LeaseHeld, match=r"driver-1-\w+ drives this cluster until \d\d:\d\d:\d\d UTC"):
        take()


def test_every_taking_raises_the_token(take: Callable[[], HeldLease], clock: Any) -> None:
    first = take()
    first.release()
    second = take()
    clock.ahead += PAST
    third = take()
    assert first.token < second.token < third.token


def test_a_lease_that_was_deleted_does_not_begin_again(
    client: ClusterClient, take: Callable[[], HeldLease], namespace: str, blue: ApplySet
) -> None:
    """Its tokens would be below every fence there is, and nobody could ever write again."""
    for _ in range(3):
        with take() as lease:
            Fenced(client, lease).write_config_map("record", namespace, lambda data: {**data, lease.holder: "1"})
    client.delete(LEASE, "rollout", namespace)
    again = Fenced(client, take())
    assert again.token == 4
    again.write_config_map("record", namespace, lambda data: {**data, "again": "1"})


def test_a_lease_is_not_taken_over_within_the_skew_of_clocks(take: Callable[[], HeldLease], clock: Any) -> None:
    take()
    clock.ahead += DURATION + SKEW - timedelta(seconds=2)
    with pytest.raises(LeaseHeld):
        take()


def test_a_renewed_lease_stays(take: Callable[[], HeldLease], clock: Any) -> None:
    first = take()
    clock.ahead += DURATION
    first.renew()
    clock.ahead += SKEW + timedelta(seconds=1)
    with pytest.raises(LeaseHeld):
        take()


def test_of_many_drivers_that_start_at_once_one_gets_the_lease(take: Callable[[], HeldLease]) -> None:
    def attempt(_: int) -> HeldLease | None:
        try:
            return take()
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(8) as pool:
        held = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
    assert len(held) == 1


def test_the_lease_is_given_back_at_the_end_of_the_work(take: Callable[[], HeldLease]) -> None:
    with take() as first:
        first.check()
    take()  # and not LeaseHeld


def test_a_driver_that_was_paused_past_its_time_notices_before_it_writes(
    client: ClusterClient, take: Callable[[], HeldLease], clock: Any, namespace: str, blue: ApplySet
) -> None:
    """SIGSTOP, another driver takes over, SIGCONT: the first one changes nothing more, of any kind."""
    first = Fenced(client, take())
    apply(first, blue, config(namespace, a="first"), deployment(namespace))
    clock.ahead += PAST
    second = Fenced(client, take())
    for write in (
        lambda: first.apply_release(config(namespace, a="late")),
        lambda: first.apply_workload(deployment(namespace, "late"), 3),
        lambda: first.scale("d", namespace, 5),
        lambda: first.delete(CONFIG_MAP, "c", namespace),
        lambda: first.write_config_map("record", namespace, lambda _: {"a": "late"}),
        lambda: first.apply_routed(config(namespace, a="late")),
        first.lease.renew,
    ):
        with pytest.raises(FenceLost):
            write()
    assert (client.get(CONFIG_MAP, "c", namespace) or {})["data"] == {"a": "first"}
    assert client.get(DEPLOYMENT, "late", namespace) is None
    assert client.get(CONFIG_MAP, "record", namespace) is None
    assert second.scale("d", namespace, 0)["spec"]["replicas"] == 0


def test_a_paused_driver_that_nobody_replaced_goes_on(
    take: Callable[[], HeldLease], clock: Any, client: ClusterClient, namespace: str
) -> None:
    first = Fenced(client, take())
    clock.ahead += PAST
    first.write_config_map("record", namespace, lambda _: {"a": "1"})
    with pytest.raises(LeaseHeld):
        take()


@pytest.mark.parametrize("what", ["scale", "pin", "route", "record", "delete"])
def test_an_object_with_a_higher_fence_is_not_written(
    client: ClusterClient, take: Callable[[], HeldLease], clock: Any, namespace: str, blue: ApplySet, what: str
) -> None:
    """The lease protects by time, the fence without: even a driver that believes in its lease is stopped."""
    first = Fenced(client, take())
    apply(first, blue, deployment(namespace), autoscaler(namespace, "of-another"), config(namespace))
    first.write_config_map("record", namespace, lambda _: {"by": "first"})
    clock.ahead += PAST
    second = Fenced(client, take())
    second.scale("d", namespace, 1)
    second.pin_floor("of-another", namespace, 3)
    second.apply_routed(config(namespace, "route", weight="100"))
    second.write_config_map("record", namespace, lambda _: {"by": "second"})
    clock.ahead -= PAST  # the first one's clock says that its lease is good
    writes: dict[str, Callable[[], Any]] = {
        "scale": lambda: first.scale("d", namespace, 0),
        "pin": lambda: first.pin_floor("of-another", namespace, 1),
        "route": lambda: first.apply_routed(config(namespace, "route", weight="0")),
        "record": lambda: first.write_config_map("record", namespace, lambda _: {"by": "first"}),
        "delete": lambda: first.delete(DEPLOYMENT, "d", namespace),
    }
    with pytest.raises(FenceLost, match=r"written by a later driver \(fence 2, ours 1\)"):
        writes[what]()
    live = client.get(DEPLOYMENT, "d", namespace)
    assert live is not None
    assert (live["spec"]["replicas"], fence_of(live)) == (1, 2)
    assert (client.get(CONFIG_MAP, "route", namespace) or {})["data"] == {"weight": "100"}
    assert (client.get(CONFIG_MAP, "record", namespace) or {})["data"] == {"by": "second"}


def test_changes_of_a_record_by_several_threads_are_all_kept(fenced: Fenced, namespace: str) -> None:
    """Compare-and-swap: nobody's change is lost to somebody else's."""

    def add(number: int) -> None:
        fenced.write_config_map("record", namespace, lambda data: {**data, f"n{number}": "1"})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, range(6)))
    assert len((fenced.client.get(CONFIG_MAP, "record", namespace) or {})["data"]) == 6


@pytest.mark.sandbox_only
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_lease_whose_answer_was_lost_is_ours(
    client: ClusterClient, admin: httpx.Client, take: Callable[[], HeldLease], namespace: str, method: str
) -> None:
    """The request was carried out and tried again: our own success must not lock us out."""
    held = take() if method == "PUT" else None
    rule = {"action": "hold-after", "methods": [method], "path": f"*/{namespace}/leases*", "nth": 1}
    admin.put("/faults", json=[rule])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(held.renew if held else take)
        (hold,) = until(lambda: admin.get("/holds").json())
        admin.post(f"/holds/{hold['id']}/drop")
        found = running.result(timeout=15)
    (held or found).check()  # pyright: ignore[reportOptionalMemberAccess]


# ---------------------------------------------------------------- readiness


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


# ---------------------------------------------------------------- a busy, broken or missing server


@pytest.mark.sandbox_only
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again(
    fenced: Fenced, blue: ApplySet, admin: httpx.Client, namespace: str, status: int
) -> None:
    rule = {"action": "error", "status": status, "path": f"*/{namespace}/*", "times": 3}
    admin.put("/faults", json=[rule, {**rule, "methods": ["GET"], "times": 2}])
    assert apply(fenced, blue, config(namespace)).changed == ["ConfigMap/c"]


@pytest.mark.sandbox_only
def test_the_server_says_how_long_to_wait(
    cluster: Cluster, kubeconfig: Path, admin: httpx.Client, namespace: str
) -> None:
    waits: list[float] = []
    other = ClusterClient.connect(cluster, kubeconfig=kubeconfig)
    patient = ClusterClient(other._http, cluster.name, pause=waits.append)
    rule = {"action": "error", "status": 429, "methods": ["GET"], "path": f"*/{namespace}/*"}
    admin.put("/faults", json=[{**rule, "times": 1, "retry_after": 3}])
    assert patient.get(CONFIG_MAP, "none", namespace) is None
    assert len(waits) == 1
    assert waits[0] >= 3 * 0.8
    other.close()


@pytest.mark.sandbox_only
def test_a_server_that_stays_busy_is_an_error_and_not_an_empty_answer(
    impatient: ClusterClient, admin: httpx.Client, namespace: str
) -> None:
    """Read as 'nothing is there', a failed list would prune or recreate everything."""
    rule = {"action": "error", "status": 503, "methods": ["GET"], "path": f"*/{namespace}/configmaps*"}
    admin.put("/faults", json=[rule])
    for read in (lambda: impatient.list(CONFIG_MAP, namespace), lambda: impatient.get(CONFIG_MAP, "c", namespace)):
        with pytest.raises(ClusterUnreachable, match=r"did not serve GET \S+ in 1 s: it answers 503"):
            read()


@pytest.mark.sandbox_only
@pytest.mark.parametrize("status", [429, 503, 410])
def test_a_watch_outlives_a_busy_server(
    client: ClusterClient, admin: httpx.Client, namespace: str, status: int
) -> None:
    client.create(config(namespace, a="1"), manager="test")
    rule = {"action": "error", "status": status, "methods": ["GET"], "path": f"*/{namespace}/configmaps*", "times": 1}
    admin.put("/faults", json=[rule])
    found = (event for event in watch(client, CONFIG_MAP, namespace, seconds=10) if event is not None)
    assert next(found)["metadata"]["name"] == "c"


def test_a_watch_tells_of_what_is_there_and_of_what_changes(client: ClusterClient, namespace: str) -> None:
    client.create(config(namespace, a="1"), manager="test")
    values: list[str] = []
    for event in watch(client, CONFIG_MAP, namespace, seconds=15):
        if event is None or event["metadata"]["name"] != "c":
            continue
        values.append(event["data"]["a"])
        if values == ["1"]:
            client.replace({**event, "data": {"a": "2"}}, manager="test")
        else:
            break
    assert values == ["1", "2"]


@pytest.mark.sandbox_only
def test_a_stopped_cluster_is_one_sentence(impatient: ClusterClient, admin: httpx.Client) -> None:
    admin.post("/kill")
    with pytest.raises(ClusterUnreachable) as error:
        impatient.version()
    said = str(error.value)
    assert said.startswith("staging-us-west-2: the API server did not serve GET /version in 1 s: ")
    assert "\n" not in said
    assert "Traceback" not in said


@pytest.mark.sandbox_only
def test_a_server_that_hangs_holds_nobody_longer_than_their_patience(
    impatient: ClusterClient, admin: httpx.Client
) -> None:
    """It takes connections and never answers: a driver must come to its own deadline."""
    admin.post("/freeze")
    started = time.monotonic()
    with pytest.raises(ClusterUnreachable, match="ReadTimeout"):
        impatient.version()
    assert time.monotonic() - started < 10


def test_of_several_kubeconfigs_the_one_that_knows_the_context_is_taken(
    cluster: Cluster, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$KUBECONFIG is a list, as kubectl has it."""
    other = yaml.safe_load(kubeconfig.read_text())
    other = {**other, "contexts": [{**other["contexts"][0], "name": "other"}], "current-context": "other"}
    (tmp_path / "other").write_text(yaml.safe_dump(other))
    listed = [tmp_path / "none", tmp_path / "other", kubeconfig]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, listed)))
    assert ClusterClient.connect(cluster).version()
    with pytest.raises(MissingContext, match=r"needs the kube context 'nowhere'\..*Contexts there: .*other"):
        ClusterClient.connect(cluster.model_copy(update={"context": "nowhere"}))


def test_a_missing_context_lists_the_ones_there_are(cluster: Cluster, kubeconfig: Path) -> None:
    elsewhere = cluster.model_copy(update={"context": "nowhere"})
    with pytest.raises(MissingContext) as error:
        ClusterClient.connect(elsewhere, kubeconfig=kubeconfig)
    assert "cluster staging-us-west-2 needs the kube context 'nowhere'." in str(error.value)
    assert f"Contexts there: {cluster.context}" in str(error.value)


def test_a_missing_kubeconfig_says_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(MissingContext, match=r"there is no kubeconfig\. Set KUBECONFIG"):
        ClusterClient.connect(cluster, kubeconfig=tmp_path / "none")


def test_a_kind_that_the_cluster_does_not_know_is_named(client: ClusterClient) -> None:
    assert not client.serves(Kind("v1", "Magic"))
    assert client.serves(CONFIG_MAP)
    with pytest.raises(Refused, match="the cluster knows no v1 Magic"):
        client.list(Kind("v1", "Magic"), "default")


@pytest.mark.sandbox_only
def test_custom_kinds_are_found_by_discovery(client: ClusterClient) -> None:
    assert client.path(HTTP_ROUTE, "n", "r") == "/apis/gateway.networking.k8s.io/v1/namespaces/n/httproutes/r"
