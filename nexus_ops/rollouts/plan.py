"""The plan of a rollout, in words, with its way back: shown and stored before anything changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from nexus_ops.clusters.client import CONFIG_MAP
from nexus_ops.errors import PermanentError, UnknownName
from nexus_ops.releases.diff import diff, markdown, without_version
from nexus_ops.releases.model import Release
from nexus_ops.rollouts.bad import find_bad, refusal
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.drift import drift_page
from nexus_ops.rollouts.forecasts import forecast_lines
from nexus_ops.rollouts.record import NAME, Copy, Ledger, Record
from nexus_ops.rollouts.routers import router_of
from nexus_ops.rollouts.smoke import FILE, read_questions
from nexus_ops.rollouts.strategy import TITLES, Settings, names, settings_of, stages_of
from nexus_ops.topology import other, project_folder


class RolloutActive(PermanentError):
    """A rollout runs on the cluster already."""


@dataclass(frozen=True)
class RolloutPlan:
    """What a rollout is going to do, and how it is undone."""

    cluster: str
    candidate: Copy
    stable: Copy | None
    settings: Settings
    steps: tuple[str, ...]
    rollback: tuple[str, ...]
    needs_approval: str
    changes: str
    """Markdown: what changes against the release that serves now, and against what is live."""
    unchanged: bool
    sees: tuple[str, ...] = ()
    """What the shares of a canary will be able to see at present traffic."""
    goes_back: bool = False
    """Whether it is the way back that was asked for as `rollback`."""
    forced: str = ""
    """Why the release is held to be bad, where it is rolled out all the same."""

    def to_markdown(self) -> str:
        """A page that an operator reads before pressing the button."""
        before = f"{self.stable.version} ({self.stable.colour})" if self.stable else "nothing"
        lines = [
            f"## {self.cluster}: {before} → {self.candidate.version} ({self.candidate.colour})",
            *(f"{number}. {step}" for number, step in enumerate(self.steps, 1)),
            "",
            "### The way back",
            *(f"{number}. {step}" for number, step in enumerate(self.rollback, 1)),
        ]
        if self.sees:
            lines += ["", "### What the stages will see", *(f"- {line}" for line in self.sees)]
        if self.forced:
            lines += ["", f"**Forced.** {self.forced}"]
        if self.needs_approval:
            lines += ["", f"**Needs approval before traffic moves:** {self.needs_approval}"]
        return "\n".join([*lines, "", "### What changes", self.changes])

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def read_ledger(context: RolloutContext) -> Ledger:
    """The record in the cluster, and the wishes about it."""
    found = context.client.get(CONFIG_MAP, NAME, context.cluster.ops_namespace)
    return Ledger.from_data((found or {}).get("data") or {})


def settings_for(context: RolloutContext, **chosen: Any) -> Settings:
    """The settings of a rollout on this cluster: what was chosen (None: nothing was), else its environment's.

    A standby serves no users by whom a share could be judged: it is blue-green there, unless a canary is asked for.
    """
    defaults = context.topology.environment_of(context.cluster).rollout
    if context.cluster.role == "standby":
        defaults = defaults.model_copy(update={"strategy": "blue-green", "gates": (), "min_requests": 0})
    return settings_of(defaults, **chosen)


def plan_rollout(context: RolloutContext, version: str, settings: Settings, *, force: bool = False) -> RolloutPlan:
    """The plan of deploying a version; changes nothing.

    `RolloutActive` while another rollout runs; `KnownBad` for a release that has failed before, unless it is forced.
    """
    ledger = read_ledger(context)
    release = context.releases.resolve(context.cluster.environment, version)
    if ledger.record is not None and not ledger.record.finished:
        raise _active(context, ledger.record)
    read_questions(project_folder() / FILE, release.components)  # a mistake in it is told now, not in the middle
    stable = ledger.record.serving if ledger.record else None
    bad = find_bad(context.store, ledger, release.digest)
    if bad is not None and not force:
        raise refusal(bad)
    settings = _fitting(context, settings, stable)
    colour = other(stable.colour) if stable else "blue"
    candidate = Copy(colour, release.version, release.digest)
    return RolloutPlan(
        cluster=context.cluster.name,
        candidate=candidate,
        stable=stable,
        settings=settings,
        steps=_steps(context, release, candidate, stable, settings),
        rollback=way_back(candidate, stable),
        sees=forecast_lines(context, context.works(release.digest), stable, settings, stages_of(settings)),
        needs_approval=_approval(context, release, stable),
        changes=_changes(context, candidate, stable),
        unchanged=stable is not None and stable.release == release.digest,
        forced=refusal(bad).problem if bad else "",
    )


def _active(context: RolloutContext, record: Record) -> RolloutActive:
    """Why another rollout cannot begin now, and what ends the one that runs."""
    if record.phase == "rolling-back":
        return RolloutActive(
            f"{record.candidate.version} is on its way back: {record.said}.",
            target=context.cluster.name,
            todo="Wait for it. The job `abort` ends the time for which a candidate is kept for its logs.",
        )
    return RolloutActive(
        f"{record.candidate.version} is being rolled out (stage {record.stage.name if record.stage else record.phase}).",
        target=context.cluster.name,
        todo="Wait for it, or abort it with the job `abort`.",
    )


def _fitting(context: RolloutContext, settings: Settings, stable: Copy | None) -> Settings:
    """The settings as this cluster can follow them; a gate at no stage, or a canary without weights, is an error."""
    if settings.strategy == "canary":
        if stable is None:  # nothing serves with which it could share
            settings = replace(settings, strategy="blue-green", gates=())
        elif not router_of(context).moves_by_weight:
            raise PermanentError(
                "its router moves all traffic or none, and a canary needs weights.",
                target=context.cluster.name,
                todo="Deploy with strategy: blue-green, or set the environment's router to gateway-api or alb.",
            )
    known = names(stages_of(settings))
    if unknown := [name for name in settings.gates if name not in known]:
        raise UnknownName("stage", unknown[0], known, target=f"gates of a {settings.strategy} rollout")
    return settings


def _steps(
    context: RolloutContext, release: Release, candidate: Copy, stable: Copy | None, settings: Settings
) -> tuple[str, ...]:
    works = context.works(release.digest)
    exclusive = ", ".join(name for name, work in works.items() if work == "exclusive")
    notes = {
        "deploy-green-environment": f"apply {release.version} as {candidate.colour}; request work at the stable size, no other",
        "switch-traffic": f"edge to 100 %, seen at the edge; workers; then hand over {exclusive} (old gone before new starts)",
        "monitor-health": f"for {settings.monitor_seconds} s; it goes back by itself when a guardrail breaks",
        "cleanup-blue-environment": f"after a hold of {settings.hold_seconds} s"
        + (f", scale {stable.colour} ({stable.version}) to zero" if stable else "; there is no old colour"),
    }
    steps: list[str] = []
    for stage in stages_of(settings):
        share = (
            f"{stage.weight} % of the edge, seen there, and as much of the workers; watched for {stage.bake_seconds} s"
        )
        note = notes.get(stage.name, share if 0 < stage.weight < 100 else TITLES[stage.name])
        steps.append(f"**{stage.name}**: {'when a person has approved it: ' if stage.gate else ''}{note}")
    return tuple(steps)


def way_back(candidate: Copy, stable: Copy | None) -> tuple[str, ...]:
    if stable is None:
        return ("This is the first install: going back takes the candidate down; nothing served before.",)
    return (
        f"Until the hold is over {stable.colour} ({stable.version}) keeps running: the job `rollback` or `abort` sends traffic "
        "back at once.",
        f"Edge weight of {candidate.colour} to 0, seen at the edge; workers back; exclusive work handed back.",
        f"{candidate.colour} is scaled to zero.",
        f"After the hold, `rollback` deploys {stable.version} (release {stable.release[:12]}) again, by the same stages.",
    )


def _approval(context: RolloutContext, release: Release, stable: Copy | None) -> str:
    if stable is None:
        return ""
    before = context.release(stable.release)
    if release.database.can_go_back_to(before.database):
        return ""
    return (
        f"{release.version} writes database schema {release.database.schema}, which {stable.version} cannot work with: there is "
        "no way back once it has written."
    )


def _changes(context: RolloutContext, candidate: Copy, stable: Copy | None) -> str:
    new = context.rendering(candidate.release, candidate.colour)
    shared = context.rendering(candidate.release, "shared")
    if stable is None:
        return f"A first install of {len(new.objects) + len(shared.objects)} objects."
    # Compared in the same colour, so that only what the release changes is seen.
    old = context.rendering(stable.release, candidate.colour)
    old_shared = context.rendering(stable.release, "shared")
    before, after = [*old_shared.objects, *old.objects], [*shared.objects, *new.objects]
    text = markdown(diff(map(without_version, before), map(without_version, after)), most=10)
    return f"{text}\n\n### Drift in the cluster\n{drift_page(context, stable)}"
