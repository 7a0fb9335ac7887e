"""Restore to a time: where there is an archive of the log, exactly the commits until then; elsewhere refused, with the nearest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_scene import AT, PLACE, Keys, contents, manifest, until
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.backups.bundles import MEGABYTE, Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.lsn import Lsn, segment_name
from nexus_ops.backups.manifest import BackupId
from nexus_ops.backups.postgres.moments import NotRestorable, choose, restore_to, start_at_moment, windows
from nexus_ops.backups.postgres.physical import back_up
from nexus_ops.backups.postgres.programs import Instance, Programs
from nexus_ops.backups.postgres.wal import Archive, MissingWal, Receiver, Segment
from nexus_ops.storage import ObjectStore
from nexus_ops.users import give, ordinary_user

SIXTEEN = 16 << 20
FACTS = {
    "system_id": "7", "version": 160014, "timeline": 1, "begin": "0/4000028", "end": "0/4000100",
    "begin_wal": segment_name(1, 0x4000028, SIXTEEN), "end_wal": segment_name(1, 0x4000028, SIXTEEN), "segment_bytes": SIXTEEN,
}  # fmt: skip


@given(
    st.from_regex(r"[0-9A-F]{24}", fullmatch=True),
    st.integers(0, (1 << 64) - 1),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.booleans(),
)
def test_a_segment_reads_as_it_prints(name: str, end: int, at: datetime, digest: str, encrypted: bool) -> None:
    segment = Segment(name, Lsn(end), at.replace(tzinfo=UTC), digest, encrypted)
    assert Segment.parse(str(segment)) == segment


def stored(archive: Archive, number: int, *, timeline: int = 1, part: float = 1.0, minutes: int = 0) -> Segment:
    data = bytes(int(SIXTEEN * part))
    name = segment_name(timeline, number * SIXTEEN, SIXTEEN)
    end = Lsn(number * SIXTEEN + len(data))
    return archive.put(name, data, end, AT + timedelta(minutes=minutes), Packing(()))


def test_the_chain_ends_at_a_gap_and_goes_over_timelines(files: ObjectStore) -> None:
    archive = Archive(files, PLACE, "7")
    begin = Lsn(4 * SIXTEEN + 40)
    assert archive.chain(1, begin, SIXTEEN) == []
    for number in (3, 4, 5, 7):
        stored(archive, number)
    names = [segment.name for segment in archive.chain(1, begin, SIXTEEN)]
    assert names == [segment_name(1, number * SIXTEEN, SIXTEEN) for number in (4, 5)], "6 is missing"
    stored(archive, 6, timeline=2)
    stored(archive, 7, timeline=2, part=0.5)
    chain = archive.chain(1, begin, SIXTEEN)
    assert [segment.name[:8] for segment in chain] == ["00000001", "00000001", "00000002", "00000002"]
    assert chain[-1].end == 7 * SIXTEEN + SIXTEEN // 2


def test_of_a_segment_the_fullest_object_counts(files: ObjectStore) -> None:
    archive = Archive(files, PLACE, "7")
    stored(archive, 4, part=0.25)
    fuller = stored(archive, 4, part=0.5, minutes=1)
    assert archive.segments() == {fuller.name: fuller}
    data = archive.get(fuller, None, SIXTEEN)
    assert len(data) == SIXTEEN, "what was not written yet is zeros"


def test_a_changed_segment_is_named(files: ObjectStore) -> None:
    archive = Archive(files, PLACE, "7")
    segment = stored(archive, 4)
    files.put(f"{archive.root}/{segment}", b"x")
    with pytest.raises(MissingWal, match=f"{segment.name}: the segment was changed"):
        archive.get(segment, None, SIXTEEN)


def test_windows_and_the_nearest_moments(files: ObjectStore) -> None:
    catalogue = Catalogue(files, PLACE)
    with pytest.raises(NotRestorable, match="There is no physical backup"):
        choose(catalogue, AT)
    first = manifest(BackupId.new(AT), postgres=FACTS, ended=AT + timedelta(minutes=2))
    later = AT + timedelta(days=1)
    second = manifest(BackupId.new(later), postgres={**FACTS, "system_id": "8"}, ended=later)
    for one in (first, second):
        catalogue.commit(one)
    archive = Archive(files, PLACE, "7")
    stored(archive, 4, minutes=3)
    stored(archive, 5, minutes=9, part=0.5)
    assert [(w.begin, w.until) for w in windows(catalogue)] == [
        (first.ended, AT + timedelta(minutes=9)),
        (later, later),
    ]
    assert choose(catalogue, AT + timedelta(minutes=5)).listed.id == first.id
    assert choose(catalogue, later).listed.id == second.id
    with pytest.raises(
        NotRestorable, match=r"nearest that can be: 2026-01-31 02:09:00 UTC and 2026-02-01 02:00:00 UTC"
    ):
        choose(catalogue, AT + timedelta(hours=5))
    with pytest.raises(NotRestorable, match=r"nearest that can be: 2026-01-31 02:02:00 UTC\."):
        choose(catalogue, AT)


@contextmanager
def receiving(receiver: Receiver) -> Generator[None]:
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            receiver.run(stop.is_set)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert failed == []


def test_restored_to_a_time_there_are_the_commits_until_then(
    server_of: Callable[[int], Instance], files: ObjectStore, keys: Keys, tmp_path: Path
) -> None:
    """Through two segments and a receiver that was stopped and started again in between."""
    server = server_of(16)
    catalogue = Catalogue(files, PLACE)
    packing = Packing((keys.public,), bundle_bytes=MEGABYTE)
    receiver = Receiver(files, PLACE, server.dsn, packing, partial_seconds=0.2)
    moments: list[datetime] = []
    with server.connect("nexus") as link:
        link.execute("CREATE TABLE clock (n int, at timestamptz DEFAULT clock_timestamp())")

        def commit(number: int) -> None:
            link.execute("INSERT INTO clock (n) VALUES (%s)", (number,))
            moments.append(link.execute("SELECT clock_timestamp()").fetchone()[0])

        with receiving(receiver):
            until(lambda: receiver.stored > 0, "the log is received")
            back_up(catalogue, server.dsn, packing, now=datetime.now(UTC))
            commit(1)
            link.execute("SELECT pg_switch_wal()")
            commit(2)
        commit(3)  # nobody receives, and the slot keeps it
        again = Receiver(files, PLACE, server.dsn, packing, partial_seconds=0.2)
        with receiving(again):
            commit(4)
            position = Lsn.parse(link.execute("SELECT pg_current_wal_flush_lsn()").fetchone()[0])
            until(lambda: again.stored >= position, "the last commit is archived")
        expected = contents(server)
        link.execute("DROP TABLE clock")
        link.execute("SELECT pg_drop_replication_slot('nexus_archive')")
    for index, count in ((0, 1), (2, 3)):
        found = restored_at(catalogue, moments[index], keys, tmp_path / f"at-{count}")
        assert found == (count, expected)
    [window] = windows(catalogue)
    assert restored_at(catalogue, window.until, keys, tmp_path / "last") == (4, expected)
    with pytest.raises(NotRestorable):
        choose(catalogue, window.until + timedelta(seconds=1))


def restored_at(catalogue: Catalogue, moment: datetime, keys: Keys, folder: Path) -> tuple[int, object]:
    """Rows of `clock`, and all the rest."""
    restore_to(catalogue, moment, keys.identity, folder / "data", wal=folder / "wal")
    instance = Instance(Programs.find(16), folder / "data", superuser="postgres")
    start_at_moment(instance)
    try:
        with instance.connect("nexus") as link:
            return link.execute("SELECT count(*) FROM clock").fetchone()[0], contents(instance)
    finally:
        instance.stop()


def test_the_archive_follows_a_promoted_standby(
    server_of: Callable[[int], Instance], files: ObjectStore, keys: Keys, tmp_path: Path
) -> None:
    """A failover begins a new timeline: the receiver goes over to it, and a backup from before leads into it."""
    primary = server_of(16)
    data = tmp_path / "standby"
    data.mkdir(mode=0o700)
    give(data, ordinary_user())
    primary.programs.run("pg_basebackup", "-D", str(data), "-R", "-c", "fast", "-d", primary.dsn)
    settings = {"hot_standby": "on", "primary_conninfo": primary.dsn, "fsync": "off"}
    catalogue, packing = Catalogue(files, PLACE), Packing((keys.public,), bundle_bytes=MEGABYTE)
    with Instance(primary.programs, data, superuser="postgres", settings=settings) as standby:
        receiver = Receiver(files, PLACE, standby.dsn, packing, partial_seconds=0.2)
        with receiving(receiver):
            until(lambda: receiver.stored > 0, "the log is received")
            back_up(catalogue, standby.dsn, packing, now=datetime.now(UTC))
            with standby.connect("nexus") as link:
                link.execute("SELECT pg_promote()")
                link.execute("CREATE TABLE clock AS SELECT 1 AS n")
                moment = link.execute("SELECT clock_timestamp()").fetchone()[0]
                position = Lsn.parse(link.execute("SELECT pg_current_wal_flush_lsn()").fetchone()[0])
            until(lambda: receiver.stored >= position, "the new timeline is archived")
    [window] = windows(catalogue)
    assert {segment.name[:8] for segment in window.segments} == {"00000001", "00000002"}
    assert restored_at(catalogue, min(moment, window.until), keys, tmp_path / "after")[0] == 1
