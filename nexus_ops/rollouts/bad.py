"""Releases that have failed, and are not rolled out again unless somebody insists.

Known in two places: in the ConfigMap of the cluster where it happened, and in the object store, where every other cluster
of the environment sees it. Only a rollout whose end was laid at the release itself leaves such a mark.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.record import BadRelease, Ledger, Record
from nexus_ops.storage import NotStored, ObjectStore

FOLDER = "bad-releases"


class KnownBad(PermanentError):
    """A release that has failed before."""


def remember_bad(store: ObjectStore, record: Record) -> None:
    """Write down for all clusters that the record's candidate has failed."""
    copy = record.candidate
    bad = BadRelease(copy.release, copy.version, record.id, record.cluster, record.updated, record.reason)
    store.put(f"{FOLDER}/{copy.release}.json", json.dumps(asdict(bad), sort_keys=True).encode())


def find_bad(store: ObjectStore, ledger: Ledger, release: str) -> BadRelease | None:
    """Where and why a release has failed before; None when it has not."""
    if here := next((one for one in ledger.bad if one.release == release), None):
        return here
    try:
        return BadRelease(**json.loads(store.get(f"{FOLDER}/{release}.json")))
    except NotStored:
        return None


def refusal(bad: BadRelease) -> KnownBad:
    """Why it is not rolled out again."""
    return KnownBad(
        f"{bad.version} (release {bad.release[:12]}) failed on {bad.cluster} at {bad.time[:19]}: {bad.reason}.",
        target=f"rollout {bad.rollout}",
        todo="Build another release, or deploy it with force: true when the cause was another.",
    )
