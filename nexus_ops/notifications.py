"""Telling people: one message to every place that NEXUS_NOTIFY_URLS names.

The URLs are apprise's (`slack://…`, `pagerduty://…`, `mailto://…`; https://appriseit.com/services/). They
hold credentials: they come from the environment, or from the file named by NEXUS_NOTIFY_URLS_FILE (a mounted
secret), and appear nowhere else. A message that cannot be delivered is never the reason for an operation to
fail: it is said in the log, and the operation goes on.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notifier:
    """Sends messages to apprise URLs, and appends each to a file that a terminal can follow."""

    urls: tuple[str, ...] = ()
    """Apprise URLs; they hold credentials and are never logged."""
    journal: Path | None = None
    """A file that gets every message as a line, whatever becomes of its delivery."""

    def __repr__(self) -> str:
        return f"Notifier({len(self.urls)} destinations)"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """URLs from NEXUS_NOTIFY_URLS and the file NEXUS_NOTIFY_URLS_FILE (white space between them)."""
        text = environment.get("NEXUS_NOTIFY_URLS", "")
        if path := environment.get("NEXUS_NOTIFY_URLS_FILE"):
            text += " " + Path(path).read_text()
        home = Path(environment.get("NEXUS_HOME") or ".nexus")
        return cls(urls=tuple(text.split()), journal=home / "notifications.log")

    def send(self, title: str, body: str) -> bool:
        """Deliver a message; True when every destination took it. Never raises."""
        self._write_down(title, body)
        if not self.urls:
            return True
        try:
            # apprise is heavy, and untyped in parts: imported here, as Any.
            destinations: Any = importlib.import_module("apprise").Apprise()
            unusable = [number for number, url in enumerate(self.urls, 1) if not destinations.add(url)]
            delivered = bool(destinations.notify(body=body, title=title)) and not unusable
        except Exception:
            # Whatever a plug-in of apprise raises, a rollback in progress must not stop for it. The text
            # of such an exception can hold the URL, hence a credential: only that it happened is logged.
            logger.error("The notification %r was not delivered: apprise failed.", title)
            return False
        if not delivered:
            logger.error(
                "The notification %r was not delivered everywhere; unusable destinations: %s.",
                title,
                unusable or "none, one refused it",
            )
        return delivered

    def _write_down(self, title: str, body: str) -> None:
        if self.journal is None:
            return
        line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {title}: {' '.join(body.split())}\n"
        try:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with self.journal.open("a") as file:
                file.write(line)
        except OSError as error:
            logger.error("The notification %r was not written to %s: %s.", title, self.journal, error.strerror)
