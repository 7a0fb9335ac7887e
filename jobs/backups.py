"""The jobs of backups: backup, drill, restore, prune, verify, and the schedules that launch them.

Each cluster has its own nights: the schedules of a cluster tick in the time zone of its region.
"""

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from nexus_ops.assets.backups import BACKUP_TAG, BACKUPS, DRILL, backup_checks
from nexus_ops.jobs.deploy import control_job
from nexus_ops.jobs.stages import CLUSTER_TAG
from nexus_ops.partitions import TOPOLOGY
from nexus_ops.refusals import in_a_sentence
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.backups.prune import Pruned
    from nexus_ops.backups.restoring import Outcome

MOST_COUNTS = 8
"""Tables whose rows the log of a restore counts; the asset has all."""
CLUSTERS = ", ".join(cluster.name for cluster in TOPOLOGY.enabled_clusters)


class RestoreConfig(dg.Config):
    """What to restore, and where to. With dry_run nothing changes: the plan is shown."""

    cluster: str = Field(description=f"The cluster whose backup is restored. One of: {CLUSTERS}.")
    system: Literal["postgresql", "redis"] = Field(default="postgresql", description="Which of its databases.")
    source: str = Field(
        default="latest-verified",
        description="latest-verified, latest, a backup's id, or a time (2026-11-25T14:00:00Z) where there is an archive of WAL.",
    )
    target: str = Field(default="", description="The cluster whose database is written to; empty: the same one.")
    target_again: str = Field(
        default="", description="The target once more: needed when it holds data, which is overwritten."
    )
    databases: list[str] = Field(
        default_factory=list, description="Databases of PostgreSQL; empty: the one of its DSN."
    )
    tables: list[str] = Field(
        default_factory=list, description="Only these tables, as schema.table; empty: whole databases."
    )
    dry_run: bool = Field(default=True, description="Only show the plan. Set to false to restore.")


class PruneConfig(dg.Config):
    """What may be removed."""

    cluster: str = Field(default="", description=f"One of: {CLUSTERS}. Empty: all of them.")
    dry_run: bool = Field(default=True, description="Only show what would be removed. Set to false to remove it.")


class VerifyConfig(dg.Config):
    """What is read and compared."""

    cluster: str = Field(default="", description=f"One of: {CLUSTERS}. Empty: all of them.")


def _actor(context: dg.OpExecutionContext) -> str:
    return context.run_tags.get("actor") or context.run_tags.get("dagster/schedule_name") or getpass.getuser()


def _named(nexus: NexusResource, cluster: str) -> list[str]:
    topology = nexus.topology()
    return [topology.cluster(cluster).name] if cluster else [one.name for one in topology.enabled_clusters]


@dg.op(name="restore_backup", description="Show the plan of a restore; carry it out, unless it is a dry run.")
@in_a_sentence
def restore_backup(context: dg.OpExecutionContext, config: RestoreConfig, nexus: NexusResource) -> None:
    """Plan, then restore when this is no dry run."""
    from nexus_ops.backups import restoring

    tags = {CLUSTER_TAG: config.target or config.cluster, "actor": _actor(context)}
    context.instance.add_run_tags(context.run_id, tags)
    source = nexus.backups(config.cluster, config.system, report=context.log.info)
    target = nexus.backups(config.target or config.cluster, config.system, report=context.log.info)
    planned = restoring.plan(source, target, config.source, databases=config.databases, tables=config.tables)
    context.log.info("%s", planned.to_markdown())
    key, partition = BACKUPS[config.system], config.target or config.cluster
    metadata = {"restore_plan": dg.MetadataValue.md(planned.to_markdown())}
    context.log_event(dg.AssetObservation(key, partition=partition, metadata=metadata))
    if config.dry_run:
        context.log.info("Dry run: nothing was changed. Launch it again with dry_run: false to restore.")
        return
    done = restoring.restore(source, target, planned, config.target_again, _actor(context))
    counts = ", ".join(f"{name} {count}" for name, count in sorted(done.counts.items())[:MOST_COUNTS])
    rest = f" and {len(done.counts) - MOST_COUNTS} more" if len(done.counts) > MOST_COUNTS else ""
    context.log.info("Restored in %.1f s: %s%s", done.seconds, counts, rest)
    context.log_event(dg.AssetObservation(key, partition=partition, metadata=_restored(done)))


@dg.op(
    name="prune_backups", description="Tombstone what retention no longer wants; delete what was for its whole grace."
)
@in_a_sentence
def prune_backups(context: dg.OpExecutionContext, config: PruneConfig, nexus: NexusResource) -> None:
    """Each database by itself: what one refuses, or a store that does not answer, does not keep the others."""
    from nexus_ops.backups.context import deleting_store
    from nexus_ops.backups.operations import claimed
    from nexus_ops.backups.prune import prune as remove
    from nexus_ops.errors import OperationError

    problems: list[str] = []
    for cluster in _named(nexus, config.cluster):
        for system, key in BACKUPS.items():
            try:
                database = nexus.backups(cluster, system, report=context.log.info)
                with claimed(database, "prune", _actor(context)):
                    done = remove(
                        database.catalogue,
                        database.policy,
                        database.clock(),
                        dry_run=config.dry_run,
                        deleter=lambda url=database.catalogue.store.url: deleting_store(url),
                        report=context.log.info,
                    )
            except OperationError as error:
                problems.append(f"{cluster} {system}: {error}")
                continue
            context.log.info("%s %s: %s", cluster, system, done.summary())
            context.log_event(dg.AssetObservation(key, partition=cluster, metadata=_pruned(done)))
            if done.judged.refusal or done.undone:
                problems.append(f"{cluster} {system}: {done.judged.refusal or done.undone}")
    if problems:
        raise dg.Failure("; ".join(problems), allow_retries=False)


@dg.op(name="verify_backups", description="Read every bundle of every backup, and compare it with its manifest.")
@in_a_sentence
def verify_backups(context: dg.OpExecutionContext, config: VerifyConfig, nexus: NexusResource) -> None:
    """Damage that came with time is found before it is needed, and named."""
    from nexus_ops.backups.operations import verify_all
    from nexus_ops.errors import OperationError

    problems: list[str] = []
    for cluster in _named(nexus, config.cluster):
        for system, key in BACKUPS.items():
            try:
                found = verify_all(nexus.backups(cluster, system, report=context.log.info))
            except OperationError as error:
                problems.append(f"{cluster} {system}: {error}")
                continue
            damaged = {backup: answer for backup, answer in found.items() if not answer.passed}
            metadata: dict[str, Any] = {"verified_backups": len(found), "damaged_backups": len(damaged)}
            context.log_event(dg.AssetObservation(key, partition=cluster, metadata=metadata))
            problems += [f"{cluster} {system} {backup}: {answer.why}" for backup, answer in damaged.items()]
    if problems:
        raise dg.Failure("; ".join(problems), allow_retries=False)


@control_job(
    "Restore a database from a backup. Begins with a dry run: it shows what would be overwritten and lost, and changes nothing.",
    "restore_backup",
    cluster="",
    system="postgresql",
    source="latest-verified",
    target="",
    target_again="",
    databases=[],
    tables=[],
    dry_run=True,
)
def restore() -> None:
    restore_backup()


@control_job(
    "Remove backups that retention no longer wants. A dry run by default.",
    "prune_backups",
    cluster="",
    dry_run=True,
)
def prune() -> None:
    prune_backups()


@control_job("Read all backups back and compare them with their manifests.", "verify_backups", cluster="")
def verify() -> None:
    verify_backups()


backup = dg.define_asset_job(
    "backup",
    # With all checks: the UI shows one as evaluated only when it is of the newest materialization.
    selection=dg.AssetSelection.assets(*BACKUPS.values()),
    description="Back up the databases of a cluster (the partition): take, read back, copy to the second region.",
)
drill = dg.define_asset_job(
    "drill",
    selection=dg.AssetSelection.assets(DRILL),
    description="Restore the newest backups of a cluster (the partition) into scratch servers, and prove them.",
)
check_backups = dg.define_asset_job(
    "check_backups",
    selection=dg.AssetSelection.checks(*backup_checks.check_keys),
    description="Evaluate the checks of age, drills, retention and copies of every cluster.",
)


def _nightly(cluster: str, job: Any, cron: str, zone: str) -> dg.ScheduleDefinition:
    name = f"{job.name}_{cluster.replace('-', '_')}"

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{job.name} of {cluster}, in its region's time zone.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        night = context.scheduled_execution_time.astimezone(UTC)
        tags = {CLUSTER_TAG: cluster, "actor": f"{job.name} schedule"}
        if job.name == "backup":
            tags[BACKUP_TAG] = cluster
        return dg.RunRequest(run_key=f"{name}:{night:%Y-%m-%dT%H:%MZ}", partition_key=cluster, tags=tags)

    return tick


def _daily(job: Any, cron: str, config: dict[str, Any], description: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{job.name}_all_clusters",
        job=job,
        cron_schedule=cron,
        run_config=config,
        tags={"actor": f"{job.name} schedule"},
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )


BACKUP_JOBS = [backup, drill, restore, prune, verify, check_backups]
BACKUP_SCHEDULES = [
    *(
        _nightly(cluster.name, job, cron, TOPOLOGY.time_zone_of(cluster))
        for cluster in TOPOLOGY.enabled_clusters
        for job, cron in (
            (backup, TOPOLOGY.environment_of(cluster).backups.schedule),
            (drill, TOPOLOGY.environment_of(cluster).backups.drill_schedule),
        )
    ),
    _daily(
        prune,
        "30 5 * * *",
        {"ops": {"prune_backups": {"config": {"dry_run": False}}}},
        "Removes what retention no longer wants.",
    ),
    _daily(verify, "0 6 * * 0", {"ops": {"verify_backups": {"config": {}}}}, "Reads every backup back, weekly."),
    _daily(check_backups, "15 * * * *", {}, "Evaluates the checks of all clusters, hourly."),
]


def _pruned(done: "Pruned") -> dict[str, Any]:
    rows = "\n".join(f"| {one.id} | {one.verdict} | {'; '.join(one.reasons)} |" for one in done.judged.judgements)
    return {
        "verdicts": dg.MetadataValue.md(f"| backup | verdict | why |\n|---|---|---|\n{rows}"),
        "dry_run": done.dry_run,
        "kept": len(done.judged.of("KEEP")),
        "tombstoned": len(done.tombstoned),
        "deleted": len(done.deleted),
        "orphans": len(done.orphans),
        "wal_segments": done.wal,
        "freed_megabytes": round(done.freed / 1e6, 3),
        "refusal": done.judged.refusal or done.undone or "-",
        "when": dg.MetadataValue.timestamp(datetime.now(UTC)),
    }


def _restored(done: "Outcome") -> dict[str, Any]:
    rows = "\n".join(f"| {name} | {count} |" for name, count in done.counts.items())
    return {
        "restored": dg.MetadataValue.md(f"| what | restored |\n|---|---|\n{rows}"),
        "restore_seconds": round(done.seconds, 2),
        "restored_backup": str(done.plan.listed.id),
        "safety_backup": str(done.safety.id) if done.safety else "-",
        "kept_as": ", ".join(done.kept_as.values()) or "-",
    }
