"""The judge of a rollout: looks are fetched as they come due, folded, and what is known then is kept.

Level-triggered. The looks stand on a grid of times and are asked of Prometheus for those times, so that it does not matter
which process asks, or how often: a tick that is repeated or lost changes nothing. What is known between two looks lies in
the object store; when it is lost, all looks are fetched again and give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nexus_ops.analysis import replay, state
from nexus_ops.analysis.judge import Judgement, State, advance, begin, verdict
from nexus_ops.analysis.ranges import grid, looks, queries
from nexus_ops.analysis.samples import EvidenceError, Sample
from nexus_ops.analysis.watch import joined
from nexus_ops.errors import OperationError
from nexus_ops.rollouts.cases import Case, Course, case_of, first_critical, folder_of, only
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.prometheus import over, query_all
from nexus_ops.rollouts.record import Record, moment
from nexus_ops.storage import NotStored, StoreUnavailable

LAG = 1.0
"""A look is taken so many seconds after its time: until then what was scraped at it may not be stored."""
MOST = 120
"""Looks that are fetched in one go."""
SEGMENT = 30
"""Looks that are stored as one object."""


@dataclass(frozen=True)
class Kept:
    """What is known of a case after some looks, and where these looks are."""

    state: State
    segments: int = 0
    """So many objects of `SEGMENT` looks are stored."""
    tail: tuple[Any, ...] = ()
    """The looks since, as they are stored."""


@dataclass(frozen=True)
class Judged:
    """A case with its verdict as it is now."""

    case: Case
    kept: Kept
    judgement: Judgement

    @property
    def requests(self) -> float:
        """The candidate's requests in the present stage that were compared."""
        name = first_critical(self.case.plan.rules)
        return sum(s.assurance.requests for (metric, _), s in self.kept.state.streams.items() if metric == name)


def judged(context: RolloutContext, record: Record, course: Course) -> Judged:
    """Take the looks that are due, and judge. `TemporaryError` when they cannot be had."""
    case = case_of(context, record, course)
    kept = _read(context, record, case)
    now = context.clock().timestamp()
    after = max(case.origin, kept.state.time)
    due = grid(after, now - LAG, case.step)
    for first in range(0, len(due), MOST):
        samples = fetched(context, record, case, due[first : first + MOST])
        kept = _with_looks(context, record, case, kept, samples)
    if due:
        _keep(context, record, case, kept)
    return Judged(case, kept, verdict(case.plan, kept.state, now=now))


def fetched(context: RolloutContext, record: Record, case: Case, times: Sequence[float]) -> list[Sample]:
    """The looks at some times of the grid."""
    rules = case.plan.rules

    def described(time: float) -> tuple[str, int | None]:
        begun = [s for s in record.stages if (since := s.judged_since) and moment(since).timestamp() <= time]
        return (begun[-1].name, begun[-1].weight) if begun else ("", None)

    live = _asked(context, case, times, queries(rules.metrics.values()))
    samples = looks(rules, live, times, described)
    if case.course == "stages":
        return samples
    before = [time - case.shift for time in times if case.shift and time - case.shift <= case.origin]
    if not before:
        return [joined(sample, None, case.plan.stable) for sample in samples]
    past = looks(rules, _asked(context, case, before, queries(rules.counted())), before, described)
    old: list[Sample | None] = [only(sample, case.plan.stable, case.pods) for sample in past]
    old += [None] * (len(samples) - len(old))
    return [joined(sample, one, case.plan.stable) for sample, one in zip(samples, old, strict=True)]


def _asked(context: RolloutContext, case: Case, times: Sequence[float], wanted: list[str]) -> dict[str, Any]:
    return query_all(context, wanted, **over(times[0], times[-1], case.step))


def all_looks(context: RolloutContext, record: Record, judged: Judged) -> list[Sample]:
    """Every look of a case so far, from the store; what is not there any more is fetched again."""
    samples: list[Sample] = []
    for number in range(judged.kept.segments):
        try:
            stored = replay.from_bytes(context.store.get(_segment(record, judged.case, number)))
            samples += [Sample.from_json(one) for one in stored["looks"]]
        except (NotStored, EvidenceError, KeyError):
            first = judged.case.origin + number * SEGMENT * judged.case.step
            times = grid(first, first + SEGMENT * judged.case.step, judged.case.step)
            samples += fetched(context, record, judged.case, times)
    return [*samples, *(Sample.from_json(one) for one in judged.kept.tail)]


def evidence_of(context: RolloutContext, record: Record, stage: str, judged: Judged) -> dict[str, Any]:
    """All that a verdict was made of, as it is stored: `python -m nexus_ops.analysis` judges it again."""
    subject = replay.Subject(
        record.cluster, record.id, f"{record.candidate.version} {record.candidate.release}", record.actor
    )
    looks_so_far = all_looks(context, record, judged)
    document = replay.to_json(subject, judged.case.plan, looks_so_far, now=context.clock().timestamp())
    return {**document, "course": judged.case.course, "stage": stage}


# ---------------------------------------------------------------------- what is kept between two looks


def _with_looks(context: RolloutContext, record: Record, case: Case, kept: Kept, samples: list[Sample]) -> Kept:
    known, segments, tail = kept.state, kept.segments, list(kept.tail)
    for sample in samples:
        known = advance(case.plan, known, sample)
        tail.append(sample.to_json())
        if len(tail) == SEGMENT:
            _put(context, _segment(record, case, segments), {"looks": tail})
            segments, tail = segments + 1, []
    return Kept(known, segments, tuple(tail))


def _segment(record: Record, case: Case, number: int) -> str:
    return f"{folder_of(record, case.course)}/looks-{number:05}.json.gz"


def _read(context: RolloutContext, record: Record, case: Case) -> Kept:
    """What is known so far; nothing where it is lost, or of another plan."""
    try:
        document = replay.from_bytes(context.store.get(f"{folder_of(record, case.course)}/state.json.gz"))
        if document["plan"] != case.digest:
            raise EvidenceError("it is of another plan.")
        return Kept(state.from_json(document["state"]), document["segments"], tuple(document["tail"]))
    except (NotStored, EvidenceError, StoreUnavailable, KeyError) as error:
        if not isinstance(error, NotStored):
            context.report(f"  the state of the analysis is made anew: {error}")
        return Kept(begin(case.plan))


def _keep(context: RolloutContext, record: Record, case: Case, kept: Kept) -> None:
    document = {
        "plan": case.digest,
        "state": state.to_json(kept.state),
        "segments": kept.segments,
        "tail": kept.tail,
    }
    _put(context, f"{folder_of(record, case.course)}/state.json.gz", document)


def _put(context: RolloutContext, key: str, document: dict[str, Any]) -> None:
    """Store; a store that is away costs time at the next look, and no verdict."""
    try:
        context.store.put(key, replay.to_bytes(document))
    except OperationError as error:
        context.report(f"  what the analysis knows could not be stored: {error}")
