"""CloudNativePG's resources, in the sandbox's API with the operator's own schemas.

Where no PostgreSQL runs no operator does: its part is played by the test. Where one does, the sandbox's stand-in takes the backups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from backup_scene import AT

from nexus_ops.assets.backups import BACKUPS, check_name
from nexus_ops.backups.context import BackupContext
from nexus_ops.backups.operations import judge_own, take_backup
from nexus_ops.backups.postgres import cnpg
from nexus_ops.backups.postgres.cnpg import (
    AWAIT_SECONDS,
    BACKUP,
    CLUSTER,
    OBJECT_STORE,
    PLUGIN,
    BackupFailed,
    Recovery,
    WalMissing,
    apply,
    archive_of,
    ask,
    await_good,
    cluster_from_scratch,
    plan,
    recovery_cluster,
    trigger,
)
from nexus_ops.clusters.client import NAMESPACE, ClusterClient
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.definitions import defs
from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.resources import NexusResource
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path

pytestmark = pytest.mark.sandbox_only
Object = dict[str, Any]
NAME, SPACE = "staging-us-west-2", "nexus-data"
COMPLETED = {
    "phase": "completed", "backupId": "20260131T020000", "serverName": NAME, "beginLSN": "0/4000028", "endLSN": "0/5000100",
    "beginWal": "000000010000000000000004", "endWal": "000000010000000000000005",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterClient]:
    home = tmp_path_factory.mktemp("sandbox")
    state = supervisor.start(home, [NAME], ())
    found = ClusterClient.connect(Topology.load(default_path()).cluster(NAME), kubeconfig=Path(state.kubeconfig))
    if found.get(NAMESPACE, SPACE) is None:
        found.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}, manager="test")
    found.create(live(), manager="test")
    yield found
    found.close()
    supervisor.stop(home)


def live(server_name: str = NAME) -> Object:
    """The Cluster as the chart makes it."""
    parameters = {"barmanObjectName": "postgresql-backups", "serverName": server_name}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "postgresql-cluster", "namespace": SPACE, "labels": {"app.kubernetes.io/part-of": "x"}},
        "spec": {
            "instances": 3,
            "bootstrap": {"initdb": {"database": "nexus", "owner": "nexus", "secret": {"name": "database"}}},
            "storage": {"size": "100Gi"},
            "plugins": [{"name": PLUGIN, "isWALArchiver": True, "parameters": parameters}],
        },
    }


def says(client: ClusterClient, name: str, status: Object) -> None:
    """What the operator would write."""
    path = client.path(BACKUP, SPACE, name)
    client.request(
        "PATCH", f"{path}/status", query={"fieldManager": "operator"}, body={"status": status},
        media="application/merge-patch+json",
    )  # fmt: skip


def archived(store: ObjectStore, *numbers: int) -> None:
    for number in numbers:
        store.put(f"{NAME}/wals/0000000100000000/{1:08X}{0:08X}{number:08X}.gz", b"x")


def test_a_completed_backup_is_good_only_with_its_log(client: ClusterClient, files: ObjectStore) -> None:
    name = trigger(client, SPACE, "postgresql-cluster", now=AT)
    asked = client.get(BACKUP, name, SPACE)
    assert asked is not None
    assert asked["spec"]["pluginConfiguration"] == {"name": PLUGIN}
    with pytest.raises(TemporaryError, match="did not end within 0 s; it is not begun"):
        await_good(client, SPACE, name, files, seconds=0)
    says(client, name, COMPLETED)
    archived(files, 4)
    with pytest.raises(WalMissing, match="1 segments of its log are not in the archive, 000000010000000000000005"):
        await_good(client, SPACE, name, files, seconds=0)
    archived(files, 5)
    good = await_good(client, SPACE, name, files, seconds=0)
    assert (good.backup_id, good.server_name, good.end_lsn) == ("20260131T020000", NAME, "0/5000100")


def test_a_backup_that_a_killed_run_asked_for_is_waited_for_and_no_second_one_is_made(client: ClusterClient) -> None:
    now = datetime.now(UTC)
    first = ask(client, SPACE, "postgresql-cluster", now=now)
    assert ask(client, SPACE, "postgresql-cluster", now=now + timedelta(seconds=5)) == first
    says(client, first, {"phase": "running"})
    assert ask(client, SPACE, "postgresql-cluster", now=now + timedelta(seconds=6)) == first
    late = now + timedelta(seconds=AWAIT_SECONDS + 60)
    stuck = ask(client, SPACE, "postgresql-cluster", now=late)
    assert stuck != first, "what never ends is not waited for"
    for name in (first, stuck):
        says(client, name, COMPLETED)
    assert ask(client, SPACE, "postgresql-cluster", now=now + timedelta(seconds=7)) not in (first, stuck)
    with pytest.raises(
        PermanentError, match=r"nexus-data/nowhere: there is no such Cluster of CloudNativePG's\. Deploy"
    ):
        ask(client, SPACE, "nowhere", now=now)


def test_the_archive_is_where_the_clusters_object_store_says(client: ClusterClient) -> None:
    with pytest.raises(PermanentError, match="its ObjectStore 'postgresql-backups' does not exist"):
        archive_of(client, SPACE, "postgresql-cluster")
    spec = {"configuration": {"destinationPath": "s3://nexus-backups/postgresql"}}
    body: Object = {"apiVersion": OBJECT_STORE.api_version, "kind": OBJECT_STORE.kind, "spec": spec}
    client.create({**body, "metadata": {"name": "postgresql-backups", "namespace": SPACE}}, manager="test")
    assert archive_of(client, SPACE, "postgresql-cluster").url == "s3://nexus-backups/postgresql"


def test_a_failed_backup_says_why(client: ClusterClient, files: ObjectStore) -> None:
    name = trigger(client, SPACE, "postgresql-cluster", now=AT.replace(day=30))
    says(client, name, {"phase": "failed", "error": "no space left"})
    with pytest.raises(BackupFailed, match="no space left"):
        await_good(client, SPACE, name, files, seconds=0)


def test_a_recovery_cluster_is_planned_and_applied_under_a_new_name(client: ClusterClient) -> None:
    source = client.get(CLUSTER, "postgresql-cluster", SPACE)
    assert source is not None
    moment = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    obj = recovery_cluster(source, Recovery("postgresql-restored", f"{NAME}-2", time=moment))
    recovery = obj["spec"]["bootstrap"]["recovery"]
    assert recovery["recoveryTarget"] == {"targetTime": "2026-01-31T12:00:00+00:00"}
    assert (recovery["database"], recovery["owner"]) == ("nexus", "nexus")
    [origin] = obj["spec"]["externalClusters"]
    assert origin["plugin"]["parameters"]["serverName"] == NAME
    assert obj["spec"]["plugins"][0]["parameters"]["serverName"] == f"{NAME}-2"
    [change] = plan(client, obj)
    assert (change.what, change.name) == ("added", "postgresql-restored")
    assert client.get(CLUSTER, "postgresql-restored", SPACE) is None, "a plan makes nothing"
    with acquire(client, SPACE, "restore", "a test", clock=lambda: datetime.now(UTC)) as lease:
        apply(Fenced(client, lease), obj)
    made = client.get(CLUSTER, "postgresql-restored", SPACE)
    assert made is not None
    assert made["spec"]["instances"] == 3
    with pytest.raises(PermanentError, match="never writes over one"):
        plan(client, obj)
    with pytest.raises(PermanentError, match=f"must not archive as {NAME}"):
        recovery_cluster(source, Recovery("postgresql-restored", NAME))


def test_from_our_own_copy_through_a_scratch_server(client: ClusterClient) -> None:
    source = client.get(CLUSTER, "postgresql-cluster", SPACE)
    assert source is not None
    obj = cluster_from_scratch(
        source, Recovery("postgresql-copy", f"{NAME}-3"), host="scratch.nexus-ops.svc", user="streaming", secret="scratch", key="password"
    )  # fmt: skip
    assert obj["spec"]["bootstrap"]["pg_basebackup"]["source"] == obj["spec"]["externalClusters"][0]["name"]
    assert "password" not in json.dumps(obj["spec"]["externalClusters"][0]["connectionParameters"])
    assert [change.what for change in plan(client, obj)] == ["added"]


PRODUCTION = "production-us-west-2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A production cluster whose PostgreSQL CloudNativePG runs: the topology says so, and its Cluster is there."""
    folder = tmp_path_factory.mktemp("production")
    state = supervisor.start(folder, [PRODUCTION], ("postgres", "valkey"))
    try:
        with closing(
            ClusterClient.connect(Topology.load(default_path()).cluster(PRODUCTION), kubeconfig=Path(state.kubeconfig))
        ) as made:
            made.create(live(PRODUCTION), manager="test")
        yield folder
    finally:
        supervisor.stop(folder)


@pytest.fixture
def context(home: Path, monkeypatch: pytest.MonkeyPatch) -> BackupContext:
    """Its PostgreSQL, as the asset sees it."""
    monkeypatch.setenv("KUBECONFIG", str(home / "kubeconfig"))
    monkeypatch.setenv("NEXUS_HOME", str(home))
    monkeypatch.delenv("NEXUS_STORE", raising=False)
    return NexusResource().backups(PRODUCTION, "postgresql")


def test_the_asset_has_cloudnativepg_take_its_own_backup_beside_ours(home: Path, context: BackupContext) -> None:
    with dg.instance_for_test() as instance:
        job = defs.resolve_job_def("backup")
        done = job.execute_in_process(instance=instance, partition_key=PRODUCTION, raise_on_error=False)
        checks = {
            one.check_name: one for one in done.get_asset_check_evaluations() if one.asset_key == BACKUPS["postgresql"]
        }
    own = checks[check_name("cloudnativepg", PRODUCTION)]
    assert own.passed, own.description
    name, _, said = str(own.description).partition(" ")
    assert "ended 0." in said
    assert str(checks["complete"].description).startswith(f"{PRODUCTION}: "), "its list is of all clusters"
    with closing(context.connect()) as client:
        good = await_good(client, SPACE, name, ObjectStore.open(context.cnpg_archive), seconds=0)
    assert good.server_name == PRODUCTION
    assert (home / "cnpg-archive" / PRODUCTION / "base" / good.backup_id / "data.tar").stat().st_size > 10 << 20
    assert context.catalogue.latest().manifest.kind == "physical", "ours is another one"


def test_ours_is_taken_when_cloudnativepgs_is_not_good_and_a_check_says_so(
    context: BackupContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cnpg, "AWAIT_SECONDS", 4.0)
    wrong = replace(context, cnpg_archive=tmp_path.as_uri())
    elsewhere = take_backup(wrong, "test")
    assert not elsewhere.own.passed
    assert "of its log are not in the archive" in elsewhere.own.why
    assert judge_own(wrong).why == "CloudNativePG has taken no backup yet whose log is in the archive", (
        "the log may be on its way"
    )
    later = replace(wrong, clock=lambda: context.clock() + timedelta(seconds=cnpg.WAL_SECONDS + 60))
    assert "of its log are not in the archive" in judge_own(later).why
    assert not judge_own(later).first
    late = judge_own(replace(context, clock=lambda: context.clock() + timedelta(hours=27)))
    assert (late.passed, late.first) == (False, False)
    assert judge_own(context).passed
    declared = context.declared.postgresql
    assert declared is not None
    nowhere = declared.model_copy(update={"cnpg": "nowhere"})
    unmade = replace(context, declared=context.declared.model_copy(update={"postgresql": nowhere}))
    missing = take_backup(unmade, "test")
    assert "there is no such Cluster" in missing.own.why
    assert judge_own(unmade).first, "on the first day of a platform nothing need have been deployed"
    assert elsewhere.read_back.passed
    assert missing.read_back.passed
    assert context.catalogue.latest().id == missing.listed.id
