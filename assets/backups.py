"""Backups and drills: what is kept of each cluster's databases, the checks of it, and the drill that proves it.

Materialised for a cluster (the partition) by the schedules of jobs/backups.py, or by hand. The checks of a materialization are
evaluated with it and block what depends on it; those of age are evaluated for every cluster by themselves.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from nexus_ops import partitions
from nexus_ops.assets.checking import last_evaluation, report_check
from nexus_ops.assets.over_time import over_time
from nexus_ops.markdown import bullets
from nexus_ops.resources import NexusResource

if TYPE_CHECKING:
    from nexus_ops.backups.judging import Answer
    from nexus_ops.backups.manifest import System
    from nexus_ops.backups.operations import Drilled, Taken

BACKUPS: dict["System", dg.AssetKey] = {
    "postgresql": dg.AssetKey(["backup", "postgresql"]),
    "redis": dg.AssetKey(["backup", "redis"]),
}
DRILL = dg.AssetKey("drill")
BACKUP_TAG = "backup-cluster"
"""The tag of runs that back up a cluster: the watch starts none beside them."""
OF_EACH = {
    "complete": "the manifest names all that a restore needs.",
    "read_back": "every bundle was read back, and is what was written.",
    "plausible": "the backup is not less than half of the one before.",
}
FIRST_SEEN = "nothing_since"
"""Since when a check says that nothing has come yet."""
What = Literal["fresh", "verified", "retained", "copied", "cloudnativepg"]
NIGHTS = {"Size, MB": ["raw_megabytes", "stored_megabytes"], "Seconds": ["seconds"]}
DRILLS = {
    f"{what.upper()}, {unit}": [f"{system}/{what}_{unit}" for system in BACKUPS]
    for what, unit in (("rto", "seconds"), ("rpo", "hours"))
}
"""Pictures of the numbers over time, by title."""
MOST_TABLES = 200
"""Tables whose counts and sums are shown of a drill."""
OVER_TIME: dict[What, str] = {
    "fresh": "the newest backup ended at most 26 hours ago.",
    "verified": "a drill restored a backup within 8 days, and the last drill passed.",
    "retained": "what should be there is, and what may go does not lie there for days.",
    "copied": "the newest backup is in the second region, too.",
    "cloudnativepg": "its own newest backup ended at most 26 hours ago, and the log that it needs is in its archive.",
}


def check_name(what: What, cluster: str) -> str:
    """The name of a cluster's check; one per cluster, as those of health (assets/health.py)."""
    return f"{what}_{cluster.replace('-', '_')}"


OF_CLOUDNATIVEPG = {
    cluster.name
    for cluster in partitions.TOPOLOGY.enabled_clusters
    if (declared := partitions.TOPOLOGY.environment_of(cluster).backups.postgresql) and declared.cnpg
}
"""Clusters whose PostgreSQL CloudNativePG runs."""
CHECKS: dict[dg.AssetCheckKey, tuple[What, str, "System"]] = {
    dg.AssetCheckKey(key, check_name(what, cluster)): (what, cluster, system)
    for system, key in BACKUPS.items()
    for what in OVER_TIME
    for cluster in partitions.clusters.get_partition_keys()
    if what != "cloudnativepg" or (system == "postgresql" and cluster in OF_CLOUDNATIVEPG)
}


def _asset(system: "System", kinds: set[str], description: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=BACKUPS[system],
        partitions_def=partitions.clusters,
        group_name="backups",
        kinds=kinds,
        owners=["team:platform"],
        description=description,
        check_specs=[
            dg.AssetCheckSpec(name, asset=BACKUPS[system], blocking=True, description=text)
            for name, text in OF_EACH.items()
        ],
    )
    def backup(context: dg.AssetExecutionContext, nexus: NexusResource) -> Iterator[Any]:
        from nexus_ops.backups.operations import take_backup

        database = nexus.backups(context.partition_key, system, report=context.log.info)
        taken = take_backup(database, f"run-{context.run.run_id[:8]}")
        facts = _metadata(taken)
        facts["over_time"] = over_time(context.instance, BACKUPS[system], context.partition_key, NIGHTS, facts)
        yield dg.MaterializeResult(metadata=facts)
        answers = {"complete": taken.complete, "read_back": taken.read_back, "plausible": taken.plausible}
        for name, answer in answers.items():
            said = f"{context.partition_key}: {answer.why}"
            yield dg.AssetCheckResult(check_name=name, passed=answer.passed, description=said)
        if not taken.copied.passed:
            context.log.warning("Not copied to the second store: %s", taken.copied.why)
        if not taken.own.passed:
            context.log.warning("CloudNativePG's own: %s", taken.own.why)

    return backup


backup_postgresql = _asset(
    "postgresql",
    {"postgresql"},
    "The nightly backup of a cluster's PostgreSQL: whole, by replication, with the log that it needs; compressed, "
    "encrypted, hashed, read back and copied to the second region.",
)
backup_redis = _asset(
    "redis",
    {"redis"},
    "The nightly backup of a cluster's Redis: the RDB of every master, from a replica of it; compressed, encrypted, "
    "hashed, read back and copied to the second region.",
)


@dg.multi_asset(
    name="drill_backups",  # a job and an op of the same name are refused
    specs=[
        dg.AssetSpec(
            DRILL,
            deps=list(BACKUPS.values()),
            group_name="backups",
            kinds={"postgresql", "redis"},
            owners=["team:platform"],
            description=(
                "The proof: the newest backup of each database of a cluster, restored into a scratch server, started, checked "
                "and counted. How long it took (RTO), and what would be lost now (RPO). A drill that passes moves "
                "latest-verified; one that fails leaves it where it is, and fails its run."
            ),
        )
    ],
    partitions_def=partitions.clusters,
)
def drill(context: dg.AssetExecutionContext, nexus: NexusResource) -> Iterator[dg.MaterializeResult[Any]]:
    """Drill both databases before any failure is raised: one bad backup must not hide the other."""
    from nexus_ops.backups.context import NotDeclared
    from nexus_ops.backups.operations import drill_newest
    from nexus_ops.errors import OperationError

    found: dict[str, Drilled] = {}
    problems: list[str] = []
    for system in BACKUPS:
        try:
            database = nexus.backups(context.partition_key, system, report=context.log.info)
            found[system] = one = drill_newest(database, f"run-{context.run.run_id[:8]}")
            verdict = "passed" if one.drill.passed else "FAILED"
            checked, seconds = ", ".join(one.checked), one.drill.rto_seconds
            context.log.info("%s %s %s: restored in %.1f s; %s", system, one.drill.backup, verdict, seconds, checked)
            problems += [f"{system}: {finding}" for finding in found[system].drill.findings]
        except NotDeclared as error:
            context.log.info("%s", error)
        except OperationError as error:
            problems.append(f"{system}: {error}")
    facts = {"cluster": context.partition_key, **_drilled(found)}
    facts["over_time"] = over_time(context.instance, DRILL, context.partition_key, DRILLS, facts)
    yield dg.MaterializeResult(metadata=facts)
    for system, asset in BACKUPS.items():
        if system in found:  # what it has just proved, or not, is not left to the next hour
            key = dg.AssetCheckKey(asset, check_name("verified", context.partition_key))
            report_check(context.instance, key, _evaluated(context.instance, nexus, key))
    if problems:
        raise dg.Failure("; ".join(problems), allow_retries=False)


@dg.multi_asset_check(
    name="backup_checks",
    specs=[
        dg.AssetCheckSpec(key.name, asset=key.asset_key, description=f"{cluster}: {OVER_TIME[what]}")
        for key, (what, cluster, _) in CHECKS.items()
    ],
    can_subset=True,
)
def backup_checks(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> Iterator[dg.AssetCheckResult]:
    """Judge what the stores hold, for every cluster, now."""
    for key in sorted(context.selected_asset_check_keys):
        found = _evaluated(context.instance, nexus, key)
        yield dg.AssetCheckResult(asset_key=key.asset_key, check_name=key.name, **found)


def _evaluated(instance: dg.DagsterInstance, nexus: NexusResource, key: dg.AssetCheckKey) -> dict[str, Any]:
    """One check over time, as Dagster takes it."""
    answer = judge(nexus, *CHECKS[key])
    metadata: dict[str, Any] = {} if answer.hours is None else {"hours": round(answer.hours, 2)}
    severity = dg.AssetCheckSeverity.ERROR
    if answer.first:
        since, severity = first_day(last_evaluation(instance, key), datetime.now(UTC))
        metadata[FIRST_SEEN] = dg.MetadataValue.timestamp(since)
    return {"passed": answer.passed, "severity": severity, "description": answer.why, "metadata": metadata}


def first_day(before: dg.AssetCheckEvaluation | None, now: datetime) -> tuple[datetime, dg.AssetCheckSeverity]:
    """Since when a check says that nothing has come yet, and how bad that is: a warning for as long as a night may take."""
    from nexus_ops.backups.judging import FRESH

    seen = before.metadata.get(FIRST_SEEN) if before else None
    since = datetime.fromtimestamp(seen.value, UTC) if isinstance(seen, dg.TimestampMetadataValue) else now
    return since, dg.AssetCheckSeverity.WARN if now - since < FRESH else dg.AssetCheckSeverity.ERROR


def judge(nexus: NexusResource, what: What, cluster: str, system: "System") -> "Answer":
    """One check of one database; a store that cannot be read has no good backup."""
    from nexus_ops.backups import judging
    from nexus_ops.backups.operations import judge_own
    from nexus_ops.errors import OperationError

    now = datetime.now(UTC)
    try:
        database = nexus.backups(cluster, system)
        if what == "cloudnativepg":
            return judge_own(database)
        if what == "retained":
            return judging.is_retained(database.catalogue.list(tombstoned=True), database.policy, now)
        listing = database.catalogue.list()
        if what == "copied":
            return judging.is_copied(listing, database.second.list() if database.second else None)
        return judging.is_fresh(listing, now) if what == "fresh" else judging.is_verified(listing, now)
    except OperationError as error:
        return judging.Answer(False, f"the backups could not be read: {error}")


def _metadata(taken: "Taken") -> dict[str, Any]:
    """What is shown of a backup; numbers are plotted over time."""
    manifest = taken.listed.manifest
    seconds = max(taken.seconds, 0.001)
    facts: dict[str, Any] = {
        "cluster": manifest.cluster,
        "summary": dg.MetadataValue.md(_summary(taken)),
        "id": str(manifest.id),
        "kind": manifest.kind,
        "raw_megabytes": round(manifest.size / 1e6, 3),
        "stored_megabytes": round(manifest.stored_size / 1e6, 3),
        "ratio": round(manifest.size / manifest.stored_size, 2) if manifest.stored_size else 0.0,
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(manifest.size / 1e6 / seconds, 2),
        "objects": sum(len(stream.bundles) for stream in manifest.streams) + 1,
        "encrypted": bool(manifest.recipients),
        "copied": taken.copied.passed,
        "manifest": manifest.place.manifest(manifest.id, taken.listed.digest),
    }
    if taken.rpo_seconds is not None:
        facts["rpo_hours"] = round(taken.rpo_seconds / 3600, 3)
    if manifest.postgres is not None:
        facts["lsn"] = str(manifest.postgres.end)
        facts["server_version"] = manifest.postgres.version
    if manifest.redis is not None:
        facts["keys"] = sum(manifest.counts.values())
        facts["offsets"] = ", ".join(f"{node.id[:8]}@{node.offset}" for node in manifest.redis.nodes)
    return facts


def _summary(taken: "Taken") -> str:
    manifest = taken.listed.manifest
    rows = [
        ("backup", str(manifest.id)),
        ("size", f"{manifest.size / 1e6:.1f} MB, stored {manifest.stored_size / 1e6:.1f} MB"),
        ("time", f"{taken.seconds:.1f} s"),
        ("complete", taken.complete.why),
        ("read back", taken.read_back.why),
        ("plausible", taken.plausible.why),
        ("second region", taken.copied.why),
        *([("CloudNativePG's own", taken.own.why)] if manifest.postgres else []),
        ("encrypted", "yes" if manifest.recipients else "**no: no recipient is named (NEXUS_BACKUP_RECIPIENTS)**"),
        *(("warning", warning) for warning in manifest.warnings),
    ]
    return bullets(f"**{name}**: {value}" for name, value in rows)


def _drilled(found: "dict[str, Drilled]") -> dict[str, Any]:
    facts: dict[str, Any] = {}
    lines: list[str] = []
    for system, one in found.items():
        drill = one.drill
        facts |= {
            f"{system}/rto_seconds": round(drill.rto_seconds, 3),
            f"{system}/rpo_hours": round(one.rpo_seconds / 3600, 3),
            f"{system}/megabytes": round(one.size / 1e6, 3),
            f"{system}/counted": sum(one.counts.values()),
            f"{system}/passed": drill.passed,
        }
        verdict = "passed" if drill.passed else f"**failed**: {'; '.join(drill.findings)}"
        numbers = f"RTO {drill.rto_seconds:.1f} s, RPO {one.rpo_seconds / 3600:.1f} h"
        lines.append(f"**{system}** {verdict}: {numbers}; {drill.backup}; checked: {', '.join(one.checked)}")
    facts = {"summary": dg.MetadataValue.md(bullets(lines)), **facts}
    rows = [(name, count, one.sums.get(name, "-")) for one in found.values() for name, count in one.counts.items()]
    table = ["| what | rows or keys | sum of the rows' content |", "|---|---|---|"]
    table += [f"| {name} | {count} | {sum_} |" for name, count, sum_ in sorted(rows)[:MOST_TABLES]]
    facts["content"] = dg.MetadataValue.md("\n".join(table))
    return facts
