"""The watchdog: a sensor that looks after all other sensors and schedules, and after the daemon that runs them.

Nothing in Dagster tells anybody that a sensor is stopped, late or failing. What is watched is whatever the definitions
declare as running by default: that is how they say that something depends on it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, InstigatorType
from dagster._utils.schedules import schedule_execution_time_iterator

from nexus_ops.assets.checking import last_evaluation, tell_change
from nexus_ops.resources import NexusResource
from nexus_ops.watchdog import BLIND_SECONDS, IN_A_ROW, Finding, Heartbeat, Seen, Tick, judge

AUTOMATION = dg.AssetKey("automation")
SECONDS = 60
GRACE_SECONDS = 180
"""How much later than its time a tick may come: an evaluation may take a minute, and so may its turn."""
BREAK_SECONDS = 5 * SECONDS
"""A pause of our own so long means that the daemon was down: others have not been late until they have had their chance."""
AGAIN_SECONDS = 3600
"""A verdict that does not change is reported so often, so that the page shows that it still holds."""
DAEMONS = "daemons"

Instigator = dg.SensorDefinition | dg.ScheduleDefinition

automation = dg.AssetSpec(
    key=AUTOMATION,
    group_name="operations",
    kinds={"dagster"},
    owners=["team:platform"],
    description=(
        "What runs by itself: the sensors and schedules that safety depends on, each with a check that fails when it is "
        "stopped, late or failing. The sensor `watchdog` looks every minute; docs/watchdog.md."
    ),
)


@dataclass(frozen=True)
class Watchdog:
    """What is registered of the watchdog: the asset whose checks it reports, the checks, and the sensor."""

    asset: dg.AssetSpec
    checks: dg.AssetChecksDefinition
    sensor: dg.SensorDefinition


def running_by_default(instigators: Iterable[object]) -> list[Instigator]:
    """Those that safety depends on."""
    running = (dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING)
    return [one for one in instigators if isinstance(one, Instigator) and one.default_status in running]


def watchdog_of(instigators: Iterable[object]) -> Watchdog:
    """The watchdog over all of these that run by default."""
    watched = running_by_default(instigators)
    names = {**{one.name: f"{_kind(one)} {one.name}" for one in watched}, DAEMONS: "Dagster's daemons"}
    promises = {name: f"The {said} is running, on time and without failures." for name, said in names.items()}
    promises[DAEMONS] = "Every daemon of Dagster that this instance needs gives signs of life."

    @dg.multi_asset_check(
        name="automation_checks",
        specs=[dg.AssetCheckSpec(name, asset=AUTOMATION, description=promise) for name, promise in promises.items()],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, nexus: NexusResource) -> Iterator[dg.AssetCheckResult]:
        """The same judgement by hand, since the time from which the watchdog has been watching."""
        now = datetime.now(UTC).timestamp()
        beat = Heartbeat.load(nexus.store())
        found = look(context.instance, watched, beat.since if beat else now, now)
        for key in sorted(context.selected_asset_check_keys):
            verdict = _verdict(found[key.name])
            # The last verdict is the memory of what people were told: who reports one, tells.
            tell_change(context.instance, nexus.notifier(), key, f"Automation: {names[key.name]}", verdict)
            yield dg.AssetCheckResult(check_name=key.name, **verdict)

    @dg.sensor(
        name="watchdog",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people when a sensor or schedule that safety depends on is stopped, late or failing, and when it is well again.",
    )
    def sense(context: dg.SensorEvaluationContext, nexus: NexusResource) -> dg.SensorResult:
        now = datetime.now(UTC).timestamp()
        since = watching_since(context.cursor, now)
        found = look(context.instance, watched, since, now, _location(context))
        notifier, events = nexus.notifier(), list[dg.AssetCheckEvaluation]()
        for name, finding in found.items():
            key, verdict = dg.AssetCheckKey(AUTOMATION, name), _verdict(finding)
            if finding.state != "unknown" and _is_news(context.instance, key, finding, now):
                tell_change(context.instance, notifier, key, f"Automation: {names[name]}", verdict)
                events.append(dg.AssetCheckEvaluation(asset_key=AUTOMATION, check_name=name, **verdict))
        amiss = sorted(name for name, finding in found.items() if finding.state not in ("fine", "unknown"))
        _give_sign(context, nexus, Heartbeat(datetime.now(UTC).isoformat(), since, len(watched), tuple(amiss)))
        said = (
            f"{len(watched)} watched; {', '.join(f'{name} is {found[name].state}' for name in amiss) or 'all is well'}"
        )
        cursor = json.dumps({"since": since, "last": now})
        return dg.SensorResult(asset_events=events, cursor=cursor, skip_reason=dg.SkipReason(said))

    return Watchdog(automation, checks, sense)


def watching_since(cursor: str | None, now: float) -> float:
    """Since when we have looked without a break, from our cursor of the last time."""
    before: dict[str, float] = json.loads(cursor) if cursor else {}
    return before["since"] if before and now - before["last"] <= BREAK_SECONDS else now


def _location(context: dg.SensorEvaluationContext) -> str | None:
    """The code location that we are of; what an earlier one of another name left behind says nothing of ours."""
    return context.code_location_origin.location_name if context.code_location_origin else None


def look(
    instance: dg.DagsterInstance, watched: Sequence[Instigator], since: float, now: float, location: str | None = None
) -> dict[str, Finding]:
    """What is the matter with each, by name; the daemons among them. `location`: of which code location."""
    states = {
        (state.instigator_type, state.instigator_name): state
        for state in instance.all_instigator_state()
        if location in (None, state.repository_selector.location_name)
    }
    found = {
        one.name: judge(_seen(instance, one, states.get((_type(one), one.name)), now), since, now) for one in watched
    }
    return {**found, DAEMONS: _daemons(instance, since, now)}


def _seen(instance: dg.DagsterInstance, one: Instigator, state: InstigatorState | None, now: float) -> Seen:
    """What Dagster's storage holds of a sensor or schedule. Without a state it has never been evaluated."""
    period, due = _timing(one, now)
    if state is None:
        return Seen(one.name, period, due)
    ticks = [
        *instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=IN_A_ROW + 1),
        *instance.get_ticks(state.instigator_origin_id, state.selector_id, before=now - BLIND_SECONDS, limit=1),
    ]
    data: Any = state.instigator_data
    started = getattr(data, "start_timestamp", None) or getattr(data, "last_sensor_start_timestamp", None) or 0.0
    # A schedule's ticks carry the time for which they were planned.
    newest = sorted({tick.tick_id: _tick(tick) for tick in ticks}.values(), key=lambda tick: -tick.at)
    return Seen(one.name, period, due, not state.is_running, float(started), tuple(newest), _runs_failed(instance, one))


def _timing(one: Instigator, now: float) -> tuple[float, float]:
    """The period, and since when there must have been an evaluation (seconds)."""
    if isinstance(one, dg.SensorDefinition):
        period = float(one.minimum_interval_seconds or 30)
        return period, now - period - GRACE_SECONDS
    times = schedule_execution_time_iterator(
        now - GRACE_SECONDS, one.cron_schedule, one.execution_timezone or "UTC", ascending=False
    )
    last, before = next(times).timestamp(), next(times).timestamp()
    return last - before, last


def _tick(tick: InstigatorTick) -> Tick:
    error = tick.tick_data.error
    said = _first_cause(error.to_string()) if error else tick.tick_data.skip_reason or ""
    states: dict[str, Any] = {"STARTED": "started", "SKIPPED": "skipped", "SUCCESS": "success", "FAILURE": "failure"}
    return Tick(tick.timestamp, states[tick.status.value], said)


def _first_cause(text: str) -> str:
    """What went wrong first, in a line: Dagster's text of an error ends with it, after the errors that it became."""
    cause = text.rpartition("was caused by the following exception:")[2].strip().splitlines()
    return cause[0][:300] if cause else "no reason was given"


def _runs_failed(instance: dg.DagsterInstance, one: Instigator) -> tuple[bool, ...]:
    """Of a schedule's last runs that ended by themselves: whether they failed. Sensors' runs have alerts of their own."""
    if isinstance(one, dg.SensorDefinition):
        return ()
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    filters = dg.RunsFilter(tags={"dagster/schedule_name": one.name}, statuses=ended)
    runs = instance.get_runs(filters, limit=IN_A_ROW)
    return tuple(run.status is dg.DagsterRunStatus.FAILURE for run in runs)


def _daemons(instance: dg.DagsterInstance, since: float, now: float) -> Finding:
    """Whether every daemon that this instance needs gives signs of life."""
    silent = sorted(
        kind.lower().replace("_", " ")
        for kind, status in instance.get_daemon_statuses().items()
        if status.required and not status.healthy
    )
    if not silent:
        return Finding("fine", "all daemons give signs of life")
    if now - since < GRACE_SECONDS:
        return Finding("unknown", "it is too early to tell: the daemon has just started")
    return Finding("failing", f"no good sign of life from {', '.join(silent)}", "Look at the daemon's log; restart it.")


def _verdict(finding: Finding) -> dict[str, Any]:
    """A finding as a check's result: what cannot be told yet is a warning."""
    unknown = finding.state == "unknown"
    return {
        "passed": finding.state == "fine",
        "severity": dg.AssetCheckSeverity.WARN if unknown else dg.AssetCheckSeverity.ERROR,
        "description": f"{finding.why}. {finding.todo}".strip(),
        "metadata": {"state": finding.state, "what_next": finding.todo or "Nothing."},
    }


def _is_news(instance: dg.DagsterInstance, key: dg.AssetCheckKey, finding: Finding, now: float) -> bool:
    """Whether a verdict is another than the last one, or that one was long ago."""
    record = next(iter(instance.event_log_storage.get_asset_check_execution_history(key, limit=1)), None)
    last = last_evaluation(instance, key)
    if record is None or last is None or last.metadata["state"].value != finding.state:
        return True
    return now - record.create_timestamp >= AGAIN_SECONDS


def _give_sign(context: dg.SensorEvaluationContext, nexus: NexusResource, beat: Heartbeat) -> None:
    """Leave the sign of life. That the store does not take it must not end the watch: whoever waits for it will notice."""
    from nexus_ops.errors import OperationError

    try:
        beat.save(nexus.store())
    except OperationError as error:
        context.log.error("The sign of life was not stored: %s", error)


def _type(one: Instigator) -> InstigatorType:
    return InstigatorType.SENSOR if isinstance(one, dg.SensorDefinition) else InstigatorType.SCHEDULE


def _kind(one: Instigator) -> str:
    return _type(one).value.lower()
