"""What a candidate is judged by: the rules that its release ships, and what Prometheus answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from platform_cluster import QUICK, Platform

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Rendering, render
from nexus_ops.rollouts.evidence import judge_again
from nexus_ops.rollouts.monitor import Look, NoGuardrails, guardrails_of, judge, queries_of
from nexus_ops.rollouts.prerequisites import check_prerequisites
from nexus_ops.rollouts.record import Copy
from nexus_ops.rollouts.result import result_of
from nexus_ops.topology import Topology, default_path, project_folder

CHART = project_folder() / "helm" / "nexus-ai-defi"


def build(tmp_path: Path, values: str, version: str = "v1.0.0") -> Release:
    """A release of staging with these values."""
    (tmp_path / "values.yaml").write_text(values)
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    topology = Topology.load(default_path())
    return build_release(topology, "staging", version, catalogue, read_chart(CHART), tmp_path / "values.yaml")


def shared_part(release: Release) -> Rendering:
    return render(release, Topology.load(default_path()).cluster("staging-us-west-2"), "shared", read_chart(CHART))


def look(**answers: list[tuple[dict[str, str], float]]) -> Look:
    """A look at a candidate with a hundred requests and no trouble, but for what is given."""
    quiet = {"requests": [({"colour": "green"}, 100.0)], "errors": [], "alerts": []}
    given = {**quiet, "AgentHighErrorRatio": [], "LargePortfolioLoss": [], "HighRiskScore": [], **answers}
    made: dict[str, list[dict[str, Any]]] = {
        name: [{"metric": labels, "value": [0, str(value)]} for labels, value in series]
        for name, series in given.items()
    }
    return Look("2026-01-01T00:00:00+00:00", dict.fromkeys(made, "…"), made)


RATIO = [({"component": "agent-orchestrator", "colour": "green"}, 0.2)]


@pytest.mark.parametrize(
    ("seen", "baseline", "verdict", "reason"),
    [
        (look(), {}, "pass", "0.00% errors over 100 requests"),
        (look(requests=[]), {}, "insufficient", "no request has reached the candidate"),
        (look(requests=[({"colour": "blue"}, 100.0)]), {}, "insufficient", "no request"),
        (look(errors=[({"colour": "green"}, 20.0)], AgentHighErrorRatio=RATIO), {}, "fail", "agent-orchestrator 20.0%"),
        (look(errors=[({"colour": "green"}, 2.0)], AgentHighErrorRatio=RATIO), {}, "pass", "2.00% errors"),
        (look(AgentHighErrorRatio=[({"component": "x", "colour": "blue"}, 0.2)]), {}, "pass", "0.00%"),
        (look(alerts=[({"alertname": "AgentDown", "colour": "green"}, 1.0)]), {}, "fail", "AgentDown fires"),
        (look(alerts=[({"alertname": "AgentDown", "colour": "blue"}, 1.0)]), {}, "pass", "0.00%"),
        (look(alerts=[({"alertname": "ClusterDown"}, 1.0)]), {}, "fail", "ClusterDown fires"),
        (
            look(alerts=[({"alertname": "ClusterDown"}, 1.0)]),
            {"alert ClusterDown": 1.0},
            "pass",
            "0.00%",
        ),  # it did before
        (look(LargePortfolioLoss=[({}, -25000.0)]), {}, "fail", "LargePortfolioLoss: -25000"),
        (look(LargePortfolioLoss=[({}, -25000.0)]), {"LargePortfolioLoss": -25000.0}, "pass", "0.00%"),
        (look(LargePortfolioLoss=[({}, -26000.0)]), {"LargePortfolioLoss": -25000.0}, "fail", "it was -25000"),
        (look(HighRiskScore=[({}, 92.0), ({}, 85.0)]), {}, "fail", "HighRiskScore: 92"),
        (look(HighRiskScore=[({}, 85.0)]), {"HighRiskScore": 92.0}, "pass", "0.00%"),
        (look(HighRiskScore=[({}, float("nan"))]), {}, "pass", "0.00%"),
    ],
)
def test_a_verdict_is_of_what_was_measured(seen: Look, baseline: dict[str, float], verdict: str, reason: str) -> None:
    health = judge(seen, "green", baseline)
    assert (health.verdict, health.look) == (verdict, seen)
    assert reason in health.reason


def test_the_limits_are_those_of_the_alerts_that_the_release_ships(tmp_path: Path) -> None:
    """A threshold that is written down twice, and then changed once."""
    values = "monitoring: {alerts: {errorRatio: 0.23, portfolioLoss: 512, riskScore: 61}}\n"
    queries = queries_of(guardrails_of(shared_part(build(tmp_path, values))), 30)
    assert queries["LargePortfolioLoss"] == "portfolio_pnl_daily < -512"
    assert queries["HighRiskScore"] == "portfolio_risk_score > 61"
    assert queries["AgentHighErrorRatio"].endswith("> 0.23")


def test_a_look_goes_no_further_back_than_the_candidate_has_served(tmp_path: Path) -> None:
    guardrails = guardrails_of(shared_part(build(tmp_path, "")))
    assert "[5m]" in guardrails["AgentHighErrorRatio"]
    assert "[5m]" in queries_of(guardrails, 300)["AgentHighErrorRatio"]
    short = queries_of(guardrails, 45)
    assert "[5m]" not in short["AgentHighErrorRatio"]
    assert short["AgentHighErrorRatio"].count("[45s]") == 2
    assert "[45s]" in short["requests"]


def test_a_release_without_alerts_is_refused_before_anything_changes(tmp_path: Path, platform: Platform) -> None:
    blind = build(tmp_path, "monitoring: {alerts: {enabled: false}}\n", "v1.3.0")
    with pytest.raises(NoGuardrails, match="ships no alert AgentHighErrorRatio, LargePortfolioLoss, HighRiskScore"):
        guardrails_of(shared_part(blind))
    platform.releases.save(blind, read_chart(CHART))
    problems = {
        check.name: check.problem
        for check in check_prerequisites(platform.context(), Copy("blue", blind.version, blind.digest), None)
    }
    assert "monitoring.alerts.enabled" in problems["guardrails"]


def test_a_candidate_that_loses_money_goes_back_and_the_evidence_says_why(tmp_path: Path, platform: Platform) -> None:
    platform.ensure("v1.0.0")
    losing = build(tmp_path, "pods: {preStopSeconds: 1}\n", "v1.5.0")
    platform.releases.save(losing, read_chart(CHART))
    assert platform.deploy("v1.5.0", replace(QUICK, monitor_seconds=20)).state == "rolled-back"
    record = platform.record()
    first = ("LargePortfolioLoss: -25000, portfolio_pnl_daily < -10000", "HighRiskScore: 92, portfolio_risk_score > 80")
    assert any(rule in record.reason for rule in first), "whichever was scraped first"
    (kept,) = record.evidence
    assert kept.stage in ("switch-traffic", "monitor-health"), "as soon as it has traffic"
    assert kept.verdict == "fail"
    stored = platform.store.get_content("evidence", kept.digest)
    again = judge_again(stored)
    assert (again.verdict, f"the candidate failed in {kept.stage}: {again.reason}") == ("fail", record.reason)
    assert b"-25000" in stored or b'"92"' in stored
    assert result_of(record).evidence == {f"{kept.stage}: fail": f"evidence/{kept.digest}"}


def test_the_evidence_of_a_pass_holds_what_was_asked_and_answered(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    assert platform.deploy("v1.1.0").state == "done"
    passed, held = platform.record().evidence
    assert [(one.stage, one.verdict) for one in (passed, held)] == [
        ("monitor-health", "pass"),
        ("cleanup-blue-environment", "pass"),
    ]
    health = judge_again(platform.store.get_content("evidence", passed.digest))
    assert (health.verdict, health.look is not None) == ("pass", True)
