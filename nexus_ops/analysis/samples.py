"""What one look saw: by metric, readings, or why there are none. It is stored as JSON, and judged again from it.

A reading is of one series: `pod` tells counters of the same component and colour apart, and names the alert of an
alert metric. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nexus_ops.errors import PermanentError


class EvidenceError(PermanentError):
    """Stored evidence that cannot be read."""


class Count(NamedTuple):
    """A cumulative counter of events, and of the requests among which they happened."""

    component: str
    colour: str
    pod: str
    events: float
    total: float


class Level(NamedTuple):
    """A value as it is now. `component` and `colour` are empty for what belongs to the platform."""

    component: str
    colour: str
    name: str
    value: float


@dataclass(frozen=True)
class Answer:
    """What a metric's queries gave. Without `problem` and without readings: there is no data."""

    counts: tuple[Count, ...] = ()
    levels: tuple[Level, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Sample:
    """One look at all metrics."""

    time: float
    stage: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    requested_weight: int | None = None
    """The candidate's share of edge traffic that was asked for (percent): kept for the record, no input of a test."""
    observed_weight: float | None = None

    def to_json(self) -> dict[str, Any]:
        answers = {
            name: {"counts": [list(c) for c in answer.counts], "levels": [list(v) for v in answer.levels]}
            | ({"problem": answer.problem} if answer.problem is not None else {})
            for name, answer in self.answers.items()
        }
        return {
            "time": self.time,
            "stage": self.stage,
            "requested_weight": self.requested_weight,
            "observed_weight": self.observed_weight,
            "answers": answers,
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Sample:
        try:
            answers = {
                name: Answer(
                    tuple(Count(*one) for one in answer["counts"]),
                    tuple(Level(*one) for one in answer["levels"]),
                    answer.get("problem"),
                )
                for name, answer in document["answers"].items()
            }
            return Sample(
                document["time"],
                document["stage"],
                answers,
                document.get("requested_weight"),
                document.get("observed_weight"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise EvidenceError(f"a sample cannot be read: {error!r}.") from None
