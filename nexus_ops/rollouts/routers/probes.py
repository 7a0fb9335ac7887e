"""Requests of our own through the edge, and which colour answers them.

All or nothing is strict: each of a few requests must be answered by the colour that was asked for. A share between is
judged by as many as its test takes (share.py), in bursts; the users' own requests spare them where there are enough.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from nexus_ops.clusters.edge import ask_edge, edge_client
from nexus_ops.errors import OperationError, TemporaryError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.routers.router import Seen
from nexus_ops.rollouts.routers.share import Counted, Trial, requests_needed
from nexus_ops.topology import COLOURS, Colour, other

PROBES = 12
"""Requests of one look at all or nothing."""
BURST = 60
"""Requests that are sent at once where a share is measured."""
FRESH = 60.0
"""Seconds for which a share that was measured so is taken to hold, while the router itself says that it does."""
KEPT = 64


class Unanswered(TemporaryError):
    """Requests at the edge that no colour answered."""


_TRIALS: OrderedDict[tuple[str, str, Colour, int], tuple[Trial, float]] = OrderedDict()
"""The last trial of each weight that was set, and when it was judged: sensors look every few seconds in one process."""


def look_at_all(context: RolloutContext, candidate: Colour, asked: int) -> Seen:
    """Whether all of a few requests are answered by the colour that is to have all of them."""
    try:
        with edge_client() as http:
            answers = ask_edge(http, context.edge_url(), context.host, PROBES)
    except OperationError as error:
        return Seen(asked, problem=f"the edge cannot be asked: {error}")
    known = sum(answers[colour] for colour in COLOURS)
    if not known:  # where nothing serves at all, the candidate does not, if the edge says so itself
        quiet = asked == 0 and answers["none"] == PROBES
        return Seen(asked, problem="" if quiet else "nobody answers at the edge")
    share = 100 * answers[candidate] / known
    if known < PROBES:
        return Seen(asked, share, known, f"{PROBES - known} of {PROBES} requests at the edge were answered by nobody")
    wanted = candidate if asked else other(candidate)
    problem = "" if answers[wanted] == PROBES else f"{share:.0f} % of {PROBES} requests at the edge were seen"
    return Seen(asked, share, known, problem)


def send_some(context: RolloutContext, candidate: Colour, asked: int) -> Seen:
    """A few that Prometheus is to count. A problem when nobody answers one of them, or who must have none does."""
    if asked in (0, 100):
        return look_at_all(context, candidate, asked)
    with edge_client() as http:
        answers = ask_edge(http, context.edge_url(), context.host, PROBES)
    lost = PROBES - sum(answers[colour] for colour in COLOURS)
    problem = f"{lost} of {PROBES} requests at the edge were answered by nobody" if lost else ""
    return Seen(asked, problem=problem)


def measure(context: RolloutContext, candidate: Colour, asked: int, since: str) -> Seen:
    """A share between, measured by as many requests as it takes; `since` names the moment at which it was set."""
    key = context.cluster.name, since, candidate, asked
    now = time.monotonic()
    trial, judged = _TRIALS.get(key, (Trial(asked), now))
    if trial.verdict == "agrees" and now - judged < FRESH:
        return _seen(trial)
    try:
        trial = _go_on(context, candidate, Trial(asked, running=trial.running))
    except OperationError as error:
        _TRIALS.pop(key, None)
        return Seen(asked, problem=f"the edge cannot be asked: {error}")
    _TRIALS[key] = trial, now
    while len(_TRIALS) > KEPT:
        _TRIALS.popitem(last=False)
    return _seen(trial)


def _go_on(context: RolloutContext, candidate: Colour, trial: Trial) -> Trial:
    """Ask until there is a verdict, or for twice as long as one should take; `Unanswered` when somebody is lost."""
    url, sent = context.edge_url(), 0
    with edge_client() as http:
        while trial.verdict == "open" and sent < 2 * requests_needed(trial.asked):
            answers = ask_edge(http, url, context.host, BURST)
            if lost := BURST - sum(answers[colour] for colour in COLOURS):
                raise Unanswered(f"{lost} of {BURST} requests were answered by nobody.", target=context.host)
            trial += Counted(answers[candidate], BURST)
            sent += BURST
    return trial


def _seen(trial: Trial) -> Seen:
    problem = "" if trial.verdict == "agrees" else f"{trial.said()} at the edge"
    return Seen(trial.asked, trial.share, int(trial.counted.requests), problem)
