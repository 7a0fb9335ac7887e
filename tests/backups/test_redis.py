"""Redis: what is read from a replication stream is what was there, and comes back into any topology."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_servers import FAR, Servers, call, contents, every_type, fill, replicated, servers

from nexus_ops.backups.rdb import BrokenRdb, Checksum, walk
from nexus_ops.backups.redis_restore import restore_keys
from nexus_ops.backups.redis_stream import load_snapshot, take_snapshot
from nexus_ops.backups.redis_topology import choose_source, observe
from nexus_ops.backups.redis_wire import Address
from nexus_ops.errors import OperationError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers(tmp_path_factory.mktemp("redis")) as running:
        yield running


def rdbs_of(address: Address) -> list[tuple[str, list[bytes]]]:
    found: list[tuple[str, list[bytes]]] = []
    for shard in observe(address).shards:
        source = choose_source(shard)
        checksum = Checksum()
        with take_snapshot(source.address) as snapshot:
            chunks = [bytes(chunk) for chunk in snapshot.chunks]
        for chunk in chunks:
            checksum.update(chunk)
        checksum.finish(shard.node)
        found.append((shard.node, chunks))
    return found


def test_every_type_with_its_ttl_comes_back_by_load_and_key_by_key(made: Servers) -> None:
    source, loaded, sent = (made.start() for _ in range(3))
    fill([source], every_type())
    call(source, "SET", "gone by then", "x", "PX", 1)
    rdbs = rdbs_of(source)
    wanted = contents([source])
    assert wanted[b"expires"][1] == FAR + 1
    load_snapshot(loaded, rdbs[0][1])
    assert contents([loaded]) == wanted
    done = restore_keys(sent, rdbs)
    assert contents([sent]) == wanted
    assert (done.keys, done.libraries) == (len(wanted) - 1, 1)


def test_an_rdb_is_read_alike_however_it_is_cut_and_never_beyond_its_damage(made: Servers) -> None:
    """The pieces come as the network cuts them. Damage anywhere must be an error, not other keys."""
    source = made.start()
    fill([source], every_type())
    data = b"".join(rdbs_of(source)[0][1])
    whole = list(walk([data], "it"))
    assert len(whole) > 25
    for size in (1, 7, 1000, len(data) - 1):
        assert list(walk([data[at : at + size] for at in range(0, len(data), size)], "it")) == whole
    for at in range(0, len(data) - 1, 997):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(OperationError):
            list(walk([bytes(broken)], "it"))
        with pytest.raises(BrokenRdb):
            checked(bytes(broken))
        with pytest.raises(BrokenRdb):
            list(walk([data[:at]], "it"))
        with pytest.raises(BrokenRdb):
            checked(data[:at])


def checked(data: bytes) -> int:
    checksum = Checksum()
    for at in range(0, len(data), 5000):
        checksum.update(data[at : at + 5000])
    return checksum.finish("it")


def test_a_cluster_of_six_comes_back_into_clusters_of_another_size(made: Servers) -> None:
    source = made.cluster(3, replicas=1)
    fill(source, every_type() + [("SET", f"key {n}", n) for n in range(2000)])
    wanted = contents(source)
    shards = observe(source[0]).shards
    assert [choose_source(shard).role for shard in shards] == ["replica"] * 3
    replicated(source)
    rdbs = rdbs_of(source[0])
    for target in (made.cluster(3), made.cluster(2), [made.start()]):
        restore_keys(target[0], rdbs)
        assert contents(target) == wanted
