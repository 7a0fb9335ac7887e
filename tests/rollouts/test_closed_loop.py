"""Bad candidates under users, with nobody at the keyboard: each is stopped by the right rule, and users of the rest see nothing.

The rules are those that are declared. What ticks is the rollout sensor, every 5 seconds as the daemon has it; its runs are
carried out as they are asked for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from platform_cluster import CLUSTER, QUICK, Platform
from test_attending import tick
from test_canary import bakes, drive, forget
from witness import complaints, witness

from nexus_ops.analysis.replay import curve, from_bytes
from nexus_ops.clusters.client import CONFIG_MAP
from nexus_ops.clusters.watch import watch
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.rollouts.driver import advance
from nexus_ops.topology import project_folder

pytestmark = [pytest.mark.sandbox_only]
LONG = replace(QUICK, strategy="canary", bake_seconds=600, insufficient_seconds=300)
SENSOR_SECONDS = 5.0
RATE = 100.0
STABLE_ERRORS = 0.02
TROUBLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "v1.2.0": ({"error_ratio": 5 * STABLE_ERRORS}, "request-errors of agent-orchestrator", "release"),
    "v1.3.0": ({"latency_ms": 400, "error_ratio": STABLE_ERRORS}, "slow-requests of agent-orchestrator", "release"),
    "v1.5.0": ({"pnl": -25000, "error_ratio": STABLE_ERRORS}, "portfolio-pnl is -25000", "platform"),
}
"""By version: how its pods behave, what stops it, and whom that blames."""
MOST_SECONDS = 12.0
"""From the look at which the judge fails to the weight 0 that is seen."""


@dataclass
class Ends:
    """By rollout: when its record first said that the weight is 0 and was seen so (seconds since 1970)."""

    seen: dict[str, float] = field(default_factory=dict)


@contextmanager
def followed(platform: Platform) -> Generator[Ends]:
    """Follow the record, and note when traffic was seen to be gone."""
    ends, done = Ends(), threading.Event()
    context = platform.context()

    def follow() -> None:
        while not done.is_set():
            for event in watch(context.client, CONFIG_MAP, context.cluster.ops_namespace, seconds=2):
                if event and event["metadata"]["name"] == "rollout" and "record" in event.get("data", {}):
                    record = json.loads(event["data"]["record"])
                    if record["phase"] != "running" and record["weight"] == 0 and record["observed"] == 0:
                        ends.seen.setdefault(record["id"], time.time())
                if done.is_set():
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield ends
    finally:
        done.set()
        thread.join(timeout=10)


def built(platform: Platform, version: str) -> None:
    """The release of a version with scripted trouble."""
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    values = platform.home / "values.yaml"
    platform.releases.save(build_release(platform.topology, "staging", version, catalogue, chart, values), chart)


def one_rollout(platform: Platform, instance: Any, version: str) -> float:
    """A canary of a bad version; seconds from the look that fails it in a replay to the weight 0 that was seen."""
    behaviour, rule, blames = TROUBLE[version]
    platform.ensure("v1.0.0")
    platform.admin("PUT", "/behaviours/v1.0.0", {"error_ratio": STABLE_ERRORS})
    platform.admin("PUT", f"/behaviours/{version}", behaviour)
    built(platform, version)
    try:
        with witness(platform, rate=RATE, orders=2) as seen, followed(platform) as ends:
            begun = platform.begin(version, LONG).id
            drive(platform, bakes("canary-5"), seconds=180)
            due = time.monotonic()

            def ticked() -> bool:
                nonlocal due
                if time.monotonic() >= due:
                    due = time.monotonic() + SENSOR_SECONDS
                    if tick(instance).run_requests:
                        advance(platform.context(), patience=timedelta(seconds=20))
                return begun in ends.seen

            assert platform.eventually(ticked, 240), platform.record().said
            assert platform.finish().state == "rolled-back"
        record = platform.record()
        assert rule in record.reason
        assert record.blames == blames
        assert [stage.name for stage in record.stages if stage.ended and stage.weight] == [], "never beyond 5 %"
        assert complaints(platform, seen) == []
        assert platform.at_the_edge()[0] == "v1.0.0"
        (kept,) = record.evidence
        document = from_bytes(platform.store.get_content("evidence", kept.digest))
        failed = next(at for at, _, verdict in curve(document) if verdict == "fail")
        return ends.seen[begun] - failed
    finally:
        platform.admin("PUT", "/behaviours/v1.0.0", {"error_ratio": 0.002})
        forget(platform)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules as they are in monitoring/analysis.yaml."""
    monkeypatch.delenv("NEXUS_ANALYSIS")


@pytest.mark.usefixtures("declared")
@pytest.mark.soak
@pytest.mark.parametrize("version", TROUBLE)
def test_a_bad_candidate_is_cut_at_5_percent_by_the_right_rule_within_seconds(
    platform: Platform, instance: Any, version: str
) -> None:
    reaction = one_rollout(platform, instance, version)
    print(f"{CLUSTER} {version}: weight 0 was seen {reaction:.1f} s after the look that fails it")
    assert reaction <= MOST_SECONDS


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("declared")
def test_twenty_bad_candidates_are_cut_within_eight_seconds_in_the_median(platform: Platform, instance: Any) -> None:
    versions = [*TROUBLE] * 7
    found = sorted(one_rollout(platform, instance, version) for version in versions[:20])
    print(f"reaction of 20 canaries, in seconds: {[round(one, 1) for one in found]}")
    assert (found[9] + found[10]) / 2 <= 8
    assert found[18] <= MOST_SECONDS
