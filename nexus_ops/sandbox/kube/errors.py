"""The API server's refusals: a Status object with the reason and details that clients look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

REASONS = {
    400: "BadRequest", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 406: "NotAcceptable",
    409: "Conflict", 410: "Expired", 415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests",
    500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


@dataclass
class ApiError(Exception):
    """An answer that is not a success. `details` are those of a Kubernetes Status."""

    code: int
    message: str
    reason: str | None = None
    details: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The Status object of this refusal."""
        result: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": REASONS.get(self.code, "Unknown") if self.reason is None else self.reason,
        }
        if not result["reason"]:
            del result["reason"]
        if self.details is not None:
            result["details"] = self.details
        result["code"] = self.code
        return result


def not_found(resource: str, group: str, name: str) -> ApiError:
    """404 for an object."""
    full = f"{resource}.{group}" if group else resource
    details = {"name": name, **({"group": group} if group else {}), "kind": resource}
    return ApiError(404, f'{full} "{name}" not found', details=details)


def already_exists(resource: str, group: str, name: str) -> ApiError:
    """409 for a create of what is there."""
    full = f"{resource}.{group}" if group else resource
    details = {"name": name, **({"group": group} if group else {}), "kind": resource}
    return ApiError(409, f'{full} "{name}" already exists', "AlreadyExists", details)


def stale(resource: str, group: str, name: str, what: str | None = None) -> ApiError:
    """409 for a write with an old resourceVersion (or what `what` says)."""
    full = f"{resource}.{group}" if group else resource
    what = what or ("the object has been modified; please apply your changes to the latest version and try again")
    details = {"name": name, **({"group": group} if group else {}), "kind": resource}
    return ApiError(409, f'Operation cannot be fulfilled on {full} "{name}": {what}', details=details)


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong with an object."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


def invalid(kind: str, group: str, name: str, causes: list[Cause]) -> ApiError:
    """422: the object is not valid."""
    parts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = parts[0] if len(parts) == 1 else "[" + ", ".join(parts) + "]"
    full = f"{kind}.{group}" if group else kind
    details: dict[str, Any] = {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(422, f'{full} "{name}" is invalid: {text}', details=details)
