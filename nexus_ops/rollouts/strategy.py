"""Strategies as data: blue-green and canary are the same mechanism, and differ in their stages.

A rollout's record keeps stages of its own (`stages_of`), so that what has begun goes on as it began, whatever is
changed here meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from nexus_ops.errors import PermanentError
from nexus_ops.topology import RolloutDefaults, StrategyName, first_problem

Kind = Literal["validate", "deploy", "smoke", "bake", "switch", "clean-up"]
"""What a stage does. `bake`: give the candidate its share of the traffic, and watch it for a time; `switch`: give it all
traffic, all workers and the exclusive work; `clean-up`: keep the old colour for a time, then scale it to zero."""


@dataclass(frozen=True)
class Stage:
    """One step of a rollout."""

    name: str
    kind: Kind
    weight: int
    """The candidate's share of edge traffic (percent) that the stage is about."""
    bake_seconds: int = 0
    """How long it watches the candidate (a bake), or keeps the old colour (clean-up)."""
    gate: bool = False
    """Whether a person has to let it begin."""


@dataclass(frozen=True)
class Settings:
    """Times of a rollout, in seconds, and what else is chosen for it."""

    monitor_seconds: int = 300
    """How long the candidate is watched when it has all traffic."""
    hold_seconds: int = 600
    ready_seconds: int = 600
    """How long the candidate's pods may take to become ready."""
    drain_seconds: int | None = None
    """How long any component's pods may take to drain before people are told; None: as the release declares for each."""
    observe_seconds: int = 60
    """How long traffic may take to be seen where it was sent; a rollout whose traffic does not follow goes back."""
    insufficient_seconds: int = 300
    """How long a bake may go on without a verdict beyond its time before the rollout is given up."""
    error_seconds: int = 120
    """How long nothing may be measured while the candidate serves before the rollout is given up."""
    strategy: StrategyName = "blue-green"
    bake_seconds: int = 300
    """How long each share of a canary is watched."""
    gates: tuple[str, ...] = ()
    """Stages that a person has to let begin."""
    min_requests: int = 0
    """So many of its requests must have been seen in a bake before it is over."""
    logs_seconds: int = 0
    """How long a candidate that failed is kept, without traffic, so that its logs can be read."""
    adopt: bool = False
    """Whether objects of a Helm release, or of another set, are taken over."""


_BEFORE = (
    Stage("validate-prerequisites", "validate", 0),
    Stage("deploy-green-environment", "deploy", 0),
    Stage("run-smoke-tests", "smoke", 0),
)
_AFTER = (
    Stage("switch-traffic", "switch", 100),
    Stage("monitor-health", "bake", 100),
    Stage("cleanup-blue-environment", "clean-up", 100),
)
BLUE_GREEN: tuple[Stage, ...] = (*_BEFORE, *_AFTER)
CANARY: tuple[Stage, ...] = (
    *_BEFORE,
    Stage("canary-5", "bake", 5),
    Stage("canary-10", "bake", 10),
    Stage("canary-25", "bake", 25),
    Stage("canary-50", "bake", 50),
    *_AFTER,
)
STRATEGIES: dict[StrategyName, tuple[Stage, ...]] = {"blue-green": BLUE_GREEN, "canary": CANARY}

TITLES: dict[str, str] = {
    "validate-prerequisites": "check the cluster, capacity, secrets and gates",
    "deploy-green-environment": "start the candidate beside the stable colour",
    "run-smoke-tests": "ask the candidate alone",
    "switch-traffic": "move requests, workers, then exclusive work",
    "monitor-health": "watch the candidate serve",
    "cleanup-blue-environment": "keep the old colour as the way back, then scale it to zero",
    **{stage.name: f"give the candidate {stage.weight} % and watch it" for stage in CANARY if 0 < stage.weight < 100},
}


def settings_of(defaults: RolloutDefaults, *, adopt: bool = False, **chosen: Any) -> Settings:
    """The settings of a rollout: what was chosen for it (None: nothing was), else its environment's.

    What is chosen is held to the same limits as what is declared; `PermanentError` says which of it is beyond them.
    """
    values: dict[str, Any] = defaults.model_dump() | {key: value for key, value in chosen.items() if value is not None}
    try:
        fitting = RolloutDefaults.model_validate(values)
    except ValidationError as error:
        raise PermanentError(first_problem(error), target="the rollout's settings") from None
    return Settings(**fitting.model_dump(), adopt=adopt)


def names(stages: Iterable[Stage]) -> list[str]:
    """The stages' names, in order."""
    return [stage.name for stage in stages]


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """The stages of a rollout with these settings, each with its time and its gate."""
    seconds = {"monitor-health": settings.monitor_seconds, "cleanup-blue-environment": settings.hold_seconds}
    return tuple(
        replace(
            stage,
            bake_seconds=seconds.get(stage.name, settings.bake_seconds if stage.kind == "bake" else 0),
            gate=stage.name in settings.gates,
        )
        for stage in STRATEGIES[settings.strategy]
    )


def known_stage(name: str) -> Stage:
    """A stage by its name, as it stands in its strategy; `KeyError` for one that no strategy has."""
    return next(stage for stage in CANARY if stage.name == name)
