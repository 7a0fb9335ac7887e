"""Traffic routers: setting the candidate's share of edge traffic, and seeing it.

A weight counts as reached only when it is observed: the router says that it is in force, and real requests are answered
by the colours as asked. What cannot be seen is None, never a yes.
"""

from __future__ import annotations

from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.routers.gateway import GatewayRouter
from nexus_ops.rollouts.routers.router import Seen, TrafficRouter
from nexus_ops.rollouts.routers.selector import ServiceSelectorRouter

__all__ = ["GatewayRouter", "Seen", "ServiceSelectorRouter", "TrafficRouter", "router_of"]


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
