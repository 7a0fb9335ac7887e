"""Scripted trouble: errors, delays and held requests, and the log of what clients changed.

A rule matches mutating (or all) requests by method, path and user agent, and counts what it matches; it acts on
the n-th, or on every one. A request that is held waits until a test lets it go: `hold-before` has done nothing yet
and can be dropped, `hold-after` is carried out and only its answer waits.
"""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nexus_ops.sandbox.kube.errors import ApiError

Action = Literal["error", "hold-before", "hold-after", "delay", "drop-watch"]
MUTATING = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Rule:
    """When to act, and how."""

    action: Action
    methods: tuple[str, ...] = MUTATING
    path: str = "*"
    user_agent: str = "*"
    nth: int | None = None
    """Act on the n-th matching request only (counted from 1); None: on every one."""
    times: int | None = None
    """Act at most so often."""
    status: int = 503
    retry_after: int | None = None
    seconds: float = 0.0
    seen: int = 0
    acted: int = 0

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Rule:
        """A rule from JSON; an unknown key or action is an error."""
        if data.get("action") not in get_args(Action):
            raise TypeError(f"action: {data.get('action')!r} is not known; allowed: {', '.join(get_args(Action))}")
        data = {**data, "methods": tuple(data.get("methods", MUTATING))}
        return cls(**data)

    def due(self, method: str, path: str, agent: str) -> bool:
        """Count a request; True when the rule acts on it."""
        if (
            method not in self.methods
            or not fnmatch.fnmatch(path, self.path)
            or not fnmatch.fnmatch(agent, self.user_agent)
        ):
            return False
        self.seen += 1
        if (self.nth is not None and self.seen != self.nth) or (self.times is not None and self.acted >= self.times):
            return False
        self.acted += 1
        return True


@dataclass
class Hold:
    """A request that waits for a test."""

    id: int
    method: str
    path: str
    stage: str
    decided: asyncio.Future[str]


@dataclass
class Faults:
    """The rules in force, the requests on hold, and the log of mutating requests."""

    rules: list[Rule] = field(default_factory=list)
    holds: dict[int, Hold] = field(default_factory=dict)
    mutations: list[dict[str, str]] = field(default_factory=list)
    frozen: asyncio.Event | None = None
    dead: bool = False
    _ids: itertools.count[int] = field(default_factory=itertools.count)

    async def before(self, method: str, path: str, agent: str, *, dry: bool = False) -> list[Rule]:
        """Act on a request that arrives; the rules that hold its answer are returned. A dry run mutates nothing."""
        if self.dead:
            raise ConnectionAbortedError
        if self.frozen is not None:
            await self.frozen.wait()
        if method in MUTATING and not dry:
            self.mutations.append({"method": method, "path": path, "user_agent": agent})
        after: list[Rule] = []
        for rule in [rule for rule in self.rules if rule.due(method, path, agent)]:
            if rule.action == "delay":
                await asyncio.sleep(rule.seconds)
            elif rule.action == "error":
                headers = {"Retry-After": str(rule.retry_after)} if rule.retry_after is not None else {}
                raise ApiError(rule.status, "a scripted fault", headers=headers)
            elif rule.action == "hold-before":
                if await self._hold(method, path, "before") == "drop":
                    raise ConnectionAbortedError
            elif rule.action == "hold-after":
                after.append(rule)
        return after

    async def after(self, rules: list[Rule], method: str, path: str) -> None:
        """Hold the answer of a request that has been carried out."""
        for _ in rules:
            if await self._hold(method, path, "after") == "drop":
                raise ConnectionAbortedError

    async def _hold(self, method: str, path: str, stage: str) -> str:
        hold = Hold(next(self._ids), method, path, stage, asyncio.get_running_loop().create_future())
        self.holds[hold.id] = hold
        try:
            return await hold.decided
        finally:
            self.holds.pop(hold.id, None)

    def decide(self, hold: int, what: str) -> bool:
        """Let a held request go (`release`) or fail (`drop`); False when there is none."""
        found = self.holds.get(hold)
        if found is None or found.decided.done():
            return False
        found.decided.set_result(what)
        return True
