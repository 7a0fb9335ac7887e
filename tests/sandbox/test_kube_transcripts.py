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


@pytest.fixture(scope="module")
def score(server: str) -> dict[str, tuple[int, int, str]]:
    """Of each scenario: exchanges that match, all of them, and what the others differ in."""
    command = [sys.executable, str(TRANSCRIPTS / "replay.py"), "--loose-messages", "--show-diff", "--server", server]
    files = sorted(map(str, TRANSCRIPTS.glob("*.json")))
    ran = subprocess.run([*command, *files], capture_output=True, text=True, timeout=240, check=False)
    lines = re.split(r"^(?:ok|DIFF)\s+(\S+)\s+(\d+)/(\d+)$", ran.stdout, flags=re.MULTILINE)
    found = {
        name: (int(right), int(of), said)
        for name, right, of, said in zip(lines[1::4], lines[2::4], lines[3::4], lines[4::4], strict=True)
    }
    assert set(found) == {Path(file).stem for file in files}, ran.stdout + ran.stderr
    return found


@needs_transcripts
@pytest.mark.parametrize("scenario", AT_LEAST)
def test_most_answers_are_those_of_the_real_server(score: dict[str, tuple[int, int, str]], scenario: str) -> None:
    right, _, differences = score[scenario]
    assert right >= AT_LEAST[scenario], differences


@needs_transcripts
@pytest.mark.parametrize("scenario", WHOLE)
def test_answers_as_the_real_server_did(score: dict[str, tuple[int, int, str]], scenario: str) -> None:
    """Locks out any answer that lightkube or kubectl would not get from a real API server."""
    right, of, differences = score[scenario]
    assert right == of, differences


@needs_transcripts
def test_no_scenario_is_answered_by_less_than_half_and_all_of_them_by_most(
    score: dict[str, tuple[int, int, str]],
) -> None:
    """The scenarios that are not named here may not fall away unseen."""
    assert {name: (right, of) for name, (right, of, _) in score.items() if right * 2 < of} == {}
    right, of = sum(entry[0] for entry in score.values()), sum(entry[1] for entry in score.values())
    assert right >= 0.93 * of, f"{right} of {of}"
