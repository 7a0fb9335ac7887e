"""Bundles: what was written comes back, whatever is wrong with one is named, and memory does not grow."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from backup_scene import AT, PLACE, Keys, manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_ops.backups.bundles import MEGABYTE, BundleWriter, Packing
from nexus_ops.backups.encryption import BadKey, Identity, Recipients
from nexus_ops.backups.manifest import BackupId, Bundle, Entry, Manifest, Stream
from nexus_ops.backups.progress import Meter, Progress
from nexus_ops.backups.reading import BundleReader, Damage, DamagedBundle, Journal
from nexus_ops.errors import PermanentError
from nexus_ops.storage import ObjectStore, StoreUnavailable, digest_of

SMALL = 1000
DATA = random.Random(7).randbytes(400) * 20


def written(store: ObjectStore, data: bytes, *recipients: str, level: int = 1) -> Manifest:
    """A backup of one stream, in small bundles."""
    backup = BackupId.new(AT)
    packing = Packing(recipients, bundle_bytes=SMALL, level=level)
    with BundleWriter(store, PLACE, backup, packing) as writer:
        stream = writer.stream("base", "tar")
        for at in range(0, len(data), 333):
            stream.write(data[at : at + 333])
        streams = (stream.finish(),)
    return manifest(backup, streams=streams, recipients=recipients)


def test_a_stream_comes_back_as_it_was(store: ObjectStore, keys: Keys) -> None:
    wrote = written(store, DATA, keys.public)
    reader = BundleReader(store, wrote, keys.identity)
    assert b"".join(reader.read(wrote.streams[0])) == DATA
    assert [bundle.raw_size for bundle in wrote.streams[0].bundles] == [SMALL] * 8
    assert wrote.size == len(DATA)
    stored = b"".join(store.get(f"{PLACE}/{bundle.key}") for bundle in wrote.streams[0].bundles)
    assert DATA[:100] not in stored


@given(st.binary(max_size=5000), st.integers(0, 3), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_any_stream_comes_back(files: ObjectStore, keys: Keys, data: bytes, level: int, encrypted: bool) -> None:
    wrote = written(files, data, *([keys.public] if encrypted else []), level=level)
    reader = BundleReader(files, wrote, keys.identity if encrypted else None)
    assert b"".join(reader.read(wrote.streams[0])) == data
    parts: dict[str, bytes] = {}
    reader.each(wrote.streams[0], lambda bundle, raw: parts.update({bundle.key: bytes(raw)}))
    assert b"".join(parts[key] for key in sorted(parts)) == data, "each bundle decodes alone"


def test_entries_and_cuts_are_kept(files: ObjectStore) -> None:
    backup = BackupId.new(AT)
    with BundleWriter(files, PLACE, backup, Packing((), bundle_bytes=SMALL)) as writer:
        stream = writer.stream("data", "copy")
        stream.write(b"one")
        stream.mark(Entry(name="a", offset=0, size=3))
        stream.cut()
        stream.mark(Entry(name="b", offset=0, size=3))
        stream.write(b"two")
        found = stream.finish()
    assert [[entry.name for entry in bundle.entries] for bundle in found.bundles] == [["a"], ["b"]]


def test_a_stream_that_the_server_compressed_is_stored_as_it_came(files: ObjectStore, keys: Keys) -> None:
    from zstandard import ZstdCompressor, ZstdDecompressor

    backup = BackupId.new(AT)
    sent = ZstdCompressor().compress(DATA)
    with BundleWriter(files, PLACE, backup, Packing((keys.public,), bundle_bytes=100)) as writer:
        stream = writer.stream("base", "tar", compressed=True)
        stream.write(sent)
        stream.size = len(DATA)
        found = stream.finish()
    assert (found.compressed_by, found.size) == ("server", len(DATA))
    wrote = manifest(backup, streams=(found,), recipients=(keys.public,))
    came = b"".join(BundleReader(files, wrote, keys.identity).read(found))
    assert ZstdDecompressor().decompress(came) == DATA


class Holding:
    """A store that keeps reading what it was given after it has answered."""

    def __init__(self) -> None:
        self.held: dict[str, memoryview] = {}

    def put(self, key: str, data: bytes | bytearray | memoryview, *, create: bool = False) -> None:
        self.held[key] = memoryview(data)


@pytest.mark.parametrize("encrypted", [False, True])
def test_memory_that_the_store_reads_still_is_not_handed_on(keys: Keys, encrypted: bool) -> None:
    """Bundles take each other's memory over; one that changed on its way would be found out at the restore, too late."""
    held, packing = Holding(), Packing((keys.public,) if encrypted else (), bundle_bytes=SMALL, level=0)
    with BundleWriter(held, PLACE, BackupId.new(AT), packing) as writer:  # pyright: ignore[reportArgumentType]
        stream = writer.stream("base", "tar")
        stream.write(DATA)
        found = stream.finish()
    assert len(found.bundles) == 8
    for bundle in found.bundles:
        assert digest_of(held.held[f"{PLACE}/{bundle.key}"]) == bundle.stored_sha256


def test_memory_is_handed_on_from_bundle_to_bundle(files: ObjectStore, keys: Keys) -> None:
    packing = Packing((keys.public,), bundle_bytes=SMALL, level=0)
    with BundleWriter(files, PLACE, BackupId.new(AT), packing) as writer:
        asked, take = set[int](), writer.take_room
        writer.take_room = lambda: (room := take(), asked.add(id(room)))[0]
        stream = writer.stream("base", "tar")
        for _ in range(20):
            stream.write(DATA)
        stream.finish()
    assert len(asked) < 80, "of the 320 that 160 bundles need"


def spoil(store: ObjectStore, bundle: Bundle, change: Callable[[bytearray], bytes | bytearray]) -> None:
    key = f"{PLACE}/{bundle.key}"
    store.put(key, bytes(change(bytearray(store.get(key)))))


def flip(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 0x10
    return data


@pytest.mark.parametrize(
    ("damage", "change"),
    [
        ("modified", flip),
        ("truncated", lambda d: d[:-1]),
        ("truncated", lambda d: b""),
        ("modified", lambda d: d + b"x"),
    ],
)
def test_a_changed_bundle_is_named(
    store: ObjectStore, keys: Keys, damage: Damage, change: Callable[[bytearray], bytes]
) -> None:
    wrote = written(store, DATA, keys.public)
    bad = wrote.streams[0].bundles[3]
    spoil(store, bad, change)
    reader = BundleReader(store, wrote, keys.identity)
    with pytest.raises(DamagedBundle, match=bad.key) as found:
        list(reader.read(wrote.streams[0]))
    assert found.value.damage == damage
    with pytest.raises(DamagedBundle, match=bad.key):
        reader.each(wrote.streams[0], lambda bundle, raw: None)


def test_a_missing_bundle_is_named(store: ObjectStore) -> None:
    wrote = written(store, DATA)
    bad = wrote.streams[0].bundles[-1]
    store.delete(f"{PLACE}/{bad.key}")
    with pytest.raises(DamagedBundle, match=f"{bad.key}: the bundle is missing"):
        list(BundleReader(store, wrote, None).read(wrote.streams[0]))


def test_swapped_bundles_are_named_with_what_is_there_instead(store: ObjectStore) -> None:
    wrote = written(store, random.Random(1).randbytes(5000))
    one, other = wrote.streams[0].bundles[1:3]
    content = store.get(f"{PLACE}/{other.key}")
    spoil(store, one, lambda data: content)
    with pytest.raises(DamagedBundle, match=f"{one.key}: the bundle is swapped: the content of {other.key}"):
        list(BundleReader(store, wrote, None).read(wrote.streams[0]))


def test_a_bundle_that_matches_its_name_but_not_what_was_backed_up(files: ObjectStore) -> None:
    """The manifest's hash of the raw bytes holds, too: an attacker, or our own mistake, between the two."""
    wrote = written(files, DATA)
    stream = wrote.streams[0]
    wrong = stream.bundles[0].model_copy(update={"raw_sha256": "0" * 64})
    with pytest.raises(DamagedBundle, match="decoded, it is not what was backed up"):
        BundleReader(files, wrote, None).raw(wrong, stream)


def test_the_wrong_identity_is_refused_before_anything_is_read(files: ObjectStore, keys: Keys, stranger: Keys) -> None:
    wrote = written(files, DATA, keys.public)
    with pytest.raises(BadKey, match="not among those it was encrypted to"):
        BundleReader(files, wrote, stranger.identity)
    with pytest.raises(BadKey, match="no identity was named"):
        list(BundleReader(files, wrote, None).read(wrote.streams[0]))


def test_several_recipients_can_each_read(files: ObjectStore, keys: Keys, stranger: Keys) -> None:
    wrote = written(files, DATA, keys.public, stranger.public)
    for one in (keys, stranger):
        assert b"".join(BundleReader(files, wrote, one.identity).read(wrote.streams[0])) == DATA


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("/nowhere/key.txt", "does not exist"),
        ("AGE-SECRET-KEY-1QQQ", "a key was given where its place belongs"),
        ("https://x/key", "no place of keys"),
    ],
)
def test_an_identity_that_cannot_be_had_is_refused_without_showing_it(reference: str, problem: str) -> None:
    with pytest.raises(BadKey, match=problem) as refused:
        Identity.load(reference)
    assert "1QQQ" not in str(refused.value)


def test_a_recipient_that_is_none_is_refused() -> None:
    with pytest.raises(BadKey, match="no age public key"):
        Recipients(["age1nonsense"])


def test_an_identity_never_shows_itself(keys: Keys) -> None:
    secret = keys.path.read_text().splitlines()[1]
    assert secret.startswith("AGE-SECRET-KEY-1")
    assert secret not in repr(keys.identity)
    assert keys.path.stat().st_mode & 0o077 == 0


class Gate:
    """A store whose writes wait, to see how many bundles are under way."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner, self.open = inner, threading.Event()
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.url = inner.url

    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.open.wait(30)
        self.inner.put(key, data, create=create)
        with self.lock:
            self.now -= 1


def test_who_writes_waits_for_the_store(files: ObjectStore) -> None:
    """Otherwise a slow store would fill the memory."""
    gate = Gate(files)
    wrote = threading.Event()
    accepted: list[int] = []

    def write() -> None:
        packing = Packing((), bundle_bytes=SMALL, level=0, workers=2)
        with BundleWriter(gate, PLACE, BackupId.new(AT), packing) as writer:  # pyright: ignore[reportArgumentType]
            stream = writer.stream("base", "tar")
            for number in range(20):
                stream.write(b"x" * SMALL)
                accepted.append(number)
            stream.finish()
        wrote.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert not wrote.wait(0.2)
        assert len(accepted) == 2, "as many as there are workers, and no more"
    finally:
        gate.open.set()
        thread.join(30)
    assert wrote.is_set()
    assert gate.most == 2


def test_a_store_that_fails_stops_the_writer(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = ObjectStore.open(
        "s3://nowhere/x", endpoint="http://127.0.0.1:9", region="us-west-2", access_key_id="x", secret_access_key="x",
        client_options={"allow_http": True, "connect_timeout": "1s"}, retry_config={"max_retries": 0},
    )  # fmt: skip
    packing = Packing((), bundle_bytes=SMALL)

    def write() -> None:
        with BundleWriter(store, PLACE, BackupId.new(AT), packing) as writer:
            stream = writer.stream("base", "tar")
            for _ in range(100_000):
                stream.write(b"x" * SMALL)

    with pytest.raises(StoreUnavailable):
        write()


def test_a_bundle_that_was_sent_twice_is_well_and_another_one_is_not(files: ObjectStore) -> None:
    from nexus_ops.backups.bundles import store_bundle

    store_bundle(files, "key", b"one", digest_of(b"one"))
    store_bundle(files, "key", b"one", digest_of(b"one"))
    with pytest.raises(PermanentError, match="other bytes are stored already"):
        store_bundle(files, "key", b"two", digest_of(b"two"))


def test_progress_tells_speed_and_time_left() -> None:
    told: list[Progress] = []
    meter = Meter(told.append, total=100 * MEGABYTE, every=0)
    meter.add(done=25 * MEGABYTE, stored=MEGABYTE)
    assert told[-1].done == 25 * MEGABYTE
    moment = Progress(done=25_000_000, stored=0, total=100_000_000, seconds=5)
    assert (moment.megabytes_per_second, moment.seconds_left) == (5, 15)
    assert str(moment) == "25 of 100 MB, 5 MB/s, 15 s left"


def test_a_journal_remembers(files: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "done"
    Journal(path).add("0" * 64)
    assert "0" * 64 in Journal(path)
    assert "1" * 64 not in Journal(path)


def test_a_stream_without_a_byte_has_no_bundle(files: ObjectStore) -> None:
    wrote = written(files, b"")
    assert wrote.streams == (Stream(name="base", content="tar", compression="zstd", level=1, size=0, bundles=()),)
