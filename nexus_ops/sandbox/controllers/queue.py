"""The work queue that every controller here shares: keys, deduplicated, reconciled one after the other.

A controller is a function from a key to nothing; changes of the store name the keys. There is no polling:
`later` asks for a key again after a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store

logger = logging.getLogger(__name__)
Key = tuple[str, str]
"""Namespace and name."""


class Controller(Protocol):
    """Reconciles one kind of object."""

    name: str

    def keys(self, event: Event) -> list[Key]:
        """Which objects of this controller a change concerns."""
        ...

    def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring the world to what the object says; seconds after which to look again, or None."""
        ...


class Runner:
    """Runs controllers over a store within one event loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._controllers: list[Controller] = []
        self._queue: dict[tuple[int, Key], None] = {}
        self._timers: dict[tuple[int, Key], asyncio.TimerHandle] = {}
        self._scheduled = False
        self._stop = store.subscribe(self._on_event)

    def add(self, controller: Controller) -> None:
        self._controllers.append(controller)

    def stop(self) -> None:
        self._stop()
        for timer in self._timers.values():
            timer.cancel()

    def enqueue(self, controller: Controller, key: Key) -> None:
        """Have a key reconciled soon."""
        self._put((self._controllers.index(controller), key))

    def _put(self, item: tuple[int, Key]) -> None:
        self._queue[item] = None
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._work)

    def _on_event(self, event: Event) -> None:
        for index, controller in enumerate(self._controllers):
            for key in controller.keys(event):
                self._put((index, key))

    def _work(self) -> None:
        """A slice of the queue; the loop serves requests between slices."""
        self._scheduled = False
        for _ in range(20):
            if not self._queue:
                return
            item = next(iter(self._queue))
            del self._queue[item]
            self._reconcile(item)
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._work)

    def _reconcile(self, item: tuple[int, Key]) -> None:
        index, key = item
        controller = self._controllers[index]
        try:
            again = controller.reconcile(*key)
        except ApiError as error:
            if error.code not in (404, 409):
                logger.warning("%s of %s/%s: %s", controller.name, *key, error.message)
            again = 0.05 if error.code == 409 else None
        if timer := self._timers.pop(item, None):
            timer.cancel()
        if again is not None:
            self._timers[item] = asyncio.get_running_loop().call_later(again, self._put, item)
