"""What was promoted is watched on: a failure takes it back, again and again until that has begun, and never to and fro."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import dagster as dg
import pytest
from platform_cluster import CLUSTER, QUICK, Platform

from nexus_ops.assets.canary import CANARY_ANALYSIS
from nexus_ops.definitions import defs
from nexus_ops.resources import NexusResource
from nexus_ops.rollouts.aftercare import ACTOR
from nexus_ops.rollouts.bad import KnownBad, find_bad
from nexus_ops.rollouts.monitor import Health
from nexus_ops.rollouts.operations import plan_rollout
from nexus_ops.rollouts.record import Blame
from nexus_ops.sensors.canary import CANARY_SENSORS

pytestmark = [pytest.mark.sandbox_only]
LOSS = {"pnl": -25000}


@pytest.fixture
def promoted(platform: Platform) -> Generator[None]:
    """v1.1.0 has just been promoted, and behaves; well again at the end."""
    platform.ensure("v1.0.0")
    assert platform.deploy("v1.1.0").state == "done"
    yield
    for version in ("v1.0.0", "v1.1.0"):
        platform.admin("PUT", f"/behaviours/{version}", {"pnl": 1200})


def tick(instance: dg.DagsterInstance, name: str, cursor: str | None = None) -> Any:
    """One evaluation of a sensor, as the daemon does it."""
    sensor = next(sensor for sensor in CANARY_SENSORS if sensor.name == f"{name}_{CLUSTER.replace('-', '_')}")
    context = dg.build_sensor_context(instance=instance, resources={"nexus": NexusResource()}, cursor=cursor)
    return sensor.evaluate_tick(context)


def run(instance: dg.DagsterInstance, job: str, request: Any, raises: bool = True) -> dg.ExecuteInProcessResult:
    """Carry a requested run out."""
    return defs.resolve_job_def(job).execute_in_process(
        run_config=request.run_config, tags=request.tags, instance=instance, raise_on_error=raises
    )


@pytest.mark.usefixtures("promoted")
def test_a_loss_after_the_promotion_takes_it_back_once(platform: Platform, instance: dg.DagsterInstance) -> None:
    calm = tick(instance, "rollback")
    assert not calm.run_requests
    assert "watched for" in calm.skip_message
    platform.admin("PUT", "/behaviours/v1.1.0", LOSS)
    results: list[Any] = []

    def asked() -> bool:
        results.append(tick(instance, "rollback"))
        return bool(results[-1].run_requests)

    assert platform.eventually(asked), results[-1].skip_message
    (request,) = results[-1].run_requests
    assert request.tags.items() >= {"cluster": CLUSTER, "actor": ACTOR, "rollout": platform.record().id}.items()
    again = tick(instance, "rollback").run_requests
    assert again, "a run that never came is asked for again; until its time is over under the same key"
    assert run(instance, "rollback", request).success
    platform.finish()
    assert platform.at_the_edge()[0] == "v1.0.0"
    platform.admin("PUT", "/behaviours/v1.0.0", {"pnl": -50000})  # worse than when the way back began

    def held() -> bool:
        results.append(tick(instance, "rollback"))
        return "a person has to look" in (results[-1].skip_message or "")

    assert platform.eventually(held), "what it went back to is not taken back by a machine"
    assert not results[-1].run_requests


@pytest.mark.usefixtures("promoted")
def test_a_release_that_failed_in_its_watch_is_refused_and_one_that_suffered_from_the_platform_is_not(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = platform.record().candidate.release

    def ticked(blames: Blame) -> bool:
        """Whether the release is marked after a tick that finds it failing; what judges has tests of its own."""
        found = Health("fail", "too many errors", blames=blames)
        monkeypatch.setattr("nexus_ops.rollouts.aftercare.check_health", lambda *_: found)
        assert tick(instance, "rollback").run_requests
        return find_bad(platform.store, platform.ledger(), release) is not None

    assert not ticked("platform")
    assert ticked("release")
    bad = find_bad(platform.store, platform.ledger(), release)
    assert bad is not None
    assert (bad.version, bad.reason) == ("v1.1.0", "failed in its watch: too many errors")
    platform.deploy("v1.0.0")
    with pytest.raises(KnownBad, match=r"v1\.1\.0 \(release .*failed in its watch: too many errors.*force: true"):
        plan_rollout(platform.context(), "v1.1.0", QUICK)
    assert plan_rollout(platform.context(), "v1.1.0", QUICK, force=True).forced


@pytest.mark.usefixtures("promoted")
def test_each_verdict_is_evaluated_once(platform: Platform, instance: dg.DagsterInstance) -> None:
    first = tick(instance, "evaluation")
    (request,) = first.run_requests
    assert run(instance, "canary_evaluation", request).success
    wanted = dg.AssetRecordsFilter(asset_key=CANARY_ANALYSIS, asset_partitions=[CLUSTER])
    (found,) = instance.fetch_materializations(wanted, limit=1).records
    assert found.asset_materialization is not None
    told = {name: value.value for name, value in found.asset_materialization.metadata.items()}
    assert (told["verdict"], told["rollout"]) == ("pass", platform.record().id)
    assert told["evidence_digest"] == platform.record().evidence[-1].digest
    settled = tick(instance, "evaluation")
    assert not settled.run_requests
    assert settled.cursor == told["evidence_digest"]
