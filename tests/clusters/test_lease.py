"""One driver at a time: the Lease, and the fence on what it writes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
from cluster_objects import PAST, apply, autoscaler, config, deployment, until

from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import CONFIG_MAP, DEPLOYMENT, LEASE, ClusterClient
from nexus_ops.clusters.errors import FenceLost, LeaseHeld
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import DURATION, SKEW, HeldLease, fence_of


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
