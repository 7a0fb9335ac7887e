"""Pruning what a store really holds, and what the checks say of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_scene import PLACE, manifest

from nexus_ops.backups import judging
from nexus_ops.backups.catalogue import Catalogue, Drill, Note
from nexus_ops.backups.context import deleting_store
from nexus_ops.backups.manifest import BackupId, Manifest
from nexus_ops.backups.prune import Pruned, prune
from nexus_ops.backups.retention import Policy
from nexus_ops.errors import PermanentError
from nexus_ops.storage import ObjectStore, StoreUnavailable

DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
POLICY = Policy(days=10, wal_days=2, last=3, least_verified=3, grace=2 * DAY, orphan_grace=2 * DAY)


def postgres(night: int) -> dict[str, object]:
    segment = f"{1:08X}{0:08X}{100 - night * 3:08X}"
    return {
        "system_id": "7", "version": 160014, "timeline": 1, "begin": "0/1", "end": "0/2",
        "begin_wal": segment, "end_wal": segment, "segment_bytes": 16 << 20,
    }  # fmt: skip


@dataclass
class Nights:
    """A store with a backup of each of some nights."""

    folder: Path
    ids: dict[int, BackupId] = field(default_factory=dict[int, BackupId])

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(ObjectStore.open(self.folder.as_uri()), PLACE)

    def take(self, night: int, *, verified: bool = True) -> BackupId:
        backup = BackupId.new(NOW - night * DAY)
        self.catalogue.store.put(f"{PLACE}/bundles/{backup}/base/000001.zst", b"x" * 1000)
        self.catalogue.commit(manifest(backup, postgres=postgres(night)))
        if verified:
            self.catalogue.record_drill(Drill(backup, backup.at + timedelta(hours=2), True, 3.0))
        self.ids[night] = backup
        return backup

    def prune(
        self, *, now: datetime = NOW, dry_run: bool = False, deleter: Callable[[], ObjectStore] | None = None
    ) -> Pruned:
        return prune(self.catalogue, POLICY, now, dry_run=dry_run, deleter=deleter or (lambda: self.catalogue.store))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    made = Nights(tmp_path)
    for night in range(13, -1, -1):
        made.take(night)
    return made


def test_a_dry_run_says_what_would_go_and_touches_nothing(nights: Nights) -> None:
    before = nights.files()
    done = nights.prune(dry_run=True)
    assert done.tombstoned == [str(nights.ids[night]) for night in (13, 12, 11)]
    assert nights.files() == before


def test_what_is_obsolete_is_hidden_first_and_deleted_after_its_grace(nights: Nights) -> None:
    assert len(nights.prune().tombstoned) == 3
    listed = [one.id for one in nights.catalogue.list().backups]
    assert nights.ids[13] not in listed
    assert len(listed) == 11
    assert nights.prune().deleted == [], "a restore may be reading: the bundles are there for the whole grace"
    assert any(str(nights.ids[13]) in name for name in nights.files())
    nights.catalogue.pin(nights.ids[12], Note("me", NOW, "the auditors want it"))
    done = nights.prune(now=NOW + 2 * DAY)
    assert done.deleted == [str(nights.ids[13]), str(nights.ids[11])]
    assert done.freed > 2000
    assert not any(str(nights.ids[13]) in name for name in nights.files())
    assert any(str(nights.ids[12]) in name for name in nights.files())


def test_too_few_verified_ones_stop_it_all(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for night in range(13, -1, -1):
        nights.take(night, verified=night > 10)
    before = nights.files()
    done = nights.prune()
    assert done.judged.refusal is not None
    assert nights.files() == before


def test_a_store_that_cannot_be_listed_has_not_no_backups(nights: Nights) -> None:
    away = ObjectStore.open(
        "s3://nexus-backups", endpoint="http://127.0.0.1:1", region="us-west-2", access_key_id="a", secret_access_key="b",
        client_options={"allow_http": True, "timeout": "2s"}, retry_config={"max_retries": 0},
    )  # fmt: skip
    with pytest.raises(StoreUnavailable, match="could not list"):
        prune(Catalogue(away, PLACE), POLICY, NOW, dry_run=False, deleter=lambda: nights.catalogue.store)


def test_bundles_are_no_orphans_because_their_manifests_were_not_seen(nights: Nights) -> None:
    """A listing that is empty for whatever reason must not make everything an orphan."""
    manifests = nights.folder / PLACE.manifests
    manifests.rename(nights.folder / "aside")
    old = (NOW - 5 * DAY).timestamp()
    for path in (nights.folder / PLACE.bundles).rglob("*.zst"):
        os.utime(path, times=(old, old))
    before = nights.files()
    with pytest.raises(PermanentError, match="the listing is not believed"):
        nights.prune()
    assert nights.files() == before


def test_without_a_credential_that_may_delete_nothing_is_deleted_and_it_is_said(nights: Nights) -> None:
    def none() -> ObjectStore:
        return deleting_store("s3://bucket", {})

    nights.prune()
    before = nights.files()
    done = nights.prune(now=NOW + 2 * DAY, deleter=none)
    assert "NEXUS_PRUNE_AWS_PROFILE" in done.undone
    assert done.deleted == []
    assert before <= nights.files()


def test_objects_of_a_backup_that_never_became_one_are_collected_when_nobody_can_be_at_it(nights: Nights) -> None:
    killed, running = (BackupId.new(NOW - age) for age in (3 * DAY, timedelta(hours=1)))
    for backup, age in ((killed, 3 * DAY), (running, timedelta(hours=1))):
        path = nights.folder / str(PLACE) / f"bundles/{backup}/base/000001.zst"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
        old = (NOW - age).timestamp()
        os.utime(path, times=(old, old))
    done = nights.prune()
    assert done.orphans == [str(killed)]
    assert not any(str(killed) in name for name in nights.files())
    assert any(str(running) in name for name in nights.files())


def test_archived_log_goes_with_the_backups_that_needed_it(nights: Nights) -> None:
    names = [f"{1:08X}{0:08X}{100 - night * 3 + more:08X}" for night in range(15) for more in range(3)]
    for name in names:
        nights.catalogue.store.put(
            f"{PLACE}/wal/7/{name}/0000000000000001-20260101T000000000000Z-{'0' * 64}.zst", b"wal"
        )
    nights.catalogue.store.put(f"{PLACE}/wal/7/00000002.history", b"history")
    done = nights.prune()
    left = {name.split("/")[-2] for name in nights.files() if "/wal/" in name and name.endswith(".zst")}
    needed = {str(postgres(night)["begin_wal"]) for night in range(14)}
    since_anchor = {name for name in names if name >= str(postgres(2)["begin_wal"])}
    assert left == (needed & set(names)) | since_anchor
    assert done.wal == len(names) - len(left)
    assert any(name.endswith(".history") for name in nights.files())


def test_killed_between_any_two_deletions_it_goes_on(nights: Nights) -> None:
    nights.prune()

    for step in range(1, 40):
        store = nights.catalogue.store
        left = step

        class Failing(ObjectStore):
            def delete(self, key: str) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise StoreUnavailable("killed.")
                super().delete(key)

        failing = Failing(store._backend, store.url)
        try:
            nights.prune(now=NOW + 2 * DAY, deleter=lambda failing=failing: failing)
            break
        except StoreUnavailable:
            assert len(nights.catalogue.list().backups) == 9, "what stays is never touched"
    done = nights.prune(now=NOW + 5 * DAY)
    assert not any(str(nights.ids[night]) in name for night in (13, 12, 11) for name in nights.files())
    assert done.judged.refusal is None


# ------------------------------------------------------------------ checks


def test_the_checks_of_age_say_which_backup_and_how_old(nights: Nights) -> None:
    listing = nights.catalogue.list(tombstoned=True)
    assert judging.is_fresh(listing, NOW + timedelta(hours=25)).passed
    late = judging.is_fresh(listing, NOW + timedelta(hours=27))
    assert not late.passed
    assert late.why == f"{nights.ids[0]} ended 27.0 h ago; allowed: 26.0 h"
    assert judging.is_verified(listing, NOW + 7 * DAY).passed
    assert not judging.is_verified(listing, NOW + 9 * DAY).passed
    nights.catalogue.record_drill(
        Drill(nights.ids[0], NOW + timedelta(hours=3), False, 1.0, ("the bundle is missing",))
    )
    failed = judging.is_verified(nights.catalogue.list(), NOW + timedelta(hours=4))
    assert (failed.passed, failed.why) == (False, "the last drill failed: the bundle is missing")


def test_a_night_without_a_backup_and_a_prune_that_does_not_run_are_seen(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for night in (17, 9, 8, 7, 6, 4, 3, 2, 1, 0):
        nights.take(night)
    answer = judging.is_retained(nights.catalogue.list(tombstoned=True), POLICY, NOW)
    assert not answer.passed
    assert f"no backup of {(NOW - 5 * DAY).date()}" in answer.why
    assert "1 backups should be gone for days" in answer.why


def test_a_backup_of_an_emptied_database_is_not_believed() -> None:
    def sized(size: int) -> Manifest:
        stream = {"name": "base", "content": "tar", "compression": "none", "size": size, "bundles": ()}
        return manifest(BackupId.new(NOW), streams=(stream,))

    assert judging.is_plausible(sized(90_000_000), sized(100_000_000)).passed
    assert not judging.is_plausible(sized(40_000_000), sized(100_000_000)).passed
    assert judging.is_plausible(sized(100), sized(900_000)).passed, "a small one may do what it likes"
    assert judging.is_plausible(sized(0), None).passed
    logical = sized(40_000_000).model_copy(update={"kind": "logical"})
    assert judging.is_plausible(logical, sized(100_000_000)).passed, "another kind has another size"


def test_the_copy_in_the_second_region_must_be_the_same_backup(nights: Nights, tmp_path: Path) -> None:
    second = Nights(tmp_path / "second")
    listing = nights.catalogue.list()
    assert not judging.is_copied(listing, None).passed
    assert not judging.is_copied(listing, second.catalogue.list()).passed
    second.catalogue.commit(nights.catalogue.latest().manifest)
    assert judging.is_copied(listing, second.catalogue.list()).passed


def test_on_s3_deleting_needs_a_credential_of_its_own() -> None:
    with pytest.raises(PermanentError, match="nobody named a credential that may delete backups"):
        deleting_store("s3://nexus-backups", {})
