"""Canaries on a sandbox cluster, under users and orders: share by share, cut, paused, promoted, retried, refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from platform_cluster import CLUSTER, QUICK, Platform
from witness import complaints, witness

from nexus_ops.clusters.client import AUTOSCALER, CONFIG_MAP, DEPLOYMENT, Kind
from nexus_ops.clusters.errors import LeaseHeld
from nexus_ops.errors import PermanentError, UnknownName
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.rollouts.bad import KnownBad
from nexus_ops.rollouts.driver import Advance, advance
from nexus_ops.rollouts.operations import (
    NothingToDo,
    approve,
    pause,
    plan_rollout,
    promote,
    request_abort,
    start,
    unpause,
)
from nexus_ops.rollouts.plan import RolloutActive, settings_for
from nexus_ops.rollouts.record import Record, moment
from nexus_ops.topology import project_folder

pytestmark = [pytest.mark.sandbox_only, pytest.mark.alone]
TIMES = replace(QUICK, strategy="canary", bake_seconds=2, min_requests=1)
LONG = replace(TIMES, bake_seconds=600)


def drive(platform: Platform, holds: Callable[[Record], bool], *, seconds: float = 60) -> Record:
    """Drive in short turns, as run after run does, until the record is as it is wanted."""

    def turn() -> bool:
        advance(platform.context(), patience=timedelta(seconds=2))
        return holds(platform.record())

    assert platform.eventually(turn, seconds), platform.record().said
    return platform.record()


def bakes(stage: str) -> Callable[[Record], bool]:
    """Whether a stage's bake has begun."""
    return lambda record: record.stage is not None and record.stage.name == stage and record.stage.until is not None


def workers(platform: Platform) -> dict[str, tuple[int, int]]:
    """By colour: replicas of the workers, and their autoscaler's floor."""
    context = platform.context()
    found: dict[str, tuple[int, int]] = {}
    for colour in ("blue", "green"):
        name, space = f"arbitrage-hunter-{colour}", context.cluster.namespace
        deployment, scaler = (context.client.get(kind, name, space) for kind in (DEPLOYMENT, AUTOSCALER))
        if deployment and scaler:
            found[colour] = (deployment["spec"]["replicas"], scaler["spec"]["minReplicas"])
    return found


def end(platform: Platform) -> Advance:
    """Abort what runs, and bring it to its end."""
    request_abort(platform.context(), "test", "the test is over")
    return platform.finish()


def test_a_canary_takes_over_share_by_share_and_users_see_nothing(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    with witness(platform, rate=60, orders=4) as seen:
        platform.begin("v1.1.0", TIMES)
        record = drive(platform, bakes("canary-25"))
        new, old = record.candidate.colour, record.stable.colour if record.stable else ""
        assert (record.weight, record.observed) == (25, 25)
        assert workers(platform) == {new: (2, 2), old: (6, 6)}, (
            "8 pods, a quarter of them new, and no autoscaler objects"
        )
        assert ("execution-engine", new) not in platform.pods()
        assert platform.finish().state == "done"
    assert complaints(platform, seen) == []
    assert platform.at_the_edge()[0] == "v1.1.0"
    done = platform.record()
    assert [(stage.name, stage.weight) for stage in done.stages if stage.kind == "bake"] == [
        ("canary-5", 5),
        ("canary-10", 10),
        ("canary-25", 25),
        ("canary-50", 50),
        ("monitor-health", 100),
    ]
    for stage in done.stages:
        if stage.kind == "bake":
            assert (stage.verdict, (stage.requests or 0) >= 1) == ("pass", True), stage
    assert {one.stage for one in done.evidence} >= {"canary-5", "canary-50", "monitor-health"}
    assert workers(platform)[new] == (8, 3), "the autoscalers have their own floors again"


def test_a_pause_a_gate_and_an_approval_by_people(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    with witness(platform, rate=60, orders=1):
        platform.begin("v1.1.0", replace(TIMES, gates=("canary-10",)))
        with pytest.raises(NothingToDo, match="nothing waits for an approval in validate-prerequisites"):
            approve(platform.context(), "somebody")
        with pytest.raises(NothingToDo, match="the rollout is not paused"):
            unpause(platform.context())
        record = drive(platform, lambda record: "begins when a person lets it" in record.said)
        assert (record.weight, record.observed) == (5, 5)
        told = [message for message in platform.notified if "the rollout waits for a person" in message]
        assert len(told) == 1, "who is waited for is told, once"
        assert record.stage is not None
        assert record.stage.judged_since is None, "requests of the wait are those of the share before"
        pause(platform.context(), "somebody", "lunch")
        approve(platform.context(), "somebody")
        drive(platform, lambda record: "somebody paused it: lunch" in record.said)
        assert platform.record().weight == 5
        unpaused = platform.context().clock()
        unpause(platform.context())
        stage = drive(platform, bakes("canary-10")).stage
        assert stage is not None
        assert stage.judged_since is not None
        assert moment(stage.judged_since) >= unpaused
        promote(platform.context(), "somebody", "it is fine")
        assert platform.finish().state == "done"
    weights = {stage.name: stage.until for stage in platform.record().stages}
    assert (weights["canary-25"], weights["canary-50"]) == (None, None), "skipped"


def test_a_failed_candidate_is_cut_kept_for_its_logs_marked_and_refused_until_it_is_forced(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    context = platform.context()
    with witness(platform, rate=60, orders=1):
        platform.begin("v1.1.0", replace(LONG, logs_seconds=600))
        record = drive(platform, bakes("canary-5"))
        release, colour = record.candidate.release, record.candidate.colour
        platform.admin("PUT", "/behaviours/v1.1.0", {"error_ratio": 0.5})
        try:
            drive(platform, lambda record: record.phase == "rolling-back" and record.logs_until is not None)
        finally:
            platform.admin("PUT", "/behaviours/v1.1.0", {"error_ratio": 0.002})
    record = platform.record()
    assert (record.weight, record.observed, record.blames) == (0, 0, "release")
    assert ("agent-orchestrator", colour) in platform.pods(), "its logs can be read"
    assert "logs can be read" in advance(context, patience=timedelta(seconds=1)).why
    assert end(platform).state == "rolled-back"
    assert platform.eventually(lambda: colour not in {own for _, own in platform.pods()})
    with pytest.raises(KnownBad, match=r"v1\.1\.0 \(release .*\) failed on staging-us-west-2 .*force: true"):
        plan_rollout(context, "v1.1.0", TIMES)
    assert platform.store.exists(f"bad-releases/{release}.json"), "other clusters know it, too"
    forced = plan_rollout(context, "v1.1.0", TIMES, force=True)
    assert "**Forced.** v1.1.0" in forced.to_markdown()
    assert start(context, forced, "test").forced
    assert end(platform).state == "rolled-back"


def test_a_rollout_that_was_aborted_leaves_no_mark_and_is_tried_again(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    with witness(platform, rate=60, orders=1):
        platform.begin("v1.1.0", LONG)
        drive(platform, bakes("canary-5"))
        assert end(platform).state == "rolled-back"
        assert (platform.record().blames, platform.ledger().bad) == (None, ())
        assert not plan_rollout(platform.context(), "v1.1.0", TIMES).forced
        platform.begin("v1.1.0", LONG)
        assert drive(platform, bakes("canary-5")).observed == 5, "it begins anew, over what the first one left"
        assert end(platform).state == "rolled-back"


def test_what_cannot_be_a_canary_is_said_before_anything_begins(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    context = platform.context()
    with pytest.raises(UnknownName, match=r"no stage named 'canary-30'.*canary-25"):
        plan_rollout(context, "v1.1.0", replace(TIMES, gates=("canary-30",)))
    environments = dict(context.topology.environments)
    environments["staging"] = environments["staging"].model_copy(update={"router": "service-selector"})
    context.topology = context.topology.model_copy(update={"environments": environments})
    with pytest.raises(PermanentError, match="moves all traffic or none"):
        plan_rollout(context, "v1.1.0", TIMES)


def test_complaint_config_not_rolled_back(platform: Platform) -> None:
    """Rules, policies and ConfigMaps of a candidate that failed, left over what serves."""
    platform.ensure("v1.0.0")
    chart, values = read_chart(project_folder() / "helm" / "nexus-ai-defi"), platform.home / "other.yaml"
    values.write_text("pods: {preStopSeconds: 1}\nmonitoring: {alerts: {errorRatio: 0.23}}\n")
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    other = build_release(platform.topology, "staging", "v1.2.0", catalogue, chart, values)
    platform.releases.save(other, chart)
    before = configuration(platform)
    platform.begin("v1.2.0", TIMES)
    drive(platform, lambda record: record.applied)
    assert configuration(platform) != before
    assert end(platform).state == "rolled-back"
    assert configuration(platform) == before


def configuration(platform: Platform) -> dict[str, Any]:
    """The alert rules, and the ConfigMaps of what serves, as they are in the cluster."""
    context, serving = platform.context(), platform.at_the_edge()[1]
    space, rules = context.cluster.namespace, Kind("monitoring.coreos.com/v1", "PrometheusRule")
    maps = {one["metadata"]["name"]: one["data"] for one in context.client.list(CONFIG_MAP, space)}
    own = {name: data for name, data in maps.items() if name.endswith(serving)}
    return own | {one["metadata"]["name"]: one["spec"] for one in context.client.list(rules, space)}


def test_whatever_is_started_at_once_one_rollout_begins(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    plans = [(context := platform.context(), plan_rollout(context, "v1.1.0", TIMES)) for _ in range(6)]

    def begin(number: int) -> str:
        context, plan = plans[number]
        try:
            return start(context, plan, f"deployer {number}").id
        except (RolloutActive, LeaseHeld) as refused:
            return type(refused).__name__

    with ThreadPoolExecutor(len(plans)) as pool:
        begun = list(pool.map(begin, range(len(plans))))
    (one,) = [text for text in begun if text not in ("RolloutActive", "LeaseHeld")]
    assert platform.record().id == one
    assert end(platform).state == "rolled-back"


def test_a_standby_is_deployed_to_blue_green_unless_a_canary_is_asked_for(platform: Platform) -> None:
    """Nobody uses it: a canary would wait for requests that never come."""
    context = platform.context()
    production = context.topology.cluster("production-us-east-1")
    context.cluster = production
    assert settings_for(context).strategy == "blue-green"
    assert settings_for(context, strategy="canary", bake_seconds=7).bake_seconds == 7
    context.cluster = context.topology.primary("production")
    chosen = settings_for(context)
    assert (chosen.strategy, chosen.bake_seconds, chosen.min_requests) == ("canary", 300, 100)


def test_a_rollout_of_what_serves_already_ends_at_once_and_says_so(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    before = platform.record()
    with pytest.raises(NothingToDo, match=r"v1\.0\.0 serves already, the same release: nothing to do"):
        platform.begin("v1.0.0", TIMES)
    assert platform.record() == before


def test_the_plan_of_a_canary_names_its_shares_its_times_and_its_gates(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    page = plan_rollout(platform.context(), "v1.1.0", replace(TIMES, gates=("canary-50",))).to_markdown()
    assert "**canary-5**: 5 % of the edge, seen there, and as much of the workers; watched for 2 s" in page
    assert "**canary-50**: when a person has approved it: 50 %" in page
    assert CLUSTER in page
