"""Traffic routers: setting the candidate's share of edge traffic, and seeing it.

A weight counts as reached only when it is observed: the router says that it is in force, and real requests are answered
by the colours as asked. What cannot be seen is None, never a yes.
"""

from __future__ import annotations

from collections.abc import Callable

from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.routers.alb import AlbRouter
from nexus_ops.rollouts.routers.gateway import GatewayRouter
from nexus_ops.rollouts.routers.router import Seen, TrafficRouter
from nexus_ops.rollouts.routers.selector import ServiceSelectorRouter
from nexus_ops.topology import RouterKind

__all__ = ["AlbRouter", "GatewayRouter", "Seen", "ServiceSelectorRouter", "TrafficRouter", "router_of"]


ROUTERS: dict[RouterKind, Callable[[RolloutContext], TrafficRouter]] = {
    "gateway-api": GatewayRouter,
    "service-selector": ServiceSelectorRouter,
    "alb": AlbRouter,
}


def router_of(context: RolloutContext) -> TrafficRouter:
    """The router of the cluster's environment."""
    return ROUTERS[context.topology.environment_of(context.cluster).router](context)
