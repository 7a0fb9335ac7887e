"""What a health snapshot is: per probe a state, a sentence and numbers; the worst critical probe is the overall word."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal["healthy", "degraded", "unknown", "failed"]
STATES: tuple[State, ...] = ("healthy", "degraded", "unknown", "failed")
"""From good to bad. What cannot be seen is worse than what is seen to limp: it may have failed."""


def worst(states: Iterable[State]) -> State:
    """The worst of some states; of none, nothing is known."""
    return STATES[max(map(STATES.index, states), default=STATES.index("unknown"))]


@dataclass(frozen=True)
class Finding:
    """What a probe found."""

    state: State
    why: str
    """One sentence, without a full stop."""
    todo: str = ""
    """What a person can do about it; empty when there is nothing to do."""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Result:
    """One probe's part of a snapshot."""

    probe: str
    critical: bool
    state: State
    why: str
    todo: str
    seconds: float
    """How long the probe took."""
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Snapshot:
    """The health of one cluster at a time (UTC)."""

    cluster: str
    taken: datetime
    results: tuple[Result, ...]

    @property
    def state(self) -> State:
        """The worst state of a critical probe."""
        return worst(result.state for result in self.results if result.critical)

    def result(self, probe: str) -> Result:
        """The result of a probe by its name; KeyError when it was not asked."""
        return {result.probe: result for result in self.results}[probe]

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "taken": self.taken.isoformat(), "state": self.state}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        document: dict[str, Any] = json.loads(text)
        results = tuple(Result(**result) for result in document["results"])
        return cls(document["cluster"], datetime.fromisoformat(document["taken"]), results)
