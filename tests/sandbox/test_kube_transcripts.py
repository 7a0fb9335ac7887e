"""The emulated API answers as a real server did: recorded exchanges are replayed against a cluster process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
TRANSCRIPTS = REPO.parent / "shared" / "k8s-transcripts"
WHOLE = (
    "crud-configmap", "ssa-basic", "ssa-conflicts", "lease-cas", "selectors-label", "patch-merge", "watch-basic",
    "watch-live", "namespace-lifecycle", "scale", "dry-run", "pagination",
    "patch-json", "ssa-atomic", "table-output", "managedfields-update", "watch-initial",
    "patch-strategic", "generate-name",
)  # fmt: skip
AT_LEAST = {"validation-deployment": 35, "validation-misc": 29, "ssa-listmaps": 14}
"""Exchanges that match, of scenarios that do not whole: what is reached is kept."""
needs_transcripts = pytest.mark.skipif(
    not TRANSCRIPTS.is_dir(), reason="the recorded exchanges are not beside the repository"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    config = {
        "cluster": "staging-us-west-2", "topology": str(REPO / "topology.yaml"), "images": str(REPO / "images.yaml"),
        "folder": str(folder), "templates": str(folder / "templates"), "parts": [],
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "nexus_ops.sandbox.cluster", "--config", json.dumps(config)])
    ready, deadline, pause = folder / "ready.json", time.monotonic() + 30, threading.Event()
    try:
        while not ready.exists():
            assert process.poll() is None, "the cluster ended"
            assert time.monotonic() < deadline, "the cluster did not start"
            pause.wait(0.05)
        yield json.loads(ready.read_text())["api"]
    finally:
        process.terminate()
        process.wait(10)


def replay(server: str, scenario: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TRANSCRIPTS / "replay.py"), "--loose-messages", "--show-diff", "--server", server]
    return subprocess.run(
        [*command, str(TRANSCRIPTS / f"{scenario}.json")], capture_output=True, text=True, timeout=90, check=False
    )


@needs_transcripts
@pytest.mark.parametrize("scenario", AT_LEAST)
def test_most_answers_are_those_of_the_real_server(server: str, scenario: str) -> None:
    ran = replay(server, scenario)
    found = re.search(rf"{scenario}\s+(\d+)/\d+", ran.stdout)
    assert found, ran.stdout + ran.stderr
    assert int(found[1]) >= AT_LEAST[scenario], ran.stdout


@needs_transcripts
@pytest.mark.parametrize("scenario", WHOLE)
def test_answers_as_the_real_server_did(server: str, scenario: str) -> None:
    """Locks out any answer that lightkube or kubectl would not get from a real API server."""
    ran = replay(server, scenario)
    assert ran.returncode == 0, ran.stdout + ran.stderr
