"""The object store: written once, found by content, and honest about what it could not do. On files and on S3."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_ops.errors import PermanentError
from nexus_ops.storage import (
    AlreadyStored,
    BadStore,
    NoConditions,
    NotStored,
    ObjectStore,
    StoreRefused,
    StoreUnavailable,
    digest_of,
)

BUCKET = "nexus-test"
S3 = {"access_key_id": "test", "secret_access_key": "test", "region": "us-west-2"}
QUICK = {"max_retries": 0}


@pytest.fixture(scope="module")
def s3(bucket: Callable[[str], str]) -> str:
    """The endpoint of an S3 with one bucket."""
    return bucket(BUCKET)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return ObjectStore.open(f"file://{tmp_path}/store")
    endpoint = request.getfixturevalue("s3")
    url = f"s3://{BUCKET}/{tmp_path.name}"
    return ObjectStore.open(url, endpoint=endpoint, client_options={"allow_http": True}, **S3)


def test_what_is_put_comes_back_and_is_listed(store: ObjectStore) -> None:
    store.put("a/one", b"1")
    store.put("a/two", b"2")
    store.put("ab/three", b"3")
    assert store.get("a/one") == b"1"
    assert store.list("a") == ["a/one", "a/two"]
    assert store.list("nothing/here") == []
    assert store.exists("a/one")
    assert not store.exists("a")


def test_a_name_that_is_to_be_created_is_never_overwritten(store: ObjectStore) -> None:
    """Two runs that build at once must not replace each other's release."""
    store.put("pointer", b"first", create=True)
    with pytest.raises(AlreadyStored) as refused:
        store.put("pointer", b"second", create=True)
    assert str(refused.value).endswith("pointer: something is stored already.")
    assert store.get("pointer") == b"first"
    store.put("pointer", b"third")
    assert store.get("pointer") == b"third"


def test_nothing_stored_is_an_error_of_its_own_that_names_the_key(store: ObjectStore) -> None:
    with pytest.raises(NotStored, match=r"a/missing: nothing is stored\.$"):
        store.get("a/missing")
    with pytest.raises(NotStored):
        store.get_content("charts", digest_of(b"never stored"))


def test_the_same_content_is_stored_once_under_its_digest(store: ObjectStore) -> None:
    digest = store.put_content("charts", b"content")
    assert store.put_content("charts", b"content") == digest == digest_of(b"content")
    assert store.list("charts") == [f"charts/{digest}"]
    assert store.get_content("charts", digest) == b"content"


def test_damaged_content_is_refused(store: ObjectStore) -> None:
    """A release that is not what was approved must not be applied, whoever changed it."""
    digest = store.put_content("releases", b"approved")
    store.put(f"releases/{digest}", b"tampered")
    with pytest.raises(PermanentError, match="does not match its digest"):
        store.get_content("releases", digest)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_survive_the_files(tmp_path: Path, data: bytes) -> None:
    store = ObjectStore.open(f"file://{tmp_path}/store")
    assert store.get_content("x", store.put_content("x", data)) == data


def test_a_folder_with_a_space_is_one_folder(tmp_path: Path) -> None:
    """A URL spells a space %20: the folder that is made is the one that is written to."""
    ObjectStore.open((tmp_path / "my store").as_uri()).put("key", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["my store"]
    assert (tmp_path / "my store/key").read_bytes() == b"1"


def test_an_unknown_kind_of_store_names_the_known_ones() -> None:
    with pytest.raises(BadStore, match=r"^ftp://host/x: no such kind.*Known: file, s3, gs, az\.$"):
        ObjectStore.open("ftp://user:hunter2@host/x")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://AKIAXX:hunter2@bucket/x", "s3://bucket/x: the URL holds credentials. Take them out"),
        ("s3://", "the URL names no bucket. Write it as s3://bucket/prefix."),
        ("file:///dev/null/store", "the folder cannot be made: Not a directory."),
        ("store", "store: no such kind of object store"),
    ],
)
def test_a_url_that_leads_to_no_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(BadStore) as refused:
        ObjectStore.open(url)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/../../etc", ".", "a/"])
def test_a_key_that_leads_elsewhere_is_refused(store: ObjectStore, key: str) -> None:
    for ask in (store.get, store.exists, lambda key: store.put(key, b"1")):
        with pytest.raises(BadStore, match="is no key"):
            ask(key)


ASK: Any = pytest.mark.parametrize(
    "ask",
    [lambda s: s.exists("key"), lambda s: s.get("key"), lambda s: s.list("a"), lambda s: s.put("key", b"1")],
    ids=["exists", "get", "list", "put"],
)


@ASK
def test_a_bucket_that_is_missing_is_an_error_and_no_empty_store(s3: str, ask: Callable[[ObjectStore], object]) -> None:
    """S3 answers 404 for both; a mistyped bucket read as empty would be a catalogue without backups."""
    store = ObjectStore.open("s3://mistyped/x", endpoint=s3, client_options={"allow_http": True}, **S3)
    with pytest.raises(StoreUnavailable, match=r"s3://mistyped/x.*: could not \w+: NoSuchBucket\."):
        ask(store)


@ASK
def test_a_store_that_refuses_is_a_permanent_error_without_the_credentials(
    ask: Callable[[ObjectStore], object],
) -> None:
    """Trying again does not help: a person must give the right."""

    class Refuses(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output stays its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        store = ObjectStore.open(
            "s3://bucket/x",
            endpoint=endpoint,
            client_options={"allow_http": True},
            retry_config=QUICK,
            region="us-west-2",
            access_key_id="AKIAVISIBLE",
            secret_access_key="hunter2",
        )
        with pytest.raises(StoreRefused, match="Give these credentials the right to it") as refused:
            ask(store)
        server.shutdown()
    assert "AKIAVISIBLE" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__, "the original, with its headers, is not in a traceback"


def test_an_aws_profile_is_enough(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single sign-on and roles live in profiles, which obstore itself cannot read."""
    (tmp_path / "credentials").write_text("[ops]\naws_access_key_id = test\naws_secret_access_key = test\n")
    (tmp_path / "config").write_text("[profile ops]\nregion = us-west-2\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_PROFILE", "ops")
    store = ObjectStore.open(f"s3://{BUCKET}/profile", endpoint=s3, client_options={"allow_http": True})
    store.put("key", b"1")
    assert store.get("key") == b"1"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BadStore, match="cannot be opened: ProfileNotFound"):
        ObjectStore.open(f"s3://{BUCKET}/profile", endpoint=s3)


@ASK
def test_a_store_that_cannot_answer_is_an_error_and_no_empty_answer(
    s3: str, ask: Callable[[ObjectStore], object]
) -> None:
    """A failed read taken for 'there is none' would build, or delete, what is there."""
    store = ObjectStore.open(
        "s3://no-such-bucket-here/x",
        endpoint="http://127.0.0.1:9",  # discard: nothing listens
        client_options={"allow_http": True, "connect_timeout": "1s"},
        retry_config=QUICK,
        **S3,
    )
    with pytest.raises(StoreUnavailable) as failed:
        ask(store)
    assert "no-such-bucket-here" in str(failed.value)
    assert "test/" not in str(failed.value), "no credential in the message"


def test_a_store_that_overwrites_what_was_to_be_created_is_found_out(store: ObjectStore) -> None:
    """rclone's S3 is one: two backups at once would destroy each other's manifests."""
    store.check_conditions("conditions")
    store.check_conditions("conditions")
    put = store.put
    store.put = lambda key, data, *, create=False: put(key, data)  # what such a store does
    with pytest.raises(NoConditions, match="overwrites what was to be created"):
        store.check_conditions("conditions")


def test_object_lock_is_read_from_what_is_stored(s3: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client(
        "s3", endpoint_url=s3, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-west-2"
    )
    where = {"LocationConstraint": "us-west-2"}
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True, CreateBucketConfiguration=where)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    client.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    # As AWS does, moto wants a checksum where there is a lock; it looks for the header of AWS's own tools.
    client_options = {"allow_http": True, "default_headers": {"x-amz-sdk-checksum-algorithm": "SHA256"}}
    options: dict[str, Any] = {"endpoint": s3, "client_options": client_options, "checksum_algorithm": "sha256", **S3}
    stores = ("s3://locked/x", f"s3://{BUCKET}/x", f"file://{tmp_path}/store")
    locked, unlocked, files = (ObjectStore.open(url, **({} if url.startswith("file") else options)) for url in stores)
    for store in (locked, unlocked, files):
        store.put("a bundle", b"rows")
    until = locked.locked_until("a bundle")
    assert until is not None
    assert abs(until - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)
    assert locked.locked_until("no such bundle") is None
    assert unlocked.locked_until("a bundle") is None
    assert files.locked_until("a bundle") is None
