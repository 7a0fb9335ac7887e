"""The record of a rollout: its whole truth, kept in the cluster that it changes.

A ConfigMap holds it; writes are compare-and-swap under the fence. What other people ask of a rollout (abort, approve,
pause, promote) stands beside it under keys of their own, so that they need no lease and a driver cannot overwrite them;
so does the last word of the sensor that looks after it while nobody drives (`seen`), and so do the releases that have failed here, which outlive the rollout.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from nexus_ops.rollouts.strategy import Kind, Settings, Stage, known_stage
from nexus_ops.topology import Colour

Phase = Literal["running", "rolling-back", "done", "rolled-back"]
Blame = Literal["release", "platform"]
"""What a failure is laid at. A rollout that failed for the platform's sake leaves its release as good as it was."""
Reason = Literal["DrainLate", "DrainEnded", "DrainKilled", "WeightUnseen", "RolledBack", "Blocked", "Waits"]
"""Why an event was told: the words by which alerts are grouped."""
NAME = "rollout"
SAY_AGAIN = timedelta(seconds=30)
"""After so long the last word is said again, so that it can be seen that somebody looks."""
PAST = "rollouts"
"""The folder of the object store with the records of rollouts that are over."""


class ForeignRecord(RuntimeError):
    """A record with fields that are not known here. No error of the operation: a tick that meets it fails, and people are told."""


@dataclass(frozen=True)
class Copy:
    """One colour's release: what serves, or is to serve."""

    colour: Colour
    version: str
    release: str


@dataclass(frozen=True)
class StageState:
    """One stage, and how far it is; times in UTC, ISO 8601."""

    name: str
    kind: Kind
    weight: int
    """The candidate's share of edge traffic (percent) that the stage is about."""
    bake_seconds: int = 0
    gate: bool = False
    """Whether a person has to let it begin."""
    started: str | None = None
    until: str | None = None
    """When its bake or hold is over, once that has begun."""
    ended: str | None = None
    moved: str | None = None
    """When traffic was first to move for it; a stage that waits at its gate has started, and has moved none."""
    note: str = ""
    verdict: str = ""
    """By which it ended, where it was a bake."""
    requests: float | None = None
    """So many of the candidate's requests that verdict stood on; None: not measured."""

    @classmethod
    def of(cls, stage: Stage, *, started: str | None = None) -> StageState:
        """A stage that is to come, or has just been started."""
        return cls(stage.name, stage.kind, stage.weight, stage.bake_seconds, stage.gate, started)

    @property
    def watched(self) -> bool:
        """Whether the candidate is judged by its metrics in it, once it has traffic."""
        return self.weight > 0

    @property
    def judged_since(self) -> str | None:
        """From when on requests are this stage's: of a share from when it was asked for, not while a person was waited for."""
        is_at_a_gate = 0 < self.weight < 100 and not (self.until or self.ended)
        return self.moved or (None if is_at_a_gate else self.started)


@dataclass(frozen=True)
class Event:
    """Something that people were told of; the time in UTC, ISO 8601."""

    time: str
    reason: Reason
    text: str
    about: str = ""
    """Which component and colour, where it is about one (`draining_key`)."""
    until: str | None = None
    """When Kubernetes ends by force what drains too long."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict stands on: the digest of the document in the object store, under `evidence/`."""

    stage: str
    verdict: str
    digest: str


def draining_key(component: str, colour: Colour) -> str:
    """How a component of a colour is named where its draining is kept."""
    return f"{component}/{colour}"


@dataclass(frozen=True)
class Record:
    """A rollout of `candidate` in place of `stable` (None: the first install)."""

    id: str
    cluster: str
    actor: str
    started: str
    settings: Settings
    candidate: Copy
    stable: Copy | None
    stages: tuple[StageState, ...]
    replicas: dict[str, int] = field(default_factory=dict)
    """Pods that each component is to have in the colour that serves, by component."""
    drain_seconds: dict[str, int] = field(default_factory=dict)
    """How long each component's pods may take to drain before people are told."""
    draining: dict[str, str] = field(default_factory=dict)
    """Since when a component's pods of a colour have been seen to leave, by `draining_key`."""
    evidence: tuple[Evidence, ...] = ()
    """What the verdicts of monitoring stand on, oldest first."""
    events: tuple[Event, ...] = ()
    """What people were told, oldest first."""
    phase: Phase = "running"
    reason: str = ""
    """Why it is rolling back or has been rolled back."""
    blames: Blame | None = None
    """What that is laid at; None: at nothing that is known."""
    goes_back: bool = False
    """Whether it brings back what served before, asked for as `rollback`."""
    forced: str = ""
    """Why the release was held to be bad when it was rolled out all the same; empty: it was not."""
    applied: bool = False
    """Whether the candidate's objects have been applied."""
    smoke: dict[str, str] = field(default_factory=dict)
    """What the candidate's pods answered to the smoke tests, by component."""
    restored: bool = False
    """Whether what both colours share is the stable release's again, on the way back."""
    verified: tuple[str, ...] = ()
    """Components whose candidate pods answered as they should."""
    weight: int = 0
    """The candidate's share of edge traffic that was last requested (percent)."""
    weight_since: str | None = None
    """When it was requested."""
    observed: int | None = None
    """That share, once it was observed; None until then."""
    unmeasured_since: str | None = None
    """Since when the candidate serves and nothing can be said of it; None: it is measured."""
    logs_until: str | None = None
    """Until when a candidate that failed is kept without traffic."""
    needs_approval: str = ""
    """Why a person must approve before traffic moves; empty: nobody need."""
    baseline: dict[str, float] = field(default_factory=dict)
    """The worst value of each of the platform's guardrails that was broken when the rollout began, by rule."""
    guardrails: dict[str, str] = field(default_factory=dict)
    """The release's rules by which the candidate is judged: expressions by name."""
    plan: str = ""
    """Digest of the plan, with the way back, in the object store."""
    said: str = ""
    """The last decision's sentence."""
    updated: str = ""

    @property
    def finished(self) -> bool:
        return self.phase in ("done", "rolled-back")

    @property
    def serving(self) -> Copy | None:
        """The copy that serves when the rollout is over."""
        return self.candidate if self.phase == "done" else self.stable

    @property
    def stage(self) -> StageState | None:
        """The stage that runs now: the first that has not ended."""
        return next((stage for stage in self.stages if stage.ended is None), None)

    @property
    def may_have_handed_over(self) -> bool:
        """Whether a driver of this rollout may have begun to move exclusive work: a late write of his could arrive."""
        return self.phase == "rolling-back" or self.weight == 100

    def told(self, reason: Reason, component: str, colour: Colour) -> Event | None:
        """The event of this reason about a component of a colour."""
        about = draining_key(component, colour)
        return next((event for event in self.events if (event.reason, event.about) == (reason, about)), None)

    def ended(self, stage: str) -> bool:
        """Whether a stage is over."""
        return any(state.name == stage and state.ended is not None for state in self.stages)

    def with_stage(self, name: str, **changes: Any) -> Record:
        """With one stage's state changed."""
        return replace(
            self, stages=tuple(replace(stage, **changes) if stage.name == name else stage for stage in self.stages)
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """A stored record; `ForeignRecord` for one that a newer nexus-ops has written."""
        document = _as_now(json.loads(text))
        stable = document["stable"]
        try:
            built: dict[str, Any] = {
                **document,
                "settings": _settings(document["settings"]),
                "candidate": Copy(**document["candidate"]),
                "stable": Copy(**stable) if stable else None,
                "stages": tuple(StageState(**stage) for stage in document["stages"]),
                "verified": tuple(document["verified"]),
                "evidence": tuple(Evidence(**one) for one in document.get("evidence", ())),
                "events": tuple(Event(**event) for event in document.get("events", ())),
            }
            return cls(**built)
        except TypeError as error:
            raise ForeignRecord(
                f"the record of the rollout was written by another version of nexus-ops ({error}). Reload the code location, "
                "or install that version again; nothing is driven by who does not know all of it."
            ) from None


@dataclass(frozen=True)
class Wish:
    """What a person asked of a running rollout."""

    actor: str
    reason: str
    time: str
    about: str = ""
    """The stage that it is about; empty: whichever."""
    blames: Blame | None = None
    """What is at fault, where a verdict has said so."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Wish:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class BadRelease:
    """A release that failed here, and why."""

    release: str
    version: str
    rollout: str
    cluster: str
    time: str
    reason: str


@dataclass(frozen=True)
class Word:
    """What whoever looks after a rollout saw of it last, while nobody drives it and the record stands still."""

    rollout: str
    by: str
    why: str
    at: str

    def is_news(self, before: Word | None) -> bool:
        """Whether it says something else than before (numbers left out), or what was said is old."""
        if before is None or before.rollout != self.rollout:
            return True
        said, now = (re.sub(r"\d+(\.\d+)?", "#", word.why) for word in (before, self))
        return said != now or moment(self.at) - moment(before.at) >= SAY_AGAIN


@dataclass(frozen=True)
class Ledger:
    """All that the ConfigMap holds: the record, the wishes about it, the last word, and the releases that have failed here."""

    record: Record | None = None
    abort: Wish | None = None
    approval: Wish | None = None
    pause: Wish | None = None
    promotion: Wish | None = None
    bad: tuple[BadRelease, ...] = ()
    seen: Word | None = None

    @classmethod
    def from_data(cls, data: dict[str, str]) -> Ledger:
        wishes = {key: Wish.from_json(data[key]) for key in WISHES if key in data}
        return cls(
            record=Record.from_json(data["record"]) if "record" in data else None,
            bad=tuple(BadRelease(**one) for one in json.loads(data.get("bad", "[]"))),
            seen=Word(**json.loads(data["seen"])) if "seen" in data else None,
            **wishes,
        )


WISHES = ("abort", "approval", "pause", "promotion")
MOST_BAD = 50
"""So many bad releases are remembered in a cluster; the object store forgets none."""


def with_bad(data: dict[str, str], bad: BadRelease) -> dict[str, str]:
    """The ConfigMap's data with one more bad release, each of them once."""
    known = [one for one in json.loads(data.get("bad", "[]")) if one["release"] != bad.release]
    return {**data, "bad": json.dumps([*known, asdict(bad)][-MOST_BAD:])}


def _settings(document: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {**document, "gates": tuple(document.get("gates", ()))}
    return Settings(**values)


def _as_now(document: dict[str, Any]) -> dict[str, Any]:
    """A stored record in its present form: until canaries came, stages were names, and the record held their times."""
    untils = {
        "monitor-health": document.pop("monitor_until", None),
        "cleanup-blue-environment": document.pop("hold_until", None),
    }
    stages: list[dict[str, Any]] = []
    for stage in document["stages"]:
        if "kind" not in stage:
            known = known_stage(stage["name"])
            stage = {"kind": known.kind, "weight": known.weight, "until": untils.get(known.name), **stage}
        stages.append(stage)
    return {**document, "stages": stages}


def moment(text: str) -> datetime:
    """A time of the record."""
    return datetime.fromisoformat(text)
