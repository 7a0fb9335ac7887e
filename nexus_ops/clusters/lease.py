"""Who drives a cluster: a Lease, and the token that comes with it.

The Lease keeps two drivers from working at once; it cannot protect by itself, since a driver may be paused past its
time. That is what the token is for: every taking raises it (leaseTransitions), and writes carry it (clusters.fence).
"""

from __future__ import annotations

import copy
import math
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from nexus_ops.clusters.client import CONFIG_MAP, LEASE, ClusterClient
from nexus_ops.clusters.errors import BrokenFence, Conflict, FenceLost, LeaseHeld
from nexus_ops.errors import OperationError

Object = dict[str, Any]
FENCE = "nexus.ai/fence"
"""The annotation that carries the token of the driver who wrote an object."""
DURATION = timedelta(seconds=15)
SKEW = timedelta(seconds=5)
"""How far clocks may be apart: a lease is taken over only so long after it has run out."""


def fence_of(obj: Object | None) -> int:
    """The fence that an object carries; 0 when none."""
    metadata: Object = (obj or {}).get("metadata") or {}
    text = (metadata.get("annotations") or {}).get(FENCE, "0")
    if not text.isdecimal():
        raise BrokenFence(
            f"its annotation {FENCE} is {text!r} and no number, so nobody knows who wrote it last.",
            target=f"{(obj or {}).get('kind')}/{metadata.get('name')}",
            todo=f"Set it to the leaseTransitions of the Lease: kubectl annotate --overwrite … {FENCE}=<number>.",
        )
    return int(text)


def _micro(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class HeldLease:
    """A lease in our hands. `with` renews it in a thread and gives it back at the end."""

    def __init__(self, client: ClusterClient, obj: Object, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._object = obj
        self._clock = clock
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._lost: OperationError | None = None
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> int:
        """The fence: higher than any earlier holder's."""
        return int(self._object["spec"]["leaseTransitions"])

    @property
    def holder(self) -> str:
        return self._object["spec"]["holderIdentity"]

    def check(self) -> None:
        """Raise `FenceLost` when the lease is no longer ours.

        A process that was paused past the lease's time does not know who came meanwhile: it renews before it goes on.
        """
        with self._lock:
            if self._lost is None and _until(self._object["spec"]) < self._clock():
                self._renew()
            self._raise_if_lost()

    def renew(self) -> None:
        """Say that we are still here; `FenceLost` when somebody else is."""
        with self._lock:
            self._renew()
            self._raise_if_lost()

    def _renew(self) -> None:
        wanted = copy.deepcopy(self._object)
        wanted["spec"]["renewTime"] = _micro(self._clock())
        try:
            self._object = self._client.replace(wanted, manager="nexus-rollout")
        except Conflict as error:
            # An earlier try may have been carried out although its answer was lost.
            live = self._client.get(LEASE, wanted["metadata"]["name"], wanted["metadata"]["namespace"])
            if live is not None and (live.get("spec") or {}).get("holderIdentity") == self.holder:
                self._object = live
            else:
                self._lost = error

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise FenceLost("another driver has taken over; this one stops.", target=self._client.name) from self._lost

    def release(self) -> None:
        """Give it back, so that the next driver need not wait."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._lost is None:
            self._object["spec"]["holderIdentity"] = ""
            try:
                self._client.replace(self._object, manager="nexus-rollout")
            except OperationError:
                pass  # it runs out by itself; what was done under it is done

    def __enter__(self) -> HeldLease:
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self._done.wait(DURATION.total_seconds() / 3):
            try:
                self.renew()
            except OperationError as error:
                self._lost = error
                return


def acquire(
    client: ClusterClient, namespace: str, name: str, holder: str, *, clock: Callable[[], datetime]
) -> HeldLease:
    """Take the lease, or `LeaseHeld` with who has it and until when.

    A lease that is free, or ran out more than a clock skew ago, is taken; each taking raises the token.
    """
    identity = f"{holder}-{uuid.uuid4().hex[:8]}"
    found = client.get(LEASE, name, namespace)
    if found is not None:
        _refuse_held(client, found, clock)
    now = _micro(clock())
    spec: Object = {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(DURATION.total_seconds()),
        "acquireTime": now,
        "renewTime": now,
    }
    try:
        if found is None:
            spec["leaseTransitions"] = _highest_fence(client, namespace) + 1
            metadata = {"name": name, "namespace": namespace}
            new = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
            return HeldLease(client, client.create(new, manager="nexus-rollout"), clock)
        spec["leaseTransitions"] = int((found.get("spec") or {}).get("leaseTransitions") or 0) + 1
        return HeldLease(client, client.replace({**found, "spec": spec}, manager="nexus-rollout"), clock)
    except Conflict:
        mine = client.get(LEASE, name, namespace)  # a try may have been carried out although its answer was lost
        if mine is not None and (mine.get("spec") or {}).get("holderIdentity") == identity:
            return HeldLease(client, mine, clock)
        raise LeaseHeld(
            "another driver took the lease at the same moment.", target=client.name, todo="Try again."
        ) from None


def _refuse_held(client: ClusterClient, lease: Object, clock: Callable[[], datetime]) -> None:
    """Raise `LeaseHeld` unless the lease is free, or has run out by more than a clock skew."""
    held = lease.get("spec") or {}
    until = _until(held)
    if not held.get("holderIdentity") or until + SKEW <= clock():
        return
    duration = timedelta(seconds=int(held.get("leaseDurationSeconds") or 0))
    if until > clock() + duration + SKEW and not _is_renewed(client, lease, duration.total_seconds()):
        return
    raise LeaseHeld(
        f"{held['holderIdentity']} drives this cluster until {until:%H:%M:%S} UTC.",
        target=client.name,
        todo="It goes on by itself; try again after that.",
    )


def _is_renewed(client: ClusterClient, lease: Object, seconds: float) -> bool:
    """Whether its holder lives, as client-go sees it: the lease changes within its duration by our own clock.

    For a lease renewed in our future only: its holder's clock goes wrong (or ours), and what the two clocks say of each
    other could lock everyone out for as long as they differ.
    """
    metadata, seen = lease["metadata"], lease["spec"].get("renewTime")
    for _ in range(math.ceil(seconds)):
        client.pause(1.0)
        live = client.get(LEASE, metadata["name"], metadata["namespace"])
        if live is None or (live.get("spec") or {}).get("renewTime") != seen:
            return True
    return False


def _highest_fence(client: ClusterClient, namespace: str) -> int:
    """The highest fence on the records beside a lease that is new.

    A Lease that somebody deleted begins again; its tokens must not, or every later driver would find a higher fence than
    its own on all that it wants to write. Each driver stamps a record here before it writes anything else.
    """
    return max((fence_of(obj) for obj in client.list(CONFIG_MAP, namespace)), default=0)


def _until(spec: Object) -> datetime:
    """When a lease runs out; one that was never renewed has."""
    renewed = spec.get("renewTime") or spec.get("acquireTime")
    if not renewed:
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(renewed) + timedelta(seconds=int(spec.get("leaseDurationSeconds") or 0))
