"""CloudNativePG: its own backups, triggered and awaited, and Clusters that recover from them or from ours.

A Backup that CloudNativePG calls completed cannot be restored when its log never reached the archive (plugin-barman-cloud,
issues 618 and 657): it is called good only when every segment from its beginning to its end has been found there. The
archive is laid out as Barman does: `<serverName>/wals/<first 16 digits>/<segment>[.compression]`.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from nexus_ops.backups.lsn import segment_start, segments_between
from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.clusters.fence import Fenced
from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.releases.diff import Change, diff
from nexus_ops.storage import ObjectStore

Object = dict[str, Any]
BACKUP = Kind("postgresql.cnpg.io/v1", "Backup")
CLUSTER = Kind("postgresql.cnpg.io/v1", "Cluster")
PLUGIN = "barman-cloud.cloudnative-pg.io"
MANAGER = "nexus-backup"
SEGMENT_BYTES = 16 << 20
POLL_SECONDS = 2.0
AWAIT_SECONDS = 2 * 3600.0
"""How long a backup may take until its log is in the archive; one that is older is not waited for by another run either."""
WAL_SECONDS = 600.0
"""How long the log of a completed backup may take into the archive."""
ORIGIN, SCRATCH = "origin", "scratch"
OBJECT_STORE = Kind("barmancloud.cnpg.io/v1", "ObjectStore")
OWN = {"app.kubernetes.io/managed-by": "nexus-ops"}
"""The labels of Backups that were asked for here."""


class NoCluster(PermanentError):
    """CloudNativePG runs no such server, or not yet."""


class BackupFailed(PermanentError):
    """CloudNativePG says that its backup failed."""


class WalMissing(PermanentError):
    """A backup that is called completed, and whose log is not in the archive: it cannot be restored."""


@dataclass(frozen=True)
class OwnBackup:
    """A backup of CloudNativePG's that was found good."""

    name: str
    backup_id: str
    server_name: str
    begin_wal: str
    end_wal: str
    begin_lsn: str
    end_lsn: str
    started: str
    stopped: str

    @property
    def ended(self) -> datetime:
        return datetime.fromisoformat(self.stopped)


def trigger(client: ClusterClient, namespace: str, cluster: str, *, now: datetime) -> str:
    """Ask for a backup; its name. A new object of its own takes nothing from anybody, so that it needs no fence."""
    name = f"{cluster}-{now.astimezone(UTC):%Y%m%d%H%M%S}-{secrets.token_hex(3)}"
    body: Object = {
        "apiVersion": BACKUP.api_version,
        "kind": BACKUP.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": OWN},
        "spec": {
            "cluster": {"name": cluster},
            "method": "plugin",
            "target": "prefer-standby",
            "pluginConfiguration": {"name": PLUGIN},
        },
    }
    client.create(body, manager=MANAGER)
    return name


def ask(client: ClusterClient, namespace: str, cluster: str, *, now: datetime) -> str:
    """The backup that a run which was killed has asked for and that goes on, else a new one; its name."""
    if client.get(CLUSTER, cluster, namespace) is None:
        raise _no_cluster(namespace, cluster)
    for found in client.list(BACKUP, namespace, OWN):
        made = datetime.fromisoformat(found["metadata"]["creationTimestamp"])
        is_over = (found.get("status") or {}).get("phase") in ("completed", "failed")
        if found["spec"]["cluster"]["name"] == cluster and not is_over and (now - made).total_seconds() < AWAIT_SECONDS:
            return str(found["metadata"]["name"])
    return trigger(client, namespace, cluster, now=now)


def archive_of(client: ClusterClient, namespace: str, cluster: str, known: str = "") -> ObjectStore:
    """The store at the destinationPath of a Cluster's ObjectStore, by the credentials of this process.

    `known`: where it is reached from here, when that is another URL.
    """
    if known:
        return ObjectStore.open(known)
    live = client.get(CLUSTER, cluster, namespace)
    if live is None:
        raise _no_cluster(namespace, cluster)
    name = str(_parameters(live).get("barmanObjectName", ""))
    store = client.get(OBJECT_STORE, name, namespace) if name else None
    if store is None:
        raise PermanentError(f"its ObjectStore {name!r} does not exist.", target=f"{namespace}/{cluster}")
    declared = store["spec"]["configuration"]
    endpoint = {"endpoint": declared["endpointURL"]} if declared.get("endpointURL") else {}
    return ObjectStore.open(declared["destinationPath"], **endpoint)


def _no_cluster(namespace: str, cluster: str) -> NoCluster:
    todo = "Deploy the release that makes it, or take `cnpg` out of topology.yaml where CloudNativePG does not run it."
    return NoCluster("there is no such Cluster of CloudNativePG's.", target=f"{namespace}/{cluster}", todo=todo)


def newest_good(
    client: ClusterClient, namespace: str, cluster: str, archive: ObjectStore, *, now: datetime
) -> OwnBackup | None:
    """The newest backup of a Cluster whose log is in the archive, whoever asked for it; None before the first is completed.

    `BackupFailed` when the newest that is over failed, `WalMissing` when its log has not come in time.
    """
    if client.get(CLUSTER, cluster, namespace) is None:
        raise _no_cluster(namespace, cluster)
    over = [
        found
        for found in client.list(BACKUP, namespace)
        if found["spec"]["cluster"]["name"] == cluster
        and (found.get("status") or {}).get("phase") in ("completed", "failed")
    ]
    for found in sorted(over, key=lambda one: str(one["metadata"]["creationTimestamp"]), reverse=True):
        name = str(found["metadata"]["name"])
        _raise_failed(namespace, name, found)
        backup = _read(client, namespace, name, found)
        if not (missing := missing_wal(archive, backup)):
            return backup
        if (now - backup.ended).total_seconds() > WAL_SECONDS:
            raise _wal_missing(namespace, name, missing)
    return None


def await_good(
    client: ClusterClient,
    namespace: str,
    name: str,
    archive: ObjectStore,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> OwnBackup:
    """Wait until a backup is completed and its log is in the archive (a store at the ObjectStore's destinationPath)."""
    deadline = clock() + seconds
    completed: float | None = None
    missing: list[str] = []
    while True:
        found = client.get(BACKUP, name, namespace)
        if found is None:
            raise BackupFailed("the backup is gone.", target=f"{namespace}/{name}")
        status = cast(Object, found.get("status") or {})
        phase = str(status.get("phase", ""))
        _raise_failed(namespace, name, found)
        if phase == "completed":
            backup = _read(client, namespace, name, found)
            completed = completed or clock()
            deadline = min(deadline, completed + WAL_SECONDS)
            missing = missing_wal(archive, backup)
            if not missing:
                return backup
        if clock() > deadline:
            break
        client.pause(POLL_SECONDS)
    if missing:
        raise _wal_missing(namespace, name, missing)
    raise TemporaryError(
        f"the backup did not end within {seconds:.0f} s; it is {phase or 'not begun'}.", target=f"{namespace}/{name}"
    )


def _raise_failed(namespace: str, name: str, found: Object) -> None:
    status = cast(Object, found.get("status") or {})
    if status.get("phase") == "failed":
        raise BackupFailed(
            f"CloudNativePG says that it failed: {status.get('error') or 'without a reason'}.",
            target=f"{namespace}/{name}",
        )


def _wal_missing(namespace: str, name: str, missing: list[str]) -> WalMissing:
    return WalMissing(
        f"it is called completed, and {len(missing)} segments of its log are not in the archive, {missing[0]} among them.",
        target=f"{namespace}/{name}",
        todo="Look at the Cluster's condition ContinuousArchiving: this backup cannot be restored.",
    )


def missing_wal(archive: ObjectStore, backup: OwnBackup) -> list[str]:
    """Segments of a backup's log that the archive does not have."""
    timeline, begin = segment_start(backup.begin_wal, SEGMENT_BYTES)
    _, last = segment_start(backup.end_wal, SEGMENT_BYTES)
    wanted = segments_between(timeline, begin, last + SEGMENT_BYTES, SEGMENT_BYTES)
    there: set[str] = set()
    for folder in sorted({name[:16] for name in wanted}):
        keys = archive.list(f"{backup.server_name}/wals/{folder}")
        there |= {key.rpartition("/")[2].split(".")[0] for key in keys}
    return [name for name in wanted if name not in there]


def _read(client: ClusterClient, namespace: str, name: str, found: Object) -> OwnBackup:
    status = found["status"]
    lacking = [key for key in ("beginWal", "endWal", "backupId") if not status.get(key)]
    if lacking:
        raise BackupFailed(f"its status has no {lacking[0]}.", target=f"{namespace}/{name}")
    server = status.get("serverName") or _server_name(client, namespace, found["spec"]["cluster"]["name"])
    made = found["metadata"]["creationTimestamp"]
    text = {key: str(status.get(key, "")) for key in ("beginLSN", "endLSN", "startedAt")}
    return OwnBackup(
        name, status["backupId"], server, status["beginWal"], status["endWal"],
        text["beginLSN"], text["endLSN"], text["startedAt"], str(status.get("stoppedAt") or made),
    )  # fmt: skip


def _server_name(client: ClusterClient, namespace: str, cluster: str) -> str:
    live = client.get(CLUSTER, cluster, namespace)
    if live is None:
        raise _no_cluster(namespace, cluster)
    return str(_parameters(live).get("serverName") or cluster)


def _parameters(cluster: Object) -> Object:
    """What the plugin of a Cluster is told."""
    for plugin in cast(list[Object], cluster["spec"].get("plugins") or []):
        if plugin.get("name") == PLUGIN:
            return cast(Object, plugin.get("parameters") or {})
    raise PermanentError(
        f"it has no plugin {PLUGIN}.", target=f"Cluster {cluster['metadata']['name']}", todo="Switch its backups on."
    )


@dataclass(frozen=True)
class Recovery:
    """A Cluster that recovers: its name, and the name under which it archives from now on."""

    name: str
    server_name: str
    time: datetime | None = None
    """Up to when; None: all that the archive holds."""
    backup_id: str | None = None
    """From which base backup; None: CloudNativePG chooses."""


def recovery_cluster(live: Object, recovery: Recovery) -> Object:
    """A Cluster as the one of the release, which begins with the other's archive and writes its own."""
    source = _parameters(live)
    old = str(source.get("serverName") or live["metadata"]["name"])
    target: Object = {"targetTime": recovery.time.astimezone(UTC).isoformat()} if recovery.time else {}
    if recovery.backup_id:
        target["backupID"] = recovery.backup_id
    obj = _successor(live, recovery, old)
    obj["spec"]["bootstrap"] = {
        "recovery": {"source": ORIGIN, **_owner(live), **({"recoveryTarget": target} if target else {})}
    }
    obj["spec"]["externalClusters"] = [
        {"name": ORIGIN, "plugin": {"name": PLUGIN, "parameters": {**source, "serverName": old}}}
    ]
    return obj


def cluster_from_scratch(live: Object, recovery: Recovery, *, host: str, user: str, secret: str, key: str) -> Object:
    """A Cluster that copies a scratch server, on which our own backup has been restored. The password is in a Secret."""
    old = str(_parameters(live).get("serverName") or live["metadata"]["name"])
    obj = _successor(live, recovery, old)
    obj["spec"]["bootstrap"] = {"pg_basebackup": {"source": SCRATCH, **_owner(live)}}
    obj["spec"]["externalClusters"] = [
        {
            "name": SCRATCH,
            "connectionParameters": {"host": host, "user": user, "dbname": "postgres", "sslmode": "require"},
            "password": {"name": secret, "key": key},
        }
    ]
    return obj


def plan(client: ClusterClient, obj: Object) -> tuple[Change, ...]:
    """What applying it changes. A name that is taken is refused: a Cluster's bootstrap is of its birth, and no change of it."""
    meta = obj["metadata"]
    if client.get(CLUSTER, meta["name"], meta["namespace"]) is not None:
        raise PermanentError(
            "there is a Cluster of this name, and a recovery never writes over one.",
            target=f"{meta['namespace']}/{meta['name']}",
            todo="Name another one; the Service can be pointed to it later.",
        )
    client.apply(obj, manager=MANAGER, dry_run=True)  # what the API would refuse is refused now
    return diff([], [obj])


def apply(fenced: Fenced, obj: Object) -> Object:
    """Make the Cluster, as a release's objects are made."""
    return fenced.apply_release(obj)[0]


def _successor(live: Object, recovery: Recovery, old: str) -> Object:
    if recovery.server_name == old:
        raise PermanentError(
            f"a recovered Cluster must not archive as {old}: that archive is the one that it recovers from.",
            target=recovery.name,
            todo="Give it a new serverName.",
        )
    spec = copy.deepcopy(live["spec"])
    for plugin in spec["plugins"]:
        if plugin["name"] == PLUGIN:
            plugin["parameters"] = {**plugin.get("parameters", {}), "serverName": recovery.server_name}
    meta = live["metadata"]
    return {
        "apiVersion": CLUSTER.api_version,
        "kind": CLUSTER.kind,
        "metadata": {"name": recovery.name, "namespace": meta["namespace"], "labels": dict(meta.get("labels") or {})},
        "spec": spec,
    }


def _owner(live: Object) -> Object:
    """Database and owner, so that CloudNativePG goes on keeping the application's secret."""
    initial = next(iter(cast(dict[str, Object], live["spec"].get("bootstrap") or {}).values()), {})
    return {key: initial[key] for key in ("database", "owner", "secret") if key in initial}
