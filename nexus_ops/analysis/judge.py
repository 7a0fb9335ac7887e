"""The verdict on a candidate: a fold over looks, pure, and the same whether done at once or one look at a time.

    state = begin(plan)
    for sample in samples:
        state = advance(plan, state, sample)
    judgement = verdict(plan, state)

Fail comes before error, error before insufficient, and a pass is what is left when enough was seen. A fail stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from nexus_ops.analysis import assurance, evidence
from nexus_ops.analysis.assurance import Assurance
from nexus_ops.analysis.counters import Gathered, Last, differences, gathered, least_seconds
from nexus_ops.analysis.dispersion import Dispersion, observed
from nexus_ops.analysis.evidence import EARLY_IN_WATCH, Evidence, Interval, Prior, e_value, no_evidence
from nexus_ops.analysis.guardrails import Breach, breaches, firing
from nexus_ops.analysis.metrics import Alert, Counted, Guardrail, Rules
from nexus_ops.analysis.samples import Answer, Count, Sample

Verdict = Literal["pass", "fail", "insufficient", "error"]
Pods = Mapping[str, Last]
Key = tuple[str, str]
"""Metric and component."""
MOST_AGE = 60.0
"""Seconds after which the last look is too old for any verdict but fail."""


@dataclass(frozen=True)
class Plan:
    """What is judged, and how: fixed when the rollout begins."""

    rules: Rules
    components: tuple[str, ...]
    """Those that run in both colours."""
    candidate: str
    stable: str
    alpha: float
    history: Mapping[Key, Dispersion] = field(default_factory=dict)
    """What the stable colour's past says of clusters."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """What was so when the rollout began: by guardrail of the platform its value, which is taken from the first look where it
    is missing; and the alerts that fired already (`guardrails.known_alert`)."""
    needed: tuple[str, ...] | None = None
    """Components without which there is no pass; None: all. One that serves too little to be told in time may lack."""
    watch: bool = False
    """Whether this is the watch after a promotion."""

    @cached_property
    def prior(self) -> Prior:
        """When a fault may begin."""
        return Prior(self.rules.watch_horizon, EARLY_IN_WATCH) if self.watch else Prior(self.rules.horizon)

    @cached_property
    def shares(self) -> Mapping[Key, float]:
        """The weight of each metric of each component in the rollout's evidence."""
        return self.rules.shares(self.components)


@dataclass(frozen=True)
class Stream:
    """One metric of one component."""

    evidence: Evidence
    candidate_pods: Pods = field(default_factory=dict)
    stable_pods: Pods = field(default_factory=dict)
    waiting: Gathered = field(default_factory=Gathered)
    """For the evidence."""
    unassured: Gathered = field(default_factory=Gathered)
    """For the assurance."""
    assurance: Assurance = field(default_factory=Assurance)
    served: Interval = field(default_factory=lambda: Interval(0.0, 0.0, 0.0, 0.0))
    """All that was compared since the rollout began."""


@dataclass(frozen=True)
class State:
    """What is known after some looks."""

    streams: Mapping[Key, Stream]
    time: float = -math.inf
    stage: str = ""
    e_value: float = 1.0
    peak: float = 1.0
    rejected: tuple[str, float] | None = None
    """What the evidence was strongest on when it reached 1/α, and when."""
    broken: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By guardrail, by component: since when its limit is broken."""
    failed: tuple[Breach, ...] = ()
    baseline: Mapping[str, float] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    """Of the last look: by metric, why it could not be measured."""
    silent: tuple[str, ...] = ()
    """Of the last look: guardrails without data."""


@dataclass(frozen=True)
class Judgement:
    """The verdict and its numbers."""

    verdict: Verdict
    reasons: tuple[str, ...]
    e_value: float
    peak: float
    threshold: float
    time: float
    blames: str | None = None
    """Of a fail: 'release' or 'platform'."""
    e_values: Mapping[str, float] = field(default_factory=dict)
    """By 'metric/component'."""
    broken: tuple[tuple[str, str], ...] = ()
    """Guardrails whose limit was broken for long enough, each with its component ('' where it has none)."""


def begin(plan: Plan) -> State:
    """Before the first look."""
    streams = {key: Stream(no_evidence(plan.prior, plan.history.get(key))) for key in plan.shares}
    return State(streams, baseline=dict(plan.baseline))


def advance(plan: Plan, state: State, sample: Sample) -> State:
    """With one more look. One that is not newer than the last is ignored: a tick may be repeated."""
    if sample.time <= state.time:
        return state
    if sample.stage != state.stage:
        streams = {key: replace(stream, assurance=Assurance()) for key, stream in state.streams.items()}
        state = replace(state, streams=streams, stage=sample.stage)
    state = replace(state, time=sample.time)
    return _watch_limits(plan, _compare(plan, state, sample), sample)


def follow(plan: Plan, samples: Iterable[Sample]) -> Iterator[State]:
    """The state after each look."""
    state = begin(plan)
    for sample in samples:
        state = advance(plan, state, sample)
        yield state


def judge(plan: Plan, samples: Iterable[Sample], *, now: float | None = None) -> Judgement:
    """The verdict over all looks at once."""
    state = begin(plan)
    for sample in samples:
        state = advance(plan, state, sample)
    return verdict(plan, state, now=now)


def learned(plan: Plan, past: Iterable[Sample]) -> dict[Key, Dispersion]:
    """What samples from before the rollout say of the stable colour's clusters, as a plan's `history`."""
    known: dict[Key, Dispersion] = {key: Dispersion() for key in plan.shares}
    pods: dict[Key, Pods] = {}
    for sample in past:
        for metric in plan.rules.counted():
            for component, readings in _by_component(sample.answers.get(metric.name), plan.stable).items():
                key = (metric.name, component)
                if key in known:
                    pods[key], events, requests = differences(pods.get(key, {}), _timed(readings, sample.time))
                    known[key] = observed(known[key], events, requests)
    return known


def _by_component(answer: Answer | None, colour: str) -> dict[str, list[Count]]:
    found: dict[str, list[Count]] = {}
    for count in answer.counts if answer else ():
        if count.colour == colour:
            found.setdefault(count.component, []).append(count)
    return found


def _timed(readings: Iterable[Count], time: float) -> list[tuple[str, Last]]:
    return [(count.pod, Last(time, count.events, count.total)) for count in readings]


def _compare(plan: Plan, state: State, sample: Sample) -> State:
    """The sequential tests."""
    streams = dict(state.streams)
    for metric in plan.rules.counted():
        answer = sample.answers.get(metric.name)
        candidate, stable = _by_component(answer, plan.candidate), _by_component(answer, plan.stable)
        for component in plan.components:
            if component in candidate or component in stable:
                key = (metric.name, component)
                new = _timed(candidate.get(component, ()), sample.time), _timed(stable.get(component, ()), sample.time)
                streams[key] = _with_readings(streams[key], metric, *new, sample.time, plan.prior)
    values = {key: plan.shares[key] * e_value(stream.evidence, plan.prior) for key, stream in streams.items()}
    total = math.fsum(values.values())
    rejected = state.rejected
    if rejected is None and total >= 1.0 / plan.alpha:
        metric_name, component = max(values, key=lambda key: values[key])
        rejected = (f"{metric_name} of {component}", sample.time)
    return replace(state, streams=streams, e_value=total, peak=max(state.peak, total), rejected=rejected)


def _with_readings(
    stream: Stream,
    metric: Counted,
    candidate: list[tuple[str, Last]],
    stable: list[tuple[str, Last]],
    time: float,
    prior: Prior,
) -> Stream:
    candidate_pods, events_c, requests_c = differences(stream.candidate_pods, candidate)
    stable_pods, events_s, requests_s = differences(stream.stable_pods, stable)
    counts = Interval(events_c, requests_c, events_s, requests_s)
    waiting, interval = gathered(stream.waiting, counts, time, least_seconds(stream.evidence.dispersion))
    # A pass is no bet: it need not wait until an interval is a witness, only until both colours have served.
    unassured, served = gathered(stream.unassured, counts, time, 0.0)
    stream = replace(
        stream, candidate_pods=candidate_pods, stable_pods=stable_pods, waiting=waiting, unassured=unassured
    )
    if served is not None:
        size = stream.evidence.dispersion.cluster_size()
        stream = replace(
            stream,
            assurance=assurance.with_interval(stream.assurance, served, metric.material, size),
            served=Interval(*(a + b for a, b in zip(stream.served, served, strict=True))),
        )
    if interval is None:
        return stream
    return replace(stream, evidence=evidence.with_interval(stream.evidence, interval, prior))


def _watch_limits(plan: Plan, state: State, sample: Sample) -> State:
    """The guardrails and alerts, and what could not be measured."""
    problems: dict[str, str] = {}
    silent: list[str] = []
    broken, baseline, failed = dict(state.broken), dict(state.baseline), list(state.failed)
    for metric in plan.rules.metrics.values():
        answer = sample.answers.get(metric.name)
        if answer is None or answer.problem is not None:
            problems[metric.name] = answer.problem or "" if answer else "it was not asked"
            continue
        found: list[Breach] = []
        if isinstance(metric, Alert):
            found = firing(metric, answer.levels, plan.candidate, plan.baseline)
        elif isinstance(metric, Guardrail) and (metric.watched or not plan.watch):
            if metric.scope == "platform" and answer.levels:
                baseline.setdefault(metric.name, answer.levels[0].value)
            broken[metric.name], found = breaches(
                metric,
                answer.levels,
                time=sample.time,
                candidate=plan.candidate,
                reference=baseline.get(metric.name),
                since=state.broken.get(metric.name, {}),
            )
            seen = {level.component for level in answer.levels if level.colour in ("", plan.candidate)}
            wanted = {""} if metric.scope == "platform" else set(plan.components)
            if metric.criticality == "critical" and wanted - seen:
                silent.append(" of ".join(filter(None, (metric.name, ", ".join(sorted(wanted - seen))))))
        known = {(breach.metric, breach.component) for breach in failed}
        failed += [breach for breach in found if (breach.metric, breach.component) not in known]
    return replace(
        state, problems=problems, silent=tuple(silent), broken=broken, baseline=baseline, failed=tuple(failed)
    )


def verdict(plan: Plan, state: State, *, now: float | None = None) -> Judgement:
    """The verdict after the looks so far. With `now`, a last look that is too old is an error."""
    kind, reasons, blames = _decide(plan, state, now)
    values = {
        f"{metric}/{component}": e_value(stream.evidence, plan.prior)
        for (metric, component), stream in state.streams.items()
    }
    broken = tuple((breach.metric, breach.component) for breach in state.failed)
    return Judgement(kind, reasons, state.e_value, state.peak, 1.0 / plan.alpha, state.time, blames, values, broken)


def _decide(plan: Plan, state: State, now: float | None) -> tuple[Verdict, tuple[str, ...], str | None]:
    reasons = [breach.reason for breach in state.failed]
    if state.rejected:
        what, _ = state.rejected
        reasons.append(f"the candidate is worse, most of all in {what} (evidence {state.peak:.3g}, α {plan.alpha:g})")
    if reasons:
        guilty = bool(state.rejected) or any(breach.blames == "release" for breach in state.failed)
        return "fail", tuple(reasons), "release" if guilty else "platform"
    if state.time < 0:  # a look that is due and cannot be had is an error before it comes to a verdict
        return "insufficient", ("the first look is still to come",), None
    if now is not None and now - state.time > MOST_AGE:
        return "error", (f"could not measure: the last look was {now - state.time:.0f} s ago",), None
    metrics = plan.rules.metrics
    problems = tuple(
        f"could not measure {name}: {problem}"
        for name, problem in state.problems.items()
        if metrics[name].criticality == "critical"
    )
    if problems:
        return "error", problems, None
    missing = [f"no data for {name}" for name in state.silent]
    needed = plan.components if plan.needed is None else plan.needed
    for metric in plan.rules.counted():
        if metric.criticality == "critical":
            missing += [
                f"{metric.name} of {component}: {state.streams[metric.name, component].assurance.requests:.0f} requests "
                "in this stage are too few to exclude a regression"
                for component in needed
                if not state.streams[metric.name, component].assurance.enough
            ]
    if missing or not needed:
        return "insufficient", tuple(missing) or ("no component serves enough in both colours to be compared",), None
    return "pass", ("no metric is worse, and a material regression would have been seen",), None
