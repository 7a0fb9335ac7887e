"""The result of a rollout, as it is reported: what happened, how long it took, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_ops.rollouts.plan import way_back
from nexus_ops.rollouts.record import Record, moment


@dataclass(frozen=True)
class DeploymentResult:
    """What a deploy came to; times in seconds."""

    success: bool
    cluster: str
    version: str
    colour: str
    before: str
    phase: str
    reason: str
    blames: str
    """What a rollback is laid at: release, platform, or nothing that is known (empty)."""
    rollout: str
    release: str
    plan: str
    actor: str
    seconds: float
    """From its beginning to its last change, holds and waits included."""
    timings: dict[str, float]
    verified: tuple[str, ...]
    smoke: dict[str, str]
    """What the candidate's pods answered to the smoke tests, by component."""
    rollback: tuple[str, ...]
    """How to go back, in steps; as the plan has it."""
    evidence: dict[str, str]
    """Where in the object store it is kept what each verdict of monitoring stands on, by stage and verdict."""
    bakes: tuple[str, ...]
    """How each bake ended: share, verdict, and on how many requests."""
    events: tuple[str, ...]
    """What people were told, oldest first."""

    def summary(self) -> str:
        """A few words, for a table; why and what next stand in fields of their own."""
        if self.phase == "done":
            return f"{self.version} serves ({self.colour})"
        if self.phase == "rolled-back":
            return f"{self.version} rolled back; {self.before} serves"
        return f"{self.before} → {self.version}, {self.phase}"

    def what_next(self) -> str:
        """What an operator would do now."""
        if self.phase == "done":
            if self.before == "nothing":
                return "Nothing. There is no earlier release to go back to."
            return "Nothing. To go back: the job `rollback`."
        if self.phase == "rolled-back" and self.blames == "release":
            return "Read the reason, mend the release, and deploy a new version; this one is refused without `force`."
        if self.phase == "rolled-back":
            return "Read the reason. The release itself was not found to be bad: it can be deployed again."
        return (
            "A gate waits for the job `approve`, a pause for `unpause` (`now` says so); anything else goes on by itself. "
            "To stop it: the job `abort`."
        )


def result_of(record: Record) -> DeploymentResult:
    """The result as far as the record goes."""
    return DeploymentResult(
        success=record.phase == "done",
        cluster=record.cluster,
        version=record.candidate.version,
        colour=record.candidate.colour,
        before=record.stable.version if record.stable else "nothing",
        phase=record.phase,
        reason=record.reason,
        blames=record.blames or "",
        rollout=record.id,
        release=record.candidate.release,
        plan=record.plan,
        actor=record.actor,
        seconds=(moment(record.updated or record.started) - moment(record.started)).total_seconds(),
        timings=_timings(record),
        verified=record.verified,
        smoke=record.smoke,
        rollback=_way_back(record),
        evidence={f"{one.stage}: {one.verdict}": f"evidence/{one.digest}" for one in record.evidence},
        bakes=tuple(
            f"{stage.name}: {stage.verdict or 'skipped'}"
            + (f", {stage.requests:.0f} requests" if stage.requests is not None else "")
            for stage in record.stages
            if stage.kind == "bake" and stage.ended
        ),
        events=tuple(f"{event.reason}: {event.text}" for event in record.events),
    )


def _timings(record: Record) -> dict[str, float]:
    """By stage; where it failed until then, and how long the way back took."""
    marks = [(stage.name, stage.started, stage.ended) for stage in record.stages if stage.started and stage.ended]
    failed = next((event.time for event in record.events if event.reason == "RolledBack"), None)
    if failed and (stage := record.stage):
        marks.append((f"{stage.name}, until it failed", stage.started or failed, failed))
        if record.phase == "rolled-back":
            marks.append(("the way back", failed, record.updated or failed))
    return {name: round((moment(end) - moment(start)).total_seconds(), 1) for name, start, end in marks}


def _way_back(record: Record) -> tuple[str, ...]:
    """The plan's; of a rollout that is over what is left of it."""
    if record.phase == "rolled-back":
        return (f"It has gone back: {record.stable.version if record.stable else 'nothing'} serves.",)
    steps = way_back(record.candidate, record.stable)
    return steps[-1:] if record.phase == "done" else steps
