"""The jobs of backups on a real Dagster instance, against the databases of a sandbox cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
from backup_scene import until

from nexus_ops.assets.backups import BACKUPS, CHECKS, DRILL, FIRST_SEEN, first_day
from nexus_ops.assets.checking import last_evaluation
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.claim import claim
from nexus_ops.backups.encryption import Identity
from nexus_ops.backups.manifest import Place, System
from nexus_ops.backups.postgres.moments import windows
from nexus_ops.definitions import defs
from nexus_ops.jobs.backups import BACKUP_SCHEDULES
from nexus_ops.resources import NexusResource
from nexus_ops.sandbox import supervisor
from nexus_ops.sensors.backups import GIVEN, LATE, backup_watch, last_due, look
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import project_folder

CLUSTER = "staging-us-west-2"
pytestmark = [pytest.mark.sandbox_only]


@dataclass
class Scene:
    """A cluster with its databases, and where its backups are kept."""

    home: Path
    urls: dict[str, str]

    @property
    def store(self) -> Path:
        return self.home / "store"

    def catalogue(self, system: System, *, second: bool = False) -> Catalogue:
        folder = self.home / ("dr-store" if second else "store")
        return Catalogue(ObjectStore.open(folder.as_uri()), Place(CLUSTER, system))

    def sql(self, query: str) -> Any:
        with psycopg.connect(self.urls["postgres"], autocommit=True) as link:
            cursor = link.execute(query.encode())
            return cursor.fetchall() if cursor.description else None

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.urls["valkey"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("backups")
    state = supervisor.start(home, [CLUSTER], ("postgres", "valkey"))
    try:
        made = Scene(home, state.clusters[CLUSTER])
        made.sql("CREATE TABLE trades (id bigserial PRIMARY KEY, pair text, price numeric)")
        made.sql("INSERT INTO trades (pair, price) SELECT 'SEI/USDC', n / 7.0 FROM generate_series(1, 5000) n")
        made.sql("CREATE TABLE notes AS SELECT 'kept' AS text")
        with made.redis() as client:
            client.mset({f"quote:{n}": n for n in range(300)})
            client.hset("hash", mapping={"a": 1})
        yield made
    finally:
        supervisor.stop(home)


@pytest.fixture
def instance(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    monkeypatch.setenv("KUBECONFIG", str(scene.home / "kubeconfig"))
    monkeypatch.setenv("NEXUS_HOME", str(scene.home))
    monkeypatch.delenv("NEXUS_STORE", raising=False)
    with dg.instance_for_test() as made:
        yield made


def run(instance: dg.DagsterInstance, job: str, partition: str = CLUSTER) -> dg.ExecuteInProcessResult:
    definition = defs.resolve_job_def(job)
    return definition.execute_in_process(instance=instance, partition_key=partition, raise_on_error=False)


def launch(instance: dg.DagsterInstance, job: str, op: str, **config: object) -> dg.ExecuteInProcessResult:
    run_config = {"ops": {op: {"config": config}}}
    return defs.resolve_job_def(job).execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)


def reported(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def refusal(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    error = failures[0].step_failure_data.error
    assert error is not None
    return str((error.cause or error).message) + str(failures[0].step_failure_data.user_failure_data or "")


def test_that_nothing_has_come_yet_is_an_alarm_only_after_a_day() -> None:
    began = datetime(2026, 11, 28, 10, tzinfo=UTC)

    def says(before: dg.AssetCheckEvaluation | None, hours: float) -> tuple[datetime, dg.AssetCheckSeverity]:
        return first_day(before, began + timedelta(hours=hours))

    assert says(None, 0) == (began, dg.AssetCheckSeverity.WARN)
    key = next(iter(CHECKS))
    metadata = {FIRST_SEEN: dg.MetadataValue.timestamp(began)}
    before = dg.AssetCheckEvaluation(key.asset_key, key.name, False, metadata)
    assert says(before, 25) == (began, dg.AssetCheckSeverity.WARN)
    assert says(before, 27) == (began, dg.AssetCheckSeverity.ERROR)


def checks(instance: dg.DagsterInstance) -> dict[str, bool]:
    """All checks of our cluster, evaluated now."""
    result = defs.resolve_job_def("check_backups").execute_in_process(instance=instance, raise_on_error=False)
    return {
        f"{CHECKS[one.asset_check_key][2]} {CHECKS[one.asset_check_key][0]}": one.passed
        for one in result.get_asset_check_evaluations()
        if CHECKS[one.asset_check_key][1] == CLUSTER
    }


def test_a_night_backs_up_both_databases_and_the_drill_proves_them(scene: Scene, instance: dg.DagsterInstance) -> None:
    assert not any(checks(instance)[f"{system} fresh"] for system in BACKUPS), "there is none yet"
    result = run(instance, "backup")
    assert result.success
    evaluated = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    of_each = {"complete": True, "read_back": True, "plausible": True}
    assert of_each.items() <= evaluated.items()
    assert {key.name for key in CHECKS} <= evaluated.keys(), (
        "what is older than a materialization counts as not evaluated"
    )
    postgresql, redis = (reported(instance, key) for key in BACKUPS.values())
    assert (postgresql["kind"], postgresql["encrypted"], postgresql["copied"]) == ("physical", True, True)
    assert redis["keys"] == 301
    assert "/" in postgresql["lsn"]
    for facts in (postgresql, redis):
        assert {
            "raw_megabytes",
            "stored_megabytes",
            "ratio",
            "seconds",
            "megabytes_per_second",
            "objects",
        } <= facts.keys()
    assert checks(instance) == {
        f"{system} {what}": what in ("fresh", "copied") or what == "retained"
        for system in BACKUPS
        for what in ("fresh", "verified", "retained", "copied")
    }

    assert run(instance, "drill").success
    drilled = reported(instance, DRILL)
    assert drilled["postgresql/passed"]
    assert drilled["redis/passed"]
    assert drilled["postgresql/rto_seconds"] > 0
    assert drilled["postgresql/counted"] >= 5001
    assert drilled["redis/counted"] == 301
    for key, (what, cluster, _) in CHECKS.items():
        if (what, cluster) == ("verified", CLUSTER):
            judged = last_evaluation(instance, key)
            assert judged is not None
            assert judged.passed, "it is told at once, not at the next full hour"
    assert all(checks(instance).values())
    for system in BACKUPS:
        assert scene.catalogue(system).latest_verified().id == scene.catalogue(system).latest().id


def test_a_table_that_was_destroyed_comes_back_and_nothing_else_is_touched(
    scene: Scene, instance: dg.DagsterInstance
) -> None:
    night(instance)
    scene.sql("DROP TABLE trades")
    scene.sql("INSERT INTO notes VALUES ('written after the backup')")
    wanted: dict[str, Any] = {"cluster": CLUSTER, "tables": ["public.trades"]}
    dry = launch(instance, "restore", "restore_backup", **wanted)
    assert dry.success
    shown = plan_of(instance, BACKUPS["postgresql"])
    assert "latest_verified" not in shown
    assert "overwritten: nothing" in shown
    assert "restored by a drill" in shown
    assert scene.sql("SELECT to_regclass('trades')") == [(None,)]
    assert launch(instance, "restore", "restore_backup", **wanted, dry_run=False).success
    assert scene.sql("SELECT count(*), sum(price) FROM trades") == [
        (5000, scene.sql("SELECT sum(n / 7.0) FROM generate_series(1, 5000) n")[0][0])
    ]
    assert scene.sql("SELECT count(*) FROM notes") == [(2,)]


def test_what_holds_data_is_overwritten_only_when_named_twice_and_after_a_safety_backup(
    scene: Scene, instance: dg.DagsterInstance
) -> None:
    night(instance)
    scene.sql("CREATE TABLE IF NOT EXISTS since (x int)")
    scene.sql("INSERT INTO since SELECT generate_series(1, 10)")
    before = len(scene.catalogue("postgresql").list().backups)
    said = refusal(launch(instance, "restore", "restore_backup", cluster=CLUSTER, dry_run=False))
    assert f"Set target_again to {CLUSTER}, too" in said
    assert "| nexus.public.since | 10 |" in plan_of(instance, BACKUPS["postgresql"])
    assert scene.sql("SELECT count(*) FROM since") == [(10,)]
    assert len(scene.catalogue("postgresql").list().backups) == before

    done = launch(instance, "restore", "restore_backup", cluster=CLUSTER, target_again=CLUSTER, dry_run=False)
    assert done.success
    assert scene.sql("SELECT to_regclass('since')") == [(None,)], (
        "what the backup does not hold does not outlive a whole restore"
    )
    assert scene.sql("SELECT count(*) FROM trades") == [(5000,)]
    safety = scene.catalogue("postgresql").latest()
    assert safety.pinned is not None
    old = scene.sql("SELECT datname FROM pg_database WHERE datname LIKE 'nexus_old_%'")
    assert len(old) == 1, "what served is kept beside, as the way back"


@pytest.mark.parametrize("damage", ["a bit", "missing"])
def test_a_restore_that_is_refused_leaves_no_safety_backup(
    scene: Scene, instance: dg.DagsterInstance, damage: str
) -> None:
    """Otherwise each try would pin one more, and `latest` would be of what somebody wants to get rid of."""
    night(instance)
    catalogue = scene.catalogue("postgresql")
    listed, before = catalogue.latest(), [one.id for one in catalogue.list().backups]
    key = f"{catalogue.place}/{listed.manifest.stream('base').bundles[0].key}"
    good = catalogue.store.get(key)
    scene.sql("CREATE TABLE IF NOT EXISTS since (x int)")
    wanted = {"cluster": CLUSTER, "source": str(listed.id)}
    try:
        catalogue.store.delete(key)
        if damage == "a bit":
            catalogue.store.put(key, good[:500] + bytes([good[500] ^ 1]) + good[501:])
        else:
            said = refusal(launch(instance, "restore", "restore_backup", **wanted))
            assert "the bundle is missing" in said, "a dry run finds that out, too"
        failed = launch(instance, "restore", "restore_backup", **wanted, target_again=CLUSTER, dry_run=False)
        assert f"the bundle is {'modified' if damage == 'a bit' else damage}" in refusal(failed)
    finally:
        catalogue.store.put(key, good)
    assert [one.id for one in catalogue.list().backups] == before
    assert scene.sql("SELECT to_regclass('since')") == [("since",)]
    scene.sql("DROP TABLE since")


@contextmanager
def archiving(scene: Scene) -> Generator[None]:
    """The receiver of the log beside the server, as docs/backups.md has it run."""
    catalogue = scene.catalogue("postgresql")
    environment = {
        **os.environ, "NEXUS_BACKUP_STORE": catalogue.store.url, "NEXUS_BACKUP_PLACE": str(catalogue.place),
        "NEXUS_POSTGRES_DSN": scene.urls["postgres"],
        "NEXUS_BACKUP_RECIPIENTS": Identity.load(str(scene.home / "backup-identity.txt")).public_keys[0],
    }  # fmt: skip
    receiver = subprocess.Popen([sys.executable, "-m", "nexus_ops.backups.postgres.wal"], env=environment)
    try:
        yield
        assert receiver.poll() is None, "the receiver has ended"
    finally:
        receiver.terminate()
        try:
            assert receiver.wait(timeout=30) == 0
        except subprocess.TimeoutExpired:
            state = Path(f"/proc/{receiver.pid}/status").read_text()
            receiver.kill()
            pytest.fail(
                f"it does not end: {[line for line in state.splitlines() if line[:3] in ('Sta', 'Sig', 'Shd')]}"
            )
        finally:
            receiver.wait()
            scene.sql("SELECT pg_drop_replication_slot('nexus_archive')")


def test_what_somebody_deleted_comes_back_as_it_was_a_moment_before(scene: Scene, instance: dg.DagsterInstance) -> None:
    catalogue = scene.catalogue("postgresql")
    scene.sql("CREATE TABLE ledger (n int)")
    with archiving(scene):
        until(lambda: catalogue.store.list(f"{catalogue.place}/wal"), "the log is received")
        assert run(instance, "backup").success
        scene.sql("INSERT INTO ledger SELECT generate_series(1, 3)")
        moment = scene.sql("SELECT clock_timestamp()")[0][0].astimezone(UTC)
        scene.sql("DELETE FROM ledger")
        scene.sql("INSERT INTO ledger VALUES (99)")
        until(lambda: windows(catalogue)[-1].until > moment, "the log until then is archived")
        late = scene.sql("INSERT INTO ledger VALUES (100) RETURNING clock_timestamp()")[0][0].astimezone(UTC)
        sent = "SELECT sent_lsn >= pg_current_wal_lsn() FROM pg_stat_replication"
        until(lambda: scene.sql(sent) == [(True,)], "the server has sent it: for ten seconds it is in memory only")
    assert windows(catalogue)[-1].until >= late, "what was in memory when it was ended is archived"
    wanted: dict[str, Any] = {"cluster": CLUSTER, "source": moment.isoformat(), "tables": ["public.ledger"]}
    assert launch(instance, "restore", "restore_backup", **wanted).success
    shown = plan_of(instance, BACKUPS["postgresql"])
    assert f"to: {moment:%Y-%m-%d %H:%M:%S} UTC, by the archive of WAL" in shown
    assert scene.sql("SELECT n FROM ledger ORDER BY n") == [(99,), (100,)]
    assert launch(instance, "restore", "restore_backup", **wanted, target_again=CLUSTER, dry_run=False).success
    assert scene.sql("SELECT n FROM ledger ORDER BY n") == [(1,), (2,), (3,)]
    assert scene.sql("SELECT count(*) FROM trades") == [(5000,)]


def test_a_logical_backup_is_taken_drilled_and_restored(
    scene: Scene, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a server that lets nobody replicate: declared in the topology, everything else is the same."""
    declared = (project_folder() / "topology.yaml").read_text()
    topology = tmp_path / "topology.yaml"
    topology.write_text(declared.replace("kind: physical", "kind: logical"))
    monkeypatch.setenv("NEXUS_TOPOLOGY", str(topology))
    scene.sql("CREATE TABLE positions AS SELECT n, n * 2 AS size FROM generate_series(1, 700) n")
    assert run(instance, "backup").success
    assert run(instance, "drill").success
    latest = scene.catalogue("postgresql").latest_verified()
    assert latest.manifest.kind == "logical"
    assert reported(instance, BACKUPS["postgresql"])["kind"] == "logical"
    scene.sql("UPDATE positions SET size = 0")
    scene.sql("CREATE TABLE later (x int)")
    wanted: dict[str, Any] = {"cluster": CLUSTER, "dry_run": False, "target_again": CLUSTER}
    assert launch(instance, "restore", "restore_backup", **wanted, tables=["public.positions"]).success
    assert scene.sql("SELECT count(*), sum(size) FROM positions") == [(700, 700 * 701)]
    assert scene.sql("SELECT to_regclass('later') IS NULL") == [(False,)]
    assert launch(instance, "restore", "restore_backup", **wanted, source=str(latest.id)).success
    assert scene.sql("SELECT to_regclass('later') IS NULL") == [(True,)]
    assert scene.sql("SELECT count(*) FROM trades") == [(5000,)]


def test_a_redis_is_restored_over_what_was_written_since(scene: Scene, instance: dg.DagsterInstance) -> None:
    night(instance)
    with scene.redis() as client:
        client.set("since", "x")
        client.delete("quote:7")
        wanted: dict[str, Any] = {"cluster": CLUSTER, "system": "redis", "dry_run": False}
        assert "Set target_again" in refusal(launch(instance, "restore", "restore_backup", **wanted))
        assert launch(instance, "restore", "restore_backup", **wanted, target_again=CLUSTER).success
        assert (client.get("quote:7"), client.exists("since"), client.dbsize()) == (b"7", 0, 301)


def test_a_damaged_backup_fails_its_drill_and_latest_verified_stays(scene: Scene, instance: dg.DagsterInstance) -> None:
    night(instance)
    verified = {system: scene.catalogue(system).latest_verified().id for system in BACKUPS}
    assert run(instance, "backup").success
    newest = scene.catalogue("redis").latest()
    bundle = newest.manifest.streams[0].bundles[0]
    path = scene.store / str(newest.manifest.place) / bundle.key
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    try:
        said = refusal(run(instance, "drill"))
        assert "redis: " in said
        assert "the bundle is truncated" in said
        assert scene.catalogue("redis").latest_verified().id == verified["redis"]
        assert scene.catalogue("postgresql").latest_verified().id == scene.catalogue("postgresql").latest().id, (
            "one must not hide the other"
        )
        assert not reported(instance, DRILL)["redis/passed"]
        assert not checks(instance)["redis verified"]
        said = refusal(launch(instance, "verify", "verify_backups", cluster=CLUSTER))
        assert f"redis {newest.id}" in said
    finally:
        path.write_bytes(whole)
    assert run(instance, "drill").success
    assert launch(instance, "verify", "verify_backups", cluster=CLUSTER).success


def test_two_at_once_make_one_backup(scene: Scene, instance: dg.DagsterInstance) -> None:
    catalogue = scene.catalogue("redis")
    before = len(catalogue.list().backups)
    key = f"{catalogue.place}/claims/backup"
    with claim(catalogue.store, key, "the other run", clock=lambda: datetime.now(UTC)):
        said = refusal(run(instance, "backup"))
    assert "the other run" in said
    assert len(catalogue.list().backups) == before
    assert run(instance, "backup").success


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"source": "20200101T000000Z-abcdef"}, "there is no backup named '20200101T000000Z-abcdef'. Known: "),
        ({"source": "yesterday"}, "'yesterday' is no backup's id"),
        (
            {"source": "2026-01-01T00:00:00Z"},
            "it cannot be restored to 2026-01-01 00:00:00 UTC. The nearest that can be: ",
        ),
        ({"cluster": "production-mars"}, "there is no cluster named 'production-mars'"),
        ({"tables": ["public.trades"], "system": "redis"}, "a Redis is restored whole"),
        ({"tables": ["trades"]}, "the table 'trades' has no schema. Write it as schema.table"),
        ({"databases": ["nothing"]}, "there is no database named 'nothing'. Known: nexus"),
        ({"tables": ["public.nothing"], "dry_run": False}, "there is no table 'public.nothing' in it"),
        ({"target": "production-us-east-1"}, "needs the kube context"),
    ],
)
def test_what_cannot_be_restored_is_one_sentence(
    scene: Scene, instance: dg.DagsterInstance, config: dict[str, Any], said: str
) -> None:
    night(instance)
    assert said in refusal(launch(instance, "restore", "restore_backup", **{"cluster": CLUSTER, **config}))


def test_prune_shows_and_refuses_rather_than_removes(scene: Scene, instance: dg.DagsterInstance) -> None:
    night(instance)
    before = len(scene.catalogue("redis").list().backups)
    assert launch(instance, "prune", "prune_backups", cluster=CLUSTER, dry_run=False).success
    assert len(scene.catalogue("redis").list().backups) == before


def test_no_credential_is_in_any_event(scene: Scene, instance: dg.DagsterInstance) -> None:
    result = run(instance, "backup")
    password = scene.urls["postgres"].split(":")[2].split("@")[0]
    identity = (scene.home / "backup-identity.txt").read_text().split()[-1]
    events = json.dumps([str(record.event_log_entry) for record in instance.get_records_for_run(result.run_id).records])
    assert result.success
    assert password not in events
    assert identity not in events


def test_a_missed_night_is_caught_up_and_a_late_one_is_told_once(scene: Scene, instance: dg.DagsterInstance) -> None:
    """Also when the daemon was away at two o'clock, or the run failed: only what the store holds counts."""
    night(instance)
    nexus = NexusResource()
    due = last_due("0 2 * * *", "America/Los_Angeles", datetime.now(UTC)) + timedelta(days=1)

    def ours(now: datetime) -> tuple[list[dg.RunRequest], set[str]]:
        requests, late = look(nexus, instance, now)
        return [one for one in requests if one.partition_key == CLUSTER], {
            one for one in late if one.startswith(CLUSTER)
        }

    assert ours(due - timedelta(minutes=1)) == ([], set()), "tonight's is there"
    assert ours(due + GIVEN - timedelta(minutes=1)) == ([], set()), "its own schedule has just launched it"
    (request,), late = ours(due + GIVEN)
    assert late == set()
    assert set(request.asset_selection or ()) == set(BACKUPS.values())
    assert request.tags["backup-cluster"] == CLUSTER
    (again,), late = ours(due + LATE)
    assert again.run_key != request.run_key, "a key that was used once is never used again"
    assert {name.split(":")[1] for name in late} == set(BACKUPS)
    instance.create_run_for_job(
        job_def=defs.resolve_job_def("backup"), status=dg.DagsterRunStatus.STARTED, tags={"backup-cluster": CLUSTER}
    )
    assert ours(due + LATE)[0] == [], "one is at it"

    journal = scene.home / "notifications.log"
    told = len(journal.read_text().splitlines()) if journal.exists() else 0
    context = dg.build_sensor_context(
        instance=instance, resources={"nexus": nexus}, repository_def=defs.get_repository_def()
    )
    first = backup_watch.evaluate_tick(context)
    assert first.skip_message, "whoever has just set it up has not missed a night"
    just_now = (datetime.now(UTC) - GIVEN - timedelta(minutes=1)).isoformat()
    context = dg.build_sensor_context(
        instance=instance, cursor=just_now, resources={"nexus": nexus}, repository_def=defs.get_repository_def()
    )
    assert backup_watch.evaluate_tick(context).cursor == just_now, "what is tried for the first time is not late"
    cursor = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    for _ in range(2):  # clusters that were never backed up are late
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"nexus": nexus}, repository_def=defs.get_repository_def()
        )
        cursor = backup_watch.evaluate_tick(context).cursor
    lines = journal.read_text().splitlines()[told:] if journal.exists() else []
    assert len(lines) == len(set(lines)) == len((cursor or "").split()) - 1


def test_the_nights_are_those_of_the_region() -> None:
    zones = {schedule.name: schedule.execution_timezone for schedule in BACKUP_SCHEDULES}
    assert zones["backup_production_us_east_1"] == "America/New_York"
    assert zones["drill_production_us_west_2"] == "America/Los_Angeles"
    now = datetime(2026, 11, 25, 7, 30, tzinfo=UTC)
    assert last_due("0 2 * * *", "America/New_York", now) == datetime(2026, 11, 25, 7, tzinfo=UTC)
    assert last_due("0 2 * * *", "America/Los_Angeles", now) == datetime(2026, 11, 24, 10, tzinfo=UTC)
    after_spring = datetime(2026, 3, 8, 12, tzinfo=UTC)  # the night in which two o'clock does not exist
    assert after_spring - last_due("0 2 * * *", "America/Los_Angeles", after_spring) < timedelta(hours=26)


def night(instance: dg.DagsterInstance) -> None:
    """A backup and a drill, where there is none yet."""
    if not NexusResource().backups(CLUSTER, "postgresql").catalogue.list().backups:
        assert run(instance, "backup").success
        assert run(instance, "drill").success


def plan_of(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    records = instance.fetch_observations(key, limit=20).records
    plans = [
        record.asset_observation.metadata["restore_plan"].value
        for record in records
        if record.asset_observation and "restore_plan" in record.asset_observation.metadata
    ]
    return str(plans[0])
