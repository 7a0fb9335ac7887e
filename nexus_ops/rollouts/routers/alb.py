"""AWS load balancer: weights of target groups in the forward action of the Ingress nexus-api.

What the annotation asks for and what the load balancer does are two things, with a controller and AWS in between. A weight
counts as reached when the rules in force have it, every ready pod of a colour that gets traffic is a healthy target, and
requests are answered in that share, by Prometheus' counts, too. Each of these that cannot be seen is no yes.
"""

from __future__ import annotations

import copy
import json
import time
from datetime import datetime
from typing import Any, ClassVar

from nexus_ops.clusters.client import INGRESS, POD, SERVICE
from nexus_ops.clusters.fence import Fenced
from nexus_ops.errors import OperationError
from nexus_ops.releases.rendering import Rendering
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.routers.elbv2 import LoadBalancer, TargetGroup
from nexus_ops.rollouts.routers.probes import send_some
from nexus_ops.rollouts.routers.router import Looking, Object, Seen, colour_of, routed
from nexus_ops.rollouts.routers.share import Trial, trial
from nexus_ops.rollouts.routers.since import since_of, stamp
from nexus_ops.rollouts.routers.users import counted_since
from nexus_ops.topology import Colour, other

NAME = "nexus-api"
ACTION = f"alb.ingress.kubernetes.io/actions.{NAME}"
PAUSE = 0.25
"""Seconds between requests of our own, a few each time, while Prometheus has not counted enough of them."""


class AlbRouter(Looking):
    """Moves traffic by the weights of the two colours' target groups."""

    moves_by_weight: ClassVar[bool] = True

    def __init__(self, context: RolloutContext) -> None:
        self.context = context
        self._sent = 0.0

    # ------------------------------------------------------------------ asking for a weight

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        client, space = self.context.client, self.context.cluster.namespace
        ingress = copy.deepcopy(routed(shared, INGRESS))
        annotations = ingress["metadata"]["annotations"]
        action = json.loads(annotations[ACTION])
        shares = {candidate: weight, other(candidate): 100 - weight}
        for group in action["forwardConfig"]["targetGroups"]:
            group["weight"] = shares[colour_of(group["serviceName"])]
        # The controller does nothing at all while one of several Services is missing: before a first install, say.
        action["forwardConfig"]["targetGroups"] = [
            group
            for group in action["forwardConfig"]["targetGroups"]
            if client.get(SERVICE, group["serviceName"], space)
        ]
        annotations[ACTION] = json.dumps(action, sort_keys=True)
        live = client.get(INGRESS, NAME, space)
        same = live is not None and weight_of(live, candidate) == weight
        stamp(ingress, live, same=same, now=self.context.clock())
        fenced.apply_routed(ingress)

    def blocked(self, colour: Colour) -> str:
        """Why the colour must not get more traffic yet: pods that the load balancer does not find healthy."""
        ingress = self.context.client.get(INGRESS, NAME, self.context.cluster.namespace)
        if ingress is None or not (hostname := _hostname(ingress)):
            return "the Ingress has no load balancer yet"
        try:
            groups = LoadBalancer(self.context.cluster.region, hostname).groups_of(self.context.host, self._ingress)
        except OperationError as error:
            return str(error)
        for service, group in groups.items():
            if colour_of(service) == colour:
                return self._unhealthy(group)
        return f"the load balancer has no target group of {colour} yet"

    # ------------------------------------------------------------------ seeing it

    def requested(self, candidate: Colour) -> int | None:
        ingress = self.context.client.get(INGRESS, NAME, self.context.cluster.namespace)
        return weight_of(ingress, candidate) if ingress else None

    def look(self, candidate: Colour) -> Seen:
        ingress = self.context.client.get(INGRESS, NAME, self.context.cluster.namespace)
        if ingress is None:
            return Seen(0)  # no way leads to the candidate yet
        asked = weight_of(ingress, candidate)
        if asked is None:
            return Seen(None, problem=f"the annotation {ACTION} cannot be read as weights of two colours")
        if not (hostname := _hostname(ingress)):
            return Seen(asked, problem="the load balancer controller has given the Ingress no address yet")
        try:
            if problem := self._not_in_force(LoadBalancer(self.context.cluster.region, hostname), candidate, asked):
                return Seen(asked, problem=problem)
            return self._share(ingress, candidate, asked)
        except OperationError as error:
            return Seen(asked, problem=str(error))

    @property
    def _ingress(self) -> str:
        return f"{self.context.cluster.namespace}/{NAME}"

    def _not_in_force(self, balancer: LoadBalancer, candidate: Colour, asked: int) -> str:
        """Why the load balancer does not do what the annotation asks for: its rules, then its targets."""
        forwards = balancer.forwards(self.context.host)
        if not forwards:
            return f"no rule of the load balancer is about {self.context.host} yet"
        groups = balancer.groups(self._ingress, {arn for forward in forwards for arn in forward})
        for forward in forwards:
            if not forward or forward.keys() - groups.keys():
                return f"a rule for {self.context.host} leads elsewhere than to the two colours"
            total = sum(forward.values())
            own = sum(weight for arn, weight in forward.items() if colour_of(groups[arn].service) == candidate)
            if (share := round(100 * own / total) if total else 0) != asked:
                return f"the load balancer's rule gives {share} %, not {asked} %"
        serving = {arn for forward in forwards for arn, weight in forward.items() if weight}
        return next((why for arn in sorted(serving) if (why := self._unhealthy(groups[arn]))), "")

    def _unhealthy(self, group: TargetGroup) -> str:
        """Which ready pods of a target group's Service are no healthy targets; at least one must be."""
        service = self.context.client.get(SERVICE, group.service, self.context.cluster.namespace)
        if service is None:
            return f"the Service {group.service} is gone"
        pods = self.context.client.list(POD, self.context.cluster.namespace, service["spec"]["selector"])
        ready = {pod["status"]["podIP"] for pod in pods if _is_ready(pod)}
        if not ready:
            return f"{group.service} has no ready pod"
        bad = group.not_healthy(ready)
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return f"targets of {group.service} are not healthy: {', '.join(bad[:3])}{more}" if bad else ""

    def _share(self, ingress: Object, candidate: Colour, asked: int) -> Seen:
        """The measured share: what our own requests show must agree, and Prometheus must have counted enough."""
        since = since_of(ingress)
        if not since:
            return Seen(asked, problem="nobody knows since when the Ingress has this weight: set it again")
        users = trial(asked, counted_since(self.context, candidate, datetime.fromisoformat(since)))
        if asked in (0, 100) or users.verdict == "open":
            if users.verdict == "open":
                time.sleep(max(0.0, self._sent + PAUSE - time.monotonic()))
            self._sent = time.monotonic()
            sent = send_some(self.context, candidate, asked)
            if sent.problem:
                return sent
        return _judged(users, asked)


def _judged(users: Trial, asked: int) -> Seen:
    problem = "" if users.verdict == "agrees" else f"{users.said()} by Prometheus"
    return Seen(asked, users.share, int(users.counted.requests), problem)


def weight_of(ingress: Object, candidate: Colour) -> int | None:
    """The candidate's weight (percent) by the annotation; None when it says none."""
    try:
        action: Any = json.loads((ingress["metadata"].get("annotations") or {})[ACTION])
        groups = action["forwardConfig"]["targetGroups"]
        weights = [(colour_of(group["serviceName"]), int(group["weight"])) for group in groups]
    except (KeyError, TypeError, ValueError):
        return None
    total = sum(weight for _, weight in weights)
    own = sum(weight for colour, weight in weights if colour == candidate)
    return round(100 * own / total) if total else 0


def _hostname(ingress: Object) -> str:
    entries = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
    return entries[0].get("hostname", "")


def _is_ready(pod: Object) -> bool:
    status = pod.get("status") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    return (
        conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"] and bool(status.get("podIP"))
    )
