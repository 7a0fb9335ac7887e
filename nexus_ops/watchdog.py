"""The watchdog's judgement, and the sign of life by which something outside can tell that the watchdog itself lives.

Whether a sensor or schedule is stopped, late or failing is decided here, from what was seen of it (sensors.watchdog looks
it up in Dagster). What the watchdog can never notice is its own death, or the daemon's: so it leaves a sign of life in the
object store each time, and

    python -m nexus_ops.watchdog

says in one sentence whether that sign is fresh, and exits 1 when it is not: for cron, a monitoring system, or a Kubernetes
probe. It needs the object store only, neither Dagster nor the machine on which Dagster runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.storage import NotStored, ObjectStore, default_store_url

State = Literal["fine", "stopped", "late", "failing", "unknown"]
TickState = Literal["started", "skipped", "success", "failure"]
KEY = "watchdog/heartbeat.json"
FRESH = timedelta(minutes=5)
BLIND = "could not"
"""How a sensor begins to say why it skipped when it could not look at what it watches."""
BLIND_SECONDS = 300.0
"""So long a sensor may be unable to look: a busy API server passes."""
RARE_SECONDS = 3600.0
"""What comes at most so often has failed when it failed once; of what comes more often, one failure passes."""
IN_A_ROW = 3


@dataclass(frozen=True)
class Tick:
    """One evaluation of a sensor or schedule (seconds since the epoch)."""

    at: float
    state: TickState
    said: str = ""
    """Why it skipped, or what went wrong."""


@dataclass(frozen=True)
class Seen:
    """What is known of a sensor or schedule."""

    name: str
    period: float
    """Seconds between two evaluations, when all is well."""
    due: float
    """There must be an evaluation at this time or later, if it was watched then."""
    stopped: bool = False
    since: float = 0.0
    """Since when it has been running."""
    ticks: tuple[Tick, ...] = ()
    """Newest first; at least `IN_A_ROW` of them, and what is within `BLIND_SECONDS`."""
    runs_failed: tuple[bool, ...] = ()
    """Of the runs that a schedule launched and that ended, newest first: whether they failed."""


@dataclass(frozen=True)
class Finding:
    """What is the matter with a sensor or schedule; `unknown` is that it cannot be told yet."""

    state: State
    why: str
    todo: str = ""


def judge(seen: Seen, watching_since: float, now: float) -> Finding:
    """Stopped, late, failing or fine. Pure.

    `watching_since`: since when the daemon has been up without a break. What was due before that is nobody's fault now.
    """
    if seen.stopped:
        return Finding("stopped", "it is stopped", "Start it (Automation in the UI): safety depends on it.")
    newest = seen.ticks[0] if seen.ticks else None
    watched = max(watching_since, seen.since)
    if newest is None or newest.at < seen.due:
        if watched > seen.due:
            return Finding("unknown", "it is too early to tell: it has not been due since the daemon started")
        last = f"it was last evaluated {_ago(now - newest.at)} ago" if newest else "it has never been evaluated"
        todo = "Look at the daemon's log, and at the code location: does it load?"
        return Finding("late", f"{last}, and should be every {_ago(seen.period)}", todo)
    return _failing(seen, now) or Finding("fine", f"it was evaluated {_ago(now - newest.at)} ago")


def _failing(seen: Seen, now: float) -> Finding | None:
    needed = 1 if seen.period >= RARE_SECONDS else IN_A_ROW
    ended = [tick for tick in seen.ticks if tick.state != "started"]
    last = ended[:needed]
    times = "its last evaluation" if needed == 1 else f"its last {needed} evaluations"
    if len(last) == needed and all(tick.state == "failure" for tick in last):
        return Finding(
            "failing", f"{times} failed: {last[0].said}", "Read the error in its tick (Automation in the UI)."
        )
    failed = seen.runs_failed[:needed]
    if len(failed) == needed and all(failed):
        runs = "the last run that it launched" if needed == 1 else f"the last {needed} runs that it launched"
        return Finding("failing", f"{runs} failed", "Read the run's log, and launch its job again.")
    blind = [tick for tick in ended if tick.at >= now - BLIND_SECONDS]
    older = [tick for tick in ended if tick.at < now - BLIND_SECONDS][:1]
    if older and all(tick.state == "skipped" and tick.said.startswith(BLIND) for tick in (*blind, *older)):
        what = f"for {_ago(BLIND_SECONDS)} and more it {ended[0].said}"
        return Finding("failing", what, "Until it can look again, nothing is brought to safety by it.")
    return None


def _ago(seconds: float) -> str:
    """A span of time as a person says it."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return f"{max(0, int(seconds))} seconds"


@dataclass(frozen=True)
class Heartbeat:
    """The watchdog's sign of life: when it last looked, since when without a break, at how much, and what is amiss."""

    at: str
    since: float
    watched: int
    amiss: tuple[str, ...] = ()

    def save(self, store: ObjectStore) -> None:
        store.put(KEY, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, store: ObjectStore) -> Heartbeat | None:
        """The last one; None when there has never been one."""
        try:
            document = json.loads(store.get(KEY))
            return cls(document["at"], document["since"], document["watched"], tuple(document["amiss"]))
        except NotStored:
            return None
        except (ValueError, KeyError, TypeError):
            raise PermanentError("the watchdog's sign of life cannot be read.", target=f"{store.url}/{KEY}") from None


def judge_heartbeat(found: Heartbeat | None, now: datetime, fresh: timedelta = FRESH) -> tuple[bool, str]:
    """Whether the watchdog lives, and a sentence about it. Pure."""
    if found is None:
        return False, "the watchdog has never given a sign of life: is the daemon running, and this its object store?"
    age = (now - datetime.fromisoformat(found.at)).total_seconds()
    if age > fresh.total_seconds():
        return (
            False,
            f"the watchdog last gave a sign of life {_ago(age)} ago: the daemon is dead, or the watchdog stopped.",
        )
    amiss = f"it has told of {', '.join(found.amiss)}" if found.amiss else "nothing is amiss"
    return True, f"the watchdog looked at {found.watched} sensors and schedules {_ago(age)} ago; {amiss}."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nexus_ops.watchdog", description="Does the watchdog live?")
    parser.add_argument("--store", default="", help="the object store; default: $NEXUS_STORE, else the local folder")
    parser.add_argument(
        "--minutes", type=float, default=FRESH.total_seconds() / 60, help="how old a sign of life may be"
    )
    chosen = parser.parse_args(arguments)
    try:
        found = Heartbeat.load(ObjectStore.open(chosen.store or default_store_url()))
        alive, said = judge_heartbeat(found, datetime.now(UTC), timedelta(minutes=chosen.minutes))
    except OperationError as error:
        alive, said = False, f"whether the watchdog lives could not be seen: {error}"
    print(said, file=sys.stdout if alive else sys.stderr)
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
