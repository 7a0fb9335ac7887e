"""The catalogue: which backups there are. The object store alone is the truth; nothing else remembers any.

A backup becomes visible in this order: its bundles, its manifest (created, never overwritten), the pointer `latest`
(compare-and-swap). Killed in between, it is invisible, or complete and not yet pointed to; never half. `latest-verified`
moves only when a drill has restored the backup.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from nexus_ops.backups.manifest import BackupId, BadManifest, Manifest, Place, Stream
from nexus_ops.errors import PermanentError, UnknownName
from nexus_ops.storage import AlreadyStored, NotStored, ObjectStore, Pointer, PointerMoved, digest_of

PointerName = Literal["latest", "latest-verified"]
POINTERS: tuple[PointerName, PointerName] = ("latest", "latest-verified")
WORKERS = 8
ATTEMPTS = 20


class BadPointer(PermanentError):
    """`latest` or `latest-verified` leads to something else than the backup that it was moved to."""


class NoBackup(PermanentError):
    """There is no backup of that kind."""


@dataclass(frozen=True)
class Note:
    """A pin or a tombstone: who, when (UTC), why."""

    by: str
    at: datetime
    reason: str
    until: datetime | None = None
    """Until when a pin holds; None: until it is taken away."""

    @classmethod
    def parse(cls, data: bytes) -> Note:
        found: dict[str, Any] = json.loads(data)
        until = found.get("until")
        return cls(
            found["by"],
            datetime.fromisoformat(found["at"]),
            found["reason"],
            datetime.fromisoformat(until) if until else None,
        )

    def to_bytes(self) -> bytes:
        until = self.until.isoformat() if self.until else None
        return json.dumps({"by": self.by, "at": self.at.isoformat(), "reason": self.reason, "until": until}).encode()


@dataclass(frozen=True)
class Drill:
    """A restore that proved a backup: what it took and found."""

    backup: BackupId
    at: datetime
    passed: bool
    rto_seconds: float
    """From the first byte read to a server that answers."""
    findings: tuple[str, ...] = ()
    """What was wrong; empty when it passed."""

    @classmethod
    def parse(cls, data: bytes) -> Drill:
        found: dict[str, Any] = json.loads(data)
        return cls(
            BackupId.parse(found["backup"]),
            datetime.fromisoformat(found["at"]),
            found["passed"],
            found["rto_seconds"],
            tuple(found["findings"]),
        )

    def to_bytes(self) -> bytes:
        return json.dumps(
            {
                "backup": str(self.backup),
                "at": self.at.isoformat(),
                "passed": self.passed,
                "rto_seconds": self.rto_seconds,
                "findings": list(self.findings),
            }
        ).encode()


@dataclass(frozen=True)
class Listed:
    """A backup as the catalogue lists it."""

    manifest: Manifest
    digest: str
    """SHA-256 of the manifest."""
    pinned: Note | None = None
    tombstone: Note | None = None
    drill: Drill | None = None
    """The last drill of it."""

    @property
    def id(self) -> BackupId:
        return self.manifest.id

    @property
    def verified(self) -> bool:
        """Whether its last drill passed."""
        return self.drill is not None and self.drill.passed

    def is_pinned(self, now: datetime) -> bool:
        """Whether a pin holds now."""
        return self.pinned is not None and (self.pinned.until is None or now < self.pinned.until)


@dataclass(frozen=True)
class Listing:
    """All that is there, the oldest first. `damaged`: manifests that cannot be used, by id, with the reason."""

    backups: tuple[Listed, ...]
    damaged: tuple[tuple[BackupId, str], ...] = ()


class Catalogue:
    """The backups of one system of one cluster in one store."""

    def __init__(self, store: ObjectStore, place: Place) -> None:
        self.store, self.place = store, place

    def new_id(self, now: datetime) -> BackupId:
        """An id for a backup that begins now. Later than all others, even when a clock went back meanwhile.

        Asks the store for what a backup needs of it, before anything is taken: `NoConditions`.
        """
        self.store.check_conditions(f"{self.place}/conditions")
        last = max((backup.at for backup in self._manifests()), default=None)
        soonest = now if last is None else max(now, last + timedelta(seconds=1))  # ids know whole seconds
        return BackupId.new(soonest)

    def commit(self, manifest: Manifest) -> Listed:
        """Make a backup visible: its bundles must all be stored. Moves `latest` to it, unless a later one is there."""
        if manifest.place != self.place:
            raise BadManifest(f"the backup is one of {manifest.place}.", target=str(self.place))
        data = manifest.to_bytes()
        digest = digest_of(data)
        key = self.place.manifest(manifest.id, digest)
        try:
            self.store.put(key, data, create=True)
        except AlreadyStored:
            pass  # by this digest: the request was sent twice, or a copy goes on
        self._move("latest", manifest.id, digest)
        return Listed(manifest, digest)

    def locked_until(self, streams: Sequence[Stream]) -> datetime | None:
        """Until when the store keeps a backup from deletion: its first bundle is the first that it lets go."""
        first = next((bundle for stream in streams for bundle in stream.bundles), None)
        return self.store.locked_until(f"{self.place}/{first.key}") if first else None

    def list(self, *, tombstoned: bool = False) -> Listing:
        """All backups, read afresh. A listing that cannot be made is an error, never an empty one."""
        notes = {
            kind: {BackupId.parse(key.rpartition("/")[2]): key for key in self.store.list(prefix)}
            for kind, prefix in (("pin", self.place.pins), ("tombstone", self.place.tombstones))
        }
        drills = self._last_drills()
        found = self._manifests()

        def read(item: tuple[BackupId, list[str]]) -> Listed | tuple[BackupId, str]:
            backup, digests = item
            try:
                manifest = self._read(backup, digests)
            except BadManifest as error:
                return backup, error.problem
            note = {kind: self._note(keys.get(backup)) for kind, keys in notes.items()}
            drill = drills.get(backup)
            passed = Drill.parse(self.store.get(drill)) if drill else None
            return Listed(manifest, digests[0], note["pin"], note["tombstone"], passed)

        chosen = [item for item in sorted(found.items()) if tombstoned or item[0] not in notes["tombstone"]]
        with ThreadPoolExecutor(WORKERS) as pool:
            read_ones = list(pool.map(read, chosen))
        return Listing(
            tuple(one for one in read_ones if isinstance(one, Listed)),
            tuple(one for one in read_ones if not isinstance(one, Listed)),
        )

    def show(self, backup: BackupId) -> Listed:
        """One backup, also a tombstoned one; `UnknownName` lists the known ids, `BadManifest` says what is wrong."""
        found = self._manifests()
        if backup not in found:
            raise UnknownName("backup", str(backup), [str(known) for known in found], target=str(self.place))
        drill = self._last_drills().get(backup)
        return Listed(
            self._read(backup, found[backup]),
            found[backup][0],
            self._note(f"{self.place.pins}/{backup}", maybe=True),
            self._note(f"{self.place.tombstones}/{backup}", maybe=True),
            Drill.parse(self.store.get(drill)) if drill else None,
        )

    def resolve(self, source: str) -> Listed:
        """The backup that `latest`, `latest-verified` or an id means."""
        if source in POINTERS:
            return self.latest() if source == "latest" else self.latest_verified()
        return self.show(BackupId.parse(source))

    def latest(self) -> Listed:
        """The newest complete backup. The listing says which it is; a pointer that does not fit is an error."""
        return self._pointed("latest")

    def latest_verified(self) -> Listed:
        """The newest backup that a drill has restored."""
        return self._pointed("latest-verified")

    def record_drill(self, drill: Drill) -> None:
        """Keep a drill's result; one that passed moves `latest-verified`, one that failed leaves it where it is."""
        listed = self.show(drill.backup)
        stamp = drill.at.astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        self.store.put(f"{self.place.drills}/{drill.backup}/{stamp}.json", drill.to_bytes())
        if drill.passed:
            self._move("latest-verified", drill.backup, listed.digest)

    def pin(self, backup: BackupId, note: Note) -> None:
        """Keep a backup whatever retention says."""
        self.show(backup)
        self.store.put(f"{self.place.pins}/{backup}", note.to_bytes())

    def unpin(self, backup: BackupId) -> None:
        self.store.delete(f"{self.place.pins}/{backup}")

    def tombstone(self, backup: BackupId, note: Note) -> None:
        """Hide a backup: it is still there, and `restore_tombstoned` brings it back until it is deleted."""
        self.show(backup)
        self.store.put(f"{self.place.tombstones}/{backup}", note.to_bytes())

    def restore_tombstoned(self, backup: BackupId) -> None:
        """Take a tombstone away."""
        self.store.delete(f"{self.place.tombstones}/{backup}")

    def delete(self, backup: BackupId) -> int:
        """Delete a tombstoned backup for good; the bytes that were freed. Killed half-way, it is invisible and orphaned.

        The catalogue must be one on a store whose credentials may delete; the others need not be able to.
        """
        if not self.store.exists(f"{self.place.tombstones}/{backup}"):
            raise PermanentError(
                "only a tombstoned backup is deleted.", target=f"{self.place}/{backup}", todo="Tombstone it first."
            )
        freed = 0
        for prefix in (f"{self.place.manifests}/{backup}", f"{self.place.bundles}/{backup}"):
            for entry in self.store.entries(prefix):
                self.store.delete(entry.key)
                freed += entry.size
        for key in (*self.store.list(f"{self.place.drills}/{backup}"), f"{self.place.pins}/{backup}"):
            self.store.delete(key)
        self.store.delete(f"{self.place.tombstones}/{backup}")
        return freed

    def orphans(self, older_than: datetime) -> dict[BackupId, list[str]]:
        """Bundles that no manifest names, of backups that stopped before a time: keys by id.

        What is being written now has no manifest either: name a time well before now.
        """
        known = set(self._manifests())
        by_id: dict[BackupId, list[str]] = {}
        young: set[BackupId] = set()
        for entry in self.store.entries(self.place.bundles):
            backup = BackupId.parse(entry.key.removeprefix(f"{self.place.bundles}/").split("/")[0])
            if backup not in known:
                by_id.setdefault(backup, []).append(entry.key)
            if entry.modified >= older_than:
                young.add(backup)
        return {backup: keys for backup, keys in by_id.items() if backup not in young}

    def _pointed(self, name: PointerName) -> Listed:
        pointer = self.store.pointer(self.place.pointer(name))
        where = self.store.url.rstrip("/") + "/" + self.place.pointer(name)
        if pointer is None:
            if name == "latest" and (found := self._manifests()):
                return self.show(max(found))  # killed between its manifest and its pointer
            todo = "Launch the job `backup`" + (
                ", then `drill`; or name `latest`." if name == "latest-verified" else "."
            )
            raise NoBackup(f"there is no {name} backup.", target=str(self.place), todo=todo)
        backup, digest = _parse_pointer(pointer, where)
        found = self._manifests()
        if backup not in found:
            raise BadPointer(
                f"it names {backup}, which is not there.",
                target=where,
                todo="Name a backup by its id; `list` shows them.",
            )
        if digest not in found[backup]:
            raise BadPointer(
                f"it names another manifest of {backup} than is there.",
                target=where,
                todo="One of them was replaced; name a backup by its id after looking at both.",
            )
        listed = self.show(backup)
        if name == "latest-verified" and not listed.verified:
            raise BadPointer(
                f"it names {backup}, whose last drill did not pass or is not known.",
                target=where,
                todo="Run a drill, or name a backup by its id.",
            )
        if name == "latest" and (newest := max(found)) != backup:
            # Complete, but not pointed to: its process was killed in that moment, or the pointer was put back.
            newer = self.show(newest)
            if newer.tombstone is None:
                return newer
        return listed

    def _move(self, name: PointerName, backup: BackupId, digest: str) -> None:
        """Point to a backup, unless the pointer names a later one that is there."""
        key = self.place.pointer(name)
        data = json.dumps({"id": str(backup), "manifest": digest}).encode()
        for _ in range(ATTEMPTS):
            seen = self.store.pointer(key)
            if seen is not None and self._is_later(seen, backup):
                return
            try:
                self.store.move_pointer(key, data, seen)
                return
            except PointerMoved:
                continue
        raise PointerMoved("it is moved by others all the time.", target=key)

    def _is_later(self, pointer: Pointer, backup: BackupId) -> bool:
        """Whether a pointer names this backup or a later one that is there: what was replaced does not count."""
        try:
            current, _ = _parse_pointer(pointer, "")
        except BadPointer:
            return False
        return current >= backup and current in self._manifests()

    def _manifests(self) -> dict[BackupId, list[str]]:
        """Digests by id; one id has one."""
        found: dict[BackupId, list[str]] = {}
        for key in self.store.list(self.place.manifests):
            backup, digest = self.place.of_manifest(key)
            found.setdefault(backup, []).append(digest)
        return found

    def _read(self, backup: BackupId, digests: list[str]) -> Manifest:
        where = f"{self.place}/{backup}"
        if len(digests) != 1:
            raise BadManifest(f"there are {len(digests)} manifests of this id, and there must be one.", target=where)
        data = self.store.get(self.place.manifest(backup, digests[0]))
        if digest_of(data) != digests[0]:
            raise BadManifest(
                "the manifest was edited: its content does not match its name.",
                target=where,
                todo="Use another backup, or the second copy of this one.",
            )
        manifest = Manifest.parse(data, target=where)
        if manifest.id != backup or manifest.place != self.place:
            raise BadManifest(f"the manifest is the one of {manifest.place}/{manifest.id}.", target=where)
        return manifest

    def _last_drills(self) -> dict[BackupId, str]:
        """The key of each backup's last drill: names sort by time."""
        keys = self.store.list(self.place.drills)
        return {BackupId.parse(key.removeprefix(f"{self.place.drills}/").split("/")[0]): key for key in keys}

    def _note(self, key: str | None, *, maybe: bool = False) -> Note | None:
        try:
            return Note.parse(self.store.get(key)) if key else None
        except NotStored:
            if maybe:
                return None
            raise


def _parse_pointer(pointer: Pointer, where: str) -> tuple[BackupId, str]:
    """Id and manifest digest that a pointer holds."""
    try:
        found: dict[str, str] = json.loads(pointer.data)
        return BackupId.parse(found["id"]), found["manifest"]
    except (ValueError, KeyError, TypeError, PermanentError):
        raise BadPointer(
            "it was replaced by something that is no pointer.",
            target=where,
            todo="Name a backup by its id; `list` shows them.",
        ) from None
