"""The Dagster jobs on a real instance, against a sandbox cluster."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.lease import acquire
from nexus_ops.definitions import defs
from nexus_ops.jobs.stages import CLUSTER_TAG, DRIVES_TAG
from nexus_ops.resources import NexusResource
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sensors.rollout import SENSORS, who_drives
from nexus_ops.topology import project_folder

pytestmark = [pytest.mark.sandbox_only]


@pytest.fixture
def instance(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    """A Dagster instance whose environment leads to the sandbox."""
    monkeypatch.setenv("KUBECONFIG", platform.state.kubeconfig)
    monkeypatch.setenv("NEXUS_STORE", (platform.home / "store").as_uri())
    monkeypatch.setenv("NEXUS_HOME", str(platform.home))
    with dg.instance_for_test() as made:
        yield made


def run(instance: dg.DagsterInstance, job: str, op: str, **config: object) -> dg.ExecuteInProcessResult:
    run_config = {"ops": {op: {"config": {"cluster": CLUSTER, **config}}}}
    return defs.resolve_job_def(job).execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)


def logged(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    """What a run has said."""
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def reported(instance: dg.DagsterInstance) -> dict[str, object]:
    """Metadata of the newest report of what is deployed."""
    event = instance.get_latest_materialization_event(dg.AssetKey("deployment"))
    assert event is not None
    assert event.asset_materialization is not None
    return {key: value.value for key, value in event.asset_materialization.metadata.items()}


def test_a_dry_run_changes_nothing_and_a_deploy_is_reported(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    before = platform.record()
    dry = run(instance, "deploy", "plan", version="v1.1.0")
    assert dry.success
    assert platform.record() == before
    assert dry.get_step_skipped_events() != []
    real = run(instance, "deploy", "plan", version="v1.1.0", dry_run=False, monitor_seconds=3, hold_seconds=1)
    assert real.success
    assert platform.at_the_edge()[0] == "v1.1.0"
    said = reported(instance)
    assert (said["version"], said["from"], said["success"]) == ("v1.1.0", "v1.0.0", True)
    assert "rollback" in str(said["what_next"])
    digest = platform.record().evidence[0].digest
    assert f"- monitor-health: pass: {platform.store.url}/evidence/{digest}" in " ".join(str(said["evidence"]).split())


def test_a_bad_candidate_fails_the_run_and_says_why(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    times = {"monitor_seconds": 3, "hold_seconds": 1, "logs_seconds": 0}
    result = run(instance, "deploy", "plan", version="v1.4.0", dry_run=False, force=True, **times)
    assert not result.success
    said = reported(instance)
    assert said["summary"] == "v1.4.0 rolled back; v1.0.0 serves"
    assert "CrashLoopBackOff" in str(said["reason"])
    assert said["blames"] == "release"
    assert platform.at_the_edge()[0] == "v1.0.0"


def test_a_deploy_that_goes_back_is_no_success_while_its_candidate_is_kept_for_its_logs(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    platform.ensure("v1.0.0")
    times = {"monitor_seconds": 3, "hold_seconds": 1, "logs_seconds": 600}
    said = refusal(run(instance, "deploy", "plan", version="v1.4.0", dry_run=False, force=True, **times))
    assert "Going back: " in said
    assert "CrashLoopBackOff" in said
    assert platform.record().phase == "rolling-back"
    assert "v1.4.0 is on its way back" in refusal(run(instance, "pause", "request_pause"))
    resumed = run(instance, "resume_rollout", "find")
    assert resumed.success, "it was on its way back before"
    ask_sensor(instance)
    seen = platform.ledger().seen
    assert seen is not None
    assert (seen.rollout, "stays without traffic" in seen.why) == (platform.record().id, True), (
        "the record stands still"
    )
    back = run(instance, "rollback", "plan_back", dry_run=True)
    assert "v1.4.0 is on its way back already: " in logged(instance, back)
    ended = run(instance, "abort", "request_abort")
    assert "it is not kept for its logs any longer" in logged(instance, ended)
    assert platform.record().phase == "rolled-back"
    platform.begin("v1.1.0")
    assert platform.ledger().seen is None, "it was about another rollout"
    assert platform.finish().state == "done"


def test_a_pause_is_told_by_its_run_the_record_and_the_asset(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", Settings(monitor_seconds=900, hold_seconds=900))
    assert advance(platform.context(), patience=timedelta(seconds=30)).state == "waiting"
    assert run(instance, "pause", "request_pause", reason="lunch").success
    assert "paused it: lunch; the candidate is watched with 100 %" in platform.record().said
    context = platform.context()
    with acquire(context.client, context.cluster.ops_namespace, "rollout", "run-of-another", clock=context.clock):
        beside = run(instance, "pause", "request_pause", reason="lunch")
    assert "nothing is left to do here" in logged(instance, beside), "whoever drives sees it"
    seen = instance.fetch_observations(dg.AssetKey("deployment"), limit=1).records[0].asset_observation
    assert seen is not None
    assert "paused it: lunch" in str(seen.metadata["now"].value)
    assert seen.metadata["success"].value == "not over yet"
    assert run(instance, "unpause", "end_pause").success
    assert platform.record().said.startswith("the candidate is watched with 100 %")
    assert run(instance, "abort", "request_abort", reason="the end of the test").success


def ask_sensor(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """The runs that the rollout sensor asks for now."""
    sensor = next(sensor for sensor in SENSORS if sensor.name == "rollout_staging_us_west_2")
    context = dg.build_sensor_context(instance=instance, resources={"nexus": NexusResource()})
    return list(sensor.evaluate_tick(context).run_requests or [])


def test_the_sensor_goes_on_with_a_rollout_that_nobody_drives(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", Settings(monitor_seconds=2, hold_seconds=1))
    context = platform.context()
    with acquire(context.client, context.cluster.ops_namespace, "rollout", "another", clock=lambda: datetime.now(UTC)):
        assert ask_sensor(instance) == [], "another driver is at work"
    begun = begin_run(instance, dg.DagsterRunStatus.STARTING)
    assert ask_sensor(instance) == [], "a run is on its way"
    instance.delete_run(begun.run_id)
    (request,) = ask_sensor(instance)
    assert (request.tags[CLUSTER_TAG], request.tags[DRIVES_TAG]) == (CLUSTER, CLUSTER)
    job = defs.resolve_job_def("resume_rollout")
    assert job.execute_in_process(run_config=request.run_config, instance=instance).success
    assert platform.at_the_edge()[0] == "v1.1.0"
    assert ask_sensor(instance) == []

    with dg.instance_for_test() as other:  # as when the run that ended it was killed at its last word
        (unreported,) = ask_sensor(other)
        assert job.execute_in_process(run_config=unreported.run_config, instance=other).success
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("deployment"), asset_partitions=[CLUSTER])
        (told,) = other.fetch_materializations(wanted, limit=9).records
        assert told.asset_materialization
        assert told.asset_materialization.metadata["version"].value == "v1.1.0"
        assert ask_sensor(other) == []


def begin_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, cluster: str = CLUSTER) -> dg.DagsterRun:
    """A run of the instance that drives a cluster's rollout, in this status."""
    job = defs.resolve_job_def("resume_rollout")
    config = {"ops": {"find": {"config": {"cluster": cluster}}}}
    return instance.create_run_for_job(job_def=job, run_config=config, status=status, tags={DRIVES_TAG: cluster})


def held(seconds_ago: float, now: datetime, holder: str) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": (now - timedelta(seconds=seconds_ago)).isoformat()}}


def test_one_run_at_a_time_drives_a_cluster_and_a_dead_one_does_not_block_it() -> None:
    """A second run beside the first; or none for minutes, since Dagster still calls the killed one started."""
    with dg.instance_for_test() as instance:
        run = begin_run(instance, dg.DagsterRunStatus.STARTED)
        coming = begin_run(instance, dg.DagsterRunStatus.STARTING, "elsewhere")
        records = {record.dagster_run.run_id: record for record in instance.get_run_records()}
        began, later = records[run.run_id].create_timestamp, records[run.run_id].create_timestamp + timedelta(minutes=5)
        started, waiting = [records[run.run_id]], [records[coming.run_id]]
    assert who_drives(None, [], later) == ""
    assert who_drives(held(3, later, "run-1"), [], later) == "run-1", "a driver without a run: a person's, or a test's"
    assert "started" in who_drives(held(300, began, ""), started, began), "it has just begun"
    assert "started" in who_drives(held(2, later, ""), started, later), "it is between two stages"
    assert who_drives(held(60, later, ""), started, later) == "", "it died between two stages"
    assert who_drives(held(21, later, "run-1"), started, later) == "", "it died at work: the lease ran out"
    assert "starting" in who_drives(held(60, later, "run-1"), waiting, later), "the next one is coming"


def test_a_candidate_that_fails_while_its_rollout_waits_goes_back_at_once(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """A run leaves after a minute; a watch of five minutes must not go on unwatched."""
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", Settings(monitor_seconds=900, hold_seconds=900))
    result = advance(platform.context(), patience=timedelta(seconds=30))
    assert (result.state, platform.record().phase) == ("waiting", "running")
    assert ask_sensor(instance) == []
    platform.admin("PUT", "/behaviours/v1.1.0", {"pnl": -25000})
    try:
        assert platform.eventually(lambda: bool(ask_sensor(instance)))
        assert platform.at_the_edge()[0] == "v1.0.0", "the tick itself has taken the traffic away"
        assert platform.finish().state == "rolled-back"
    finally:
        platform.admin("PUT", "/behaviours/v1.1.0", {"pnl": 1200})
    assert "LargePortfolioLoss" in platform.record().reason


def refusal(result: dg.ExecuteInProcessResult) -> str:
    """The error by which a run's first op failed, in its own words."""
    assert not result.success
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    error = failure.step_failure_data.error
    assert error is not None
    return (error.cause or error).message.strip().partition(": ")[2]


def test_what_cannot_be_deployed_is_refused_in_a_sentence_and_nothing_is_half_done(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.ensure("v1.0.0")
    before, count = platform.record(), len(platform.admin("GET", "/mutations"))

    def deploy(cluster: str, version: str, **config: object) -> str:
        return refusal(run(instance, "deploy", "plan", cluster=cluster, version=version, dry_run=False, **config))

    assert "there is no cluster named 'production-mars'. Known: " in deploy("production-mars", "v1.1.0")
    assert "there is no cluster named ''" in deploy("", "v1.1.0"), "as the Launchpad opens"
    said = deploy(CLUSTER, "v9")
    assert "no release of staging named 'v9'" in said
    assert "built by materialising the asset `release` of staging" in said
    assert "strategy: Input should be 'blue-green' or 'canary'" in deploy(CLUSTER, "v1.1.0", strategy="canarry")
    assert "bake_seconds: Input should be greater than" in deploy(CLUSTER, "v1.1.0", bake_seconds=-1)
    unknown = refusal(run(instance, "canary_evaluation", "evaluate", cluster=CLUSTER, evidence="abc"))
    assert unknown.endswith("evidence/abc: nothing is stored.")
    assert "needs the kube context 'production-us-east-1'" in deploy("production-us-east-1", "v1.1.0")
    broken = platform.home / "broken.yaml"
    broken.write_text((project_folder() / "topology.yaml").read_text().replace("region: us-west-2", "region: mars", 1))
    with monkeypatch.context() as patched:
        patched.setenv("NEXUS_TOPOLOGY", str(broken))
        said = deploy(CLUSTER, "v1.1.0")
    assert "clusters.staging-us-west-2.region: 'mars' is not declared; allowed: us-west-2" in said
    with monkeypatch.context() as patched:
        patched.setenv("KUBECONFIG", str(platform.home / "stopped"))
        assert "there is no kubeconfig. Set KUBECONFIG to it, or start the sandbox" in deploy(CLUSTER, "v1.1.0")
    assert (platform.record(), len(platform.admin("GET", "/mutations"))) == (before, count)


def test_a_prerequisite_that_is_known_to_fail_keeps_a_rollout_from_beginning(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, and not begun, rolled back and told to people."""
    platform.ensure("v1.0.0")
    before = platform.record()
    rules = platform.home / "analysis.yaml"
    rules.write_text(
        (project_folder() / "monitoring" / "analysis.yaml").read_text().replace("material:", "materiel:", 1)
    )
    with monkeypatch.context() as patched:
        patched.setenv("NEXUS_ANALYSIS", str(rules))
        said = refusal(run(instance, "deploy", "plan", version="v1.1.0", dry_run=False))
        dry = run(instance, "deploy", "plan", version="v1.1.0")
    assert "prerequisites are missing: " in said
    assert "metrics.request-errors.materiel: unknown key; allowed: " in said
    assert said.count("Did you mean material?") == 1
    assert dry.success, "a dry run only tells"
    assert platform.record() == before


def test_a_second_deploy_fails_in_a_sentence_and_the_first_goes_on(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    platform.ensure("v1.0.0")
    first = platform.begin("v1.1.0")
    said = refusal(run(instance, "deploy", "plan", version="v1.1.0", dry_run=False))
    assert "v1.1.0 is being rolled out (stage validate-prerequisites). Wait for it, or abort it" in said
    assert platform.record() == first
    assert platform.finish().state == "done"


def test_an_abort_ends_as_a_success_and_traffic_is_back(platform: Platform, instance: dg.DagsterInstance) -> None:
    """Asked for and done is no failed run."""
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", Settings(monitor_seconds=900, hold_seconds=900))
    assert advance(platform.context(), patience=timedelta(seconds=30)).state == "waiting"
    assert platform.at_the_edge()[0] == "v1.1.0"
    assert run(instance, "abort", "request_abort", reason="a hunch").success
    assert platform.at_the_edge()[0] == "v1.0.0"
    said = reported(instance)
    assert said["summary"] == "v1.1.0 rolled back; v1.0.0 serves"
    assert "aborted it: a hunch" in str(said["reason"])
    assert "monitor-health, until it failed: " in str(said["timings"])
    assert "the way back: " in str(said["timings"])
    assert "It has gone back: v1.0.0 serves." in str(said["rollback_plan"])


def test_a_rollback_after_the_end_deploys_what_served_before(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.ensure("v1.0.0")
    assert platform.deploy("v1.1.0").state == "done"
    assert run(instance, "rollback", "plan_back", dry_run=True).success
    assert platform.record().candidate.version == "v1.1.0", "a dry run begins nothing"
    result = run(instance, "rollback", "plan_back")
    assert result.success or platform.finish().state == "done"  # its times are the environment's: a sensor would go on
    record = platform.record()
    assert record.candidate.version == "v1.0.0"
    if not record.finished:
        assert platform.at_the_edge()[0] == "v1.0.0"
        assert run(instance, "abort", "request_abort", reason="the end of the test").success


def test_the_end_is_reported_with_smoke_results_and_the_way_back(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    platform.ensure("v1.0.0")
    assert run(instance, "deploy", "plan", version="v1.1.0", dry_run=False, monitor_seconds=3, hold_seconds=1).success
    said = reported(instance)
    smoke = str(said["smoke_tests"])
    assert all(f"**{name}**: GET /health: 200" in smoke for name in platform.topology.components)
    assert "`rollback` deploys v1.0.0" in str(said["rollback_plan"])
