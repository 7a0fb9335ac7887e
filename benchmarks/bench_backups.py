"""Backups and restores of PostgreSQL, beside the first plan's pipeline and what others use, on one database in one run.

`python -m benchmarks backups`; NEXUS_BENCH_MB is the size of the database (2000), NEXUS_BENCH_MAJOR the server's version (15).
Every way runs in a process of its own: into the same S3 on loopback, or into a local folder.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import Run, leave_out, run, say
from nexus_ops.backups.bundles import Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.encryption import Identity, write_identity
from nexus_ops.backups.manifest import Place
from nexus_ops.backups.postgres.logical import back_up_logical
from nexus_ops.backups.postgres.logical_restore import restore_logical
from nexus_ops.backups.postgres.physical import back_up
from nexus_ops.backups.postgres.programs import Instance, Programs, initialise
from nexus_ops.backups.postgres.restore import restore
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.storage import ObjectStore
from nexus_ops.users import give, ordinary_user

BUCKET = "bench"
PLACE = Place("production-us-west-2", "postgresql")
AWS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-west-2", "AWS_REGION": "us-west-2",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_ALLOW_HTTP": "true",
}  # fmt: skip
IN_MEMORY = {
    "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}  # fmt: skip
"""The S3 keeps what it has in memory, and its memory: neither its temporary files nor its page faults are what is measured."""
ROWS = """
CREATE TABLE trades (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, data jsonb);
INSERT INTO trades (at, data) SELECT 'epoch'::timestamptz + n * interval '1 s', jsonb_build_object('pair', 'SEI/USDC',
    'venue', md5((n % 50)::text), 'amount', n * 1.25, 'order', md5(n::text)) FROM generate_series(1, {rows}) n;
CREATE INDEX ON trades (at);
CREATE TABLE events (id uuid PRIMARY KEY, at timestamptz, kind text, price double precision, block bytea);
INSERT INTO events SELECT gen_random_uuid(), 'epoch'::timestamptz + random() * interval '9 years', 'swap-' || n % 9, random() * 1000,
    decode(md5(n::text) || md5((-n)::text), 'hex') FROM generate_series(1, {rows}) n;
"""
"""Trades repeat themselves, events do not: their ids, prices and hashes are what no compression makes smaller."""


@dataclass
class Scene:
    """A filled server, an S3, keys and a folder."""

    folder: Path
    server: Instance
    environment: dict[str, str]

    def run(self, command: Sequence[str] | str, *, as_server: bool = False) -> Run:
        return run(command, self.environment, self.folder, as_server=as_server)

    def ours(self, what: str, where: str, *, locally: bool = False) -> Run:
        """One of our own ways, in a process of its own: into the S3, or a local folder."""
        store = (self.folder / "store").as_uri() if locally else f"s3://{BUCKET}/ours"
        command = [sys.executable, "-m", "benchmarks.bench_backups", what, where]
        return run(command, {**self.environment, "NEXUS_BENCH_STORE": store}, self.folder)

    def program(self, name: str) -> str:
        return self.server.programs.path(name)


def bench() -> None:
    """All rows."""
    size = int(os.environ.get("NEXUS_BENCH_MB", "2000"))
    major = int(os.environ.get("NEXUS_BENCH_MAJOR", "15"))
    folder = Path(tempfile.mkdtemp(prefix="nexus-bench-"))
    os.chmod(folder, 0o755)
    s3 = port = None
    try:
        programs = Programs.find(major)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        s3 = subprocess.Popen(
            [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **IN_MEMORY},
        )  # fmt: skip
        initialise(programs, folder / "data")
        with Instance(programs, folder / "data", superuser="postgres", settings={"shared_buffers": "256MB"}) as server:
            _fill(server, size)
            environment = {
                **os.environ, **AWS, "PGHOST": str(server.socket), "PGUSER": "postgres", "PGPORT": "5432",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "PYTHONPATH": str(Path(__file__).parents[1]),
            }  # fmt: skip
            scene = Scene(folder, server, environment)
            _bucket(environment)
            write_identity(folder / "identity.txt")
            _all(scene, size)
    finally:
        if s3 is not None:
            s3.terminate()
            s3.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _all(scene: Scene, size: int) -> None:
    """Nothing is removed before the end: ext4 looks longer for an inode after others have gone."""
    title = f"{size} MB, PostgreSQL {scene.server.programs.major}"
    seed_dump, seed_load = _seed(scene)
    floor = scene.run([scene.program("pg_basebackup"), "--target=blackhole", "-X", "fetch", "-c", "fast"])
    physical = scene.ours("take", scene.server.dsn)
    back = scene.ours("restore", str(scene.folder / "restored"))
    say(f"back up, physical ({title})", physical.seconds, "s", "pg_dump | gzip | s3 cp", seed_dump.seconds)
    say("the same, CPU of the client", physical.cpu, "s", "that of pg_dump | gzip | s3 cp", seed_dump.cpu)
    say("the same, memory", physical.peak, "MB", "goal", 150)
    say("restore it, start, ask", back.seconds, "s", "s3 cp | gunzip | psql", seed_load.seconds)
    say(
        "the same, CPU with the started server",
        back.cpu,
        "s",
        "s3 cp | gunzip | psql, its server left out",
        seed_load.cpu,
    )
    say("the same, memory", back.peak, "MB", "goal", 150)
    plain = scene.ours("take-plain", scene.server.dsn)
    plain_back = scene.ours("restore", str(scene.folder / "restored-plain"))
    say(
        "back up, physical, not encrypted",
        plain.seconds,
        "s",
        "the first plan's way, which is not either",
        seed_dump.seconds,
    )
    say("restore it, start, ask", plain_back.seconds, "s", "s3 cp | gunzip | psql", seed_load.seconds)
    _locally(scene, floor)
    _barman(scene, physical)
    logical = scene.ours("take-logical", scene.server.dsn)
    loaded = scene.ours("restore-logical", scene.server.dsn)
    say("back up, logical", logical.seconds, "s", "pg_dump | gzip | s3 cp", seed_dump.seconds)
    say("the same, memory", logical.peak, "MB", "goal", 150)
    say("restore it", loaded.seconds, "s", "s3 cp | gunzip | psql", seed_load.seconds)
    directory = scene.folder / "directory"
    dumped = scene.run([scene.program("pg_dump"), "-Fd", "-j2", "-f", str(directory), "bench"])
    scene.run([scene.program("createdb"), "loaded"])
    reloaded = scene.run([scene.program("pg_restore"), "-j2", "-d", "loaded", str(directory)])
    say("back up, logical", logical.seconds, "s", "pg_dump -Fd -j2, to a local folder", dumped.seconds)
    say("restore it", loaded.seconds, "s", "pg_restore -j2, from a local folder", reloaded.seconds)


def _seed(scene: Scene) -> tuple[Run, Run]:
    """The first plan's way, and back."""
    aws = shutil.which("aws")
    if aws is None:
        raise PermanentError("the first plan's pipeline needs the AWS command line (PyPI: awscli).")
    key = f"s3://{BUCKET}/seed.sql.gz"
    dump = scene.run(f"{scene.program('pg_dump')} bench | gzip | {aws} s3 cp - {key}")
    scene.run([scene.program("createdb"), "seed"])
    load = scene.run(f"{aws} s3 cp {key} - | gunzip | {scene.program('psql')} -q seed")
    scene.run([scene.program("dropdb"), "seed"])
    with scene.server.connect() as link:
        link.execute("CHECKPOINT")
    return dump, load


def _locally(scene: Scene, floor: Run) -> None:
    """Into a folder and back: without the S3, an emulator in Python on the same cores as both sides."""
    taken = scene.ours("take", scene.server.dsn, locally=True)
    back = scene.ours("restore-only", str(scene.folder / "restored-locally"), locally=True)
    unencrypted = scene.ours("take-plain", scene.server.dsn, locally=True)
    what = "back up, physical, to a local folder"
    dump = scene.run(f"{scene.program('pg_dump')} bench | gzip > seed.sql.gz")
    (scene.folder / "seed.sql.gz").unlink()
    say(what, taken.seconds, "s", "pg_dump | gzip, to a local file", dump.seconds)
    say("the same, not encrypted", unencrypted.seconds, "s", "pg_dump | gzip, which is not either", dump.seconds)
    say("the same", taken.seconds, "s", "floor: pg_basebackup to nowhere", floor.seconds)
    plain = scene.folder / "plain"
    plain.mkdir(mode=0o700)
    give(plain, ordinary_user())
    command = [scene.program("pg_basebackup"), "-D", str(plain), "-Ft", "-X", "fetch", "-c", "fast"]
    how = ""
    if scene.server.programs.major == 15:
        command.append("--compress=server-zstd:level=1,workers=2")
        how = ", zstd by the server"
    based = scene.run(command, as_server=True)
    shutil.rmtree(plain)
    say("the same", taken.seconds, "s", f"pg_basebackup -Ft{how}", based.seconds)
    program = shutil.which("pgbackrest")
    if program is None:
        leave_out("the same", "pgBackRest is not installed")
        return
    try:
        theirs, restored = _pgbackrest(scene, program)
    except OperationError as error:
        leave_out("the same", f"pgBackRest: {error.problem}")
        return
    say("the same", taken.seconds, "s", "pgBackRest, zstd, 2 processes", theirs.seconds)
    say("restore it from there, not started", back.seconds, "s", "pgBackRest, 2 processes", restored.seconds)


def _barman(scene: Scene, physical: Run) -> None:
    """barman-cloud-backup as it is: it has neither encryption nor a hash of what it stored."""
    program = shutil.which("barman-cloud-backup")
    if program is None:
        leave_out("back up, physical", "barman-cloud-backup is not installed")
        return
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    how = "--lz4" if "--lz4" in said else "--gzip"
    command = [program, "--cloud-provider", "aws-s3", "--endpoint-url", scene.environment["AWS_ENDPOINT_URL"], how]
    command += [
        "--immediate-checkpoint",
        "-h",
        str(scene.server.socket),
        "-U",
        "postgres",
        f"s3://{BUCKET}/barman",
        "bench",
    ]
    try:
        theirs = scene.run(command)
    except OperationError as error:
        leave_out("back up, physical", f"barman-cloud-backup: {error.problem}")
        return
    say("back up, physical", physical.seconds, "s", f"barman-cloud-backup {how}", theirs.seconds)


def _pgbackrest(scene: Scene, program: str) -> tuple[Run, Run]:
    repository, target = scene.folder / "pgbackrest", scene.folder / "pgbackrest-restored"
    for path in (repository, target):
        path.mkdir(mode=0o700)
        give(path, ordinary_user())
    settings = [
        "--stanza=bench", f"--repo1-path={repository}",
        f"--log-path={repository}", f"--lock-path={repository}", "--log-level-file=off",
    ]  # fmt: skip
    source = [f"--pg1-path={scene.server.data}", f"--pg1-socket-path={scene.server.socket}", "--pg1-user=postgres"]
    scene.run([program, *settings, *source, "--no-online", "stanza-create"], as_server=True)
    taken = scene.run(
        [program, *settings, *source, "--type=full", "--process-max=2", "--no-archive-check", "--start-fast", "--compress-type=zst",
         "--compress-level=1", "backup"],
        as_server=True,
    )  # fmt: skip
    restored = scene.run([program, *settings, f"--pg1-path={target}", "--process-max=2", "restore"], as_server=True)
    shutil.rmtree(target)
    return taken, restored


def _fill(server: Instance, size: int) -> None:
    """A third pgbench's tables, a third rows with JSON, a third events."""
    with server.connect() as link:
        link.execute("CREATE DATABASE bench")
    server.programs.run(
        "pgbench", "-h", str(server.socket), "-U", "postgres", "-i", "-q", "-s", str(max(1, size // 36)), "bench"
    )
    with server.connect("bench") as link:
        link.execute(ROWS.format(rows=size * 1600))
        link.execute("VACUUM ANALYZE")
        link.execute("CHECKPOINT")


def _bucket(environment: dict[str, str]) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError

    client = boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-west-2", aws_access_key_id="test",
        aws_secret_access_key="test",
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
            return
        except BotoCoreError:
            if time.monotonic() > deadline:
                raise PermanentError("the S3 on loopback does not answer.") from None


def _catalogue() -> Catalogue:
    return Catalogue(ObjectStore.open(os.environ["NEXUS_BENCH_STORE"]), PLACE)


def main(what: str, where: str) -> None:
    """One of our ways, in this process."""
    catalogue, identity = _catalogue(), Identity.load("identity.txt")
    packing = Packing(() if what == "take-plain" else identity.public_keys)
    now = datetime.now(UTC)
    if what in ("take", "take-plain"):
        back_up(catalogue, where, packing, now=now)
    elif what == "take-logical":
        back_up_logical(catalogue, where, packing, database="bench", now=now)
    else:
        manifest = catalogue.latest().manifest
        reader = BundleReader(catalogue.store, manifest, identity)
        if what == "restore-logical":
            restore_logical(reader, where, database="restored")
        else:
            restore(reader, Path(where))
            if what == "restore-only":
                return
            assert manifest.postgres is not None
            server = Instance(Programs.find(manifest.postgres.major), Path(where), superuser="postgres")
            with server, server.connect("bench") as link:
                assert link.execute("SELECT count(*) FROM pgbench_branches").fetchone()[0] > 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        bench()
