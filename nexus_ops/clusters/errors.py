"""What can go wrong with a cluster, as types that a caller can act on."""

from __future__ import annotations

from typing import Any

from nexus_ops.errors import PermanentError, TemporaryError


class MissingContext(PermanentError):
    """The kubeconfig has no context for the cluster."""


class ClusterUnreachable(TemporaryError):
    """The API server does not answer, or not in time."""


class Refused(PermanentError):
    """The API server understood and refused; `status` is its own answer."""

    def __init__(self, target: str, status: dict[str, Any]) -> None:
        self.status = status
        super().__init__(
            f"refused ({status.get('reason') or status.get('code')}): {status.get('message', '')}", target=target
        )


class Conflict(TemporaryError):
    """Somebody else changed the object since it was read."""


class FieldConflict(PermanentError):
    """A field that an apply would set belongs to somebody else: drift, not something to force away."""

    def __init__(self, target: str, causes: list[dict[str, str]]) -> None:
        self.causes = causes
        said = "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in causes)
        super().__init__(
            f"fields are owned by others: {said}.",
            target=target,
            todo="Find out who set them and why; put the value into the release, or give the field up there.",
        )


class LeaseHeld(TemporaryError):
    """Another driver works on the cluster."""


class FenceLost(PermanentError):
    """A later driver has taken over: this one must change nothing more."""


class NotReady(PermanentError):
    """A workload will not become ready by waiting; says why."""
