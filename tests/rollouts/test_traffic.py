"""Users and orders while releases move: no request is lost, every order is executed exactly once."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from platform_cluster import CLUSTER, Platform

from nexus_ops.rollouts.operations import request_abort
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox.traffic import Tally, send_orders, send_requests

pytestmark = [pytest.mark.sandbox_only, pytest.mark.alone]
RATE = 300.0


@contextmanager
def traffic(platform: Platform, sent: list[str]) -> Generator[Tally]:
    """An open-loop client without retries, and senders of orders, in a thread of their own."""
    tally = Tally()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    cluster = platform.topology.cluster(CLUSTER)

    async def run() -> None:
        await asyncio.gather(
            send_requests(platform.urls["edge"], platform.context().host, RATE, tally, stop),
            send_orders(platform.urls["services"], "execution-engine", cluster.namespace, 10.0, sent, stop),
            send_orders(platform.urls["services"], "payment-processor", cluster.namespace, 5.0, sent, stop),
        )

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        yield tally
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=90)
        loop.close()


def executed(platform: Platform) -> Counter[str]:
    """How often each order was executed."""
    return Counter(order["id"] for order in platform.admin("GET", "/orders"))


def test_no_request_is_lost_and_every_order_is_executed_once(platform: Platform) -> None:
    """Over a switch, a clean-up, another switch, and the way back."""
    platform.ensure("v1.0.0")
    sent: list[str] = []
    began = time.monotonic()
    with traffic(platform, sent) as tally:
        assert platform.deploy("v1.1.0").state == "done"
        platform.begin("v1.0.0", Settings(monitor_seconds=30, hold_seconds=30))
        watched = threading.Timer(12.0, lambda: request_abort(platform.context(), "test", "the way back under traffic"))
        watched.start()
        assert platform.finish().state == "rolled-back"
        took = time.monotonic() - began
    assert len(tally.answers) >= 0.95 * RATE * took, "too little was sent to see a loss"
    assert Counter(tally.answers[identity] for identity in tally.lost) == {}
    served = {entry["id"] for entry in platform.admin("GET", "/requests")}
    assert set(tally.answers) <= served, "answered, but in no pod's log"
    counts = executed(platform)
    assert len(sent) > 100
    assert {identity: counts[identity] for identity in sent if counts[identity] != 1} == {}


def test_the_control_without_draining_something_is_lost_or_done_twice(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    for version in ("v1.0.0", "v1.1.0"):
        platform.admin("PUT", f"/behaviours/{version}", {"drain": False, "order_seconds": 1.0})
    sent: list[str] = []
    try:
        with traffic(platform, sent) as tally:
            assert platform.deploy("v1.1.0").state in ("done", "rolled-back")
    finally:
        for version in ("v1.0.0", "v1.1.0"):
            platform.admin("PUT", f"/behaviours/{version}", {"drain": True, "order_seconds": 0.05})
    counts = executed(platform)
    twice = [identity for identity in sent if counts[identity] > 1]
    assert tally.lost or twice, "this test could not see a loss"
