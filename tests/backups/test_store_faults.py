"""An object store that answers 500, 503 or 403, hangs, hangs up, or is full: no half backup, and the next one succeeds."""

from __future__ import annotations

import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest
from backup_scene import BUCKET, PLACE, S3, Keys

from nexus_ops.backups.bundles import MEGABYTE, Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.copies import verify
from nexus_ops.backups.postgres.physical import back_up
from nexus_ops.backups.postgres.programs import Instance
from nexus_ops.errors import OperationError
from nexus_ops.storage import ObjectStore, StoreRefused, StoreUnavailable

ServerOf = Callable[[int], Instance]
Fault = Literal["500", "503", "403", "hang", "drop"]
BODIES = {
    "500": b"<Error><Code>InternalError</Code></Error>",
    "503": b"<Error><Code>SlowDown</Code></Error>",
    "403": b"<Error><Code>ExpiredToken</Code></Error>",
}


class Between:
    """A proxy before the S3 that answers for it: from a request on, or a few times only."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.fault: Fault | None = None
        self.skip = 0
        """Writes of bundles that pass before the fault begins."""
        self.times = 1 << 30
        """How often it comes."""
        self.seen = 0
        self._lock = threading.Lock()
        self.released = threading.Event()

    def due(self, method: str, path: str) -> Fault | None:
        with self._lock:
            if self.fault is None or method != "PUT" or "/bundles/" not in path:
                return None
            self.seen += 1
            if self.seen <= self.skip or self.seen > self.skip + self.times:
                return None
            return self.fault


@contextmanager
def serving(between: Between) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = between.due(self.command, self.path)
            if fault == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if fault == "hang":
                between.released.wait(60)
                self.close_connection = True
                return
            if fault is not None:
                self.answer(int(fault), BODIES[fault], {})
                return
            headers = {
                key.lower(): value for key, value in self.headers.items() if key.lower() not in ("host", "connection")
            }
            headers.setdefault("content-type", "application/octet-stream")  # or urllib calls it a form
            request = urllib.request.Request(
                between.target + self.path, data=body or None, headers=headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as found:
                    self.answer(found.status, found.read(), dict(found.headers))
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read(), dict(error.headers))

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(key, value)
            length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            between.released.set()
            server.shutdown()


def take(server: Instance, catalogue: Catalogue, keys: Keys) -> None:
    back_up(catalogue, server.dsn, Packing((keys.public,), bundle_bytes=MEGABYTE), now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("500", StoreUnavailable, "InternalError"),
        ("503", StoreUnavailable, "SlowDown"),
        ("403", StoreRefused, "ExpiredToken"),
        ("hang", StoreUnavailable, "timed out|TimeoutError|GenericError"),
        ("drop", StoreUnavailable, "could not write"),
    ],
)
def test_a_store_that_fails_in_the_middle(
    server_of: ServerOf, s3: str, keys: Keys, tmp_path: Path, fault: Fault, error: type[OperationError], sentence: str
) -> None:
    """For good: the backup ends with one sentence and is invisible. Then the store is well, and the next one is whole."""
    between = Between(s3)
    between.fault, between.skip = fault, 3
    with serving(between) as endpoint:
        store = ObjectStore.open(
            f"s3://{BUCKET}/{tmp_path.name}", endpoint=endpoint, client_options={"allow_http": True, "timeout": "2s"},
            retry_config={"max_retries": 1}, **S3,
        )  # fmt: skip
        catalogue = Catalogue(store, PLACE)
        with pytest.raises(error, match=sentence):
            take(server_of(16), catalogue, keys)
        assert catalogue.list().backups == ()
        assert between.seen > between.skip
        between.fault = None
        take(server_of(16), catalogue, keys)
        assert verify(catalogue, catalogue.latest().id, keys.identity).passed


@pytest.mark.parametrize("fault", ["500", "503", "drop"])
def test_a_store_that_fails_for_a_moment_is_asked_again(
    server_of: ServerOf, s3: str, keys: Keys, tmp_path: Path, fault: Fault
) -> None:
    between = Between(s3)
    between.fault, between.skip, between.times = fault, 2, 2
    with serving(between) as endpoint:
        store = ObjectStore.open(
            f"s3://{BUCKET}/{tmp_path.name}", endpoint=endpoint, client_options={"allow_http": True},
            retry_config={"backoff": {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(milliseconds=100)}}, **S3,
        )  # fmt: skip
        catalogue = Catalogue(store, PLACE)
        take(server_of(16), catalogue, keys)
        assert between.seen >= 4
        assert verify(catalogue, catalogue.latest().id, keys.identity).passed


def test_a_full_disk_leaves_no_backup(server_of: ServerOf, keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        catalogue = Catalogue(ObjectStore.open(f"file://{folder}"), PLACE)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            take(server_of(16), catalogue, keys)
        assert catalogue.list().backups == ()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
