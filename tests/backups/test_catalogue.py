"""The catalogue: what is half is invisible, what was replaced is named, and pointers only move forward."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from backup_scene import AT, PLACE, manifest

from nexus_ops.backups.catalogue import BadPointer, Catalogue, Drill, NoBackup, Note
from nexus_ops.backups.manifest import BackupId, BadManifest
from nexus_ops.errors import PermanentError, UnknownName
from nexus_ops.storage import ObjectStore

DAY = timedelta(days=1)
WHO = Note("an operator", AT, "a test")


@pytest.fixture
def catalogue(store: ObjectStore) -> Catalogue:
    return Catalogue(store, PLACE)


def add(catalogue: Catalogue, days: int = 0, **changes: object) -> BackupId:
    backup = catalogue.new_id(AT + days * DAY)
    catalogue.commit(manifest(backup, **changes))
    return backup


def drilled(catalogue: Catalogue, backup: BackupId, *, passed: bool = True) -> None:
    catalogue.record_drill(Drill(backup, backup.at + timedelta(hours=2), passed, 12.5))


def test_a_committed_backup_is_listed_and_is_the_latest(catalogue: Catalogue) -> None:
    first, second = add(catalogue), add(catalogue, 1)
    listing = catalogue.list()
    assert [one.id for one in listing.backups] == [first, second]
    assert listing.damaged == ()
    assert catalogue.latest().id == second
    assert catalogue.resolve("latest").id == second
    assert catalogue.resolve(str(first)).manifest == manifest(first)


def test_nothing_there_is_an_empty_listing_and_no_latest(catalogue: Catalogue) -> None:
    assert catalogue.list().backups == ()
    for source in ("latest", "latest-verified"):
        with pytest.raises(NoBackup, match=f"there is no {source} backup"):
            catalogue.resolve(source)


def test_an_unknown_id_lists_the_known(catalogue: Catalogue) -> None:
    known = add(catalogue)
    with pytest.raises(UnknownName, match=str(known)):
        catalogue.resolve("20200101T000000Z-000000")


def test_bundles_without_a_manifest_are_invisible_and_orphans(catalogue: Catalogue) -> None:
    """A killed backup."""
    whole = add(catalogue)
    killed = BackupId.new(AT + DAY)
    for backup in (whole, killed):
        catalogue.store.put(f"{PLACE.bundles}/{backup}/base/000001", b"x")
    assert [one.id for one in catalogue.list().backups] == [whole]
    now = catalogue.store.entries(PLACE.bundles)[0].modified
    assert catalogue.orphans(now + DAY) == {killed: [f"{PLACE.bundles}/{killed}/base/000001"]}
    assert catalogue.orphans(now - DAY) == {}, "it may be under way"


def test_killed_between_manifest_and_pointer_it_is_there(catalogue: Catalogue) -> None:
    add(catalogue)
    late = manifest(BackupId.new(AT + DAY))
    catalogue.store.put(PLACE.manifest(late.id, late.digest), late.to_bytes())
    assert catalogue.latest().id == late.id


def test_of_two_within_a_second_the_second_one_is_later(catalogue: Catalogue) -> None:
    for milliseconds in range(200, 900, 100):
        backup = catalogue.new_id(AT + timedelta(milliseconds=milliseconds))
        catalogue.commit(manifest(backup))
        assert catalogue.latest().id == backup


def test_committing_twice_is_one_backup(catalogue: Catalogue) -> None:
    backup = catalogue.new_id(AT)
    catalogue.commit(manifest(backup))
    catalogue.commit(manifest(backup))
    assert len(catalogue.list().backups) == 1


def test_an_edited_manifest_is_named_and_hides_no_other(catalogue: Catalogue) -> None:
    good, bad = add(catalogue), add(catalogue, 1)
    listed = catalogue.show(bad)
    edited = manifest(bad, counts={"nexus.public.trades": 1})
    catalogue.store.put(PLACE.manifest(bad, listed.digest), edited.to_bytes())
    with pytest.raises(BadManifest, match="edited"):
        catalogue.show(bad)
    with pytest.raises(BadManifest, match="edited"):
        catalogue.latest()
    listing = catalogue.list()
    assert [one.id for one in listing.backups] == [good]
    assert [backup for backup, _ in listing.damaged] == [bad]


def test_an_edited_manifest_under_its_own_new_name_is_named(catalogue: Catalogue) -> None:
    bad = add(catalogue)
    drilled(catalogue, bad)
    listed = catalogue.show(bad)
    edited = manifest(bad, counts={"nexus.public.trades": 1})
    catalogue.store.put(PLACE.manifest(bad, edited.digest), edited.to_bytes())
    with pytest.raises(BadManifest, match="2 manifests"):
        catalogue.show(bad)
    catalogue.store.delete(PLACE.manifest(bad, listed.digest))
    for source in ("latest", "latest-verified"):
        with pytest.raises(BadPointer, match="another manifest"):
            catalogue.resolve(source)


def test_a_manifest_of_another_backup_is_named(catalogue: Catalogue) -> None:
    backup = add(catalogue)
    stranger = manifest(backup, cluster="staging-us-west-2")
    catalogue.store.delete(PLACE.manifest(backup, catalogue.show(backup).digest))
    catalogue.store.put(PLACE.manifest(backup, stranger.digest), stranger.to_bytes())
    with pytest.raises(BadManifest, match="backups/staging-us-west-2"):
        catalogue.show(backup)
    with pytest.raises(BadManifest, match="is one of backups/staging-us-west-2"):
        catalogue.commit(stranger)


@pytest.mark.parametrize("data", [b"nonsense", b"{}", b'{"id": "x", "manifest": "y"}', b"[]"])
def test_a_pointer_replaced_by_nonsense_is_named_and_the_next_backup_repairs_it(
    catalogue: Catalogue, data: bytes
) -> None:
    add(catalogue)
    key = PLACE.pointer("latest")
    catalogue.store.move_pointer(key, data, catalogue.store.pointer(key))
    with pytest.raises(BadPointer, match="no pointer"):
        catalogue.latest()
    second = add(catalogue, 1)
    assert catalogue.latest().id == second


def test_a_pointer_to_a_backup_that_is_not_there_is_named(catalogue: Catalogue) -> None:
    add(catalogue)
    key = PLACE.pointer("latest")
    gone = BackupId.new(AT + 9 * DAY)
    data = f'{{"id": "{gone}", "manifest": "{"0" * 64}"}}'.encode()
    catalogue.store.move_pointer(key, data, catalogue.store.pointer(key))
    with pytest.raises(BadPointer, match="is not there"):
        catalogue.latest()
    second = add(catalogue, 1)
    assert catalogue.latest().id == second, "a name of nothing does not hold the pointer"


def test_a_pointer_put_back_to_an_older_backup_does_not_hide_the_newest(catalogue: Catalogue) -> None:
    old = add(catalogue)
    key = PLACE.pointer("latest")
    before = catalogue.store.pointer(key)
    assert before is not None
    new = add(catalogue, 1)
    catalogue.store.move_pointer(key, before.data, catalogue.store.pointer(key))
    assert catalogue.latest().id == new != old


def test_latest_verified_moves_only_by_a_drill_that_passed(catalogue: Catalogue) -> None:
    first, second, third = add(catalogue), add(catalogue, 1), add(catalogue, 2)
    drilled(catalogue, second)
    drilled(catalogue, third, passed=False)
    assert catalogue.latest_verified().id == second
    drilled(catalogue, first)
    assert catalogue.latest_verified().id == second, "never back"
    assert {one.id: one.verified for one in catalogue.list().backups} == {first: True, second: True, third: False}


def test_latest_verified_moved_by_hand_to_what_no_drill_proved_is_named(catalogue: Catalogue) -> None:
    add(catalogue)
    key = PLACE.pointer("latest-verified")
    latest = catalogue.store.pointer(PLACE.pointer("latest"))
    assert latest is not None
    catalogue.store.move_pointer(key, latest.data, None)
    with pytest.raises(BadPointer, match="last drill did not pass or is not known"):
        catalogue.latest_verified()


def test_pins_and_tombstones(catalogue: Catalogue) -> None:
    first, second = add(catalogue), add(catalogue, 1)
    catalogue.pin(first, Note("x", AT, "audit", until=AT + DAY))
    assert catalogue.show(first).is_pinned(AT)
    assert not catalogue.show(first).is_pinned(AT + DAY)
    catalogue.unpin(first)
    assert catalogue.list().backups[0].pinned is None
    catalogue.tombstone(first, WHO)
    assert [one.id for one in catalogue.list().backups] == [second]
    assert catalogue.list(tombstoned=True).backups[0].tombstone == WHO
    catalogue.restore_tombstoned(first)
    assert len(catalogue.list().backups) == 2
    with pytest.raises(UnknownName):
        catalogue.pin(BackupId.new(AT), WHO)


def test_only_a_tombstoned_backup_is_deleted_and_then_wholly(catalogue: Catalogue) -> None:
    backup = add(catalogue)
    drilled(catalogue, backup)
    catalogue.store.put(f"{PLACE.bundles}/{backup}/base/000001", b"x" * 100)
    with pytest.raises(PermanentError, match="only a tombstoned backup is deleted"):
        catalogue.delete(backup)
    catalogue.tombstone(backup, WHO)
    assert catalogue.delete(backup) > 100
    left = [key for key in catalogue.store.list(str(PLACE)) if "/latest" not in key and not key.endswith("/conditions")]
    assert left == []


def test_two_backups_at_once_are_both_there_and_the_later_one_is_the_latest(catalogue: Catalogue) -> None:
    ids = [BackupId.new(AT + timedelta(seconds=n)) for n in range(6)]
    threads = [threading.Thread(target=lambda one=one: catalogue.commit(manifest(one))) for one in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.id for one in catalogue.list().backups] == ids
    assert catalogue.latest().id == ids[-1]


def test_a_clock_that_went_back_does_not_make_a_backup_older(catalogue: Catalogue) -> None:
    first = add(catalogue, 3)
    second = add(catalogue, 0)
    assert second > first
    assert catalogue.latest().id == second
