"""The watch of the nights: a backup that was missed or failed is caught up, one that is late is told.

It is level-triggered from what the catalogue lists: whether the daemon was away at two o'clock, a run died or a schedule was stopped
comes to the same. A schedule cannot notice any of that itself.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg

from nexus_ops.assets.backups import BACKUP_TAG, BACKUPS
from nexus_ops.jobs.backups import backup
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.backups.context import BackupContext

SECONDS = 300
GIVEN = timedelta(minutes=20)
"""So long after its time a night counts as missed."""
LATE = timedelta(hours=2)
"""So long after its time a missing backup is told to people."""
AGAIN = timedelta(minutes=30)
"""Between two tries."""


def last_due(cron: str, zone: str, now: datetime) -> datetime:
    """When the schedule was last due before now (UTC); an hour that the clock skips or repeats is dagster's to know."""
    from dagster._utils.schedules import reverse_cron_string_iterator

    local = now.astimezone(ZoneInfo(zone))
    return next(reverse_cron_string_iterator(local.timestamp(), cron, zone)).astimezone(UTC)


@dg.sensor(
    name="backup_watch",
    job=backup,
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Catches up a night's backup that was missed or failed, and tells people of one that is late.",
)
def backup_watch(context: dg.SensorEvaluationContext, nexus: NexusResource) -> dg.SensorResult:
    now = datetime.now(UTC)
    since, *told = (context.cursor or now.isoformat()).split()
    if now < datetime.fromisoformat(since) + GIVEN:
        # We have only just begun to look: whoever has just set it up has not missed a night.
        return dg.SensorResult(
            skip_reason=f"looks from {GIVEN.seconds // 60} minutes after its first tick", cursor=since
        )
    requests, late = look(nexus, context.instance, now)
    if now < datetime.fromisoformat(since) + LATE:
        late = set()  # nobody is told before it has been tried for as long
    for name in sorted(late - set(told)):
        cluster, system, night = name.split(":", 2)
        nexus.notifier().send(
            f"{cluster}: the backup of {system} is late",
            f"Nothing has been backed up since it was due ({night}). It is tried again every {AGAIN.seconds // 60} minutes; "
            "the runs of the job `backup` say why it failed. docs/backups.md says what to do.",
        )
    return dg.SensorResult(requests, cursor=" ".join([since, *sorted(late)]))


def look(nexus: NexusResource, instance: dg.DagsterInstance, now: datetime) -> tuple[list[dg.RunRequest], set[str]]:
    """The runs that catch up what was missed, and what is late: `<cluster>:<system>:<when it was due>`."""
    requests: list[dg.RunRequest] = []
    late: set[str] = set()
    for cluster in TOPOLOGY.enabled_clusters:
        due = last_due(TOPOLOGY.environment_of(cluster).backups.schedule, TOPOLOGY.time_zone_of(cluster), now)
        without = [system for system in BACKUPS if _is_missing(nexus, cluster.name, system, due)]
        if not without or now < due + GIVEN:
            continue
        if not _is_coming(instance, cluster.name):
            requests.append(_request(cluster.name, due, now, without))
        if now >= due + LATE:
            late |= {f"{cluster.name}:{system}:{due:%Y-%m-%dT%H:%MZ}" for system in without}
    return requests, late


def _is_missing(nexus: NexusResource, cluster: str, system: str, due: datetime) -> bool:
    """Whether no backup began since it was due. A store that does not answer has none: then a try is right, and an alert."""
    from nexus_ops.backups.context import NotDeclared, declared_url
    from nexus_ops.backups.operations import newest
    from nexus_ops.errors import OperationError

    try:
        database: BackupContext = nexus.backups(cluster, system)  # pyright: ignore[reportArgumentType]
        declared_url(database.declared, database.system, database.cluster)
        found = newest(database)
    except NotDeclared:
        return False
    except OperationError:
        return True
    return found is None or found.manifest.started < due


def _is_coming(instance: dg.DagsterInstance, cluster: str) -> bool:
    unfinished: Iterable[dg.DagsterRunStatus] = (
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    )
    filters = dg.RunsFilter(statuses=list(unfinished), tags={BACKUP_TAG: cluster})
    return instance.get_runs_count(filters) > 0


def _request(cluster: str, due: datetime, now: datetime, without: list[str]) -> dg.RunRequest:
    # The attempt is in the key: a key that was used once is never used again, not even after a failure.
    attempt = int((now - due) / AGAIN)
    return dg.RunRequest(
        run_key=f"{cluster}:{due:%Y-%m-%dT%H:%MZ}:{attempt}",
        partition_key=cluster,
        asset_selection=[BACKUPS[system] for system in BACKUPS if system in without],
        tags={BACKUP_TAG: cluster, "actor": "backup watch"},
    )


BACKUP_SENSORS = [backup_watch]
