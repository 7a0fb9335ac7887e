"""No sequence of faults makes the library lose an update, or hang: every write that it says was made is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_ops.clusters.apply import apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import CONFIG_MAP, ClusterClient
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import HeldLease
from nexus_ops.clusters.watch import watch
from nexus_ops.errors import OperationError
from nexus_ops.topology import Cluster

pytestmark = [pytest.mark.sandbox_only]
Object = dict[str, Any]
PATIENCE = 4.0
LONGEST = 60.0
"""Seconds within which a handful of calls has to be over, whatever the server does: none has more than 15 s of patience."""

METHODS = st.lists(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]), min_size=1, max_size=5, unique=True)
COUNTS = {"times": st.integers(1, 3), "nth": st.none() | st.integers(1, 4)}
RULES = st.one_of(
    st.fixed_dictionaries(
        {"action": st.just("error"), "methods": METHODS, "status": st.sampled_from([409, 410, 429, 500, 502, 503, 504]),
         "retry_after": st.none() | st.just(1), **COUNTS}
    ),
    st.fixed_dictionaries({"action": st.just("delay"), "methods": METHODS, "seconds": st.sampled_from([0.05, 1.5]), **COUNTS}),
    st.fixed_dictionaries({"action": st.sampled_from(["hold-before", "hold-after"]), "methods": METHODS, **COUNTS}),
    st.fixed_dictionaries({"action": st.just("drop-watch"), "methods": st.just(["WATCH"]), **COUNTS}),
)  # fmt: skip
STORMS = st.fixed_dictionaries({
    "rules": st.lists(RULES, max_size=5),
    "holds": st.sampled_from(["release", "drop"]),
    "outage": st.none() | st.tuples(st.sampled_from([("freeze", "thaw"), ("kill", "revive")]), st.floats(0.0, 2.0)),
})  # fmt: skip
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def storm(admin: httpx.Client, namespace: str, weather: dict[str, Any]) -> Generator[None]:
    """The faults of `weather` on everything in the namespace, while the block runs; calm after it."""
    paths = [{**rule, "path": f"*/{namespace}/configmaps*"} for rule in weather["rules"]]
    admin.put("/faults", json=[{key: value for key, value in rule.items() if value is not None} for rule in paths])
    over = threading.Event()

    def let_go() -> None:
        """Decide on whatever is held, as long as it lasts."""
        while not over.wait(0.1):
            for hold in admin.get("/holds").json():
                admin.post(f"/holds/{hold['id']}/{weather['holds']}")

    def go_out() -> None:
        (begin, end), seconds = weather["outage"]
        if not over.wait(seconds / 4):
            admin.post(f"/{begin}")
            over.wait(seconds)
        admin.post(f"/{end}")

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(let_go), *([pool.submit(go_out)] if weather["outage"] else [])]
        try:
            yield
        finally:
            over.set()
            for one in running:
                one.result()
            admin.post("/thaw")
            admin.post("/revive")
            admin.delete("/faults")
            for hold in admin.get("/holds").json():
                admin.post(f"/holds/{hold['id']}/release")


def made(work: Callable[[], object]) -> bool:
    """Whether a call says that it did its work; an error must be one that a caller can act on."""
    try:
        work()
    except OperationError:
        return False
    return True


@pytest.fixture
def stormy(cluster: Cluster, kubeconfig: Path, namespace: str, take: Callable[[], HeldLease]) -> Iterator[Fenced]:
    """Writes with little patience, so that a storm outlasts some of them."""
    client = ClusterClient.connect(cluster, kubeconfig=kubeconfig, patience=PATIENCE)
    yield Fenced(client, take())
    client.close()


@given(weather=STORMS)
@few
def test_no_update_of_a_record_is_lost(
    stormy: Fenced, client: ClusterClient, admin: httpx.Client, namespace: str, weather: dict[str, Any]
) -> None:
    """Three writers change one ConfigMap by compare-and-swap in a storm: what was reported as written stays."""
    client.delete(CONFIG_MAP, "record", namespace)
    began = time.monotonic()

    def add(key: str) -> bool:
        return made(lambda: stormy.write_config_map("record", namespace, lambda data: {**data, key: "1"}))

    with storm(admin, namespace, weather), ThreadPoolExecutor(3) as pool:
        keys = [f"k{number}" for number in range(6)]
        written = [key for key, said in zip(keys, pool.map(add, keys), strict=True) if said]
    assert time.monotonic() - began < LONGEST
    found = (client.get(CONFIG_MAP, "record", namespace) or {"data": {}})["data"]
    assert set(written) <= set(found), "a write that was reported is gone"
    assert add("calm"), "the record can be written again"


@given(weather=STORMS)
@few
def test_an_apply_that_was_cut_short_is_finished_by_the_next(
    stormy: Fenced, client: ClusterClient, admin: httpx.Client, namespace: str, weather: dict[str, Any]
) -> None:
    """What it says is applied is there; after the storm one more apply makes it whole, and prunes what left the set."""
    blue = ApplySet("applyset-blue", namespace)
    number = time.monotonic_ns()

    def wanted(names: str) -> list[Object]:
        meta = [{"name": name, "namespace": namespace} for name in names]
        return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": one, "data": {"v": f"{number}"}} for one in meta]

    def apply(names: str) -> bool:
        return made(lambda: apply_rendering(stormy, wanted(names), blue, replicas={}))

    def present() -> dict[str, str]:
        return {
            obj["metadata"]["name"]: obj["data"]["v"]
            for obj in client.list(CONFIG_MAP, namespace)
            if "v" in (obj.get("data") or {})
        }

    began = time.monotonic()
    with storm(admin, namespace, weather):
        done = apply("abc")
        assert not done or present_in_calm(present, "abc", f"{number}")
        apply("cde")
    assert time.monotonic() - began < 2 * LONGEST
    assert apply("cde"), "a calm server takes it"
    assert present() == dict.fromkeys("cde", f"{number}")
    assert apply("")
    assert present() == {}


def present_in_calm(present: Callable[[], dict[str, str]], names: str, value: str) -> bool:
    """Whether all of these are there; a look that the storm prevents says nothing."""
    try:
        return set(names) <= {name for name, found in present().items() if found == value}
    except OperationError:
        return True


@given(weather=STORMS)
@few
def test_a_watch_misses_no_change(
    client: ClusterClient, admin: httpx.Client, namespace: str, weather: dict[str, Any]
) -> None:
    """It sees the last state of each object, however often it is dropped, and ends in time."""
    for name in "ab":
        client.delete(CONFIG_MAP, name, namespace)
    seen: dict[str, str] = {}
    watching, written = threading.Event(), threading.Event()

    def look() -> None:
        for obj in watch(client, CONFIG_MAP, namespace, seconds=30):
            watching.set()
            if obj and obj["metadata"]["name"] in "ab":
                seen[obj["metadata"]["name"]] = obj["data"]["v"]
            if written.is_set() and seen == {"a": "2", "b": "2"}:
                return

    with ThreadPoolExecutor(1) as pool:
        with storm(
            admin, namespace, {**weather, "rules": [r for r in weather["rules"] if r["action"] == "drop-watch"]}
        ):
            running = pool.submit(look)
            for value in "12":
                for name in "ab":
                    meta = {"name": name, "namespace": namespace}
                    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"v": value}}
                    client.apply(body, manager="test", force=True)
        written.set()
        client.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "z", "namespace": namespace}}, manager="test"
        )
        running.result(timeout=60)
    assert seen == {"a": "2", "b": "2"}
