"""The demo: the sandbox, the UI, and the platform deployed blue-green and by canary, as told in the terminal.

Everything goes through Dagster's jobs, launched like from its UI. In the middle a run is killed, to show that it does
not matter. At the end are two canaries: a healthy one, and one that is bad and is cut at 5 %.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from nexus_ops.clusters.client import CONFIG_MAP, ClusterClient
from nexus_ops.clusters.watch import watch
from nexus_ops.errors import TemporaryError
from nexus_ops.sandbox import supervisor, ui
from nexus_ops.sandbox.demo_backups import show_backups
from nexus_ops.topology import Topology, default_path

STAGING, PRODUCTION = "staging-us-west-2", "production-us-west-2"
BAD, TROUBLE = "v1.5.0", "it loses money, and answers every request as it should"
USERS = 250.0
"""Requests a second while there are canaries."""
BAKE = 6
"""Seconds for which each share of the healthy canary is watched."""
BLAMED = {
    "release": "{version} is marked bad: it is refused everywhere, unless it is forced",
    "platform": "what is lost, is lost by the whole portfolio, not by one colour of it: {version} is stopped, and not marked bad",
    None: "nobody is to blame: {version} can be tried again",
}
"""Whom the record of a rollout that went back blames, in words."""
LAUNCH = """
mutation Launch($job: String!, $config: RunConfigData!, $tags: [ExecutionTag!], $assets: [AssetKeyInput!]) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "nexus_ops.definitions", repositoryName: "__repository__", jobName: $job,
               assetSelection: $assets},
    runConfigData: $config, executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
       ... on RunConfigValidationInvalid { errors { message } } }
}"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
ENDS = """
query Ends($clusters: [String!]) {
  assetOrError(assetKey: {path: ["deployment"]}) { ... on Asset { assetMaterializations(partitions: $clusters, limit: 5) {
    runId metadataEntries { label ... on TextMetadataEntry { text } } } } }
}"""
EVENTS = """
query Events($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events {
    ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } } } } } }
}"""
UI_PORT = 3000
"""Dagster's own, where it is free."""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


class Demo:
    """Tells and does."""

    def __init__(self, home: Path, console: Console) -> None:
        self.home = home
        self.say = console.print
        self.topology = Topology.load(default_path())
        self.journal = home / "notifications.log"
        self.heard = len(self.journal.read_text()) if self.journal.exists() else 0

    def run(self) -> None:
        """The whole demo; leaves sandbox and UI running."""
        began = time.monotonic()
        self.say("[bold]1. The sandbox[/]: three clusters, gateways, Prometheus, traffic")
        self.state = supervisor.start(self.home)
        self.say(
            f"   up after {time.monotonic() - began:.1f} s; for kubectl and dagster in a shell: . {self.home / 'env'}"
        )
        self.say("[bold]2. The UI[/]: Dagster's webserver and daemon")
        self.ui = ui.start(self.home, environment=self.state.environment, port=UI_PORT)
        self.say(f"   [link={self.ui.url}]{self.ui.url}[/]")
        self.say("[bold]3. Releases[/]: v1.0.0, v1.1.0 and, for staging, " + BAD + "; rendered, checked, stored")
        for environment, versions in (
            ("staging", ("v1.0.0", "v1.1.0", BAD)),
            ("production", ("v1.0.0", "v1.1.0")),
        ):
            for version in versions:
                self.build(environment, version)
        self.say("[bold]4. v1.0.0[/] to staging and to production: where nothing serves yet, the first install")
        for cluster in (STAGING, PRODUCTION):
            self.deploy(cluster, "v1.0.0", monitor=10, hold=0)
        self.say("[bold]5. v1.1.0[/] to production, blue-green; its run is killed with SIGKILL in the middle")
        self.deploy(PRODUCTION, "v1.1.0", monitor=10, hold=5, kill=True)
        with self.users(STAGING):
            self.say("[bold]6. v1.1.0[/] to staging, as a canary: 5, 10, 25, 50, 100 % of the traffic, each judged")
            self.deploy(STAGING, "v1.1.0", monitor=10, hold=5, bake=BAKE)
            self.say(f"[bold]7. {BAD}[/] to staging, as a canary: {TROUBLE}")
            self.deploy(STAGING, BAD, monitor=10, hold=5, bake=BAKE * 20, ends="rolled-back")
        self.say("[bold]8. Backups[/] of production: taken, proven by a restore; then a table is lost, and comes back")
        show_backups(self, PRODUCTION)
        self.say(f"\n[bold green]Done[/] in {time.monotonic() - began:.0f} s. Both environments run v1.1.0.")
        self.say(
            f"Look at   {self.ui.url}/assets/deployment?view=events   what is deployed, with plan, timings and the way back"
        )
        self.say(f"          {self.ui.url}/runs   every run; and the sensors under Automation")
        self.say(f"          {self.ui.url}/assets/canary_analysis   each decision about the canaries, with its numbers")
        self.say(f"          {self.ui.url}/assets/drill   what a restore took, and what would be lost")
        self.say(
            "Try       the job `deploy` from the Launchpad: dry_run shows the plan; docs/tutorial.md goes on from here"
        )
        self.say("End it    make down")

    def build(self, environment: str, version: str) -> None:
        """Materialise the release of an environment."""
        config = {"ops": {"release": {"config": {"version": version}}}}
        tags = [{"key": "dagster/partition", "value": environment}]
        run = self.launch("__ASSET_JOB", config, tags, assets=[{"path": ["release"]}])
        self.wait_for_run(run)
        self.say(f"   {environment} {version}: built, gates passed")

    def deploy(
        self,
        cluster: str,
        version: str,
        *,
        monitor: int,
        hold: int,
        bake: int | None = None,
        kill: bool = False,
        ends: str = "done",
    ) -> None:
        """Deploy and tell every stage as it happens, from the record in the cluster. With `bake`, as a canary."""
        if self.version_of(cluster) == version:
            self.say(f"   {cluster} runs {version} already")
            return
        config = {
            "cluster": cluster,
            "version": version,
            "dry_run": False,
            "force": True,  # a demo that is begun again deploys again what has failed before
            "strategy": "canary" if bake else "blue-green",
            **({"bake_seconds": bake} if bake else {}),
            "logs_seconds": 5,
            "monitor_seconds": monitor,
            "hold_seconds": hold,
        }
        tags = [{"key": "drives", "value": cluster}, {"key": "actor", "value": "demo"}]
        run = self.launch("deploy", {"ops": {"plan": {"config": config}}}, tags)
        self.say(f"   {cluster}: run {run[:8]} launched")
        self.follow(cluster, version, self.kill_at_switch(run) if kill else None, ends)
        self.say_notifications()
        if kill:
            self.say_who_ended(run, cluster)
        seen = self.ask_edge(cluster)
        self.say(f"   users of {cluster} are answered by {seen}")

    def follow(
        self, cluster: str, version: str, interfere: Callable[[dict[str, Any]], bool] | None, ends: str = "done"
    ) -> None:
        """Print what the record says, as it is written, until the rollout is over; each stage with the time it took."""
        told: set[str] = set()
        for record in self.records(cluster, seconds=600):
            if record["candidate"]["version"] != version:
                continue
            for stage in record["stages"]:
                if stage["ended"] and stage["name"] not in told:
                    told.add(stage["name"])
                    self.say(f"     [green]{stage['name']:26}[/] done in {_seconds(stage):.1f} s{_judged(stage)}")
            current = next((stage["name"] for stage in record["stages"] if not stage["ended"]), "rollout")
            if record["said"] and record["said"] not in told and not record["said"].endswith(" is done"):
                told.add(record["said"])
                self.say(f"     [dim]{current:26}[/] {record['said']}")
            self.say_notifications()
            if interfere and interfere(record):
                interfere = None
            if record["phase"] == "rolling-back" and "cut" not in told and record["weight"] == 0:
                told.add("cut")
                self.say(f"     [bold red]cut[/]: {record['reason']}")
            if record["phase"] == ends == "rolled-back":
                share = max(stage["weight"] for stage in record["stages"] if stage["started"])
                self.say(f"     [green]rolled back[/], as it should be: users never saw more than {share} % of it")
                self.say(f"     {BLAMED[record['blames']].format(version=version)}")
                return
            if record["phase"] == "rolled-back":
                todo = f"Look at it in the UI: {self.ui.url}/assets/deployment"
                raise TemporaryError(f"{version} was rolled back: {record['reason']}", target=cluster, todo=todo)
            if record["phase"] == "done":
                if ends != "done":
                    raise TemporaryError(f"{version} was to be found bad, and serves.", target=cluster)
                return
        raise TemporaryError(
            "the rollout did not end in time.", target=cluster, todo=f"Look at it in the UI: {self.ui.url}"
        )

    def say_notifications(self) -> None:
        """What people have been told since the last look: what NEXUS_NOTIFY_URLS would have brought to them."""
        text = self.journal.read_text() if self.journal.exists() else ""
        for line in text[self.heard :].splitlines():
            self.say(f"     [bold yellow]notification[/] {escape(line.partition(' ')[2])}")
        self.heard = len(text)

    @contextmanager
    def users(self, cluster: str) -> Generator[None]:
        """More users than the sandbox has by itself, so that a share of a few per cent is judged within seconds."""
        found, at = self.topology.cluster(cluster), self.state.clusters[cluster]
        arguments = ["--edge", at["edge"], "--host", self.topology.environment_of(found).host]
        arguments += ["--services", at["services"], "--namespace", found.namespace, "--rate", str(USERS)]
        process = subprocess.Popen([sys.executable, "-m", "nexus_ops.sandbox.traffic", *arguments])
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def records(self, cluster: str, seconds: float) -> Iterator[dict[str, Any]]:
        """The rollout's record each time that it is written, beginning with what is there."""
        found = self.topology.cluster(cluster)
        client = ClusterClient.connect(found, kubeconfig=Path(self.state.kubeconfig))
        try:
            for event in watch(client, CONFIG_MAP, found.ops_namespace, seconds=seconds):
                if event and event["metadata"]["name"] == "rollout" and "record" in event.get("data", {}):
                    yield json.loads(event["data"]["record"])
        finally:
            client.close()

    def kill_at_switch(self, run: str) -> Callable[[dict[str, Any]], bool]:
        """Kill the run's process once traffic moves."""

        def kill(record: dict[str, Any]) -> bool:
            if record["weight"] != 100:
                return False
            pid = self.process_of(run)
            os.kill(pid, signal.SIGKILL)
            self.say(f"     [bold red]SIGKILL[/] to the run's process {pid}; the rollout sensor will go on")
            return True

        return kill

    def say_who_ended(self, run: str, cluster: str) -> None:
        """Name the run that ended the rollout after the kill; an error when it was the killed one after all."""
        rollout, deadline = (self.record(cluster) or {}).get("id"), time.monotonic() + 60
        while (ended := self.run_that_ended(cluster, rollout)) is None:
            if time.monotonic() > deadline:
                raise TemporaryError("no run has reported the end of the rollout.", target=cluster)
            time.sleep(0.3)
        if ended == run:
            raise TemporaryError("the run ended by itself: the kill did not reach it.", target=run)
        self.say(f"   run {run[:8]} was killed; the sensor's run {ended[:8]} brought its rollout to the end")

    def run_that_ended(self, cluster: str, rollout: str | None) -> str | None:
        """The run that reported a rollout's end to the asset `deployment`; None when none has yet."""
        for end in self.graphql(ENDS, {"clusters": [cluster]})["assetOrError"].get("assetMaterializations") or ():
            if any(entry["label"] == "rollout" and entry.get("text") == rollout for entry in end["metadataEntries"]):
                return end["runId"]
        return None

    def process_of(self, run: str) -> int:
        """The process that executes a run, as Dagster tells it.

        Not one whose command line names the run: that is the helper that captures the run's output, and killing it
        disturbs nothing.
        """
        events = self.graphql(EVENTS, {"id": run})["logsForRun"]["events"]
        entries = [entry for event in events for entry in event.get("metadataEntries") or ()]
        pid = next((int(entry["text"]) for entry in entries if entry["label"] == "pid"), None)
        try:
            found = pid is not None and os.getsid(pid) == self.ui.pid
        except ProcessLookupError:
            found = False
        if pid is None or not found:
            raise TemporaryError("the run has no process of this UI's.", target=run)
        return pid

    # ------------------------------------------------------------------ looking

    def record(self, cluster: str) -> dict[str, Any] | None:
        """The rollout's record, from the cluster."""
        found = self.topology.cluster(cluster)
        url = f"{self.state.clusters[cluster]['api']}/api/v1/namespaces/{found.ops_namespace}/configmaps/rollout"
        answer = httpx.get(url)
        return json.loads(answer.json()["data"]["record"]) if answer.status_code == 200 else None

    def version_of(self, cluster: str) -> str | None:
        """What serves when the last rollout is over; None while one runs, or when nothing serves."""
        record = self.record(cluster)
        if record is None or record["phase"] not in ("done", "rolled-back"):
            return None
        return (record["candidate"] if record["phase"] == "done" else record["stable"] or {}).get("version")

    def ask_edge(self, cluster: str) -> str:
        host = self.topology.environment_of(self.topology.cluster(cluster)).host
        answer = httpx.get(self.state.clusters[cluster]["edge"], headers={"Host": host})
        return f"{answer.headers.get('x-nexus-version')} ({answer.headers.get('x-nexus-colour')})"

    # ------------------------------------------------------------------ Dagster

    def launch(self, job: str, config: dict[str, Any], tags: list[dict[str, str]], assets: Any = None) -> str:
        """Launch a run through GraphQL, as the UI does; its id."""
        variables = {"job": job, "config": config, "tags": tags, "assets": assets}
        answer = self.graphql(LAUNCH, variables)["launchRun"]
        if "run" not in answer:
            raise TemporaryError(f"the run was not launched: {answer}", target=job)
        return answer["run"]["runId"]

    def wait_for_run(self, run: str) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            status = self.graphql(STATUS, {"id": run})["runOrError"]["status"]
            if status == "SUCCESS":
                return
            if status in ENDED:
                raise TemporaryError(
                    f"the run ended with {status}.", target=run, todo=f"Its log: {self.ui.url}/runs/{run}"
                )
            time.sleep(0.3)
        raise TemporaryError("the run did not end in time.", target=run)

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.ui.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        body = answer.json()
        if body.get("errors"):
            raise TemporaryError(f"the UI refused: {body['errors'][0]['message']}", target=self.ui.url)
        return body["data"]


def run(home: Path) -> None:
    """Run the demo from a state folder."""
    Demo(home, Console(highlight=False, soft_wrap=True)).run()


def _judged(stage: dict[str, Any]) -> str:
    """What a bake ended by."""
    if not stage.get("verdict") or stage["kind"] != "bake":
        return ""
    requests = f" on {stage['requests']:.0f} requests" if stage.get("requests") is not None else ""
    return f": {stage['verdict']}{requests}"


def _seconds(stage: dict[str, Any]) -> float:
    """How long a stage took."""
    began, ended = (datetime.fromisoformat(stage[key]) for key in ("started", "ended"))
    return (ended - began).total_seconds()
