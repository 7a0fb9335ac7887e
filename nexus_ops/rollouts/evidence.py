"""The evidence of a verdict: what was asked, what was answered, and the course of it over the whole watch.

Stored by its digest beside the plan; the record keeps the digests. `judge_again` gives the same verdict from it.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from nexus_ops.analysis.replay import from_bytes, rejudge, to_bytes
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.releases.model import canonical
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.judging import evidence_of
from nexus_ops.rollouts.monitor import Health, Look, judge
from nexus_ops.rollouts.prometheus import Series, query
from nexus_ops.rollouts.record import Evidence, Record, moment

FOLDER = "evidence"
SAMPLES = 120
"""So many points of each series are kept of the course."""


def keep_evidence(context: RolloutContext, record: Record, stage: str, health: Health) -> Evidence:
    """Store what a verdict stands on; the entry for the record."""
    if health.judged is not None:
        document = evidence_of(context, record, stage, health.judged)
        return Evidence(stage, health.verdict, context.store.put_content(FOLDER, to_bytes(document)))
    document = {
        "format": 1,
        "rollout": record.id,
        "cluster": record.cluster,
        "actor": record.actor,
        "release": record.candidate.release,
        "candidate": asdict(record.candidate),
        "stage": stage,
        "baseline": record.baseline,
        "verdict": health.verdict,
        "reason": health.reason,
        "look": asdict(health.look) if health.look else None,
        "course": _course(context, record, health.look) if health.look else {},
    }
    digest = context.store.put_content(FOLDER, canonical(document))
    return Evidence(stage, health.verdict, digest)


def judge_again(stored: bytes) -> Health:
    """The verdict that stored evidence gives; where nothing had been measured, the error as it was."""
    document = from_bytes(stored)
    if "samples" in document:
        judgement = rejudge(document)
        return Health(judgement.verdict, "; ".join(judgement.reasons))
    if document.get("format") != 1:
        raise PermanentError("the stored evidence has a format that this version does not know.")
    if document["look"] is None:
        return Health(document["verdict"], document["reason"])
    return judge(Look(**document["look"]), document["candidate"]["colour"], document["baseline"])


def _course(context: RolloutContext, record: Record, look: Look) -> dict[str, list[Series] | str]:
    """Each query over the time from the beginning of the watch to the look; in words where it cannot be had."""
    end = moment(look.time)
    began = next((stage.started for stage in record.stages if stage.kind == "bake"), None)
    start = moment(began) if began else end - timedelta(seconds=60)
    step = max(2, int((end - start).total_seconds()) // SAMPLES)
    times = {"start": str(start.timestamp()), "end": str(end.timestamp()), "step": str(step)}
    course: dict[str, list[Series] | str] = {}
    for name, promql in look.queries.items():
        try:
            course[name] = query(context, promql, **times)
        except OperationError as error:
            course[name] = f"could not be read: {error}"
    return course
