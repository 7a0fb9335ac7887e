"""A backup that is not what it was: found, named, and never a server that starts; `latest-verified` stays where it was."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backup_scene import PLACE, Keys
from zstandard import ZstdCompressor

from nexus_ops.backups.bundles import BundleWriter, Packing
from nexus_ops.backups.catalogue import Catalogue, Drill, NoBackup
from nexus_ops.backups.copies import verify
from nexus_ops.backups.manifest import Manifest
from nexus_ops.backups.postgres.drill import drill_physical
from nexus_ops.backups.postgres.restore import BrokenStream, restore
from nexus_ops.backups.reading import BundleReader, DamagedBundle
from nexus_ops.storage import ObjectStore


def repacked(
    store: ObjectStore, manifest: Manifest, keys: Keys, change: Callable[[str, bytes], bytes | None], extra: str = ""
) -> Manifest:
    """A backup that is whole as bundles go, and whose files somebody else changed before they were bundled."""
    reader = BundleReader(store, manifest, keys.identity)
    tar = io.BytesIO(b"".join(bytes(raw) for raw in reader.read(manifest.stream("base"))))
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=tar) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as target,
    ):
        for member in source:
            data = source.extractfile(member)
            content = change(member.name, data.read()) if data else b""
            if content is not None:
                member.size = len(content) if member.isfile() else 0
                target.addfile(member, io.BytesIO(content))
        if extra:
            info = tarfile.TarInfo(extra)
            info.size = 3
            target.addfile(info, io.BytesIO(b"new"))
    own = b"".join(bytes(raw) for raw in reader.read(manifest.stream("postgresql-manifest")))
    catalogue = Catalogue(store, PLACE)
    backup = catalogue.new_id(datetime.now(UTC))
    with BundleWriter(store, PLACE, backup, Packing((keys.public,), bundle_bytes=1 << 40)) as writer:
        base, listed = writer.stream("base", "tar"), writer.stream("postgresql-manifest", "json")
        base.write(out.getvalue())
        listed.write(change("backup_manifest", own) or b"")
        streams = (base.finish(), listed.finish())
    return catalogue.commit(manifest.model_copy(update={"id": backup, "streams": streams})).manifest


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("spoilt", "problem"),
    [
        (lambda tar: cut(ZstdCompressor().compress(tar)), "the server's tar has no end"),
        (lambda tar: ZstdCompressor().compress(cut(tar)), "the server's tar has no end"),
        (lambda tar: b"no zstd" + tar, "the server's zstd stream does not decode"),
    ],
    ids=["half a frame", "half a tar", "no frame"],
)
def test_what_a_server_did_not_send_whole_is_never_a_restored_folder(
    lent: tuple[ObjectStore, Manifest], tmp_path: Path, spoilt: Callable[[bytes], bytes], problem: str
) -> None:
    """Its bundles are as they came, so that no hash can tell."""
    store, manifest = lent
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name in ("global/pg_control", "base/1/1"):
            info = tarfile.TarInfo(name)
            info.size = 300_000
            target.addfile(info, io.BytesIO(random.Random(name).randbytes(info.size)))
    backup = Catalogue(store, PLACE).new_id(datetime.now(UTC))
    with BundleWriter(store, PLACE, backup, Packing((), bundle_bytes=100_000)) as writer:
        base = writer.stream("base", "tar", compressed=True)
        base.write(spoilt(out.getvalue()))
        streams = (base.finish(), *manifest.streams[1:])
    bad = manifest.model_copy(update={"id": backup, "streams": streams, "recipients": ()})
    with pytest.raises(BrokenStream, match=problem):
        restore(BundleReader(store, bad, None), tmp_path / "data")
    assert not (tmp_path / "data/global/pg_control").exists()


SEGMENT = "pg_wal/0000000"
DAMAGES: dict[str, tuple[Callable[[str, bytes], bytes | None], str, str]] = {
    "extra file": (lambda name, data: data, "base/stray", '"base/stray" is present on disk but not in the manifest'),
    "missing file": (lambda name, data: None if name == "global/1262" else data, "", '"global/1262" is present in the manifest but not on disk'),
    "modified file": (lambda name, data: data[:-1] + b"\x01" if name == "global/1262" else data, "", 'checksum mismatch for file "global/1262"'),
    "truncated file": (lambda name, data: data[:-8192] if name == "global/1262" else data, "", '"global/1262" has size'),
    "bad manifest": (lambda name, data: data.replace(b'"Size": 3,', b'"Size": 4,', 1) if name == "backup_manifest" else data, "", "manifest checksum mismatch"),
    "missing WAL": (lambda name, data: None if name.startswith(SEGMENT) else data, "", "WAL parsing failed"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_fails_its_drill_and_latest_verified_stays(
    lent: tuple[ObjectStore, Manifest], keys: Keys, tmp_path: Path, damage: str
) -> None:
    """The classes of pg_verifybackup's own corruption tests (src/bin/pg_verifybackup/t/003_corruption.pl)."""
    store, manifest = lent
    catalogue = Catalogue(store, PLACE)
    catalogue.record_drill(Drill(manifest.id, datetime.now(UTC), True, 1.0))
    change, extra, finding = DAMAGES[damage]
    bad = repacked(store, manifest, keys, change, extra)
    report = drill_physical(catalogue, bad.id, keys.identity, tmp_path, now=datetime.now(UTC))
    assert not report.drill.passed
    assert finding in report.drill.findings[0]
    assert catalogue.latest().id == bad.id
    assert catalogue.latest_verified().id == manifest.id


def test_a_damaged_bundle_is_found_before_the_copy_can_be_started(
    lent: tuple[ObjectStore, Manifest], keys: Keys, tmp_path: Path
) -> None:
    store, manifest = lent
    bad = manifest.stream("base").bundles[-1]
    key = f"{PLACE}/{bad.key}"
    data = bytearray(store.get(key))
    data[-40] ^= 1
    store.put(key, bytes(data))
    target = tmp_path / "data"
    with pytest.raises(DamagedBundle, match=bad.key):
        restore(BundleReader(store, manifest, keys.identity), target)
    assert not (target / "global/pg_control").exists(), "no server starts on it"
    catalogue = Catalogue(store, PLACE)
    found = verify(catalogue, manifest.id)
    assert [damage.bundle.key for damage in found.damaged] == [bad.key]
    report = drill_physical(catalogue, manifest.id, keys.identity, tmp_path / "scratch", now=datetime.now(UTC))
    assert bad.key in report.drill.findings[0]
    with pytest.raises(NoBackup):
        catalogue.latest_verified()
