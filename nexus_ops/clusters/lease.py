"""Who drives a cluster: a Lease, and the token that comes with it.

The Lease keeps two drivers from working at once; it cannot protect by itself, since a driver may be paused past its
time. That is what the token is for: every taking raises it (leaseTransitions), and writes carry it (clusters.fence).
"""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from nexus_ops.clusters.client import LEASE, ClusterClient
from nexus_ops.clusters.errors import Conflict, FenceLost, LeaseHeld
from nexus_ops.errors import OperationError

Object = dict[str, Any]
DURATION = timedelta(seconds=15)
SKEW = timedelta(seconds=5)
"""How far clocks may be apart: a lease is taken over only so long after it has run out."""


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
    now = clock()
    spec: Object = {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(DURATION.total_seconds()),
        "acquireTime": _micro(now),
        "renewTime": _micro(now),
    }
    found = client.get(LEASE, name, namespace)
    try:
        if found is None:
            body = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": name, "namespace": namespace},
            }
            return HeldLease(
                client, client.create({**body, "spec": {**spec, "leaseTransitions": 1}}, manager="nexus-rollout"), clock
            )
        held = found.get("spec") or {}
        if held.get("holderIdentity") and (until := _until(held)) + SKEW > now:
            raise LeaseHeld(
                f"{held['holderIdentity']} drives this cluster until {until:%H:%M:%S} UTC.",
                target=client.name,
                todo="It goes on by itself; try again after that.",
            )
        found["spec"] = {**spec, "leaseTransitions": int(held.get("leaseTransitions") or 0) + 1}
        return HeldLease(client, client.replace(found, manager="nexus-rollout"), clock)
    except Conflict:
        mine = client.get(LEASE, name, namespace)  # a try may have been carried out although its answer was lost
        if mine is not None and (mine.get("spec") or {}).get("holderIdentity") == identity:
            return HeldLease(client, mine, clock)
        raise LeaseHeld(
            "another driver took the lease at the same moment.", target=client.name, todo="Try again."
        ) from None


def _until(spec: Object) -> datetime:
    renewed = datetime.fromisoformat(spec.get("renewTime") or spec["acquireTime"])
    return renewed + timedelta(seconds=int(spec.get("leaseDurationSeconds") or 0))
