"""What can go wrong with a cluster, as types that a caller can act on."""

from __future__ import annotations

from typing import Any

from nexus_ops.errors import PermanentError, TemporaryError


class MissingContext(PermanentError):
    """The kubeconfig has no context for the cluster."""


class ClusterUnreachable(TemporaryError):
    """The API server does not answer, or not in time."""


class NoCredentials(PermanentError):
    """The kubeconfig's way to credentials does not work here."""

    def __init__(self, target: str, problem: Exception) -> None:
        super().__init__(
            f"no credentials could be had: {problem}.",
            target=target,
            todo="Run the command of the kubeconfig's user (`exec`) by hand; log in to the cloud, or install it.",
        )


class Refused(PermanentError):
    """The API server understood and refused; `status` is its own answer, `reason` its word for why."""

    def __init__(self, target: str, status: dict[str, Any]) -> None:
        self.status = status
        self.reason: str | None = status.get("reason")
        super().__init__(
            f"refused ({status.get('reason') or status.get('code')}): {status.get('message', '')}", target=target
        )


class Conflict(TemporaryError):
    """Somebody else changed the object since it was read."""


class FieldConflict(PermanentError):
    """Fields that an apply would set belong to somebody else: drift, not something to force away.

    `causes` are the server's: `field`, and `message` with the manager that owns it.
    """

    def __init__(self, target: str, causes: list[dict[str, str]]) -> None:
        self.causes = causes
        said = "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in causes)
        super().__init__(
            f"fields are owned by others: {said}.",
            target=target,
            todo="Find out who set them and why; put the value into the release, or give the field up there.",
        )

    @classmethod
    def of_all(cls, conflicts: list[FieldConflict]) -> FieldConflict:
        """Several objects' conflicts as one, so that a person sees all of them at once."""
        if len(conflicts) == 1:
            return conflicts[0]
        causes = [
            {**cause, "field": f"{conflict.target}{cause.get('field')}"}
            for conflict in conflicts
            for cause in conflict.causes
        ]
        return cls((conflicts[0].target or "").partition("/")[0], causes)


class LeaseHeld(TemporaryError):
    """Another driver works on the cluster."""


class FenceLost(PermanentError):
    """A later driver has taken over: this one must change nothing more."""


class BrokenFence(PermanentError):
    """An object's fence cannot be read, so it must not be written."""


class NotReady(PermanentError):
    """A workload will not become ready by waiting; says why."""


class Crashes(NotReady):
    """A workload's own program ends again and again."""
