"""What checks of several assets share: reading the last verdict, reporting one, and telling people of a change once."""

from __future__ import annotations

from typing import Any

import dagster as dg

from nexus_ops.notifications import Notifier

FAR_BACK = 100
"""Verdicts that are looked through for the last one that decided something."""


def is_alarm(found: dg.AssetCheckEvaluation) -> bool:
    """Whether a verdict is an error; what is only unknown is a warning."""
    return not found.passed and found.severity is dg.AssetCheckSeverity.ERROR


def last_evaluation(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, *, decided: bool = False
) -> dg.AssetCheckEvaluation | None:
    """The newest verdict of a check, with `decided` the newest that is no warning; None when there is none yet."""
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=FAR_BACK):
        event = record.event.dagster_event if record.event else None
        found = event.event_specific_data if event else None
        # Others are of runs that have begun a check, or died in it.
        if isinstance(found, dg.AssetCheckEvaluation) and (not decided or found.passed or is_alarm(found)):
            return found
    return None


def report_check(instance: dg.DagsterInstance, key: dg.AssetCheckKey, found: dict[str, Any]) -> None:
    """Report a check that no check step of a run evaluates."""
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (
        AssetCheckEvaluationTargetMaterializationData as Target,
    )

    # Without its target the UI takes a check of the same second as older, and shows it as not evaluated.
    newest = instance.fetch_materializations(key.asset_key, limit=1).records
    evaluation = dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        target_materialization_data=Target(
            storage_id=newest[0].storage_id, run_id=newest[0].run_id, timestamp=newest[0].timestamp
        )
        if newest
        else None,
        check_name=key.name,
        passed=found["passed"],
        severity=found.get("severity", dg.AssetCheckSeverity.ERROR),
        description=found["description"],
        metadata=found.get("metadata", {}),
    )
    instance.report_runless_asset_event(evaluation)


def tell_change(
    instance: dg.DagsterInstance, notifier: Notifier, key: dg.AssetCheckKey, title: str, found: dict[str, Any]
) -> None:
    """Tell people that a check has begun to fail, or holds again; once, for its last verdict is the memory.

    A warning (what could not be seen) changes nothing of what was told: neither an alarm nor an all-clear.
    """
    before = last_evaluation(instance, key, decided=True)
    failed_before = before is not None and is_alarm(before)
    failed = not found["passed"] and found.get("severity", dg.AssetCheckSeverity.ERROR) is dg.AssetCheckSeverity.ERROR
    if failed and not failed_before:
        notifier.send(title, str(found["description"]))
    if found["passed"] and failed_before:
        notifier.send(f"{title}: over", str(found["description"]))
