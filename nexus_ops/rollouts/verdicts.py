"""The verdict on a candidate that serves: which judge is asked depends on what it serves beside.

While both colours serve they are compared (`judging`). When the candidate has all traffic, the release's own rules decide
whether it passes (`monitor`), and a comparison with the old colour's last hours may fail it: of a canary as soon as it has
all traffic, of a blue-green rollout when it was watched first, for what starts cold at once under all traffic is slow.
"""

from __future__ import annotations

from nexus_ops.errors import OperationError
from nexus_ops.rollouts.cases import Course
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.judging import Judged, judged
from nexus_ops.rollouts.monitor import Health, check_guardrails
from nexus_ops.rollouts.record import Record

MOST_REASONS = 3


def check_health(context: RolloutContext, record: Record) -> Health:
    """Look at the metrics now, and judge the candidate."""
    stage = record.stage
    if record.stable is None:
        return check_guardrails(context, record)
    if stage is not None and 0 < stage.weight < 100:
        return compare(context, record, "stages")
    rules = check_guardrails(context, record)
    if rules.verdict == "fail" or not watched(record):
        return rules
    beside = compare(context, record, "watch")
    return beside if beside.verdict == "fail" else rules


def watched(record: Record) -> bool:
    """Whether the candidate is compared with the old colour's past by now."""
    stage = record.stage
    return record.stable is not None and (
        any(0 < one.weight < 100 for one in record.stages) or stage is None or stage.kind == "clean-up"
    )


def compare(context: RolloutContext, record: Record, course: Course) -> Health:
    """The verdict of the sequential judge; what cannot be measured is an error, and never a pass."""
    try:
        return _told(judged(context, record, course))
    except OperationError as error:
        return Health("error", f"could not measure: {error}")


def _told(found: Judged) -> Health:
    judgement = found.judgement
    more = len(judgement.reasons) - MOST_REASONS
    reasons = "; ".join(judgement.reasons[:MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")
    blames = "platform" if judgement.blames == "platform" else "release" if judgement.verdict == "fail" else None
    return Health(judgement.verdict, reasons, None, blames, found.requests, found)
