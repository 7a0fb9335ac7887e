"""What a rollout is decided on, and what a decision is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from nexus_ops.rollouts.record import Blame, Reason
from nexus_ops.topology import Colour, Work

Verdict = Literal["pass", "fail", "insufficient", "error"]
Works = Mapping[str, Work]
"""The kind of work of each component."""


@dataclass(frozen=True)
class Pods:
    """One component in one colour: pods asked for, ready, and there at all (leaving ones included)."""

    wanted: int = 0
    ready: int = 0
    there: int = 0
    killed_at: datetime | None = None
    """When Kubernetes ends the last of those that leave by force (their grace is over then)."""


@dataclass(frozen=True)
class Observed:
    """What a driver saw just now."""

    pods: Mapping[tuple[str, Colour], Pods] = field(default_factory=dict)
    weight: int | None = None
    """The candidate's observed share of edge traffic (percent); None: could not be observed."""
    verdict: Verdict | None = None
    """Of the candidate's metrics; None: not asked for."""
    verdict_reason: str = ""
    blames: Blame | None = None
    """Whom a failing verdict blames; None: nobody is known to be at fault."""
    requests: float | None = None
    """The candidate's requests served in this stage, as measured; None: not measured."""
    share: float | None = None
    """The candidate's share of requests (percent) as it was measured, whether or not it is the weight."""
    weight_problem: str = ""
    """Why the weight could not be observed, in words."""
    stable: Works | None = None
    """What the stable copy consists of; None: the same components as the candidate."""

    def of(self, component: str, colour: Colour) -> Pods:
        return self.pods.get((component, colour), Pods())


@dataclass(frozen=True)
class Decision:
    """The next step, and why. `targets` are pods by component, of `colour`."""

    step: Literal[
        "validate", "apply", "scale", "wait-ready", "wait-gone", "tell", "smoke", "weight", "observe-weight", "monitor",
        "measured", "unmeasured", "end-stage", "wait", "approve", "roll-back", "restore", "keep-logs", "complete", "rolled-back",
        "nothing",
    ]  # fmt: skip
    why: str
    stage: str | None = None
    colour: Colour | None = None
    targets: Mapping[str, int] = field(default_factory=dict)
    weight: int | None = None
    until: datetime | None = None
    reason: Reason | None = None
    """Of the event that is told."""
    blames: Blame | None = None
    """Whom the failure is laid at, where it is one."""
