"""Rollouts on a sandbox cluster: real HTTP, a real gateway, a real Prometheus."""

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from platform_cluster import QUICK, Platform

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.errors import ClusterUnreachable, MissingContext
from nexus_ops.errors import UnknownName
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import NothingToDo, plan_rollback, plan_rollout, request_abort, start
from nexus_ops.rollouts.plan import RolloutActive
from nexus_ops.rollouts.record import Record
from nexus_ops.rollouts.result import result_of
from nexus_ops.rollouts.steps import Steps
from nexus_ops.rollouts.strategy import BLUE_GREEN, Settings, names


def test_a_first_install_and_a_blue_green_deploy_serve_real_users(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    before, colour = platform.at_the_edge()
    assert before == "v1.0.0"
    assert platform.deploy("v1.1.0").state == "done"
    after, other_colour = platform.at_the_edge()
    assert (after, other_colour != colour) == ("v1.1.0", True)
    assert platform.eventually(lambda: {own for _, own in platform.pods()} == {other_colour}), "the old colour goes"
    result = result_of(platform.record())
    assert result.success
    assert [*result.timings] == names(BLUE_GREEN)
    assert set(result.verified) == set(platform.topology.components)


def test_the_plan_shows_the_way_back_and_changes_nothing(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    count = len(platform.admin("GET", "/mutations"))
    page = plan_rollout(platform.context(), "v1.1.0", QUICK).to_markdown()
    assert "The way back" in page
    assert "switch-traffic" in page
    assert "Deployment | execution-engine" in page
    assert len(platform.admin("GET", "/mutations")) == count


def test_an_unchanged_release_is_recognised(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    assert plan_rollout(platform.context(), "v1.0.0", QUICK).unchanged


def test_a_second_deploy_during_the_first_is_refused_in_a_sentence(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    context = platform.context()
    planned_before = plan_rollout(context, "v1.1.0", QUICK)
    platform.begin("v1.1.0")
    with pytest.raises(RolloutActive, match=r"v1\.1\.0 is being rolled out"):
        plan_rollout(context, "v1.1.0", QUICK)
    with pytest.raises(RolloutActive, match=r"v1\.1\.0 is being rolled out"):
        start(context, planned_before, "late")
    assert platform.finish().state == "done"


def test_an_abort_within_the_hold_goes_back_at_once(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", Settings(monitor_seconds=1, hold_seconds=600))
    result = advance(platform.context(), patience=timedelta(seconds=40))
    assert result.state == "waiting"
    assert platform.at_the_edge()[0] == "v1.1.0"
    assert plan_rollback(platform.context()) is None, "within the hold, going back is an abort"
    request_abort(platform.context(), "somebody", "a hunch")
    result = platform.finish()
    assert (result.state, platform.at_the_edge()[0]) == ("rolled-back", "v1.0.0")
    assert "somebody aborted it: a hunch" in platform.record().reason
    assert any("v1.1.0 is rolled back" in message for message in platform.notified)


def test_a_crash_looping_candidate_goes_back_with_its_last_words_and_users_see_nothing(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    result = platform.deploy("v1.4.0")
    assert result.state == "rolled-back"
    assert "CrashLoopBackOff" in platform.record().reason
    assert "PRICE_FEED is missing" in platform.record().reason
    assert platform.at_the_edge()[0] == "v1.0.0"
    assert platform.record().weight == 0
    serving = platform.at_the_edge()[1]
    assert platform.eventually(lambda: {own for _, own in platform.pods()} == {serving}), "the candidate is taken down"


def test_an_order_that_takes_too_long_is_told_waited_for_and_executed_once(platform: Platform) -> None:
    """A drain that timed out in silence, or was forced."""
    platform.ensure("v1.0.0")
    platform.notified.clear()
    platform.begin("v1.1.0", replace(QUICK, drain_seconds=1))
    platform.admin("PUT", "/behaviours/v1.0.0", {"order_seconds": 14.0})
    url = f"{platform.urls['services']}/orders"
    host = f"execution-engine.{platform.context().cluster.namespace}.svc"
    answers: list[int] = []

    def order() -> None:
        # Begun when exclusive work is about to be handed over, however long the machine took until then.
        platform.eventually(lambda: platform.record().weight == 100, seconds=120)
        sent = httpx.post(url, headers={"Host": host}, json={"id": "slow-order"}, timeout=60)
        answers.append(sent.status_code)

    sender = threading.Thread(target=order)
    sender.start()
    try:
        assert platform.finish().state == "done"
    finally:
        sender.join(timeout=60)
        platform.admin("PUT", "/behaviours/v1.0.0", {"order_seconds": 0.05})
    assert answers == [200]
    assert [order["id"] for order in platform.admin("GET", "/orders")].count("slow-order") == 1
    events = [event for event in platform.record().events if event.about.startswith("execution-engine/")]
    assert [event.reason for event in events][:1] == ["DrainLate"]
    assert len(events) == 2, "late, and how it ended"
    assert "Kubernetes ends them by force at" in events[0].text
    told = [message for message in platform.notified if "execution-engine" in message]
    assert "old pods take too long to drain" in told[0]
    assert len(told) == 2


def test_rollback_after_the_hold_deploys_the_previous_release(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    assert platform.deploy("v1.1.0").state == "done"
    context = platform.context()
    planned = plan_rollback(context)
    assert planned is not None
    assert planned.candidate.version == "v1.0.0"
    start(context, planned, "test")
    with pytest.raises(NothingToDo, match=r"is the way back already: test brings back v1\.0\.0"):
        plan_rollback(context, leaves="v1.1.0")  # an abort would keep it
    assert platform.finish().state == "done"
    assert platform.at_the_edge()[0] == "v1.0.0"
    with pytest.raises(
        NothingToDo, match=r"v1\.1\.0 has gone back already \(test brought v1\.0\.0 back\).*leaves: v1\.0\.0"
    ):
        plan_rollback(platform.context())


def test_rollback_after_one_that_failed_deploys_what_served_before_that_which_serves(platform: Platform) -> None:
    """The last rollout went back and has changed nothing: what serves came by an earlier one."""
    platform.ensure("v1.0.0")
    assert platform.deploy("v1.1.0").state == "done"
    start(
        platform.context(),
        plan_rollout(platform.context(), "v1.4.0", replace(QUICK, logs_seconds=0), force=True),
        "test",
    )
    assert platform.finish().state == "rolled-back"
    with pytest.raises(NothingToDo, match=r"v1\.4\.0 has gone back already .* v1\.1\.0 serves.*leaves: v1\.1\.0"):
        plan_rollback(platform.context())
    with pytest.raises(NothingToDo, match=r"v1\.4\.0 would not go: v1\.1\.0 would"):
        plan_rollback(platform.context(), leaves="v1.4.0")
    planned = plan_rollback(platform.context(), leaves="v1.1.0")
    assert planned is not None
    assert (planned.stable and planned.stable.version, planned.candidate.version) == ("v1.1.0", "v1.0.0")


def test_an_abort_of_nothing_and_an_unknown_version_are_one_sentence_each(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    with pytest.raises(NothingToDo, match="no rollout is running"):
        request_abort(platform.context(), "somebody", "")
    with pytest.raises(UnknownName, match=r"no release of staging named 'v9'.*v1\.0\.0"):
        plan_rollout(platform.context(), "v9", QUICK)


def test_a_missing_context_and_a_dead_cluster_are_one_sentence_each(platform: Platform, tmp_path: Path) -> None:
    elsewhere = platform.topology.cluster("production-us-east-1")
    with pytest.raises(MissingContext, match=r"needs the kube context 'production-us-east-1'.*Contexts there: staging"):
        ClusterClient.connect(elsewhere, kubeconfig=Path(platform.state.kubeconfig))
    with pytest.raises(MissingContext, match="there is no kubeconfig"):
        ClusterClient.connect(elsewhere, kubeconfig=tmp_path / "none")
    platform.admin("POST", "/kill")
    try:
        with pytest.raises(ClusterUnreachable, match="the API server did not serve"):
            plan_rollout(platform.context(patience=1.0), "v1.1.0", QUICK)
    finally:
        platform.admin("POST", "/revive")


def test_users_reach_the_platform_by_its_host_only(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    assert httpx.get(platform.urls["edge"], headers={"Host": "elsewhere.example"}).status_code == 404


class Killed(BaseException):
    """The driver is gone."""


def test_what_a_driver_has_taken_away_is_not_given_back_by_the_next(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after the cut, before it is written down: the record still says that the candidate has all traffic."""
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", Settings(monitor_seconds=1, hold_seconds=600))
    assert advance(platform.context(), patience=timedelta(seconds=40)).state == "waiting"
    request_abort(platform.context(), "somebody", "a hunch")
    real, routed = Steps.route, list[int]()

    def killed(steps: Steps, record: Record, weight: int) -> None:
        real(steps, record, weight)
        routed.append(weight)
        if weight == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "route", killed)
        with pytest.raises(Killed):
            advance(platform.context())
    assert (platform.record().phase, platform.record().weight, routed[-1]) == ("rolling-back", 100, 0)
    routed.clear()

    def seen(steps: Steps, record: Record, weight: int) -> None:
        routed.append(weight)
        real(steps, record, weight)

    monkeypatch.setattr(Steps, "route", seen)
    assert platform.finish().state == "rolled-back"
    assert set(routed) == {0}
