"""The emulated API answers as a real server did: recorded exchanges are replayed against a cluster process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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


Score = tuple[int, int, str]
"""Of a scenario: exchanges that match, all of them, and what the others differ in."""


@pytest.fixture(scope="module")
def replayed(server: str, tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Callable[[str], Score]:
    """Replays a scenario, once for all the workers of this run."""
    known = tmp_path_factory.getbasetemp().parent / f"transcripts-{testrun_uid}"
    known.mkdir(exist_ok=True)

    def replay(scenario: str) -> Score:
        kept = known / f"{scenario}.json"
        if kept.exists():
            right, of, said = json.loads(kept.read_text())
            return right, of, said
        command = [
            sys.executable,
            str(TRANSCRIPTS / "replay.py"),
            "--loose-messages",
            "--show-diff",
            "--server",
            server,
        ]
        file = str(TRANSCRIPTS / f"{scenario}.json")
        ran = subprocess.run([*command, file], capture_output=True, text=True, timeout=240, check=False)
        found = re.search(r"^(?:ok|DIFF)\s+(\S+)\s+(\d+)/(\d+)$", ran.stdout, flags=re.MULTILINE)
        assert found is not None, ran.stdout + ran.stderr
        assert found[1] == scenario
        score = (int(found[2]), int(found[3]), ran.stdout[found.end() :])
        whole = kept.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(score))
        whole.replace(kept)
        return score

    return replay


@needs_transcripts
@pytest.mark.parametrize("scenario", AT_LEAST)
def test_most_answers_are_those_of_the_real_server(replayed: Callable[[str], Score], scenario: str) -> None:
    right, _, differences = replayed(scenario)
    assert right >= AT_LEAST[scenario], differences


@needs_transcripts
@pytest.mark.parametrize("scenario", WHOLE)
def test_answers_as_the_real_server_did(replayed: Callable[[str], Score], scenario: str) -> None:
    """Locks out any answer that lightkube or kubectl would not get from a real API server."""
    right, of, differences = replayed(scenario)
    assert right == of, differences


@needs_transcripts
def test_no_scenario_is_answered_by_less_than_half_and_all_of_them_by_most(replayed: Callable[[str], Score]) -> None:
    """The scenarios that are not named here may not fall away unseen."""
    score = {path.stem: replayed(path.stem) for path in sorted(TRANSCRIPTS.glob("*.json"))}
    assert {*WHOLE, *AT_LEAST} <= score.keys()
    assert {name: (right, of) for name, (right, of, _) in score.items() if right * 2 < of} == {}
    right, of = sum(entry[0] for entry in score.values()), sum(entry[1] for entry in score.values())
    assert right >= 0.93 * of, f"{right} of {of}"
