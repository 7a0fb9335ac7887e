"""Before a rollout starts: whether its metrics can be asked at all, and what its stages will be able to see."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nexus_ops.analysis.answers import refusals
from nexus_ops.analysis.judge import Plan, learned
from nexus_ops.analysis.metrics import Rules
from nexus_ops.analysis.power import Forecast, forecast
from nexus_ops.analysis.ranges import looks, queries
from nexus_ops.analysis.samples import Answer
from nexus_ops.errors import OperationError
from nexus_ops.rollouts.backing import Check
from nexus_ops.rollouts.cases import first_critical, needed_components, past_looks, rates, rules_path
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Works
from nexus_ops.rollouts.prometheus import over, query_all
from nexus_ops.rollouts.record import Copy
from nexus_ops.rollouts.strategy import Settings, Stage
from nexus_ops.topology import other

SEEN_WITHIN = 60
"""Seconds in which a metric must have been returned."""


def check_metrics(context: RolloutContext, *, serves: bool) -> Check:
    """Refuses metrics that cannot be used: with the query, and what Prometheus answered.

    Where nothing serves yet nothing can be returned either, and only what cannot be parsed is refused.
    """
    name = "metrics of the analysis"
    try:
        rules = Rules.load(rules_path())
        answers = _newest(context, rules)
    except OperationError as error:
        return Check(name, str(error))
    found = refusals(rules, answers)
    silent = [metric for metric, one in answers.items() if not (one.counts or one.levels or one.problem)]
    if not serves:
        found = [f"{metric}: {one.problem}" for metric, one in answers.items() if one.problem]
    quiet = [metric for metric in silent if rules.metrics[metric].kind != "alert"]
    note = f"nothing is returned for {', '.join(quiet)}, which is left out" if quiet and serves else ""
    return Check(name, f"{rules_path().name}: {'; '.join(found)}" if found else "", note)


def _newest(context: RolloutContext, rules: Rules) -> dict[str, Answer]:
    """By metric what is answered now; where that is nothing, the last that was: one scrape that is lost refuses no rollout."""
    now, step = round(context.clock().timestamp(), 3), rules.look_seconds
    times = [now - number * step for number in range(math.ceil(SEEN_WITHIN / step), -1, -1)]
    asked = query_all(context, queries(rules.metrics.values()), **over(times[0], now, step))
    *before, newest = looks(rules, asked, times, lambda time: ("before", None))
    found = dict(newest.answers)
    for name, answer in found.items():
        if not (answer.counts or answer.levels or answer.problem):
            past = (look.answers[name] for look in reversed(before))
            found[name] = next((one for one in past if one.counts or one.levels), answer)
    return found


def forecast_lines(
    context: RolloutContext, works: Works, stable: Copy | None, settings: Settings, stages: Iterable[Stage]
) -> tuple[str, ...]:
    """What the shares of a canary will see at present traffic, in words; a stage too short to see anything is warned of."""
    shared = [stage for stage in stages if 0 < stage.weight < 100]
    if not shared or stable is None:
        return ()
    try:
        return _lines(context, works, stable, settings, shared)
    except OperationError as error:
        return (f"What the stages will see could not be told: {error}",)


def _lines(
    context: RolloutContext, works: Works, stable: Copy, settings: Settings, stages: list[Stage]
) -> tuple[str, ...]:
    rules = Rules.load(rules_path())
    at = math.floor(context.clock().timestamp() / rules.look_seconds) * rules.look_seconds
    past, _ = past_looks(context, rules, at, rules.history_seconds, stable.colour)
    components = tuple(name for name in rules.components if works.get(name) in ("request", "worker"))
    plan = Plan(rules, components, other(stable.colour), stable.colour, rules.alpha)
    sizes, metric = learned(plan, past), first_critical(rules)
    served = rates(past, metric)
    least = min(stages, key=lambda stage: stage.weight)
    seconds = least.bake_seconds + settings.insufficient_seconds
    requests = {name: both for name, (_, both) in served.items()}
    edge = context.topology.edge_component.name
    needed = needed_components(rules, components, requests, edge, least.weight / 100, seconds)
    lines = [
        _line(stage.name, one)
        for name in needed
        for stage, one in zip(
            stages,
            forecast(
                metric=metric,
                component=name,
                weight=plan.shares[metric, name],
                alpha=rules.alpha,
                events_per_second=served.get(name, (0.0, 0.0))[0],
                cluster_size=sizes[metric, name].cluster_size(),
                stages=[(stage.weight / 100, float(stage.bake_seconds)) for stage in stages],
            ),
            strict=True,
        )
    ]
    if quiet := [name for name in components if name not in needed]:
        lines.append(f"Too quiet to be compared, and not needed for a pass: {', '.join(quiet)}.")
    return tuple(lines)


def _line(stage: str, found: Forecast) -> str:
    """One sentence; what is too short to see anything is a warning."""
    return f"**Warning**, {stage}: {found}" if found.blind else f"{stage}: {found}"
