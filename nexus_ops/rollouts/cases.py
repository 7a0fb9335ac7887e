"""What of a rollout is judged: two cases, each with a plan that is made once and then stands.

`stages`: the candidate beside the stable colour, from the first share of traffic to the last but one. `watch`: the
candidate alone, after it got all traffic, beside the old colour's last hours. A plan is stored by the rollout's id, so that
every process judges by the same rules, whatever becomes of the file meanwhile.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nexus_ops.analysis.assurance import requests_to_pass
from nexus_ops.analysis.guardrails import known_alert
from nexus_ops.analysis.judge import Plan, learned
from nexus_ops.analysis.metrics import Alert, Guardrail, Rules
from nexus_ops.analysis.ranges import grid, looks, queries
from nexus_ops.analysis.replay import plan_from_json, plan_to_json
from nexus_ops.analysis.samples import Answer, Sample
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.prometheus import over, query_all
from nexus_ops.rollouts.record import Record, moment
from nexus_ops.storage import AlreadyStored, NotStored, digest_of
from nexus_ops.topology import Colour, project_folder

Course = Literal["stages", "watch"]
FOLDER = "analysis"
COARSE = 60.0
"""Seconds between the looks that find out how far the past goes back."""


@dataclass(frozen=True)
class Case:
    """What is judged, and over which looks."""

    course: Course
    plan: Plan
    origin: float
    """The time of the last look before the first one that counts (seconds since 1970, on the grid)."""
    shift: float
    """Of a watch: seconds between a look and that of the old colour's past beside it; 0: there is no such past."""
    pods: tuple[str, ...]
    """The stable colour's pods when the case began: others of that colour are of an earlier release."""
    digest: str
    """Of what is stored."""

    @property
    def step(self) -> float:
        return self.plan.rules.look_seconds


def rules_path() -> Path:
    """The declared metrics: $NEXUS_ANALYSIS, else monitoring/analysis.yaml of the project."""
    return Path(os.environ.get("NEXUS_ANALYSIS") or project_folder() / "monitoring" / "analysis.yaml")


def folder_of(record: Record, course: Course) -> str:
    """Where the object store keeps what belongs to a case."""
    return f"{FOLDER}/{record.cluster}/{record.id}/{course}"


def case_of(context: RolloutContext, record: Record, course: Course) -> Case:
    """The case as it was made when it began; made and stored now, if this is the first look at it."""
    key = f"{folder_of(record, course)}/plan.json"
    try:
        return _read(context.store.get(key), course)
    except NotStored:
        pass
    made = _to_bytes(_made(context, record, course))
    try:
        context.store.put(key, made, create=True)
    except AlreadyStored:
        made = context.store.get(key)  # another process was first, and its plan stands
    return _read(made, course)


def began(record: Record, course: Course) -> float:
    """When a case begins (seconds since 1970): with the first share of traffic, a watch with all of it.

    That of a blue-green rollout begins with the hold, when the new colour is warm.
    """
    canary = any(0 < stage.weight < 100 for stage in record.stages)
    for stage in record.stages:
        full = stage.weight == 100 if canary else stage.kind == "clean-up"
        if stage.started and (full if course == "watch" else stage.weight > 0):
            return moment(stage.started).timestamp()
    return moment(record.started).timestamp()


def past_looks(
    context: RolloutContext, rules: Rules, until: float, seconds: float, stable: Colour, step: float | None = None
) -> tuple[list[Sample], tuple[str, ...]]:
    """The stable colour's counters before some time on the grid, and the pods that it had then."""
    every = step or rules.look_seconds
    times = grid(until - seconds, until, every)
    answers = query_all(context, queries(rules.counted()), **over(times[0], times[-1], every))
    found = looks(rules, answers, times, lambda time: ("past", None))
    last = {count.pod for answer in found[-1].answers.values() for count in answer.counts if count.colour == stable}
    return [only(sample, stable, last) for sample in found], tuple(sorted(last))


def only(sample: Sample, stable: str, pods: set[str] | tuple[str, ...]) -> Sample:
    """A look with these pods of the stable colour alone."""
    known = set(pods)
    answers = {
        name: replace(answer, counts=tuple(c for c in answer.counts if c.colour == stable and c.pod in known))
        for name, answer in sample.answers.items()
    }
    return replace(sample, answers=answers)


def rates(past: list[Sample], metric: str) -> dict[str, tuple[float, float]]:
    """By component: events and requests a second over a past, of the pods that were there all the time."""
    found: dict[str, tuple[float, float]] = {}
    readings: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for sample in past:
        for count in sample.answers.get(metric, Answer()).counts:
            readings.setdefault((count.component, count.pod), []).append((sample.time, count.events, count.total))
    for (component, _), (first, *_, last) in ((key, list(r)) for key, r in readings.items() if len(r) > 1):
        seconds = last[0] - first[0]
        events, requests = found.get(component, (0.0, 0.0))
        more = max(0.0, last[1] - first[1]) / seconds, max(0.0, last[2] - first[2]) / seconds
        found[component] = events + more[0], requests + more[1]
    return found


def needed_components(
    rules: Rules, components: tuple[str, ...], requests: Mapping[str, float], edge: str, share: float, seconds: float
) -> tuple[str, ...]:
    """Those that serve enough for a pass within the time of the smallest stage; of the others none is asked for.

    A quiet service is no reason to roll back. The component behind the edge is always needed: an environment in which
    it is idle shows nothing.
    """
    least = max((requests_to_pass(m.material) for m in rules.counted() if m.criticality == "critical"), default=0.0)
    return tuple(name for name in components if name == edge or requests.get(name, 0.0) * share * seconds >= least)


def _made(context: RolloutContext, record: Record, course: Course) -> Case:
    assert record.stable is not None, "what has no stable colour cannot be compared"
    rules = Rules.load(rules_path())
    origin = math.floor(began(record, course) / rules.look_seconds) * rules.look_seconds
    stable, candidate = record.stable.colour, record.candidate.colour
    works = context.works(record.candidate.release)
    kinds = ("request", "worker") if course == "stages" else ("request", "worker", "exclusive")
    components = tuple(name for name in rules.components if works.get(name) in kinds)
    past, pods = past_looks(context, rules, origin, rules.history_seconds, stable)
    plan = Plan(
        rules=rules,
        components=components,
        candidate=candidate,
        stable=stable,
        alpha=rules.alpha if course == "stages" else rules.watch_alpha,
        baseline=baseline(context, rules, moment(record.started).timestamp()),
        watch=course == "watch",
    )
    plan = replace(plan, history=learned(plan, past), needed=_needed(context, record, plan, past))
    shift = _shift(context, rules, origin, stable) if course == "watch" else 0.0
    return Case(course, plan, origin, shift, pods, "")


def _needed(context: RolloutContext, record: Record, plan: Plan, past: list[Sample]) -> tuple[str, ...]:
    shares = [(stage.weight / 100, stage.bake_seconds) for stage in record.stages if 0 < stage.weight < 100]
    share, seconds = min(shares, default=(1.0, record.settings.monitor_seconds))
    served = {name: both for name, (_, both) in rates(past, first_critical(plan.rules)).items()}
    edge = context.topology.edge_component.name
    return needed_components(
        plan.rules, plan.components, served, edge, share, seconds + record.settings.insufficient_seconds
    )


def first_critical(rules: Rules) -> str:
    """The metric whose requests are told: the first critical one that is counted."""
    return next((m.name for m in rules.counted() if m.criticality == "critical"), rules.counted()[0].name)


def baseline(context: RolloutContext, rules: Rules, at: float) -> dict[str, float]:
    """What was so already when the rollout began: values of the platform, and alerts."""
    wanted = [m for m in rules.metrics.values() if isinstance(m, Alert | Guardrail)]
    answers = query_all(context, queries(wanted), **over(at, at, rules.look_seconds))
    (look,) = looks(rules, answers, [at], lambda time: ("before", None))
    found: dict[str, float] = {}
    for metric in wanted:
        levels = look.answers[metric.name].levels
        if isinstance(metric, Alert):
            found |= {known_alert(level.name, level.colour, level.component): 1.0 for level in levels}
        elif metric.scope == "platform" and levels:
            found[metric.name] = levels[0].value
    return found


def _shift(context: RolloutContext, rules: Rules, origin: float, stable: Colour) -> float:
    """How far back the old colour's past begins, as far as Prometheus and its pods go back; on the grid."""
    past, _ = past_looks(context, rules, origin, rules.watch_seconds, stable, COARSE)
    known = [sample.time for sample in past if any(answer.counts for answer in sample.answers.values())]
    first = min(known, default=origin)
    return max(0.0, round((origin - first) / rules.look_seconds) * rules.look_seconds)


def _to_bytes(case: Case) -> bytes:
    document = {"plan": plan_to_json(case.plan), "origin": case.origin, "shift": case.shift, "pods": list(case.pods)}
    return json.dumps(document, sort_keys=True).encode()


@lru_cache(maxsize=64)
def _read(stored: bytes, course: Course) -> Case:
    document = json.loads(stored)
    pods = tuple(document["pods"])
    plan = plan_from_json(document["plan"])
    return Case(course, plan, document["origin"], document["shift"], pods, digest_of(stored))
