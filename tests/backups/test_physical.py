"""Physical backups of PostgreSQL 15, 16 and 18: what is restored is what was committed, and nothing half is ever listed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backup_scene import MAJORS, NAME, PLACE, Keys, Writer, contents, open_s3, take

from nexus_ops.backups.bundles import MEGABYTE, Packing
from nexus_ops.backups.catalogue import Catalogue, NoBackup
from nexus_ops.backups.copies import copy, verify
from nexus_ops.backups.encryption import BadKey
from nexus_ops.backups.manifest import Manifest
from nexus_ops.backups.postgres.connection import CannotConnect, NotAllowed, Replication, ServerFailed
from nexus_ops.backups.postgres.drill import drill_physical
from nexus_ops.backups.postgres.physical import Options, back_up
from nexus_ops.backups.postgres.programs import Instance, Programs
from nexus_ops.backups.postgres.restore import MARKER, CannotWrite, NotEmpty, restore
from nexus_ops.backups.progress import Progress
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import PermanentError
from nexus_ops.storage import ObjectStore
from nexus_ops.users import give, ordinary_user

ServerOf = Callable[[int], Instance]
Restored = tuple[Manifest, Path]


def owned(folder: Path) -> Path:
    """A folder that belongs to whom PostgreSQL runs as."""
    folder.mkdir(mode=0o700)
    give(folder, ordinary_user())
    return folder


def restored(store: ObjectStore, manifest: Manifest, keys: Keys, target: Path) -> Instance:
    restore(BundleReader(store, manifest, keys.identity), target)
    assert manifest.postgres is not None
    return Instance(Programs.find(manifest.postgres.major), target, superuser="postgres")


@pytest.mark.parametrize("major", MAJORS)
def test_what_is_restored_is_what_was_committed(
    server_of: ServerOf, files: ObjectStore, keys: Keys, tmp_path: Path, major: int
) -> None:
    """While rows are written all the time: exactly the commits up to the backup's end, and everything else as it was."""
    server = server_of(major)
    told: list[Progress] = []
    with Writer(server) as writer:
        manifest = back_up(
            Catalogue(files, PLACE),
            server.dsn,
            Packing((keys.public,), bundle_bytes=MEGABYTE),
            now=datetime.now(UTC),
            tell=told.append,
        ).manifest
        before = len(writer.commits)
        deadline = time.monotonic() + 60
        while len(writer.commits) < before + 20 and time.monotonic() < deadline:
            threading.Event().wait(0.02)  # commits after the backup, that must not come back
    facts = manifest.postgres
    assert facts is not None
    own = [name for name in facts.databases if not name.startswith("scratch")]  # other tests have made those
    assert (facts.major, own) == (major, sorted(("nexus", "nothing", "postgres", NAME)))
    assert manifest.stream("base").compressed_by == ("server" if major == 15 else "client")
    assert manifest.warnings == ()
    with restored(files, manifest, keys, tmp_path / "data") as copied:
        assert contents(copied) == contents(server)
        assert writer.check(copied, facts.end) > 0
        with copied.connect() as link:
            assert link.execute("SELECT timeline_id FROM pg_control_checkpoint()").fetchone() == (facts.timeline + 1,)
    assert not (tmp_path / "data" / MARKER).exists()


def test_from_a_standby_through_s3_with_a_tablespace(server_of: ServerOf, s3: str, keys: Keys, tmp_path: Path) -> None:
    """The DSN names both hosts; `prefer-standby` spares the primary."""
    primary = server_of(16)
    space, standby_data, mapped = (owned(tmp_path / name) for name in ("space", "standby", "standby-space"))
    with primary.connect() as link:
        link.execute(f"CREATE TABLESPACE fast LOCATION '{space}'")
    with primary.connect("nexus") as link:
        link.execute("CREATE TABLE quick TABLESPACE fast AS SELECT generate_series(1, 5000) n")
    primary.programs.run(
        "pg_basebackup", "-D", str(standby_data), "-R", "-c", "fast", "-X", "stream", "-d", primary.dsn, f"-T{space}={mapped}"
    )  # fmt: skip
    settings = {"hot_standby": "on", "primary_conninfo": primary.dsn, "fsync": "off"}
    store = open_s3(s3, tmp_path.name)
    try:
        with Instance(primary.programs, standby_data, superuser="postgres", settings=settings) as standby:
            dsn = f"host={primary.socket},{standby.socket} user=postgres dbname=postgres target_session_attrs=prefer-standby"
            catalogue = Catalogue(store, PLACE)
            manifest = back_up(catalogue, dsn, Packing((keys.public,)), now=datetime.now(UTC)).manifest
    finally:
        with primary.connect("nexus") as link:
            link.execute("DROP TABLE quick")
            link.execute("DROP TABLESPACE fast")
    assert manifest.postgres is not None
    assert manifest.postgres.from_standby
    [tablespace] = manifest.postgres.tablespaces
    report = drill_physical(catalogue, manifest.id, keys.identity, tmp_path / "scratch", now=datetime.now(UTC))
    assert report.drill.findings == ()
    assert report.drill.passed
    assert report.counts["nexus.public.quick"] == 5000
    assert list((tmp_path / "scratch").iterdir()) == [], "nothing is left behind"
    target, moved = tmp_path / "data", tmp_path / "moved"
    restore(BundleReader(store, manifest, keys.identity), target, tablespaces={tablespace.oid: moved})
    assert any(moved.rglob("*"))


@pytest.mark.parametrize("major", MAJORS)
def test_a_drill_proves_a_backup(
    server_of: ServerOf, files: ObjectStore, keys: Keys, tmp_path: Path, major: int
) -> None:
    catalogue = Catalogue(files, PLACE)
    manifest = take(server_of(major), files, keys)
    report = drill_physical(catalogue, manifest.id, keys.identity, tmp_path, now=datetime.now(UTC))
    assert report.drill.findings == ()
    assert report.counts["nexus.public.trades"] == 60000
    assert report.counts[f'nexus."{NAME}"."{NAME}"'] == 1000
    with server_of(major).connect("nexus") as link:
        rows = "SELECT trades::text AS row FROM trades ORDER BY pair DESC"
        expected = link.execute(f"SELECT sum(hashtextextended(row, 0))::text FROM ({rows}) _").fetchone()
    assert (report.sums["nexus.public.trades"],) == expected
    assert report.sums["nexus.public.empty"] == "0"
    assert "sums" in report.checked
    assert 0 < report.drill.rto_seconds < 300
    assert catalogue.latest_verified().id == manifest.id


def test_until_when_the_store_keeps_it_is_in_the_manifest(
    server_of: ServerOf, store: ObjectStore, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = datetime(2031, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(ObjectStore, "locked_until", lambda store, key: until if "/bundles/" in key else None)
    assert take(server_of(16), store, keys).lock_until == until


def test_a_full_target_is_refused_and_left_alone(
    backup16: tuple[ObjectStore, Manifest], keys: Keys, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(NotEmpty, match="nothing is overwritten"):
        restore(BundleReader(backup16[0], backup16[1], keys.identity), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_the_wrong_identity_touches_nothing(
    backup16: tuple[ObjectStore, Manifest], stranger: Keys, tmp_path: Path
) -> None:
    with pytest.raises(BadKey):
        restore(BundleReader(backup16[0], backup16[1], stranger.identity), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_verify_and_copy_go_on_where_they_were_killed(
    backup16: tuple[ObjectStore, Manifest], keys: Keys, tmp_path: Path
) -> None:
    source, manifest = backup16
    catalogue, journal = Catalogue(source, PLACE), tmp_path / "journal"
    whole = verify(catalogue, manifest.id, keys.identity, journal=journal)
    assert (whole.passed, whole.decoded) == (True, True)
    told: list[Progress] = []
    again = verify(catalogue, manifest.id, keys.identity, journal=journal, tell=told.append)
    assert again.passed
    assert told == [], "nothing was read again"
    second = ObjectStore.open(f"file://{tmp_path}/dr")
    half = manifest.stream("base").bundles[:3]
    for bundle in half:
        second.put(f"{PLACE}/{bundle.key}", source.get(f"{PLACE}/{bundle.key}"))
    modified = {entry.key: entry.modified for entry in second.entries(str(PLACE))}
    target = Catalogue(second, PLACE)
    with pytest.raises(NoBackup):
        target.latest()
    copy(catalogue, target, manifest.id)
    assert target.latest().manifest == manifest
    assert verify(target, manifest.id, keys.identity).passed
    assert {
        key: at for key, at in ((e.key, e.modified) for e in second.entries(str(PLACE))) if key in modified
    } == modified


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that does something with backups, and can be killed."""
    head = (
        "import os, signal, sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from nexus_ops.backups.bundles import Packing, BundleWriter\n"
        "from nexus_ops.backups.catalogue import Catalogue\n"
        "from nexus_ops.backups.encryption import Identity\n"
        "from nexus_ops.backups.manifest import Place\n"
        "from nexus_ops.backups.postgres.physical import Options, back_up\n"
        "from nexus_ops.backups.postgres.restore import restore\n"
        "from nexus_ops.backups.reading import BundleReader\n"
        "from nexus_ops.storage import ObjectStore\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "catalogue = Catalogue(ObjectStore.open(sys.argv[1]), Place.parse(sys.argv[2]))\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + code, *arguments], text=True, stderr=subprocess.PIPE)


TAKE = "back_up(catalogue, sys.argv[3], Packing((sys.argv[4],), bundle_bytes=1 << 20), now=datetime.now(UTC))\n"
STAGES = {
    "before the first bundle": "BundleWriter.stream = die\n",
    "between bundles": "old = ObjectStore.put\ndef put(self, key, *a, **k):\n    die() if key.endswith('base/000004.zst.age') else old(self, key, *a, **k)\nObjectStore.put = put\n",
    "before the manifest": "Catalogue.commit = die\n",
    "before latest": "Catalogue._move = die\n",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_backup_that_was_killed_is_never_half_listed(
    server_of: ServerOf, files: ObjectStore, keys: Keys, stage: str
) -> None:
    server = server_of(16)
    process = child(STAGES[stage] + TAKE, files.url, str(PLACE), server.dsn, keys.public)
    assert process.wait(120) == -signal.SIGKILL
    catalogue = Catalogue(files, PLACE)
    complete = stage == "before latest"
    assert len(catalogue.list().backups) == (1 if complete else 0)
    left = catalogue.orphans(datetime(2100, 1, 1, tzinfo=UTC))
    assert len(left) == (1 if stage in ("between bundles", "before the manifest") else 0)
    if complete:
        assert verify(catalogue, catalogue.latest().id, keys.identity).passed
    manifest = take(server, files, keys)
    assert catalogue.latest().id == manifest.id
    with server.connect() as link:
        link.execute("SELECT 1")
        deadline = time.monotonic() + 30
        while link.execute("SELECT count(*) FROM pg_replication_slots").fetchone() != (0,):
            assert time.monotonic() < deadline, "the slot goes with the connection"


def test_a_restore_that_was_killed_goes_on(
    backup16: tuple[ObjectStore, Manifest], server_of: ServerOf, keys: Keys, tmp_path: Path
) -> None:
    store, manifest = backup16
    target = tmp_path / "data"
    kill = (
        "import nexus_ops.backups.postgres.restore as module\n"
        "count = [0]\n"
        "old = module.Journal.add\n"
        "def add(self, digest):\n    old(self, digest); count[0] += 1; count[0] == 5 and die()\n"
        "module.Journal.add = add\n"
        "restore(BundleReader(catalogue.store, catalogue.latest().manifest, Identity.load(sys.argv[3])), Path(sys.argv[4]))\n"
    )
    process = child(kill, store.url, str(PLACE), str(keys.path), str(target))
    assert process.wait(120) == -signal.SIGKILL
    assert not (target / "global/pg_control").exists()
    done = {line for line in (target / MARKER).read_text().splitlines() if len(line) == 64}
    assert len(done) >= 4
    reader = BundleReader(store, manifest, keys.identity)
    read: list[str] = []
    inner = reader.stored
    reader.stored = lambda bundle: (read.append(bundle.stored_sha256), inner(bundle))[1]
    restore(reader, target)
    assert not done & set(read), "what was unpacked is not read again"
    with Instance(Programs.find(16), target, superuser="postgres") as copied:
        assert contents(copied) == contents(server_of(16))


def test_a_server_that_goes_away_leaves_no_backup(
    server_of: ServerOf, files: ObjectStore, keys: Keys, tmp_path: Path
) -> None:
    source = server_of(16)
    data = owned(tmp_path / "data")
    source.programs.run("pg_basebackup", "-D", str(data), "-c", "fast", "-d", source.dsn)
    server = Instance(source.programs, data, superuser="postgres", settings={"fsync": "off"})
    server.start()
    process = server._process
    assert process is not None
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        process.send_signal(signal.SIGQUIT)

    catalogue = Catalogue(files, PLACE)
    try:
        with pytest.raises(ServerFailed, match="the server broke off"):
            back_up(
                catalogue, server.dsn, Packing((keys.public,), bundle_bytes=MEGABYTE), now=datetime.now(UTC),
                options=Options(max_rate_kb=8 << 10), tell=stop,
            )  # fmt: skip
    finally:
        server.stop()
    assert seen
    assert catalogue.list().backups == ()
    assert take(source, files, keys).id == catalogue.latest().id


def test_two_backups_at_once_are_both_whole(server_of: ServerOf, files: ObjectStore, keys: Keys) -> None:
    server = server_of(16)
    process = child(TAKE, files.url, str(PLACE), server.dsn, keys.public)
    first = take(server, files, keys)
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    catalogue = Catalogue(files, PLACE)
    ids = [listed.id for listed in catalogue.list().backups]
    assert len(ids) == 2
    assert first.id in ids
    assert all(verify(catalogue, backup, keys.identity).passed for backup in ids)
    assert catalogue.latest().id == max(ids)


@pytest.mark.parametrize(
    ("dsn", "error", "sentence"),
    [
        ("host=127.0.0.1 port=9 user=x dbname=postgres", CannotConnect, "the server is not reached"),
        ("{socket} user=nobody-known dbname=postgres", NotAllowed, "the role or the database does not exist"),
        ("{socket} user=trader dbname=postgres", NotAllowed, "the role may not replicate"),
        ("nonsense", PermanentError, "the DSN cannot be read"),
    ],
)
def test_a_connection_that_cannot_be_had_is_one_sentence_before_anything_is_stored(
    server_of: ServerOf, files: ObjectStore, keys: Keys, dsn: str, error: type[Exception], sentence: str
) -> None:
    where = dsn.format(socket=f"host={server_of(16).socket}")
    with pytest.raises(error, match=sentence):
        back_up(Catalogue(files, PLACE), where, Packing((keys.public,)), now=datetime.now(UTC))
    assert files.list("backups") == []


def test_a_full_disk_ends_a_restore_and_says_nothing_about_the_backup(
    backup16: tuple[ObjectStore, Manifest], keys: Keys, tmp_path: Path
) -> None:
    store, manifest = backup16
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True).returncode
        != 0
    ):
        pytest.skip("needs the right to mount a small file system")
    catalogue = Catalogue(store, PLACE)
    try:
        with pytest.raises(CannotWrite, match="No space left on device"):
            drill_physical(catalogue, manifest.id, keys.identity, folder, now=datetime.now(UTC))
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert catalogue.show(manifest.id).drill is None


def test_a_password_is_in_no_error(server_of: ServerOf) -> None:
    with pytest.raises(CannotConnect) as failed:
        Replication("postgresql://me:hunter2@127.0.0.1:9/postgres")
    assert "hunter2" not in str(failed.value)
    assert failed.value.__suppress_context__ or failed.value.__context__ is None


def test_programs_that_are_missing_are_named() -> None:
    with pytest.raises(
        PermanentError, match=r"programs of PostgreSQL 9 are missing\. Found: .*16.*Install postgresql-9"
    ):
        Programs.find(9)
    with pytest.raises(PermanentError, match="must not be older than the server, which is PostgreSQL 99"):
        Programs.at_least(99)


@pytest.mark.parametrize("major", [15, 16])
def test_a_backup_is_restored_by_hand_with_public_tools(
    server_of: ServerOf, files: ObjectStore, keys: Keys, tmp_path: Path, major: int
) -> None:
    """The lines of docs/backups.md, as they stand there: should nexus-ops be gone, age, zstd, tar and a shell are enough."""
    server = server_of(major)
    manifest = take(server, files, keys)
    text = (Path(__file__).parents[2] / "docs" / "backups.md").read_text()
    script = text.split("<!-- by hand -->\n```bash\n")[1].split("```")[0]
    data = tmp_path / "data"
    place = Path(files.url.removeprefix("file://")) / str(PLACE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which("age", path=path) is None:
        pytest.skip("needs Debian's age")
    variables = {"PATH": path, "PLACE": str(place), "ID": str(manifest.id), "KEY": str(keys.path), "DATA": str(data)}
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=variables, check=True, cwd=tmp_path)
    for path_ in (data, *data.rglob("*")):
        give(path_, ordinary_user())
    with Instance(Programs.find(major), data, superuser="postgres") as copied:
        assert contents(copied) == contents(server)
