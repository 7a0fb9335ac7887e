"""Evidence: all that a verdict was made of, as one JSON document, and the same verdict from it again.

The document holds the declared rules with their queries, the plan, every look, who asked and for which release.
`rejudge` folds the same looks through the same judge; another α may be tried on history.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nexus_ops.analysis.judge import Judgement, Plan, follow, verdict
from nexus_ops.analysis.judge import judge as judged
from nexus_ops.analysis.metrics import Rules
from nexus_ops.analysis.samples import EvidenceError, Sample
from nexus_ops.analysis.state import dispersion_from_json, dispersion_to_json

VERSION = 1
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Subject:
    """Whom the verdict is about, and who asked."""

    cluster: str
    rollout: str
    release: str
    actor: str


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A plan with its rules."""
    return {
        "rules": plan.rules.model_dump(mode="json"),
        "components": list(plan.components),
        "candidate": plan.candidate,
        "stable": plan.stable,
        "alpha": plan.alpha,
        "baseline": dict(plan.baseline),
        "needed": None if plan.needed is None else list(plan.needed),
        "watch": plan.watch,
        "history": [[*key, dispersion_to_json(known)] for key, known in plan.history.items()],
    }


def plan_from_json(stored: Mapping[str, Any]) -> Plan:
    """The plan in a JSON document; `EvidenceError` when it is none."""
    try:
        return Plan(
            rules=Rules.model_validate(stored["rules"]),
            components=tuple(stored["components"]),
            candidate=stored["candidate"],
            stable=stored["stable"],
            alpha=stored["alpha"],
            history={
                (metric, component): dispersion_from_json(numbers) for metric, component, numbers in stored["history"]
            },
            baseline=stored["baseline"],
            needed=None if stored["needed"] is None else tuple(stored["needed"]),
            watch=stored["watch"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"the plan of an analysis cannot be read: {error!r}.") from None


def to_json(subject: Subject, plan: Plan, samples: Iterable[Sample], *, now: float | None = None) -> dict[str, Any]:
    """The evidence of a verdict. `now` is when it was asked for (seconds since 1970)."""
    looks = list(samples)
    judgement = judged(plan, looks, now=now)
    return {
        "version": VERSION,
        "subject": vars(subject),
        "plan": plan_to_json(plan),
        "now": now,
        "samples": [sample.to_json() for sample in looks],
        "judgement": {
            **{
                name: value
                for name, value in vars(judgement).items()
                if name not in ("reasons", "e_values", "time", "broken")
            },
            "time": judgement.time if looks else None,
            "reasons": list(judgement.reasons),
            "broken": [list(limit) for limit in judgement.broken],
            "e_values": dict(judgement.e_values),
        },
    }


def read(document: Mapping[str, Any]) -> tuple[Plan, list[Sample]]:
    """The plan and the looks of stored evidence; `EvidenceError` when it is none."""
    if document.get("version") != VERSION:
        raise EvidenceError(f"evidence of version {document.get('version')!r}; {VERSION} can be read.")
    try:
        return plan_from_json(document["plan"]), [Sample.from_json(one) for one in document["samples"]]
    except (KeyError, TypeError) as error:
        raise EvidenceError(f"the evidence cannot be read: {error!r}.") from None


def rejudge(document: Mapping[str, Any], alpha: float | None = None) -> Judgement:
    """The verdict of stored evidence, with its own α or another one."""
    plan, samples = read(document)
    if alpha is not None:
        if not 0 < alpha < 1:
            raise EvidenceError(f"α is {alpha}; it must be between 0 and 1.")
        plan = replace(plan, alpha=alpha)
    return judged(plan, samples, now=document.get("now"))


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """Evidence as it is stored: compressed, and the same bytes for the same evidence."""
    return gzip.compress(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), 6, mtime=0)


def from_bytes(stored: bytes) -> dict[str, Any]:
    """Evidence that was stored, compressed or plain; `EvidenceError` when it is none."""
    try:
        document = json.loads(gzip.decompress(stored) if stored[:2] == GZIP else stored)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise EvidenceError(f"the evidence cannot be read: {error}.") from None
    if not isinstance(document, dict):
        raise EvidenceError("the evidence is no JSON object.")
    return document


def curve(document: Mapping[str, Any]) -> list[tuple[float, float, str]]:
    """For the plot: by look its time, the rollout's evidence, and the verdict that was due."""
    plan, samples = read(document)
    return [(state.time, state.e_value, verdict(plan, state).verdict) for state in follow(plan, samples)]
