"""The errors of the project: what was tried, on what, and what to do next.

Callers tell two branches apart. A `TemporaryError` may go away by itself (a busy API server, a lost
connection): the next tick tries again. A `PermanentError` needs a person or another input. The text of
an error is stable; what varies goes into its fields, so that alerts can be grouped by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OperationError(Exception):
    """An operation that could not be carried out.

    `problem` is one sentence. `target` names what it was tried on (a cluster, an object, a file).
    `todo` says what the reader can do about it.
    """

    def __init__(self, problem: str, *, target: str | None = None, todo: str | None = None) -> None:
        self.problem = problem
        self.target = target
        self.todo = todo
        super().__init__(problem, target, todo)

    def __str__(self) -> str:
        where = f"{self.target}: " if self.target else ""
        what_next = f" {self.todo}" if self.todo else ""
        return f"{where}{self.problem}{what_next}"


class PermanentError(OperationError):
    """Trying again without changing anything gives the same answer."""


class TemporaryError(OperationError):
    """Trying again later may succeed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Which of the known names was probably meant, as a further sentence; empty when none is near."""
    near = get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


class UnknownName(PermanentError):
    """A name that is not declared; the message lists the ones that are."""

    def __init__(
        self, kind: str, name: str, known: list[str], *, target: str | None = None, todo: str | None = None
    ) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        listed = f"Known: {', '.join(self.known) or 'none'}."
        what_next = (f"{listed} {todo}" if todo else listed) + nearest(name, self.known)
        super().__init__(f"there is no {kind} named {name!r}.", target=target, todo=what_next)
