"""A Redis backup from end to end: into a store, listed, drilled, restored; and what must not become one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis_servers import Servers, call, contents, every_type, fill, replicated, servers

from nexus_ops.backups import redis_backup, redis_recovery
from nexus_ops.backups.bundles import Packing
from nexus_ops.backups.catalogue import Catalogue, Listed
from nexus_ops.backups.encryption import Identity, write_identity
from nexus_ops.backups.manifest import Place
from nexus_ops.backups.reading import BundleReader, DamagedBundle
from nexus_ops.backups.redis_restore import NotEmpty
from nexus_ops.backups.redis_wire import Address
from nexus_ops.storage import ObjectStore


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers(tmp_path_factory.mktemp("redis")) as running:
        yield running


class Vault:
    """A store with its key, and a catalogue of Redis backups in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipient = write_identity(folder / "key.txt")
        self.identity = Identity.load(str(folder / "key.txt"))
        self.catalogue = Catalogue(ObjectStore.open((folder / "store").as_uri()), Place("staging-us-west-2", "redis"))

    def back_up(self, address: Address) -> Listed:
        packing = Packing((self.recipient,), bundle_bytes=20_000)
        return redis_backup.back_up(address, self.catalogue, packing, clock=lambda: datetime.now(UTC))

    def reader(self, listed: Listed) -> BundleReader:
        return BundleReader(self.catalogue.store, listed.manifest, self.identity)

    def bundles(self) -> list[Path]:
        return sorted((self.folder / "store" / str(self.catalogue.place) / "bundles").rglob("*.age"))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def test_a_server_is_backed_up_drilled_and_comes_back_over_what_was_there(
    made: Servers, vault: Vault, tmp_path: Path
) -> None:
    source, target = made.start(), made.start()
    fill([source], every_type())
    call(source, "SET", "of another database", "x")
    call(source, "MOVE", "of another database", 5)
    wanted, elsewhere = contents([source]), contents([source], 5)
    listed = vault.back_up(source)
    assert [one.id for one in vault.catalogue.list().backups] == [listed.id]
    redis = listed.manifest.redis
    assert redis is not None
    assert dict(redis.nodes[0].keys) == {"0": len(wanted) - 1, "5": 1}
    assert len(listed.manifest.streams[0].bundles) > 1, "the test wants more than one bundle"
    drilled = redis_recovery.drill(vault.reader(listed), tmp_path / "scratch")
    assert drilled.findings == []
    assert drilled.keys == len(wanted)
    assert drilled.by_type["stream"] == 1

    call(target, "SET", "precious", "1")
    with pytest.raises(NotEmpty, match="it holds 1 keys"):
        redis_recovery.restore(vault.reader(listed), target)
    assert call(target, "GET", "precious") == b"1"
    redis_recovery.restore(vault.reader(listed), target, replace=True)
    assert contents([target]) == wanted
    assert contents([target], 5) == elsewhere
    assert call(target, "ROLE")[0] == b"master"


def test_a_cluster_is_copied_from_its_replicas_and_comes_back_smaller(
    made: Servers, vault: Vault, tmp_path: Path
) -> None:
    """The node that operators restore into is often not empty, and never of the same size (opstree issue 625)."""
    source = made.cluster(3, replicas=1)
    fill(source, every_type() + [("SET", f"key {n}", n) for n in range(500)])
    replicated(source)
    wanted = contents(source)
    listed = vault.back_up(source[1])
    redis = listed.manifest.redis
    assert redis is not None
    assert [node.slots for node in redis.nodes] == [((0, 5460),), ((5461, 10921),), ((10922, 16383),)]
    assert not {node.source for node in redis.nodes} & {str(master) for master in source}
    assert redis_recovery.drill(vault.reader(listed), tmp_path / "scratch").findings == []
    target = made.cluster(2)
    fill(target, [("SET", f"old {n}", n) for n in range(50)])
    redis_recovery.restore(vault.reader(listed), target[0], replace=True)
    assert contents(target) == wanted


def test_until_when_the_store_keeps_it_is_in_the_manifest(
    made: Servers, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    until, asked = datetime(2031, 1, 1, tzinfo=UTC), list[str]()
    monkeypatch.setattr(ObjectStore, "locked_until", lambda store, key: asked.append(key) or until)
    source = made.start()
    fill([source], every_type())
    manifest = vault.back_up(source).manifest
    assert manifest.lock_until == until
    assert asked == [f"{manifest.place}/{manifest.streams[0].bundles[0].key}"]


@pytest.mark.parametrize("damage", ["modified", "truncated", "missing", "swapped"])
def test_damage_is_named_before_anything_is_overwritten(
    made: Servers, vault: Vault, tmp_path: Path, damage: str
) -> None:
    source, target = made.start(), made.start()
    fill([source], every_type())
    call(target, "SET", "precious", "1")
    listed = vault.back_up(source)
    one, other, *_ = vault.bundles()
    if damage == "modified":
        data = bytearray(one.read_bytes())
        data[len(data) // 2] ^= 1
        one.write_bytes(data)
    elif damage == "truncated":
        one.write_bytes(one.read_bytes()[:-1])
    elif damage == "missing":
        one.unlink()
    else:
        one.write_bytes(other.read_bytes())
    with pytest.raises(DamagedBundle, match=f"is {damage}"):
        redis_recovery.restore(vault.reader(listed), target, replace=True)
    assert contents([target]) == {b"precious": ("string", -1, b"1"), b"functions": ()}
    with pytest.raises(DamagedBundle, match=f"is {damage}"):
        redis_recovery.drill(vault.reader(listed), tmp_path / "scratch")
