"""The rollout sensor's own tick: what fails loses its traffic in it, before any run; and it costs little otherwise."""

from __future__ import annotations

import threading
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import httpx
import pytest
from platform_cluster import CLUSTER, Platform
from test_canary import LONG, bakes, drive
from witness import witness

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.lease import acquire
from nexus_ops.resources import NexusResource
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.observe import glance
from nexus_ops.rollouts.operations import pause, request_abort
from nexus_ops.rollouts.record import Record, Word
from nexus_ops.sensors.rollout import CANARY_ANALYSIS, SENSORS

pytestmark = [pytest.mark.sandbox_only]
BAD, GOOD = {"pnl": -25000}, {"pnl": 1200}


@pytest.fixture
def canary(platform: Platform) -> Generator[Record]:
    """A canary in its first bake, which nobody drives; behaving well, and well again at the end."""
    platform.ensure("v1.0.0")
    # Or what the one before has lost would be what this one is compared with.
    assert platform.eventually(lambda: profit(platform) > BAD["pnl"]), "the last candidate's loss is still measured"
    with witness(platform, rate=60, orders=1):
        platform.begin("v1.1.0", LONG)
        yield drive(platform, bakes("canary-5"))
        platform.admin("PUT", "/behaviours/v1.1.0", GOOD)
        if not platform.record().finished:
            request_abort(platform.context(), "test", "the test is over")
            platform.finish()


def profit(platform: Platform) -> float:
    """The platform's P&L, as Prometheus has it now."""
    query = {"query": "min(portfolio_pnl_daily)"}
    found = httpx.get(f"{platform.urls['prometheus']}/api/v1/query", params=query, timeout=10).json()["data"]["result"]
    return float(found[0]["value"][1]) if found else BAD["pnl"]


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """One evaluation of the sensor, as the daemon does it."""
    sensor = next(sensor for sensor in SENSORS if sensor.name == "rollout_staging_us_west_2")
    context = dg.build_sensor_context(instance=instance, resources={"nexus": NexusResource()}, cursor=cursor)
    return sensor.evaluate_tick(context)


def observed(result: Any) -> dict[str, Any]:
    """The one observation of a tick, by name."""
    (event,) = result.asset_events
    assert event.asset_key == CANARY_ANALYSIS
    assert event.partition == CLUSTER
    return {name: value.value for name, value in event.metadata.items()}


def test_a_tick_that_holds_says_so_with_its_numbers_and_asks_for_no_run(
    instance: dg.DagsterInstance, canary: Record
) -> None:
    result = tick(instance)
    assert not result.run_requests
    assert "watched with 5 %" in result.skip_message
    said = observed(result)
    assert (said["decision"], said["stage"], said["rollout"]) == ("wait", "canary-5", canary.id)
    assert (said["weight_requested"], said["weight_observed"]) == (5, 5)
    assert said["verdict"] in ("pass", "insufficient")
    assert said["requests"] >= 0


def test_what_ticks_see_while_nobody_drives_stands_beside_the_record(
    platform: Platform, instance: dg.DagsterInstance, canary: Record
) -> None:
    """The record itself stands still meanwhile: its last word would be minutes old at three in the morning."""
    tick(instance)
    word = platform.ledger().seen
    assert word is not None
    assert (word.rollout, word.by) == (canary.id, "rollout sensor")
    assert "watched with 5 %" in word.why
    tick(instance)
    assert platform.ledger().seen == word, "it is said again only when it changes, or is old"
    pause(platform.context(), "somebody", "lunch")
    tick(instance)
    paused = platform.ledger().seen
    assert paused is not None
    assert paused.why.startswith("somebody paused it: lunch; ")
    assert platform.record().updated == canary.updated, "nobody has driven"


def test_a_word_is_news_when_it_says_something_else_or_the_last_is_old() -> None:
    def word(why: str, second: int, rollout: str = "r-1") -> Word:
        return Word(rollout, "rollout sensor", why, f"2026-11-28T03:00:{second:02}+00:00")

    first = word("7 of at least 100 requests were seen", 0)
    assert first.is_news(None)
    assert not word("12.5 of at least 100 requests were seen", 5).is_news(first), "numbers are no news"
    assert word("12 of at least 100 requests were seen", 30).is_news(first)
    assert word("somebody paused it", 5).is_news(first)
    assert word("7 of at least 100 requests were seen", 5, rollout="r-2").is_news(first)


def test_a_tick_that_sees_a_failure_cuts_the_traffic_itself_and_then_asks_for_a_run(
    platform: Platform, instance: dg.DagsterInstance, canary: Record
) -> None:
    """A run takes many seconds to start: users of the candidate would have paid for them."""
    platform.admin("PUT", "/behaviours/v1.1.0", BAD)
    results: list[Any] = []

    def cut() -> bool:
        results.append(tick(instance))
        return bool(results[-1].run_requests)

    assert platform.eventually(cut), platform.record().said
    record = platform.record()
    assert (record.phase, record.weight, record.observed) == ("rolling-back", 0, 0)
    (request,) = results[-1].run_requests
    wanted = {"cluster": CLUSTER, "rollout": canary.id, "release": canary.candidate.release[:12]}
    assert {**wanted, "stage": "canary-5", "actor": "rollout sensor"}.items() <= request.tags.items()
    said = observed(results[-1])
    assert (said["decision"], said["verdict"], said["blames"]) == ("roll-back", "fail", "platform")
    assert platform.finish().state == "rolled-back"
    assert platform.ledger().bad == (), "what the platform is to blame for leaves the release as good as it was"


def test_a_driver_that_holds_the_lease_is_told_to_abort_and_does_at_once(
    platform: Platform, instance: dg.DagsterInstance, canary: Record
) -> None:
    """A tick that only waited for the lease would leave traffic on the candidate for as long as its driver is busy."""
    context = platform.context()
    platform.admin("PUT", "/behaviours/v1.1.0", BAD)
    with acquire(context.client, context.cluster.ops_namespace, "rollout", "busy", clock=lambda: datetime.now(UTC)):

        def told() -> bool:
            assert not tick(instance).run_requests
            return platform.ledger().abort is not None

        assert platform.eventually(told), "no abort was asked for"
        again = platform.ledger().abort
        tick(instance)
        assert platform.ledger().abort == again, "it is asked for once"
    wish = platform.ledger().abort
    assert wish is not None
    assert (wish.actor, wish.blames) == ("rollout sensor", "platform")
    platform.admin("PUT", "/behaviours/v1.1.0", GOOD)  # an abort is not taken back when all is well again
    assert platform.finish().state == "rolled-back"


def test_a_frozen_drivers_lease_runs_out_and_the_next_tick_cuts(
    platform: Platform, instance: dg.DagsterInstance, canary: Record
) -> None:
    context = platform.context()
    longer_ago = datetime.now(UTC) - timedelta(seconds=30)
    acquire(context.client, context.cluster.ops_namespace, "rollout", "frozen", clock=lambda: longer_ago)
    platform.admin("PUT", "/behaviours/v1.1.0", BAD)
    assert platform.eventually(lambda: bool(tick(instance).run_requests))
    assert platform.record().weight == 0
    assert platform.finish().state == "rolled-back"


def test_a_tick_without_a_rollout_asks_the_cluster_once_and_prometheus_never(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes a hundred clusters affordable."""
    platform.ensure("v1.0.0")
    record = platform.record()
    asked: list[str] = []
    send = ClusterClient.request

    def spy(self: ClusterClient, method: str, path: str, **more: Any) -> Any:
        asked.append(path)
        return send(self, method, path, **more)

    monkeypatch.setattr(ClusterClient, "request", spy)
    monkeypatch.setattr(ClusterClient, "proxy", lambda *_, **__: pytest.fail("Prometheus was asked"))
    tick(instance, cursor=record.id)  # the client finds out which kinds there are
    asked.clear()
    assert tick(instance, cursor=record.id).skip_message == record.said
    assert asked == [path for path in asked if path.endswith("/configmaps/rollout")]
    assert len(asked) == 1


def test_two_ticks_at_once_cut_once(platform: Platform, instance: dg.DagsterInstance, canary: Record) -> None:
    platform.admin("PUT", "/behaviours/v1.1.0", BAD)
    assert platform.eventually(lambda: "fail" in str(judged(platform))), "it is not judged"
    threads = [threading.Thread(target=tick, args=(instance,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = platform.record()
    assert (record.phase, record.weight) == ("rolling-back", 0)
    assert [event.reason for event in record.events] == ["RolledBack"]
    assert advance(platform.context()).state == "rolled-back"


def judged(platform: Platform) -> str | None:
    """The verdict on the candidate now."""
    return glance(platform.context(), platform.record())[0].verdict
