"""One at a time: a claim in the object store on a piece of work, with a number that says whose is the newest.

It is in the store and not in a cluster: backups are taken, too, when the cluster's API is away. Like a Lease it is renewed, runs out
when its holder dies, and its number rises with every taking: who was paused past its time finds a higher number when it
looks (`check`), and stops before it makes anything visible.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType

from nexus_ops.errors import OperationError, PermanentError, TemporaryError
from nexus_ops.storage import ObjectStore, Pointer, PointerMoved

DURATION = timedelta(seconds=60)
SKEW = timedelta(seconds=10)
"""How far clocks may be apart."""


class ClaimHeld(TemporaryError):
    """Somebody else does this now."""


class ClaimLost(TemporaryError):
    """Our claim ran out and somebody else has taken it: what we do must not become visible."""


@dataclass(frozen=True)
class _State:
    holder: str
    number: int
    until: datetime

    @classmethod
    def parse(cls, pointer: Pointer, key: str) -> _State:
        try:
            found = json.loads(pointer.data)
            return cls(str(found["holder"]), int(found["number"]), datetime.fromisoformat(found["until"]))
        except (ValueError, KeyError, TypeError):
            raise PermanentError(
                "it is no claim.",
                target=key,
                todo="Delete it, if nothing is running: it only keeps two from working at once.",
            ) from None

    def to_bytes(self) -> bytes:
        document = {"holder": self.holder, "number": self.number, "until": self.until.isoformat()}
        return json.dumps(document).encode()


class Claim:
    """A claim in our hands; `with` renews it in a thread, and gives it back."""

    def __init__(self, store: ObjectStore, key: str, state: _State, clock: Callable[[], datetime]) -> None:
        self._store, self._key, self._state, self._clock = store, key, state, clock
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)

    @property
    def number(self) -> int:
        """Higher than that of every earlier holder."""
        return self._state.number

    def check(self) -> None:
        """Raise `ClaimLost` unless it is ours now; looks, for who was paused does not know."""
        with self._lock:
            self._renew()

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=5)
        try:
            with self._lock:
                self._write(_State("", self._state.number, self._clock()))
        except OperationError:
            pass  # it runs out by itself; what was done under it is done

    def _keep(self) -> None:
        while not self._done.wait(DURATION.total_seconds() / 3):
            try:
                self.check()
            except ClaimLost:
                return
            except OperationError:
                continue  # the store is away: it may come back before the claim has run out

    def _renew(self) -> None:
        self._write(_State(self._state.holder, self._state.number, self._clock() + DURATION))

    def _write(self, wanted: _State) -> None:
        for _ in range(3):
            seen = self._store.pointer(self._key)
            live = _State.parse(seen, self._key) if seen else None
            if live is None or live.number != self._state.number or live.holder != self._state.holder:
                raise ClaimLost("another one has taken over; this one stops.", target=self._key)
            try:
                self._store.move_pointer(self._key, wanted.to_bytes(), seen)
                return
            except PointerMoved:
                continue  # by ourselves, when an answer was lost; or by who took over: the next look tells
        raise ClaimLost("another one takes over at this moment.", target=self._key)


def claim(
    store: ObjectStore,
    key: str,
    holder: str,
    *,
    clock: Callable[[], datetime],
    wait: Callable[[float], object] = time.sleep,
) -> Claim:
    """Take a claim, or `ClaimHeld` with who has it and until when.

    One that has run out is taken. One that ends further ahead than any holder would write was made by a wrong clock, theirs
    or ours: it counts as long as it is renewed, and is taken when nobody does for its duration.
    """
    seen = store.pointer(key)
    number = 0
    if seen is not None:
        state = _State.parse(seen, key)
        number = state.number
        is_held = state.holder and state.until + SKEW > clock()
        if is_held and (state.until <= clock() + DURATION + SKEW or _is_renewed(store, key, seen, wait)):
            raise ClaimHeld(
                f"{state.holder} is at it until {state.until:%H:%M:%S} UTC.",
                target=key,
                todo="It goes on by itself; one that was killed frees it after that time.",
            )
    mine = _State(f"{holder}-{uuid.uuid4().hex[:8]}", number + 1, clock() + DURATION)
    try:
        store.move_pointer(key, mine.to_bytes(), seen)
    except PointerMoved:
        raise ClaimHeld("another one took it at the same moment.", target=key, todo="It is being done.") from None
    return Claim(store, key, mine, clock)


def _is_renewed(store: ObjectStore, key: str, seen: Pointer, wait: Callable[[float], object]) -> bool:
    for _ in range(int(DURATION.total_seconds())):
        wait(1.0)
        live = store.pointer(key)
        if live is None or live.version != seen.version:
            return True
    return False
