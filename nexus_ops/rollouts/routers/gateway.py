"""HTTPRoute weights (Gateway API).

A weight counts as reached when the route's status says that this generation is programmed, its rules have that weight, and
requests are answered by the colours in that share: the users' own, counted by Prometheus, or ours where users are few.
"""

from __future__ import annotations

import copy
from datetime import datetime
from typing import ClassVar

from nexus_ops.clusters.client import HTTP_ROUTE
from nexus_ops.clusters.fence import Fenced
from nexus_ops.errors import OperationError
from nexus_ops.releases.rendering import Rendering
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.routers.probes import look_at_all, measure
from nexus_ops.rollouts.routers.router import Looking, Object, Seen, colour_of, routed
from nexus_ops.rollouts.routers.share import Trial, trial
from nexus_ops.rollouts.routers.since import since_of, stamp
from nexus_ops.rollouts.routers.users import counted_since
from nexus_ops.topology import Colour, other


class GatewayRouter(Looking):
    """Moves traffic by the weights of the HTTPRoute nexus-api."""

    moves_by_weight: ClassVar[bool] = True

    def __init__(self, context: RolloutContext) -> None:
        self.context = context

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        route = copy.deepcopy(routed(shared, HTTP_ROUTE))
        shares = {candidate: weight, other(candidate): 100 - weight}
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                backend["weight"] = shares[colour_of(backend["name"])]
            # A colour without weight need not exist: a reference to it would leave the route unresolved.
            rule["backendRefs"] = [backend for backend in rule["backendRefs"] if backend["weight"]]
        live = self.context.client.get(HTTP_ROUTE, route["metadata"]["name"], self.context.cluster.namespace)
        same = live is not None and weight_of(live, candidate) == weight
        stamp(route, live, same=same, now=self.context.clock())
        fenced.apply_routed(route)

    def requested(self, candidate: Colour) -> int | None:
        route = self.context.client.get(HTTP_ROUTE, "nexus-api", self.context.cluster.namespace)
        return weight_of(route, candidate) if route else None

    def look(self, candidate: Colour) -> Seen:
        client, cluster = self.context.client, self.context.cluster
        route = client.get(HTTP_ROUTE, "nexus-api", cluster.namespace)
        if route is None:
            return Seen(0)  # no way leads to the candidate yet
        asked = weight_of(route, candidate)
        if asked is None:
            return Seen(None, problem="the route's rules do not agree on a weight")
        if problem := _not_programmed(route):
            return Seen(asked, problem=problem)
        if asked in (0, 100):
            return look_at_all(self.context, candidate, asked)
        users = self.users(route, candidate, asked)
        if users.verdict == "open":
            return measure(self.context, candidate, asked, since_of(route))
        problem = f"{users.said()} by Prometheus" if users.verdict == "differs" else ""
        return Seen(asked, users.share, int(users.counted.requests), problem)

    def users(self, route: Object, candidate: Colour, asked: int) -> Trial:
        """What the users' requests say since the weight was set. Nothing, while Prometheus cannot be asked."""
        if not (since := since_of(route)):
            return Trial(asked)
        try:
            return trial(asked, counted_since(self.context, candidate, datetime.fromisoformat(since)))
        except OperationError:
            return Trial(asked)


def weight_of(route: Object, candidate: Colour) -> int | None:
    """The candidate's weight (percent) by a route's own rules; None when they give none, or different ones."""
    found: set[int | None] = set()
    for rule in route["spec"].get("rules") or ():
        backends = rule.get("backendRefs") or ()
        total = sum(backend.get("weight", 1) for backend in backends)
        own = sum(backend.get("weight", 1) for backend in backends if colour_of(backend["name"]) == candidate)
        found.add(round(100 * own / total) if total else 0)
    return found.pop() if len(found) == 1 else None


def _not_programmed(route: Object) -> str:
    """Why the status does not say that this generation is in force."""
    generation = route["metadata"]["generation"]
    for parent in (route.get("status") or {}).get("parents") or [{}]:
        conditions = {c["type"]: c for c in parent.get("conditions") or ()}
        for name in ("Accepted", "ResolvedRefs"):
            condition = conditions.get(name)
            if condition is None or condition["observedGeneration"] < generation:
                return "the gateway has not taken the route's present version yet"
            if condition["status"] != "True":
                why = condition.get("message") or condition.get("reason", "")
                return f"the gateway says that the route is not {name}: {why}".rstrip(": ")
    return ""
