"""Whole backups in the store: verified where they are, and copied to a second store by the same manifest.

Both go on where they were killed: a verification by its journal, a copy by what the second store holds already.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nexus_ops.backups.bundles import store_bundle
from nexus_ops.backups.catalogue import Catalogue, Listed
from nexus_ops.backups.encryption import Identity
from nexus_ops.backups.manifest import BackupId, Bundle, Stream
from nexus_ops.backups.progress import Meter, Tell
from nexus_ops.backups.reading import BundleReader, DamagedBundle, Journal, in_parallel
from nexus_ops.storage import digest_of

WORKERS = 4


@dataclass(frozen=True)
class Verification:
    """What was found in a backup's bundles."""

    backup: BackupId
    bundles: int
    decoded: bool
    """Whether they were decrypted and decompressed too, and not only compared with their hashes."""
    damaged: tuple[DamagedBundle, ...]

    @property
    def passed(self) -> bool:
        return not self.damaged


def verify(
    catalogue: Catalogue,
    backup: BackupId,
    identity: Identity | None = None,
    *,
    journal: Path | None = None,
    tell: Tell | None = None,
) -> Verification:
    """Read every bundle and compare it with the manifest; with an identity, decode it too. All damage is listed.

    Without an identity an encrypted backup can be verified, too: what is stored has a hash of its own.
    """
    manifest = catalogue.show(backup).manifest
    reader = BundleReader(catalogue.store, manifest, identity, meter=Meter(tell, total=manifest.size))
    decoded = identity is not None or not manifest.recipients
    done = Journal(journal) if journal else None
    damaged: list[DamagedBundle] = []

    def look(item: tuple[Stream, Bundle]) -> None:
        stream, bundle = item
        if done is not None and bundle.stored_sha256 in done:
            return
        try:
            reader.raw(bundle, stream) if decoded else reader.stored(bundle)
        except DamagedBundle as damage:
            damaged.append(damage)
        else:
            if done is not None:
                done.add(bundle.stored_sha256)

    bundles = [(stream, bundle) for stream in manifest.streams for bundle in stream.bundles]
    in_parallel(bundles, look, WORKERS)
    return Verification(backup, len(bundles), decoded, tuple(sorted(damaged, key=lambda one: one.bundle.key)))


def copy(source: Catalogue, target: Catalogue, backup: BackupId, *, tell: Tell | None = None) -> Listed:
    """Copy a backup to a second store: bundles, then the manifest, then `latest`. Needs no identity.

    What is there already is compared by hash and kept; a bundle that is damaged at its source is an error, and nothing is
    listed in the second store.
    """
    listed = source.show(backup)
    reader = BundleReader(source.store, listed.manifest, None, meter=Meter(tell, total=listed.manifest.stored_size))

    def take(bundle: Bundle) -> None:
        key = f"{target.place}/{bundle.key}"
        if target.store.exists(key) and digest_of(target.store.get(key)) == bundle.stored_sha256:
            reader.meter.add(done=bundle.stored_size)
            return
        data = reader.stored(bundle)
        store_bundle(target.store, key, data, bundle.stored_sha256)
        reader.meter.add(done=len(data))

    in_parallel([bundle for stream in listed.manifest.streams for bundle in stream.bundles], take, WORKERS)
    return target.commit(listed.manifest)


def is_copied(target: Catalogue, backup: BackupId) -> bool:
    """Whether a second store lists the backup."""
    return any(listed.id == backup for listed in target.list(tombstoned=True).backups)
