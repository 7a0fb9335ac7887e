"""Times as Kubernetes writes them."""

from datetime import UTC, datetime, timedelta


def timestamp(ahead: int = 0) -> str:
    """Now, or so many seconds from now, in whole seconds (metav1.Time)."""
    return (datetime.now(UTC) + timedelta(seconds=ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")
