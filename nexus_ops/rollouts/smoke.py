"""Smoke tests: real HTTP to the candidate alone, before and while it takes over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nexus_ops.documents import DocumentError, first_error, read_yaml
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.record import Copy

FILE = "smoke.yaml"


class Question(BaseModel):
    """One request to a component of the candidate, and what it must answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Annotated[str, Field(pattern=r"^/")]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    status: Annotated[int, Field(ge=100, le=599)] = 200
    contains: str = ""


@dataclass(frozen=True)
class SmokeResult:
    """One question to one component."""

    component: str
    question: str
    passed: bool
    answer: str

    def __str__(self) -> str:
        return f"{self.question}: {self.answer}"


BUILT_IN = (("/health", "http"), ("/ready", "http"), ("/", "http"), ("/metrics", "metrics"))
"""What every component is asked, and on which of its ports."""
_FILE = TypeAdapter(dict[str, tuple[Question, ...]])


def read_questions(path: Path, components: Iterable[str]) -> dict[str, tuple[Question, ...]]:
    """The project's own questions by component; none without the file. `DocumentError` for what cannot be meant.

    Read when a rollout is planned, so that a mistake in it is told before anything changes.
    """
    if not path.exists():
        return {}
    known = sorted(components)
    try:
        found = _FILE.validate_python(read_yaml(path) or {})
    except ValidationError as error:
        first = first_error(error)
        where = ".".join(str(part) for part in first["loc"])
        keys = ", ".join(Question.model_fields)
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].lower()
        raise DocumentError(f"{where}: {what}.", target=path.name, todo=f"A request has the keys {keys}.") from None
    if unknown := sorted(set(found) - set(known)):
        todo = f"Components: {', '.join(known)}."
        raise DocumentError(f"{unknown[0]} is no component.", target=path.name, todo=todo)
    return found


def ask(
    context: RolloutContext, candidate: Copy, components: Iterable[str], questions: Mapping[str, Iterable[Question]]
) -> list[SmokeResult]:
    """Ask each component of the candidate: is it healthy, ready, the right version and colour, and measured?"""
    results: list[SmokeResult] = []
    for name in components:
        results += [_ask(context, candidate, name, port, Question(path=path)) for path, port in BUILT_IN]
        results += [_ask(context, candidate, name, "http", question) for question in questions.get(name, ())]
    return results


def _ask(context: RolloutContext, candidate: Copy, name: str, port: str, question: Question) -> SmokeResult:
    service = f"http:{name}-{candidate.colour}:{port}"
    path = f"namespaces/{context.cluster.namespace}/services/{service}/proxy/{question.path.lstrip('/')}"
    answer = context.client.proxy(path, method=question.method)
    if answer.status_code != question.status and answer.status_code >= 500:
        answer = context.client.proxy(path, method=question.method)  # one error may be the service's ordinary share
    problem = ""
    if answer.status_code != question.status:
        problem = f"answered {answer.status_code}, not {question.status}"
    elif question.contains:
        problem = "" if question.contains in answer.text else f"the answer does not contain {question.contains!r}"
    elif port == "metrics":
        problem = "" if "http_requests_total" in answer.text else "its metrics have no http_requests_total"
    else:
        problem = _identity(answer.headers, candidate, must=question.path == "/")
    return SmokeResult(name, f"{question.method} {question.path}", not problem, problem or f"{answer.status_code}")


def _identity(headers: Mapping[str, str], candidate: Copy, *, must: bool) -> str:
    """Whether the answer came from the candidate: from its version, in its colour. `must`: it has to say so."""
    for header, value in (("x-nexus-version", candidate.version), ("x-nexus-colour", candidate.colour)):
        if header not in headers:
            if must:
                return f"the answer has no {header}: who answered cannot be told"
        elif headers[header] != value:
            return f"{header} is {headers[header]}, not {value}"
    return ""
