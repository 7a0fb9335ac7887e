"""CloudNativePG's resources, in the sandbox's API with the operator's own schemas. No operator runs: its part is played by the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backup_scene import AT

from nexus_ops.backups.postgres.cnpg import (
    BACKUP,
    CLUSTER,
    PLUGIN,
    BackupFailed,
    Recovery,
    WalMissing,
    apply,
    await_good,
    cluster_from_scratch,
    plan,
    recovery_cluster,
    trigger,
)
from nexus_ops.clusters.client import NAMESPACE, ClusterClient
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.errors import PermanentError, TemporaryError
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


def live() -> Object:
    """The Cluster as the chart makes it."""
    parameters = {"barmanObjectName": "postgresql-backups", "serverName": NAME}
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
