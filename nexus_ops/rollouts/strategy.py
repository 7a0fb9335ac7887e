"""Strategies: blue-green and canary are the same mechanism, and differ in their stages and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StageName = Literal[
    "validate-prerequisites",
    "deploy-green-environment",
    "run-smoke-tests",
    "switch-traffic",
    "monitor-health",
    "cleanup-blue-environment",
]

BLUE_GREEN: tuple[StageName, ...] = (
    "validate-prerequisites",
    "deploy-green-environment",
    "run-smoke-tests",
    "switch-traffic",
    "monitor-health",
    "cleanup-blue-environment",
)

TITLES: dict[StageName, str] = {
    "validate-prerequisites": "check the cluster, capacity, secrets and gates",
    "deploy-green-environment": "start the candidate beside the stable colour",
    "run-smoke-tests": "ask the candidate alone",
    "switch-traffic": "move requests, workers, then exclusive work",
    "monitor-health": "watch the candidate serve",
    "cleanup-blue-environment": "keep the old colour as the way back, then scale it to zero",
}


@dataclass(frozen=True)
class Settings:
    """Times of a rollout, in seconds."""

    monitor_seconds: int = 300
    hold_seconds: int = 600
    ready_seconds: int = 600
    """How long the candidate's pods may take to become ready."""
    drain_seconds: int | None = None
    """How long any component's pods may take to drain before people are told; None: as the release declares for each."""
    observe_seconds: int = 60
    """How long traffic may take to be seen where it was sent; a rollout whose traffic does not follow goes back."""
    insufficient_seconds: int = 300
    """How long monitoring may go on without data before the rollout is given up."""
