"""Watching a candidate serve: guardrails from Prometheus, with four verdicts.

What is allowed is written down once, in the alert rules that the release itself ships: their expressions are evaluated
here, thresholds included. No data is `insufficient`, a query that fails is `error`: neither is ever a pass. P&L and risk
belong to the platform, not to a colour; they are compared with their value when the rollout began.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.releases.rendering import Rendering
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Verdict
from nexus_ops.rollouts.judging import Judged
from nexus_ops.rollouts.prometheus import Series, query
from nexus_ops.rollouts.record import Blame, Record, moment
from nexus_ops.topology import Colour

OF_COLOUR = "AgentHighErrorRatio"
"""The rule that tells the colours apart; evaluated at once, for its `for` is longer than a rollout may watch."""
OF_PLATFORM: dict[str, Callable[[Iterable[float]], float]] = {"LargePortfolioLoss": min, "HighRiskScore": max}
"""Rules on what the whole platform must not do, evaluated at once, and which of several values is the worst."""
FIRING = 'count(ALERTS{alertstate="firing",severity="critical"}) by (alertname, colour)'
FEW_ERRORS = 5
"""Fewer errors than this are no ratio."""
SHORTEST, LONGEST = 10, 300
"""Bounds (seconds) of the window that is looked back."""
_WINDOW = re.compile(r"\[(\d+)([smhd])\]")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class NoGuardrails(PermanentError):
    """The release ships no rules by which its candidate could be judged."""


@dataclass(frozen=True)
class Look:
    """One look at the metrics: what was asked, and the series that Prometheus answered, by the query's name."""

    time: str
    queries: Mapping[str, str]
    answers: Mapping[str, list[Series]]


@dataclass(frozen=True)
class Health:
    """What the metrics say of a candidate, and on what ground; none when nothing could be measured."""

    verdict: Verdict
    reason: str
    look: Look | None = None
    blames: Blame | None = None
    """Whom a fail blames: the release, or the platform, which was not well for a reason of its own."""
    requests: float | None = None
    """The candidate's requests in this stage; None: not measured."""
    judged: Judged | None = None
    """Of a comparison with the stable colour: what it stands on."""


def guardrails_of(shared: Rendering) -> dict[str, str]:
    """The expressions of the rules that are evaluated at once, by name; `NoGuardrails` names those that are missing."""
    rules = [
        rule
        for obj in shared.of_kind("PrometheusRule")
        for group in obj["spec"].get("groups") or ()
        for rule in group.get("rules") or ()
    ]
    found = {rule["alert"]: str(rule["expr"]) for rule in rules if "alert" in rule}
    wanted = (OF_COLOUR, *OF_PLATFORM)
    if missing := [name for name in wanted if name not in found]:
        raise NoGuardrails(
            f"the release ships no alert {', '.join(missing)}: nothing would say that its candidate is bad.",
            target="PrometheusRule",
            todo="Set monitoring.alerts.enabled to true in the environment's values, and build the release again.",
        )
    return {name: found[name] for name in wanted}


def queries_of(guardrails: Mapping[str, str], window: int) -> dict[str, str]:
    """What is asked of Prometheus in one look; rules look back `window` seconds where their own range is longer."""
    counted = f'http_requests_total{{job="nexus-agents"%s}}[{window}s]'
    return {
        "requests": f"sum(increase({counted % ''})) by (colour)",
        "errors": "sum(increase({})) by (colour)".format(counted % ',code=~"5.."'),
        "alerts": FIRING,
        **{name: shortened(expression, window) for name, expression in guardrails.items()},
    }


def shortened(expression: str, seconds: int) -> str:
    """The expression with its longer ranges cut to so many seconds: what was before the candidate is not judged."""

    def cut(found: re.Match[str]) -> str:
        return found[0] if int(found[1]) * _SECONDS[found[2]] <= seconds else f"[{seconds}s]"

    return _WINDOW.sub(cut, expression)


def window_of(record: Record, now: datetime) -> int:
    """Seconds that are looked back: as long as the candidate has had all traffic."""
    began = next((stage.started for stage in record.stages if stage.weight == 100), None)
    served = int((now - moment(began)).total_seconds()) if began else 0
    return max(SHORTEST, min(served, LONGEST))


def platform_values(context: RolloutContext, guardrails: Mapping[str, str]) -> dict[str, float]:
    """What is wrong with the platform already, before the rollout, and is not the candidate's doing.

    By platform rule the worst value that breaks it, and by alert of no colour that it fires; what holds is left out.
    """
    broken = {name: _values(query(context, guardrails[name])) for name in OF_PLATFORM}
    firing = (series["metric"] for series in query(context, FIRING))
    return {
        **{name: OF_PLATFORM[name](values) for name, values in broken.items() if values},
        **{_alert(labels["alertname"]): 1.0 for labels in firing if "colour" not in labels},
    }


def check_guardrails(context: RolloutContext, record: Record) -> Health:
    """Look at the metrics now, and hold them against the release's own rules."""
    now = context.clock()
    try:
        queries = queries_of(record.guardrails, window_of(record, now))
        look = Look(now.isoformat(), queries, {name: query(context, promql) for name, promql in queries.items()})
        return judge(look, record.candidate.colour, record.baseline)
    except (OperationError, KeyError, ValueError) as error:
        return Health("error", f"could not measure: {error}")


def judge(look: Look, candidate: Colour, baseline: Mapping[str, float]) -> Health:
    """The verdict over what was measured. Pure."""
    at_once = (OF_COLOUR, *OF_PLATFORM)
    for labels in (series["metric"] for series in look.answers["alerts"]):
        known = labels["alertname"] in at_once or ("colour" not in labels and _alert(labels["alertname"]) in baseline)
        if not known and labels.get("colour", candidate) == candidate:
            blames: Blame = "release" if "colour" in labels else "platform"
            return Health("fail", f"the alert {labels['alertname']} fires", look, blames)
    for name, worst in OF_PLATFORM.items():
        if not (values := _values(look.answers[name])):
            continue
        value, before = worst(values), baseline.get(name)
        if before is None or (value != before and worst((value, before)) == value):
            was = "it was not so" if before is None else f"it was {before:.0f}"
            return Health(
                "fail", f"{name}: {value:.0f}, {look.queries[name]} ({was} when the rollout began)", look, "platform"
            )
    requests, errors = (sum(_values(_own(look.answers[name], candidate))) for name in ("requests", "errors"))
    if requests < 1:
        return Health(
            "insufficient", "no request has reached the candidate yet, as far as Prometheus knows", look, requests=0
        )
    if errors >= FEW_ERRORS and (bad := _own(look.answers[OF_COLOUR], candidate)):
        who = ", ".join(sorted(f"{one['metric'].get('component', '?')} {float(one['value'][1]):.1%}" for one in bad))
        return Health("fail", f"{OF_COLOUR}: requests that the candidate fails: {who}", look, "release", requests)
    return Health("pass", f"{errors / requests:.2%} errors over {requests:.0f} requests", look, requests=requests)


def _alert(name: str) -> str:
    """How an alert is named in the baseline."""
    return f"alert {name}"


def _own(series: Iterable[Series], candidate: Colour) -> list[Series]:
    return [one for one in series if one["metric"].get("colour") == candidate]


def _values(series: Iterable[Series]) -> list[float]:
    """The values of an instant vector; NaN is no value."""
    values = (float(one["value"][1]) for one in series)
    return [value for value in values if value == value]
