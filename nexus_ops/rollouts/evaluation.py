"""An evaluation: stored evidence as people read it, with its numbers and pictures.

Of the evidence that a rollout has stored with its last verdict, or of any by its digest; while a rollout runs, and none is
named, of what its judge knows now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_ops.analysis.plots import pictures, served
from nexus_ops.analysis.replay import from_bytes, read, rejudge, to_bytes
from nexus_ops.analysis.samples import EvidenceError
from nexus_ops.charts import markdown
from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.cases import Course, first_critical
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.evidence import FOLDER
from nexus_ops.rollouts.judging import evidence_of, judged
from nexus_ops.rollouts.plan import read_ledger
from nexus_ops.rollouts.record import Record


class NothingToEvaluate(PermanentError):
    """There is no rollout whose candidate was judged."""


@dataclass(frozen=True)
class Evaluation:
    """What a verdict came to, and on what it stands."""

    cluster: str
    rollout: str
    version: str
    stage: str
    verdict: str
    reason: str
    digest: str
    """Of the evidence in the object store, under `evidence/`."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    charts: Mapping[str, str] = field(default_factory=dict)
    """SVG by title; none where nothing was compared."""

    def charts_markdown(self) -> str:
        return markdown(self.charts) or "Nothing was compared: the release's own rules gave this verdict."


def newest_evidence(record: Record | None) -> str:
    """The digest of the last evidence that a rollout has stored; empty when it has none."""
    return record.evidence[-1].digest if record is not None and record.evidence else ""


def evaluate(context: RolloutContext, digest: str = "") -> Evaluation:
    """Evaluate evidence by its digest; without one what is known now, or the last that was stored."""
    record = read_ledger(context).record
    if record is None:
        raise NothingToEvaluate("no rollout has begun here.", target=context.cluster.name)
    if not digest and not record.finished and record.weight and record.stable is not None:
        digest = _stored_now(context, record)
    digest = digest or newest_evidence(record)
    if not digest:
        raise NothingToEvaluate(
            f"the candidate of rollout {record.id} was not judged.",
            target=context.cluster.name,
            todo="It is judged as soon as it has traffic; evaluate it then.",
        )
    return read_evaluation(context.store.get_content(FOLDER, digest), digest, record)


def _stored_now(context: RolloutContext, record: Record) -> str:
    """What the judge knows at this moment, as evidence."""
    assert record.stage is not None, "it is not finished"
    course: Course = "stages" if 0 < record.stage.weight < 100 else "watch"
    document = evidence_of(context, record, record.stage.name, judged(context, record, course))
    return context.store.put_content(FOLDER, to_bytes(document))


def read_evaluation(stored: bytes, digest: str, record: Record) -> Evaluation:
    """Stored evidence of either kind as an evaluation. Pure."""
    document = from_bytes(stored)
    rollout = document.get("subject", document).get("rollout", record.id)
    if "samples" not in document:
        facts = (document["stage"], document["verdict"], document["reason"])
        return Evaluation(record.cluster, rollout, record.candidate.version, *facts, digest)
    judgement = rejudge(document)
    return Evaluation(
        record.cluster,
        rollout,
        str(document["subject"]["release"]).split(" ")[0],
        str(document.get("stage", "")),
        judgement.verdict,
        "; ".join(judgement.reasons),
        digest,
        {
            "evidence": judgement.e_value,
            "evidence_at_most": judgement.peak,
            "needed": judgement.threshold,
            **_numbers(document),
        },
        pictures(document),
    )


def _numbers(document: dict[str, Any]) -> dict[str, float]:
    """For the UI to plot over evaluations: the candidate's and the stable colour's ratios in the last minute."""
    plan, samples = read(document)
    if not samples:
        raise EvidenceError("the evidence has no looks.")
    found: dict[str, float] = {}
    name = first_critical(plan.rules)
    for who, colour in (("candidate", plan.candidate), ("stable", plan.stable)):
        sums = [served(samples, name, component, colour)[-1] for component in plan.components]
        events, requests = sum(e for _, e, _ in sums), sum(n for _, _, n in sums)
        found[f"requests_of_{who}"] = requests
        if requests:
            found[f"error_ratio_of_{who}"] = events / requests
    both = found["requests_of_candidate"] + found["requests_of_stable"]
    if both:
        found["share_observed"] = found["requests_of_candidate"] / both
    if samples[-1].requested_weight is not None:
        found["share_requested"] = samples[-1].requested_weight / 100
    return found
