"""The rules of the rendered PrometheusRule, tested with Prometheus' own promtool."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from platform_chart import PROJECT, changed, objects_of, of_kind, render, values_of

from nexus_ops.sandbox.executables import executable

TESTS = PROJECT / "monitoring/alerts.test.yaml"
# As the seed has them: alert, expression, for, severity.
SEED = {
    "AgentHighErrorRate": ("rate(agent_errors_total[5m]) > 0.1", "2m", "warning"),
    "AgentDown": ('up{job="nexus-agents"} == 0', "1m", "critical"),
    "LargePortfolioLoss": ("portfolio_pnl_daily < -10000", "0m", "critical"),
    "HighRiskScore": ("portfolio_risk_score > 80", "5m", "warning"),
    "HighCPUUsage": (
        '(100 - (avg by(instance) (rate(node_cpu_seconds_total{mode="idle"}[2m])) * 100)) > 80',
        "2m",
        "warning",
    ),
}


def rule_groups(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    found = of_kind(render(values) if values else objects_of("shared"), "PrometheusRule")
    return found["nexus"]["spec"]["groups"]


def rules() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in rule_groups() for rule in group["rules"]}


def promtool(groups: list[dict[str, Any]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the unit tests against these rule groups."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    tests = shutil.copy(TESTS, folder)
    command = [executable("promtool"), "test", "rules", str(tests)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    done = promtool(rule_groups(), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == silent == set(rules())


@pytest.mark.parametrize(
    ("threshold", "value"),
    [("errorsPerSecond", 5), ("errorRatio", 0.5), ("portfolioLoss", 50000), ("riskScore", 99), ("cpuPercent", 99)],
)
def test_each_threshold_is_the_one_of_the_values(tmp_path: Path, threshold: str, value: float) -> None:
    """The control of the unit tests: with any threshold raised they no longer pass."""
    done = promtool(rule_groups(changed(values_of("shared"), f"monitoring.alerts.{threshold}", value)), tmp_path)
    assert done.returncode == 1
    assert "FAILED" in done.stdout + done.stderr


def test_the_alerts_of_the_seed_are_kept_as_they_are() -> None:
    found = {name: (rule["expr"], rule["for"], rule["labels"]["severity"]) for name, rule in rules().items()}
    assert {name: found[name] for name in SEED} == SEED
    assert set(found) - set(SEED) == {"AgentHighErrorRatio"}
    assert [group["name"] for group in rule_groups()] == ["nexus-agents", "nexus-financial", "nexus-system"]


def test_large_numbers_are_written_out() -> None:
    """Go prints 10000000 as 1e+07 unless told otherwise: in a threshold or a summary nobody would read it right."""
    groups = rule_groups(changed(values_of("shared"), "monitoring.alerts.portfolioLoss", 10_000_000))
    assert groups[1]["rules"][0]["expr"] == "portfolio_pnl_daily < -10000000"


def test_alerts_can_be_switched_off() -> None:
    values = changed(values_of("shared"), "monitoring.alerts.enabled", False)
    assert not of_kind(render(values), "PrometheusRule")


def test_every_alert_leads_to_its_runbook() -> None:
    """Whoever is woken at three needs the page, and not a search for it."""
    for name, rule in rules().items():
        page = PROJECT / rule["annotations"]["runbook_url"]
        assert page.name == f"{name}.md"
        text = page.read_text()
        assert all(part in text for part in ("**You see.**", "**It means.**", "**Do.**"))
    index = (PROJECT / "docs" / "runbooks" / "README.md").read_text()
    pages = {page.name for page in (PROJECT / "docs" / "runbooks").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()
