"""Traffic routers: setting the candidate's share of edge traffic, and seeing it.

A weight counts as reached only when it is observed: the route's own status says that its generation is programmed,
and real requests through the gateway are answered by the colours as asked. What cannot be seen is None, never a yes.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

from nexus_ops.clusters.client import HTTP_ROUTE, SERVICE, Kind
from nexus_ops.clusters.edge import ask_edge, edge_url
from nexus_ops.clusters.fence import Fenced
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.releases.rendering import Rendering
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.topology import COLOURS, Colour, other

Object = dict[str, Any]
PROBES = 12
"""Requests of one look at the edge. With 0 or 100 % each of them must agree."""


class TrafficRouter(Protocol):
    """What moves edge traffic in a cluster."""

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        """Request that the candidate gets `weight` percent, the other colour the rest. Fenced, idempotent."""
        ...

    def observed_weight(self, candidate: Colour) -> int | None:
        """The candidate's share (percent) as users see it, or None when it cannot be told."""
        ...


class GatewayRouter:
    """HTTPRoute weights (Gateway API)."""

    def __init__(self, context: RolloutContext) -> None:
        self.context = context

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        route = copy.deepcopy(_routed(shared, HTTP_ROUTE))
        shares = {candidate: weight, other(candidate): 100 - weight}
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                backend["weight"] = shares[_colour_of(backend["name"])]
            # A colour without weight need not exist: a reference to it would leave the route unresolved.
            rule["backendRefs"] = [backend for backend in rule["backendRefs"] if backend["weight"]]
        fenced.apply_routed(route)

    def observed_weight(self, candidate: Colour) -> int | None:
        client, cluster = self.context.client, self.context.cluster
        route = client.get(HTTP_ROUTE, "nexus-api", cluster.namespace)
        if route is None:
            return 0
        generation = route["metadata"]["generation"]
        for parent in (route.get("status") or {}).get("parents") or [{}]:
            conditions = {c["type"]: c for c in parent.get("conditions") or ()}
            for name in ("Accepted", "ResolvedRefs"):
                condition = conditions.get(name)
                if condition is None or condition["status"] != "True" or condition["observedGeneration"] < generation:
                    return None
        return seen_share(self.context, candidate)


class ServiceSelectorRouter:
    """The selector of the Service nexus-load-balancer: all or nothing."""

    def __init__(self, context: RolloutContext) -> None:
        self.context = context

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        if weight not in (0, 100):
            raise PermanentError(
                f"a Service selector moves all traffic or none, not {weight} %.", todo="Use blue-green here."
            )
        service = copy.deepcopy(_routed(shared, SERVICE))
        service["spec"]["selector"]["nexus.ai/colour"] = candidate if weight else other(candidate)
        fenced.apply_routed(service)

    def observed_weight(self, candidate: Colour) -> int | None:
        service = self.context.client.get(SERVICE, "nexus-load-balancer", self.context.cluster.namespace)
        if service is None:
            return 0
        return seen_share(self.context, candidate)


def seen_share(context: RolloutContext, candidate: Colour) -> int | None:
    """The candidate's share of a burst of real requests; None when some were answered by nobody."""
    try:
        answers = ask_edge(edge_url(context.client, context.cluster.namespace), context.host, PROBES)
    except OperationError:
        return None
    if sum(answers[colour] for colour in COLOURS) < PROBES:
        return 0 if answers[candidate] == 0 and answers[other(candidate)] == 0 else None
    return round(100 * answers[candidate] / PROBES)


def router_of(context: RolloutContext) -> TrafficRouter:
    """The router of the cluster's environment."""
    kind = context.topology.environment_of(context.cluster).router
    if kind == "gateway-api":
        return GatewayRouter(context)
    if kind == "service-selector":
        return ServiceSelectorRouter(context)
    raise PermanentError(
        f"the router {kind} is not available yet.", target="topology.yaml", todo="Use gateway-api or service-selector."
    )


def _routed(shared: Rendering, kind: Kind) -> Object:
    return next(
        obj for obj in shared.of_kind(kind.kind) if (obj["metadata"].get("labels") or {}).get("nexus.ai/routed")
    )


def _colour_of(service: str) -> Colour:
    return "blue" if service.endswith("-blue") else "green"
