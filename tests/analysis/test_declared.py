"""monitoring/analysis.yaml: what is declared, and what is refused with which words. Prometheus' answers likewise."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import Platform

from nexus_ops.analysis.answers import read, refusals
from nexus_ops.analysis.metrics import Alert, Guardrail, Latency, Rules, RulesError
from nexus_ops.analysis.samples import Answer, Count, Level
from nexus_ops.topology import Topology, default_path, project_folder

FILE = project_folder() / "monitoring" / "analysis.yaml"
RULES = Rules.load(FILE)


def document() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_the_components_are_those_of_the_topology() -> None:
    assert set(RULES.components) == set(Topology.load(default_path()).components)


def test_the_rules_of_the_seed_are_among_them() -> None:
    limits = {
        name: (metric.above, metric.below, metric.for_seconds)
        for name, metric in RULES.metrics.items()
        if isinstance(metric, Guardrail)
    }
    assert limits["agent-error-rate"] == (0.1, None, 120)
    assert limits["agent-down"] == (None, 1, 60)
    assert limits["portfolio-pnl"] == (None, -10_000, 0)
    assert limits["portfolio-risk"] == (80, None, 0)
    assert limits["node-cpu"] == (80, None, 120)


def test_twenty_eight_tests_share_one_alpha() -> None:
    shares = RULES.shares(RULES.components)
    assert len(shares) == 28
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["request-errors", "risk-manager"] == 2 * shares["agent-errors", "risk-manager"]


def without(path: str) -> dict[str, Any]:
    return changed(path, None, delete=True)


def changed(path: str, value: Any, *, delete: bool = False) -> dict[str, Any]:
    result = copy.deepcopy(document())
    *folders, last = path.split(".")
    place = result
    for folder in folders:
        place = place[folder]
    if delete:
        del place[last]
    else:
        place[last] = value
    return result


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (changed("alpha", 1.5), "alpha"),
        (changed("metrics.request-errors.kind", "average"), "metrics.request-errors"),
        (without("metrics.request-errors.kind"), "'kind' is missing"),
        (without("metrics.request-errors.criticality"), "metrics.request-errors.criticality"),
        (changed("metrics.request-errors.events", "rate(errors[5m])"), "raw counters are needed"),
        (changed("metrics.request-errors.evnts", "x"), "metrics.request-errors.evnts: unknown key"),
        (changed("metrics.request-errors.evnts", "x"), "Did you mean events?"),
        (changed("alhpa", 0.5), "alhpa: unknown key; allowed: alpha, "),
        (changed("metrics.node-cpu.below", 3), "exactly one of 'above' and 'below'"),
        (without("metrics.node-cpu.above"), "exactly one of 'above' and 'below'"),
        (changed("metrics.portfolio-pnl.worse_than_stable", 2), "needs scope: colour"),
        (changed("metrics.agent-down.worse_than_stable", 2), "needs 'above'"),
        (changed("metrics.node-cpu", 3), "metrics.node-cpu: no mapping"),
        (changed("metrics", {}), "at least one of kind ratio or latency"),
        (changed("metrics", [1]), "no mapping with the key 'metrics'"),
        (changed("components", []), "components"),
        (changed("metrics.slow-requests.objective_seconds", 0), "metrics.slow-requests.objective_seconds"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(what: dict[str, Any], message: str) -> None:
    with pytest.raises(RulesError) as refused:
        Rules.parse(what)
    assert message in str(refused.value)


def test_a_metric_declared_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "analysis.yaml"
    path.write_text(FILE.read_text() + "\n  node-cpu: {}\n")
    with pytest.raises(Exception, match="node-cpu"):
        Rules.load(path)


def series(value: object, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [0, str(value)]}


def pod(value: object, name: str = "p", **labels: str) -> dict[str, Any]:
    return series(value, component="risk-manager", colour="green", pod=name, **labels)


ERRORS, SLOW = RULES.metrics["request-errors"], RULES.metrics["slow-requests"]
PNL, DOWN, ALERTS = (RULES.metrics[name] for name in ("portfolio-pnl", "agent-down", "critical-alerts"))


def test_counters_are_read_pod_by_pod_and_a_missing_series_of_errors_is_none() -> None:
    found = read(ERRORS, {"events": [pod(3)], "total": [pod(100), pod(50, "q")]})
    assert found.counts == (
        Count("risk-manager", "green", "p", 3.0, 100.0),
        Count("risk-manager", "green", "q", 0.0, 50.0),
    )


def test_no_data_and_nan_are_no_readings_and_a_failed_query_is_a_problem() -> None:
    assert read(ERRORS, {"events": [], "total": []}) == Answer()
    assert read(ERRORS, {"events": [], "total": [pod("NaN")]}) == Answer()
    assert read(PNL, {"query": [series("NaN")]}) == Answer()
    failed = read(ERRORS, {"events": [], "total": "HTTP 503"}).problem
    assert failed is not None
    assert "HTTP 503" in failed
    assert "http_requests_total" in failed, "the query is in the error"
    assert "was not asked" in (read(ERRORS, {"events": []}).problem or "")


def test_buckets_give_the_requests_over_the_objective() -> None:
    assert isinstance(SLOW, Latency)
    found = read(SLOW, {"buckets": [pod(90, le="0.25"), pod(95, le="0.5"), pod(100, le="+Inf")]})
    assert found.counts == (Count("risk-manager", "green", "p", 10.0, 100.0),)
    own = SLOW.model_copy(update={"objectives": {"risk-manager": 0.5}})
    assert read(own, {"buckets": [pod(95, le="0.5"), pod(100, le="+Inf")]}).counts[0].events == 5.0


@pytest.mark.parametrize(
    ("metric", "vectors", "message"),
    [
        (ERRORS, {"events": [], "total": [pod(1), pod(2)]}, "several series for component risk-manager"),
        (ERRORS, {"events": [], "total": [series(1, colour="green", pod="p")]}, "without the label component"),
        (SLOW, {"buckets": [pod(1, le="0.3"), pod(1, le="+Inf")]}, "its bounds are 0.3, inf"),
        (SLOW, {"buckets": [pod(1, le="0.25"), pod(1, le="0.25")]}, "several series"),
        (PNL, {"query": [series(1, a="x"), series(2, a="y")]}, "2 series for what belongs to the platform"),
        (DOWN, {"query": [series(1, component="c", colour="green"), series(1, component="c", colour="green")]}, "several"),
        (PNL, {"query": [{"metric": {}}]}, "without a value"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_meant_is_a_problem_with_the_query(metric: Any, vectors: Any, message: str) -> None:
    found = read(metric, vectors)
    assert message in (found.problem or "")
    assert not found.counts
    assert not found.levels


def test_alerts_are_read_and_those_that_a_guardrail_tells_better_are_left_out() -> None:
    assert isinstance(ALERTS, Alert)
    vector = [
        series(1, alertname="AgentDown", component="risk-manager", colour="green"),
        series(1, alertname="LargePortfolioLoss"),
        series(2, alertname="DiskFull"),
    ]
    assert read(ALERTS, {"query": vector}).levels == (
        Level("", "", "DiskFull", 1.0),
        Level("risk-manager", "green", "AgentDown", 1.0),
    )
    assert read(ALERTS, {"query": []}) == Answer(), "nothing fires, and that was measured"


def test_a_rollout_is_refused_over_a_query_that_is_broken_or_returns_nothing() -> None:
    """Before it starts, with the query and the answer: not at three in the morning, as 'insufficient'."""
    answers = Platform().sample().answers
    assert refusals(RULES, answers) == [], "node-cpu has no data here, and is not critical; no alert fires"
    broken = {**answers, "node-cpu": read(RULES.metrics["node-cpu"], {"query": "HTTP 400: parse error at char 5"})}
    assert refusals(RULES, broken)[0].startswith(
        "node-cpu: its query 'query' failed: HTTP 400: parse error at char 5 [max(100"
    )
    silent = {**answers, "request-errors": Answer()}
    assert refusals(RULES, silent)[0].startswith("request-errors: nothing was returned [sum by")
    missing = {name: answer for name, answer in answers.items() if name != "portfolio-pnl"}
    assert refusals(RULES, missing) == ["portfolio-pnl: it was not asked"]
