"""The moments that a server can be restored to, and the restore to one of them.

A backup alone leads to its own end. With the archive of the log, any moment from there on, as far as the archive goes
without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nexus_ops.backups.catalogue import Catalogue, Listed
from nexus_ops.backups.encryption import Identity
from nexus_ops.backups.manifest import Manifest
from nexus_ops.backups.postgres.programs import Instance
from nexus_ops.backups.postgres.restore import Target, restore, retarget
from nexus_ops.backups.postgres.wal import Archive, Segment
from nexus_ops.backups.progress import Meter, Tell
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import PermanentError

TOO_EARLY = "recovery ended before configured recovery target was reached"


class NotRestorable(PermanentError):
    """No backup and no log lead to that moment; the nearest ones that can be reached are named."""

    def __init__(self, wanted: datetime, before: datetime | None, after: datetime | None, target: str) -> None:
        self.wanted, self.before, self.after = wanted, before, after
        near = [f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for moment in (before, after) if moment]
        todo = f"The nearest that can be: {' and '.join(near)}." if near else "There is no physical backup."
        super().__init__(
            f"it cannot be restored to {wanted.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.", target=target, todo=todo
        )


@dataclass(frozen=True)
class Window:
    """What one backup leads to: from its end to `until`; both are the same where no log continues it."""

    listed: Listed
    until: datetime
    segments: tuple[Segment, ...]
    """The log that continues it."""

    @property
    def begin(self) -> datetime:
        return self.listed.manifest.ended

    def holds(self, moment: datetime) -> bool:
        return self.begin <= moment <= self.until


def windows(catalogue: Catalogue) -> list[Window]:
    """Of every physical backup, the oldest first."""
    found: list[Window] = []
    for listed in catalogue.list().backups:
        facts = listed.manifest.postgres
        if listed.manifest.kind != "physical" or facts is None:
            continue
        archive = archive_of(catalogue, listed.manifest)
        chain = archive.chain(facts.timeline, facts.begin, facts.segment_bytes)
        goes_on = bool(chain) and chain[-1].end >= facts.end
        until = max(chain[-1].at, listed.manifest.ended) if goes_on else listed.manifest.ended
        found.append(Window(listed, until, tuple(chain) if goes_on else ()))
    return found


def choose(catalogue: Catalogue, moment: datetime) -> Window:
    """The newest backup that leads to a moment; `NotRestorable` names the nearest moments."""
    all_of_them = windows(catalogue)
    fitting = [window for window in all_of_them if window.holds(moment)]
    if fitting:
        return fitting[-1]
    before = max((window.until for window in all_of_them if window.until < moment), default=None)
    after = min((window.begin for window in all_of_them if window.begin > moment), default=None)
    raise NotRestorable(moment, before, after, str(catalogue.place))


def archive_of(catalogue: Catalogue, manifest: Manifest) -> Archive:
    """The archive of the server that a backup was taken of."""
    if manifest.postgres is None:
        raise PermanentError(f"the backup {manifest.id} is none of PostgreSQL.")
    return Archive(catalogue.store, catalogue.place, manifest.postgres.system_id)


def restore_to(
    catalogue: Catalogue,
    moment: datetime,
    identity: Identity | None,
    target: Path,
    *,
    wal: Path,
    tell: Tell | None = None,
) -> Window:
    """Restore a server to a moment, into an empty folder, ready to start. `wal`: an empty folder, until it has started."""
    window = choose(catalogue, moment)
    manifest = window.listed.manifest
    reader = BundleReader(catalogue.store, manifest, identity, meter=Meter(tell, total=manifest.size))
    if window.segments and manifest.postgres is not None:
        archive_of(catalogue, manifest).fetch(list(window.segments), wal, identity, manifest.postgres.segment_bytes)
        restore(reader, target, until=Target(time=moment, wal=wal))
    else:
        restore(reader, target)
    return window


def start_at_moment(instance: Instance) -> None:
    """Start a server that was restored to a moment.

    PostgreSQL refuses a moment after the last commit of its log. The archive has told that nothing came between the two, so
    that all of the log is what was asked for.
    """
    try:
        instance.start()
    except PermanentError as error:
        if TOO_EARLY not in error.problem:
            raise
        retarget(instance.data)
        instance.start()
