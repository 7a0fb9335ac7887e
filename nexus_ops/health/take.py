"""Taking snapshots: all probes of a cluster at once, all clusters at once, none of them longer than its time limit.

A probe runs in a daemon thread of its own. One that does not come back is given up, with a result that says so; its
thread ends when its connection does, and holds up nobody, not even the end of the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from datetime import datetime
from threading import Thread
from typing import TypeVar

from nexus_ops.clusters.errors import ClusterUnreachable
from nexus_ops.errors import OperationError
from nexus_ops.health.model import Finding, Result, Snapshot, State
from nexus_ops.rollouts.context import RolloutContext, utc_now

Answer = TypeVar("Answer")
Connect = Callable[[], RolloutContext]
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Probe:
    """One question to a cluster. `silence` is what it means that no answer comes within `seconds`."""

    name: str
    critical: bool
    seconds: float
    look: Callable[[RolloutContext], Finding]
    silence: State = "unknown"


def take(cluster: str, connect: Connect, probes: Sequence[Probe], clock: Callable[[], datetime] = utc_now) -> Snapshot:
    """The snapshot of one cluster; whatever goes wrong is in it. Takes no longer than the slowest probe's limit.

    A cluster that there is no way to (no kube context, no credentials) is unknown, and every probe says why.
    """
    taken = clock()
    try:
        context = _begin(connect).result(CONNECT_SECONDS)
    except Exception as error:  # whatever it is, it is the answer: a snapshot is always taken
        found = _excuse(error, CONNECT_SECONDS)
        return Snapshot(cluster, taken, tuple(_result(probe, found, 0.0) for probe in probes))
    begun = time.monotonic()
    asked = [(probe, _begin(lambda probe=probe: _ask(probe, context))) for probe in probes]
    results = tuple(_await(probe, answer, begun) for probe, answer in asked)
    context.client.close()
    return Snapshot(cluster, taken, results)


def take_all(
    clusters: Mapping[str, Connect], probes: Sequence[Probe], clock: Callable[[], datetime] = utc_now
) -> Iterator[Snapshot]:
    """The snapshot of every cluster, each as soon as it is there: a dead cluster comes last, and delays none."""
    begun = [_begin(lambda name=name, connect=connect: take(name, connect, probes, clock)) for name, connect in clusters.items()]  # fmt: skip
    for snapshot in as_completed(begun):
        yield snapshot.result()


def _begin(work: Callable[[], Answer]) -> Future[Answer]:
    """Start work in a daemon thread. Not an executor: the interpreter waits for an executor's threads when it ends."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed to whoever asks for the result
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _ask(probe: Probe, context: RolloutContext) -> Result:
    begun = time.monotonic()
    try:
        finding = probe.look(context)
    except Exception as error:  # one probe's trouble must not take the others with it
        finding = _excuse(error, probe.seconds)
    return _result(probe, finding, time.monotonic() - begun)


def _await(probe: Probe, answer: Future[Result], begun: float) -> Result:
    """A probe's result, or that none came in time."""
    try:
        return answer.result(max(0.0, begun + probe.seconds - time.monotonic()))
    except TimeoutError:
        why = f"no answer within {probe.seconds:g} s"
        todo = "Look at the row of the API server; if it is healthy, at what this probe asks."
        return _result(probe, Finding(probe.silence, why, todo), time.monotonic() - begun)


def _excuse(error: Exception, seconds: float) -> Finding:
    """What could not be looked at is unknown."""
    if isinstance(error, ClusterUnreachable):
        return Finding(
            "unknown", "could not look: the API server does not answer", "Look at the row of the API server."
        )
    if isinstance(error, OperationError):
        where = f"{error.target}: " if error.target else ""
        return Finding("unknown", f"could not look: {where}{error.problem.rstrip('.')}", error.todo or "")
    if isinstance(error, TimeoutError):
        return Finding("unknown", f"could not look: no connection within {seconds:g} s")
    return Finding("unknown", f"what was found could not be read: {type(error).__name__}: {error}")


def _result(probe: Probe, finding: Finding, seconds: float) -> Result:
    return Result(
        probe.name, probe.critical, finding.state, finding.why, finding.todo, round(seconds, 3), dict(finding.numbers)
    )
