"""Notifications reach their destinations, never stop an operation, and never show a credential."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nexus_ops.notifications import Notifier


class Hook(HTTPServer):
    """A webhook on loopback that keeps what it is sent and answers with `status`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), HookHandler)

    def url(self) -> str:
        return f"json://user:s3cret@127.0.0.1:{self.server_port}/hook"


class HookHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hook)
        self.server.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_message_reaches_the_destination_and_the_journal(hook: Hook, tmp_path: Path) -> None:
    notifier = Notifier.from_environment({"NEXUS_NOTIFY_URLS": hook.url(), "NEXUS_HOME": str(tmp_path)})
    assert notifier.send("Rollback", "production-us-west-2 went back to v1.0.0")
    assert [(m["title"], m["message"]) for m in hook.messages] == [
        ("Rollback", "production-us-west-2 went back to v1.0.0")
    ]
    assert "Rollback: production-us-west-2 went back" in (tmp_path / "notifications.log").read_text()


def test_urls_come_from_a_mounted_secret_too(hook: Hook, tmp_path: Path) -> None:
    secret = tmp_path / "urls"
    secret.write_text(hook.url() + "\n")
    environment = {"NEXUS_NOTIFY_URLS_FILE": str(secret), "NEXUS_HOME": str(tmp_path)}
    assert Notifier.from_environment(environment).send("a", "b")
    assert len(hook.messages) == 1


@pytest.mark.parametrize("url", ["json://user:s3cret@127.0.0.1:1/", "nonsense", "slack://s3cret"])
def test_an_undeliverable_message_is_said_without_the_credential(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier((url,), tmp_path / "journal")
    with caplog.at_level(logging.ERROR, "nexus_ops"):
        assert not notifier.send("Rollback", "text")
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("nexus_ops"))
    assert "'Rollback' was not delivered" in said
    assert "s3cret" not in said
    assert "s3cret" not in repr(notifier)


def test_a_refused_message_is_not_called_delivered(hook: Hook, tmp_path: Path) -> None:
    hook.status = 500
    assert not Notifier((hook.url(),), tmp_path / "journal").send("a", "b")
