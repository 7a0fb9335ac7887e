"""The selector of the Service nexus-load-balancer: all or nothing, as the first plan's script had it."""

from __future__ import annotations

import copy
from typing import ClassVar

from nexus_ops.clusters.client import SERVICE
from nexus_ops.clusters.fence import Fenced
from nexus_ops.errors import PermanentError
from nexus_ops.releases.rendering import Rendering
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.routers.probes import look_at_all
from nexus_ops.rollouts.routers.router import Looking, Seen, routed
from nexus_ops.topology import Colour, other

COLOUR = "nexus.ai/colour"


class ServiceSelectorRouter(Looking):
    """Moves all traffic, or none."""

    moves_by_weight: ClassVar[bool] = False

    def __init__(self, context: RolloutContext) -> None:
        self.context = context

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        if weight not in (0, 100):
            raise PermanentError(
                f"a Service selector moves all traffic or none, not {weight} %.", todo="Use blue-green here."
            )
        service = copy.deepcopy(routed(shared, SERVICE))
        service["spec"]["selector"][COLOUR] = candidate if weight else other(candidate)
        fenced.apply_routed(service)

    def requested(self, candidate: Colour) -> int | None:
        service = self.context.client.get(SERVICE, "nexus-load-balancer", self.context.cluster.namespace) or {}
        selected = (service.get("spec", {}).get("selector") or {}).get(COLOUR)
        return None if selected is None else 100 if selected == candidate else 0

    def look(self, candidate: Colour) -> Seen:
        if self.context.client.get(SERVICE, "nexus-load-balancer", self.context.cluster.namespace) is None:
            return Seen(0)
        requested = self.requested(candidate)
        if requested is None:
            return Seen(None, problem="the Service nexus-load-balancer selects no colour")
        return look_at_all(self.context, candidate, requested)
