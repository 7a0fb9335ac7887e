"""Stores on files and on S3, and keys, for the tests of backups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backup_scene import BUCKET, PLACE, Keys, fill, open_s3, take

from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.copies import copy
from nexus_ops.backups.encryption import Identity, write_identity
from nexus_ops.backups.manifest import Manifest
from nexus_ops.backups.postgres.programs import Instance, Programs, initialise
from nexus_ops.errors import PermanentError
from nexus_ops.storage import ObjectStore


@pytest.fixture(scope="session")
def s3(bucket: Callable[[str], str]) -> str:
    """The endpoint of an S3 with one bucket."""
    return bucket(BUCKET)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return ObjectStore.open(f"file://{tmp_path}/store")
    return open_s3(request.getfixturevalue("s3"), tmp_path.name)


@pytest.fixture
def files(tmp_path: Path) -> ObjectStore:
    """A store in a folder."""
    return ObjectStore.open(f"file://{tmp_path}/store")


def make_keys(folder: Path) -> Keys:
    path = folder / "identity.txt"
    public = write_identity(path)
    return Keys(path, public, Identity.load(str(path)))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """The keys of somebody else."""
    return make_keys(tmp_path_factory.mktemp("stranger"))


def has_programs(major: int) -> bool:
    try:
        Programs.find(major)
    except PermanentError:
        return False
    return True


@pytest.fixture(scope="session")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Instance]]:
    """A real PostgreSQL of a major version with some trading data, started when it is first asked for."""
    started: dict[int, Instance] = {}

    def get(major: int) -> Instance:
        if major not in started:
            if major == 15 and not has_programs(major):
                pytest.skip("needs Debian's postgresql-15")
            data = tmp_path_factory.mktemp(f"postgres-{major}") / "data"
            programs = Programs.find(major)
            initialise(programs, data)
            server = Instance(
                programs,
                data,
                superuser="postgres",
                settings={"fsync": "off", "autovacuum": "off", "wal_keep_size": "1GB"},
            )
            server.start()
            started[major] = server
            fill(server)
        return started[major]

    yield get
    for server in started.values():
        server.stop()


@pytest.fixture(scope="module")
def backup16(
    server_of: Callable[[int], Instance], keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ObjectStore, Manifest]:
    """One backup of PostgreSQL 16, for tests that only read it."""
    store = ObjectStore.open(f"file://{tmp_path_factory.mktemp('store')}")
    return store, take(server_of(16), store, keys)


@pytest.fixture
def lent(backup16: tuple[ObjectStore, Manifest], tmp_path: Path) -> tuple[ObjectStore, Manifest]:
    """A copy of that backup, to be spoilt."""
    source, manifest = backup16
    target = ObjectStore.open(f"file://{tmp_path}/lent")
    copy(Catalogue(source, PLACE), Catalogue(target, PLACE), manifest.id)
    return target, manifest
