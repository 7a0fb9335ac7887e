"""What Prometheus says: its targets and its alerts. A Prometheus that cannot be asked leaves both unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from nexus_ops.errors import TemporaryError
from nexus_ops.health.model import Finding, State, worst
from nexus_ops.rollouts.context import RolloutContext

Object = dict[str, Any]
AGENTS = "nexus-agents"
"""The job of the platform's own targets."""
MOST = 3
GRAVE: dict[str, State] = {"critical": "failed", "warning": "degraded"}
"""What a firing alert makes of its row, by severity; others inform."""


class PrometheusSilent(TemporaryError):
    """Prometheus does not answer as it should."""


def ask(context: RolloutContext, path: str, query: Mapping[str, str]) -> Any:
    """The `data` of an answer of Prometheus' HTTP API, asked through the API server's service proxy."""
    service = f"namespaces/{context.cluster.monitoring_namespace}/services/http:prometheus-operated:web/proxy"
    answer = context.client.proxy(f"{service}/api/v1/{path}", query=query)
    todo = f"Look at the pods of Prometheus in namespace {context.cluster.monitoring_namespace}."
    if answer.status_code != 200:
        raise PrometheusSilent(f"Prometheus answers {answer.status_code}.", target=context.cluster.name, todo=todo)
    try:
        return answer.json()["data"]
    except (ValueError, KeyError, TypeError):
        raise PrometheusSilent("Prometheus' answer is none.", target=context.cluster.name, todo=todo) from None


def look_at_targets(context: RolloutContext) -> Finding:
    """The targets that Prometheus scrapes."""
    return judge_targets(ask(context, "query", {"query": "up"})["result"])


def judge_targets(series: Iterable[Object]) -> Finding:
    """The `up` of every target. None of the platform's up is a failure: then nothing is measured. Pure."""
    there, down, names = Counter[str](), Counter[str](), list[str]()
    for one in series:
        labels = one["metric"]
        there[labels.get("job", "")] += 1
        if float(one["value"][1]) != 1:
            down[labels.get("job", "")] += 1
            names.append(f"{labels.get('pod') or labels.get('instance', '?')} ({labels.get('job', '')})")
    total, lost = there.total(), down.total()
    numbers = {"targets": total, "targets down": lost, f"targets of {AGENTS}": there[AGENTS]}
    todo = "Compare Prometheus' page of targets with the ServiceMonitors and the pods."
    if not there[AGENTS]:
        return Finding("unknown", f"none of {total} targets is of the job {AGENTS}: the platform is not measured", todo, numbers)  # fmt: skip
    if not lost:
        return Finding("healthy", f"all {total} targets are up", "", numbers)
    listed = ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if names[MOST:] else "")
    state = "failed" if down[AGENTS] == there[AGENTS] else "degraded"
    return Finding(state, f"{lost} of {total} targets are down: {listed}", todo, numbers)


def look_at_alerts(context: RolloutContext) -> Finding:
    """The alerts that fire."""
    return judge_alerts(ask(context, "rules", {"type": "alert"})["groups"])


def judge_alerts(groups: Iterable[Object]) -> Finding:
    """A critical alert that fires is a failure, a warning degrades. Without any rule nothing can fire: unknown. Pure."""
    rules = [rule for group in groups for rule in group["rules"]]
    firing, said, pending = Counter[str](), list[tuple[bool, str]](), 0
    for rule in rules:
        for alert in rule.get("alerts") or ():
            severity = alert["labels"].get("severity", "none")
            pending += alert["state"] == "pending"
            if alert["state"] == "firing":
                firing[severity] += 1
                if severity in GRAVE:
                    summary = (alert.get("annotations") or {}).get("summary", "")
                    said.append((severity != "critical", f"{rule['name']}: {summary}" if summary else rule["name"]))
    numbers = {"rules": len(rules), "firing critical": firing["critical"], "firing warning": firing["warning"], "pending": pending}  # fmt: skip
    if not rules:
        todo = "Apply the release again, or look at Prometheus' ruleSelector."
        return Finding("unknown", "Prometheus has no alert rules: none can fire", todo, numbers)
    if not said:
        return Finding("healthy", f"none of {len(rules)} alerts fires, {pending} pending", "", numbers)
    times = Counter(said)
    listed = [f"{times[one]} × {one[1]}" if times[one] > 1 else one[1] for one in sorted(times)]
    why = f"{len(said)} firing: {'; '.join(listed[:MOST])}" + (f"; and {len(listed) - MOST} more" if listed[MOST:] else "")  # fmt: skip
    state = worst(GRAVE[severity] for severity in GRAVE if firing[severity])
    return Finding(state, why, "Follow the alert's runbook; Alertmanager shows whom it told.", numbers)
