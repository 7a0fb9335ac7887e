"""Watching a candidate serve: plain guardrails from Prometheus, with four verdicts.

No data is `insufficient`, a query that fails is `error`: neither is ever a pass. P&L and risk belong to the platform, not
to a colour; they are compared with their value when the rollout began.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_ops.errors import OperationError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.machine import Verdict
from nexus_ops.topology import Colour

ERROR_RATIO = 0.05
MOST_ERRORS = 5
"""Fewer errors than this are no ratio."""
LOSS = 10_000.0
RISK = 80.0
WINDOW = "30s"

QUERIES = {
    "requests": f'sum(increase(http_requests_total{{job="nexus-agents"}}[{WINDOW}])) by (colour)',
    "errors": f'sum(increase(http_requests_total{{job="nexus-agents",code=~"5.."}}[{WINDOW}])) by (colour)',
    "pnl": "min(portfolio_pnl_daily)",
    "risk": "max(portfolio_risk_score)",
    "alerts": 'count(ALERTS{alertstate="firing",severity="critical"}) by (alertname, colour)',
}


@dataclass(frozen=True)
class Health:
    """What the metrics say of a candidate."""

    verdict: Verdict
    reason: str
    values: Mapping[str, float]


def query(context: RolloutContext, promql: str) -> list[dict[str, Any]]:
    """An instant query through the API server: the series of its vector. `OperationError` when it failed."""
    path = f"namespaces/{context.cluster.monitoring_namespace}/services/http:prometheus-operated:web/proxy/api/v1/query"
    answer = context.client.proxy(path, query={"query": promql})
    if answer.status_code != 200:
        raise OperationError(f"Prometheus answered {answer.status_code}.", target=context.cluster.name)
    return answer.json()["data"]["result"]


def platform_values(context: RolloutContext) -> dict[str, float]:
    """P&L and risk now; what has no data is left out."""
    values: dict[str, float] = {}
    for name in ("pnl", "risk"):
        for series in query(context, QUERIES[name]):
            value = float(series["value"][1])
            if not math.isnan(value):
                values[name] = value
    return values


def check_health(context: RolloutContext, candidate: Colour, baseline: Mapping[str, float]) -> Health:
    """Judge the candidate by what Prometheus has of the last half minute."""
    try:
        series = {name: query(context, promql) for name, promql in QUERIES.items()}
    except (OperationError, KeyError, ValueError) as error:
        return Health("error", f"could not measure: {error}", {})
    counts = {
        name: sum(float(s["value"][1]) for s in series[name] if s["metric"].get("colour") == candidate)
        for name in ("requests", "errors")
    }
    values = dict(counts)
    for name in ("pnl", "risk"):
        for one in series[name]:
            values[name] = float(one["value"][1])
    return judge(values, [s["metric"] for s in series["alerts"]], candidate, baseline)


def judge(
    values: Mapping[str, float], alerts: list[Mapping[str, str]], candidate: Colour, baseline: Mapping[str, float]
) -> Health:
    """The verdict over what was measured. Pure."""
    for alert in alerts:
        if alert.get("colour", candidate) == candidate:
            return Health("fail", f"the alert {alert['alertname']} fires", values)
    pnl = values.get("pnl")
    if pnl is not None and pnl < -LOSS and pnl < baseline.get("pnl", 0.0):
        return Health("fail", f"portfolio_pnl_daily fell to {pnl:.0f} (it was {baseline.get('pnl', 0.0):.0f})", values)
    risk = values.get("risk")
    if risk is not None and risk > RISK and risk > baseline.get("risk", 0.0):
        return Health(
            "fail", f"portfolio_risk_score rose to {risk:.0f} (it was {baseline.get('risk', 0.0):.0f})", values
        )
    requests, errors = values.get("requests", 0.0), values.get("errors", 0.0)
    if requests < 1:
        return Health("insufficient", "no request has reached the candidate yet, as far as Prometheus knows", values)
    ratio = errors / requests
    if errors >= MOST_ERRORS and ratio > ERROR_RATIO:
        return Health("fail", f"{ratio:.1%} of the candidate's requests fail", values)
    return Health("pass", f"{ratio:.2%} errors over {requests:.0f} requests", values)
