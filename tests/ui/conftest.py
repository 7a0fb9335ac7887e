"""One sandbox cluster with Dagster's UI and daemon over it, for all tests of what an operator types and clicks."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from operated import CLUSTER, ENVIRONMENT, VERSIONS, Operated
from playwright.sync_api import Browser, sync_playwright

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.sandbox import supervisor, ui
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, project_folder

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
INSTALL = "needs Chromium. As root, on Debian: apt-get install chromium; or name one by PLAYWRIGHT_CHROMIUM"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a fresh checkout: what is typed there leads to this one, with a state folder of its own."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("workspace.yaml", "images.yaml", "helm"):
        (folder / name).symlink_to(project_folder() / name)
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    topology = (project_folder() / "topology.yaml").read_text()
    for name, seconds in {"monitor_seconds": 3, "hold_seconds": 2, "logs_seconds": 2}.items():
        topology = re.sub(rf"{name}: \d+", f"{name}: {seconds}", topology)
    (folder / "topology.yaml").write_text(topology)
    return folder


@pytest.fixture(scope="session")
def operated(checkout: Path) -> Iterator[Operated]:
    """A cluster on which nothing is deployed yet, the UI, and releases of both versions."""
    home = checkout / ".nexus"
    leads = {"NEXUS_HOME": str(home), "NEXUS_TOPOLOGY": str(checkout / "topology.yaml")}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in leads.items():
            patched.setenv(name, value)
        try:
            state = supervisor.start(home, [CLUSTER], (*supervisor.CLUSTER_PARTS, "traffic"), rate=10)
            leads["KUBECONFIG"] = state.kubeconfig
            running = ui.start(home, environment=leads)
            made = Operated(home, running.url, leads)
            store_release(home, leads["NEXUS_TOPOLOGY"], VERSIONS[0])
            run = made.launch(
                "__ASSET_JOB", {"ops": {"release": {"config": {"version": VERSIONS[1]}}}},
                {"dagster/partition": ENVIRONMENT, "actor": "test"}, [{"path": ["release"]}],
            )  # fmt: skip
            assert made.end_of(run) == "SUCCESS"
            yield made
        finally:
            ui.stop(home)
            supervisor.stop(home)


def store_release(home: Path, topology: str, version: str) -> None:
    """A release as the asset stores it, without the time that a run takes."""
    helm, releases = project_folder() / "helm", ReleaseStore(ObjectStore.open((home / "store").as_uri()))
    chart, catalogue = read_chart(helm / "nexus-ai-defi"), FileCatalogue(project_folder() / "images.yaml")
    values = helm / f"values-{ENVIRONMENT}.yaml"
    built = build_release(Topology.load(Path(topology)), ENVIRONMENT, version, catalogue, chart, values)
    releases.save(built, chart)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A real browser; a machine without one is told what to install."""
    found = os.environ.get("PLAYWRIGHT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip(INSTALL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: a folder that is forgotten, unless NEXUS_PICTURES names another (`make pictures`)."""
    named = os.environ.get("NEXUS_PICTURES")
    return Path(named) if named else tmp_path_factory.mktemp("pictures")
