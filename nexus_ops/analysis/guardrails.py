"""Plain limits, which need no statistics: they fail at once, or after their own `for`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nexus_ops.analysis.metrics import Alert, Guardrail
from nexus_ops.analysis.samples import Level


class Breach(NamedTuple):
    """A limit that has been broken for long enough. `blames` is what is marked bad by it."""

    metric: str
    component: str
    reason: str
    blames: str
    """'release', or 'platform': the rollout stops, and the release may be tried again."""


def breaches(
    metric: Guardrail,
    levels: tuple[Level, ...],
    *,
    time: float,
    candidate: str,
    reference: float | None,
    since: Mapping[str, float],
) -> tuple[dict[str, float], list[Breach]]:
    """Since when each component (empty: the platform) breaks the limit, and which have done so for long enough.

    A component that is missing from an answer neither breaks its limit nor is cleared.
    """
    still = dict(since)
    found: list[Breach] = []
    stable = {level.component: level.value for level in levels if level.colour not in ("", candidate)}
    for level in levels:
        if metric.scope == "colour" and level.colour != candidate:
            continue
        compared = reference if metric.scope == "platform" else None
        if metric.worse_than_stable:
            compared = stable.get(level.component)
        # A stable colour that serves nothing is no measure, and a limit that needs one says nothing then.
        worse = metric.worse(level.value, compared) if compared is not None else not metric.worse_than_stable
        broken = metric.breached(level.value) and worse
        if not broken:
            still.pop(level.component, None)
            continue
        began = still.setdefault(level.component, time)
        if time - began >= metric.for_seconds:
            limit = f"above {metric.above:g}" if metric.above is not None else f"below {metric.below:g}"
            beside = f" (compared with {compared:g})" if compared is not None else ""
            whose = f" of {level.component}" if level.component else ""
            reason = f"{metric.name}{whose} is {level.value:g}, {limit}{beside}"
            found.append(
                Breach(metric.name, level.component, reason, "platform" if metric.scope == "platform" else "release")
            )
    return still, found


def known_alert(name: str, colour: str = "", component: str = "") -> str:
    """How an alert that fired before the rollout began is named in a plan's baseline."""
    return f"alert {name} of {component} in {colour}" if colour else f"alert {name}"


def firing(metric: Alert, levels: tuple[Level, ...], candidate: str, baseline: Mapping[str, float]) -> list[Breach]:
    """The alerts that stop the rollout: of the candidate's colour or of none, that did not fire before it began.

    An alert looks back for minutes: one of the candidate's colour that fires already is of who had that colour before.
    """
    return [
        Breach(
            metric.name,
            level.component,
            f"the alert {level.name} fires" + (f" for {level.component}" if level.component else ""),
            "release" if level.colour == candidate else "platform",
        )
        for level in levels
        if level.colour in ("", candidate) and known_alert(level.name, level.colour, level.component) not in baseline
    ]
