"""What all traffic routers are: the protocol, what is seen through one, and the objects that they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from nexus_ops.clusters.client import Kind
from nexus_ops.clusters.fence import Fenced, is_routed
from nexus_ops.errors import PermanentError
from nexus_ops.releases.rendering import Rendering
from nexus_ops.topology import Colour

Object = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A look at a router: the candidate's share (percent) as it was asked for there, and as requests show it."""

    requested: int | None
    """What the router's own objects say; None when they say nothing that can be read as one weight."""
    share: float | None = None
    """What was measured; None when nothing was."""
    requests: int = 0
    """How many requests it was measured on."""
    problem: str = ""
    """Why the weight does not count as reached, in words; empty: it is in force, and seen."""

    @property
    def weight(self) -> int | None:
        """The weight that is in force and seen; None when that cannot be said."""
        return None if self.problem else self.requested


class TrafficRouter(Protocol):
    """What moves edge traffic in a cluster."""

    moves_by_weight: ClassVar[bool]
    """Whether it can give the candidate a part of the traffic; without, it is all or nothing, and no canary."""

    def set_weight(self, fenced: Fenced, shared: Rendering, candidate: Colour, weight: int) -> None:
        """Request that the candidate gets `weight` percent, the other colour the rest. Fenced, idempotent."""
        ...

    def requested(self, candidate: Colour) -> int | None:
        """The weight that its own object asks for at present, whoever wrote it; None when it says no one weight."""
        ...

    def blocked(self, colour: Colour) -> str:
        """Why a colour whose pods are ready must not get more traffic yet; empty when it may."""
        ...

    def look(self, candidate: Colour) -> Seen:
        """The candidate's share of edge traffic: what is requested at the router, and what requests show."""
        ...

    def observed_weight(self, candidate: Colour) -> int | None:
        """The weight that `look` finds in force: what the router says and what requests show agree. None otherwise."""
        ...


class Looking:
    """A router that answers by what it sees, and for which pods that are ready can be reached."""

    def blocked(self, colour: Colour) -> str:
        del colour
        return ""

    def requested(self, candidate: Colour) -> int | None:
        raise NotImplementedError

    def look(self, candidate: Colour) -> Seen:
        raise NotImplementedError

    def observed_weight(self, candidate: Colour) -> int | None:
        return self.look(candidate).weight


def routed(shared: Rendering, kind: Kind) -> Object:
    """The routed object of a kind in a release's shared part."""
    for obj in shared.of_kind(kind.kind):
        if is_routed(obj):
            return obj
    raise PermanentError(
        f"the release has no {kind.kind} through which traffic could be moved.",
        target=shared.cluster,
        todo="Its environment had another router when it was built: build the release again.",
    )


def colour_of(service: str) -> Colour:
    """The colour that a Service of the edge component leads to."""
    return "blue" if service.endswith("-blue") else "green"
