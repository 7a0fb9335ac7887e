"""What is known after some looks, as JSON, so that the next look need not go through all of them again.

A shortcut only: the stored samples remain the truth, and folding them anew gives the same state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nexus_ops.analysis.assurance import Assurance
from nexus_ops.analysis.counters import Gathered, Last
from nexus_ops.analysis.dispersion import Dispersion, Scatter
from nexus_ops.analysis.evidence import Evidence, Interval
from nexus_ops.analysis.guardrails import Breach
from nexus_ops.analysis.judge import State, Stream
from nexus_ops.analysis.samples import EvidenceError


def dispersion_to_json(known: Dispersion) -> list[Any]:
    return [list(known.short), list(known.long), *known[2:]]


def dispersion_from_json(numbers: list[Any]) -> Dispersion:
    short, long, *rest = numbers
    return Dispersion(Scatter(*short), Scatter(*long), *rest)


def to_json(state: State) -> dict[str, Any]:
    """A state as JSON."""
    streams = [
        {
            "key": list(key),
            "bets": list(stream.evidence.bets),
            "intervals": stream.evidence.intervals,
            "dispersion": dispersion_to_json(stream.evidence.dispersion),
            "candidate_pods": {pod: list(last) for pod, last in stream.candidate_pods.items()},
            "stable_pods": {pod: list(last) for pod, last in stream.stable_pods.items()},
            "waiting": list(stream.waiting),
            "unassured": list(stream.unassured),
            "assurance": list(stream.assurance),
            "served": list(stream.served),
        }
        for key, stream in state.streams.items()
    ]
    plain = {name: value for name, value in vars(state).items() if name not in ("streams", "time", "failed")}
    return {
        **plain,
        "streams": streams,
        "time": state.time if math.isfinite(state.time) else None,
        "failed": [list(breach) for breach in state.failed],
    }


def from_json(document: Mapping[str, Any]) -> State:
    """The state in a JSON document; `EvidenceError` when it is none."""
    try:
        streams = {
            (str(one["key"][0]), str(one["key"][1])): Stream(
                Evidence(tuple(one["bets"]), one["intervals"], dispersion_from_json(one["dispersion"])),
                {pod: Last(*last) for pod, last in one["candidate_pods"].items()},
                {pod: Last(*last) for pod, last in one["stable_pods"].items()},
                Gathered(*one["waiting"]),
                Gathered(*one["unassured"]),
                Assurance(*one["assurance"]),
                Interval(*one["served"]),
            )
            for one in document["streams"]
        }
        begun = State(streams)
        return State(
            streams=streams,
            time=begun.time if document["time"] is None else document["time"],
            stage=document["stage"],
            e_value=document["e_value"],
            peak=document["peak"],
            rejected=tuple(document["rejected"]) if document["rejected"] else None,
            broken=document["broken"],
            failed=tuple(Breach(*one) for one in document["failed"]),
            baseline=document["baseline"],
            problems=document["problems"],
            silent=tuple(document["silent"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvidenceError(f"the state of an analysis cannot be read: {error!r}.") from None
