"""Smoke tests: real HTTP to the candidate alone, before and while it takes over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_ops.documents import read_yaml
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.record import Copy


@dataclass(frozen=True)
class SmokeResult:
    """One question to one component."""

    component: str
    question: str
    passed: bool
    answer: str


def extra_requests(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Further requests by component from smoke.yaml: `path`, `status`, optionally `contains`."""
    return (read_yaml(path) or {}) if path.exists() else {}


def ask(
    context: RolloutContext, candidate: Copy, components: Iterable[str], requests: Mapping[str, list[dict[str, Any]]]
) -> list[SmokeResult]:
    """Ask each component of the candidate: is it healthy, ready, the right version and colour, and measured?"""
    results: list[SmokeResult] = []
    for name in components:
        for path, port in (("health", "http"), ("ready", "http"), ("", "http"), ("metrics", "metrics")):
            results.append(_ask(context, candidate, name, port, {"path": f"/{path}", "status": 200}))
        results += [_ask(context, candidate, name, "http", request) for request in requests.get(name, [])]
    return results


def _ask(context: RolloutContext, candidate: Copy, name: str, port: str, request: dict[str, Any]) -> SmokeResult:
    service = f"http:{name}-{candidate.colour}:{port}"
    path = f"namespaces/{context.cluster.namespace}/services/{service}/proxy/{request['path'].lstrip('/')}"
    method = request.get("method", "GET")
    wanted = int(request.get("status", 200))
    question = f"{method} {request['path']}"
    answer = context.client.proxy(path, method=method)
    if answer.status_code != wanted and answer.status_code >= 500:
        answer = context.client.proxy(path, method=method)  # one error may be the service's ordinary share
    problem = ""
    if answer.status_code != wanted:
        problem = f"answered {answer.status_code}, not {wanted}"
    elif text := request.get("contains"):
        problem = "" if text in answer.text else f"the answer does not contain {text!r}"
    elif port == "metrics":
        problem = "" if "http_requests_total" in answer.text else "its metrics have no http_requests_total"
    else:
        for header, value in (("x-nexus-version", candidate.version), ("x-nexus-colour", candidate.colour)):
            if answer.headers.get(header, value) != value:
                problem = f"{header} is {answer.headers[header]}, not {value}"
    return SmokeResult(name, question, not problem, problem or f"{answer.status_code}")
