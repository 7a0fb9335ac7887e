"""What the tests of the UI work with: a sandbox cluster, Dagster's UI and daemon over it, and short ways to ask them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

CLUSTER, ENVIRONMENT = "staging-us-west-2", "staging"
VERSIONS = ("v1.0.0", "v1.1.0")
SECONDS = 240.0
"""How long a run may take; a slow machine needs a minute to start the process of one."""
Found = TypeVar("Found")
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
LAUNCH = """
mutation Launch($job: String!, $config: RunConfigData!, $tags: [ExecutionTag!], $assets: [AssetKeyInput!]) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "nexus_ops.definitions", repositoryName: "__repository__", jobName: $job,
               assetSelection: $assets},
    runConfigData: $config, executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }"
REPORTED = """
query Reported($cluster: [String!]) {
  assetOrError(assetKey: {path: ["deployment"]}) { ... on Asset { assetMaterializations(partitions: $cluster, limit: 1) {
    metadataEntries { label ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr } } } } }
}"""


@dataclass(frozen=True)
class Operated:
    """A running sandbox with its UI."""

    home: Path
    url: str
    environment: dict[str, str]
    """What leads a process here: KUBECONFIG, NEXUS_HOME, …"""

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """What GraphQL answers; its errors fail the test."""
        body = {"query": query, "variables": variables or {}}
        answer = httpx.post(f"{self.url}/graphql", json=body, timeout=120).json()
        assert not answer.get("errors"), answer
        return answer["data"]

    def launch(self, job: str, config: dict[str, Any], tags: dict[str, str], assets: Any = None) -> str:
        """Launch a run; its id."""
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        variables = {"job": job, "config": config, "tags": listed, "assets": assets}
        answer = self.ask(LAUNCH, variables)["launchRun"]
        assert "run" in answer, answer
        return answer["run"]["runId"]

    def tags(self, run: str) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.ask(RUN, {"id": run})["runOrError"]["tags"]}

    def status(self, run: str) -> str:
        return self.ask(RUN, {"id": run})["runOrError"]["status"]

    def end_of(self, run: str) -> str:
        """With which status a run ends."""
        return until(lambda: status if (status := self.status(run)) in ENDED else "", f"run {run} ends")

    def reported(self) -> dict[str, str]:
        """What the asset `deployment` last told of the cluster; empty when nothing yet."""
        found = self.ask(REPORTED, {"cluster": [CLUSTER]})["assetOrError"].get("assetMaterializations") or [{}]
        return {
            entry["label"]: entry.get("text", entry.get("mdStr", "")) for entry in found[0].get("metadataEntries", ())
        }

    def ensure(self, version: str) -> None:
        """Have a version serve, whatever was before."""
        if f"{version} serves" in self.reported().get(
            "summary", ""
        ):  # since it was deployed, or the next was rolled back
            return
        config = {"cluster": CLUSTER, "version": version, "dry_run": False, "monitor_seconds": 1, "hold_seconds": 0}
        self.launch("deploy", {"ops": {"plan": {"config": config}}}, {"actor": "test"})
        until(lambda: self.reported().get("summary", "").startswith(f"{version} serves"), f"{version} serves")


def until(look: Callable[[], Found], what: str, seconds: float = SECONDS) -> Found:
    """What `look` finds, once that is anything; the test fails when it takes too long."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        pause.wait(0.5)
    return found
