"""Stand-in for the operators of the data layer: CloudNativePG's Clusters and Backups, and the OT operator's RedisClusters.

There is one real PostgreSQL and one real Valkey in a sandbox cluster, whatever number of instances is declared: all of them
are called ready while it answers, and none while it does not. The fields are those that the real operators write.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nexus_ops.sandbox.controllers.queue import Key
from nexus_ops.sandbox.controllers.workloads import is_leaving
from nexus_ops.sandbox.databases import Postgres
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.sandbox.processes import answers

if TYPE_CHECKING:
    from psycopg import Cursor

Object = dict[str, Any]
KEPT = 2
"""Copies of a server's files that stay."""
LOOK_AGAIN = 2.0
"""Seconds between looks at a server."""
HEALTHY, WAITING = "Cluster in healthy state", "Waiting for the instances to become active"


def _changed(event: Event, kind: str) -> list[Key]:
    meta = event.object["metadata"]
    return [(meta["namespace"], meta["name"])] if event.key == kind and event.type != "DELETED" else []


class Operator:
    """Keeps the status of the objects of one kind, by whether the server on a port answers."""

    name: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, store: Store, port: int) -> None:
        self.store = store
        self.port = port

    def keys(self, event: Event) -> list[Key]:
        return _changed(event, self.kind)

    def reconcile(self, namespace: str, name: str) -> float | None:
        found = self.store.find(self.kind, namespace, name)
        if found is None or is_leaving(found):
            return None
        before = found.get("status") or {}
        status = {**before, **self.status(found, answers(self.port))}
        if status != before:
            self.store.edit(self.kind, namespace, name, lambda obj: obj.update(status=status), subresource="status")
        return LOOK_AGAIN

    def status(self, found: Object, ready: bool) -> Object:
        """What is said of an object whose server answers, or does not."""
        raise NotImplementedError


class PostgresOperator(Operator):
    """Keeps the status of CloudNativePG's Clusters."""

    name = "cloudnative-pg"
    kind = "clusters.postgresql.cnpg.io"

    def status(self, found: Object, ready: bool) -> Object:
        wanted, name = found["spec"].get("instances", 1), found["metadata"]["name"]
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": timestamp(),
                     "reason": "ClusterIsReady" if ready else "ClusterIsNotReady",
                     "message": "Cluster is Ready" if ready else "Cluster Is Not Ready"}  # fmt: skip
        was = next(iter((found.get("status") or {}).get("conditions") or ()), None)
        if was and was["status"] == condition["status"]:
            condition = was
        return {
            "instances": wanted,
            "readyInstances": wanted if ready else 0,
            "phase": HEALTHY if ready else WAITING,
            "currentPrimary": f"{name}-1",
            "targetPrimary": f"{name}-1",
            "instanceNames": [f"{name}-{number + 1}" for number in range(wanted)],
            "conditions": [condition],
        }


class RedisOperator(Operator):
    """Keeps the status of RedisClusters."""

    name = "redis-operator"
    kind = "redisclusters.redis.redis.opstreelabs.in"

    def status(self, found: Object, ready: bool) -> Object:
        size = found["spec"].get("clusterSize", 1)
        return {
            "state": "Ready" if ready else "Failed",
            "reason": "RedisCluster is ready" if ready else "RedisCluster does not answer",
            "readyLeaderReplicas": size if ready else 0,
            "readyFollowerReplicas": size if ready else 0,
        }


class PostgresBackups:
    """Takes the Backups of CloudNativePG's Clusters: a copy of the server's files, and the log from its beginning to its end.

    Laid out as Barman does: `<serverName>/base/<id>/data.tar` and `<serverName>/wals/<first 16 digits>/<segment>`. Barman's own
    backup.info is not written: nothing but the log is looked at by others than people.
    """

    name = "cloudnative-pg-backups"
    kind = "backups.postgresql.cnpg.io"

    def __init__(self, store: Store, server: Postgres, archive: Path) -> None:
        self.store = store
        self.server = server
        self.archive = archive
        self._taken: dict[str, Future[Object]] = {}
        self._at_once = ThreadPoolExecutor(1, thread_name_prefix=self.name)  # one backup of a server at a time

    def stop(self) -> None:
        """Take no more; one that is being taken is waited for."""
        self._at_once.shutdown(cancel_futures=True)

    def keys(self, event: Event) -> list[Key]:
        return _changed(event, self.kind)

    def reconcile(self, namespace: str, name: str) -> float | None:
        found = self.store.find(self.kind, namespace, name)
        phase = (found or {}).get("status", {}).get("phase")
        if found is None or is_leaving(found) or phase in ("completed", "failed"):
            return None
        uid = found["metadata"]["uid"]
        if uid not in self._taken:
            cluster = self.store.find(PostgresOperator.kind, namespace, found["spec"]["cluster"]["name"])
            if cluster is None:
                return self._says(namespace, name, {"phase": "failed", "error": "there is no such Cluster"})
            self._says(namespace, name, {"phase": "running", "method": "plugin", "startedAt": timestamp()})
            self._taken[uid] = self._at_once.submit(self._take, archived_as(cluster))
        done = self._taken[uid]
        if not done.done():
            return 0.2
        del self._taken[uid]
        if error := done.exception():
            return self._says(namespace, name, {"phase": "failed", "error": f"{type(error).__name__}: {error}"})
        return self._says(namespace, name, {**done.result(), "phase": "completed", "stoppedAt": timestamp()})

    def _says(self, namespace: str, name: str, status: Object) -> None:
        def change(obj: Object) -> None:
            obj["status"] = {**(obj.get("status") or {}), **status}

        self.store.edit(self.kind, namespace, name, change, subresource="status")

    def _take(self, server_name: str) -> Object:
        """In a thread: between the server's own start and stop of a backup, copy its files, then the log."""
        import psycopg

        identity = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
        base = self.archive / server_name / "base" / identity
        base.mkdir(parents=True, exist_ok=True)
        with psycopg.connect(self.server.url, autocommit=True) as link:
            slot = f"stand_in_{os.getpid()}"  # keeps the log, as long as the connection lasts
            link.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", (slot,))
            begin = str(_one(link.execute("SELECT pg_backup_start(%s, true)", (identity,))))
            _copy_files(self.server.data, base / "data.tar")
            end = str(_one(link.execute("SELECT lsn FROM pg_backup_stop(false)")))
            first, last = (str(_one(link.execute("SELECT pg_walfile_name(%s)", (lsn,)))) for lsn in (begin, end))
            link.execute("SELECT pg_switch_wal()")  # what is archived is whole
            for segment in sorted((self.server.data / "pg_wal").iterdir()):
                if first <= segment.name <= last:
                    folder = self.archive / server_name / "wals" / segment.name[:16]
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(segment, folder / segment.name)
        for old in sorted(base.parent.iterdir())[:-KEPT]:
            shutil.rmtree(old)
        return {"backupId": identity, "backupName": f"backup-{identity}", "serverName": server_name,
                "beginLSN": begin, "endLSN": end, "beginWal": first, "endWal": last}  # fmt: skip


def archived_as(cluster: Object) -> str:
    """The name under which a Cluster archives: its plugin's serverName, else its own."""
    plugins = cluster["spec"].get("plugins") or ()
    return next((p["parameters"]["serverName"] for p in plugins if "serverName" in p.get("parameters", {})), cluster["metadata"]["name"])  # fmt: skip


def _copy_files(data: Path, target: Path) -> None:
    """The files of a running server but its log, which is archived; that some change meanwhile is what the log is for."""
    left_out = [f"--exclude={data.name}/{name}" for name in ("pg_wal/*", "postmaster.pid", "postmaster.opts")]
    done = subprocess.run(
        ["tar", "--create", f"--file={target}", f"--directory={data.parent}", *left_out, data.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode > 1:  # 1: files changed while they were read
        raise OSError(f"tar: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")


def _one(cursor: Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None, "a function gives one row"
    return row[0]
