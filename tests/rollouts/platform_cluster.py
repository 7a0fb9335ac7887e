"""What rollout tests work with: one sandbox cluster, its releases, and short ways to roll out on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_ops.clusters.client import CONFIG_MAP, POD, ClusterClient
from nexus_ops.errors import TemporaryError
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.bad import FOLDER
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import Advance, advance
from nexus_ops.rollouts.observe import COLOUR, NAME, PLATFORM
from nexus_ops.rollouts.operations import plan_rollout, request_abort, start
from nexus_ops.rollouts.plan import read_ledger
from nexus_ops.rollouts.record import NAME as NAME_OF_RECORD
from nexus_ops.rollouts.record import Ledger, Record
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology

CLUSTER = "staging-us-west-2"
QUICK = Settings(monitor_seconds=1, hold_seconds=1, ready_seconds=60, insufficient_seconds=20)
LOOK_AGAIN = 0.2
"""Seconds between looks at what is waited for."""
VERSIONS = ("v1.0.0", "v1.1.0", "v1.4.0")
SCRIPTED = ("v1.4.0", "v1.5.0")
"""Versions whose trouble only the sandbox makes."""


@dataclass
class Platform:
    """A sandbox cluster, its releases, and short ways to roll out on it."""

    home: Path
    state: supervisor.State
    topology: Topology
    store: ObjectStore
    releases: ReleaseStore
    said: list[str]
    notified: list[str]

    @property
    def real(self) -> bool:
        """Whether this is a cluster of NEXUS_TEST_KUBECONFIG, with no sandbox of ours behind it."""
        return CLUSTER not in self.state.clusters

    @property
    def urls(self) -> dict[str, str]:
        """Addresses of the sandbox cluster; of a real one only where users come in (`edge`)."""
        if self.real:
            return {"edge": self.context().edge_url()}
        return self.state.clusters[CLUSTER]

    def context(self, patience: float = 20.0) -> RolloutContext:
        """A fresh context, as every run has one."""
        cluster = self.topology.cluster(CLUSTER)
        return RolloutContext(
            topology=self.topology,
            cluster=cluster,
            client=ClusterClient.connect(cluster, kubeconfig=Path(self.state.kubeconfig), patience=patience),
            store=self.store,
            releases=self.releases,
            notify=lambda title, body: self.notified.append(f"{title}: {body}"),
            report=self.said.append,
        )

    def begin(self, version: str, times: Settings = QUICK) -> Record:
        """Plan and start, without advancing."""
        if self.real and version in SCRIPTED:
            pytest.skip(f"needs the sandbox: the trouble of {version} is scripted")
        context = self.context()
        # Forced: tests use the same bad versions again and again. One that is not is asked for by `plan_rollout` itself.
        return start(context, plan_rollout(context, version, times, force=True), "test")

    def finish(self, seconds: float = 90) -> Advance:
        """Advance as the sensor does, again and again, until the rollout is over."""
        deadline = time.monotonic() + 2 * seconds
        while time.monotonic() < deadline:
            result = advance(self.context(), patience=timedelta(seconds=seconds / 3))
            if result.state in ("done", "rolled-back"):
                return result
            time.sleep(LOOK_AGAIN)  # what is blocked says so at once, and pods that crash come back after a while
        raise TemporaryError(f"the rollout does not end: {self.record().said}")

    def deploy(self, version: str, times: Settings = QUICK) -> Advance:
        self.begin(version, times)
        return self.finish()

    def ledger(self) -> Ledger:
        return read_ledger(self.context())

    def record(self) -> Record:
        record = self.ledger().record
        assert record is not None
        return record

    def ensure(self, version: str) -> None:
        """Have a version serve, whatever was before."""
        record = self.ledger().record
        if record is not None and not record.finished:
            request_abort(self.context(), "test", "left behind by a test that failed")
            self.finish()
            record = self.record()
        if record is None or record.serving is None or record.serving.version != version:
            assert self.deploy(version).state == "done"

    def forget_failures(self) -> None:
        """No release is known to be bad any more."""
        client, space = self.context().client, self.topology.cluster(CLUSTER).ops_namespace
        live = client.get(CONFIG_MAP, NAME_OF_RECORD, space)
        if live and live["data"].pop("bad", None):
            client.replace(live, manager="test")
        for key in self.store.list(FOLDER):
            self.store.delete(key)

    def at_the_edge(self) -> tuple[str, str]:
        """Version and colour that answer a user now."""
        answer = httpx.get(self.context().edge_url(), headers={"Host": self.context().host})
        return answer.headers["x-nexus-version"], answer.headers["x-nexus-colour"]

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the sandbox's admin interface; a test that needs it is skipped on a real cluster."""
        if self.real:
            pytest.skip("needs the sandbox: its admin interface")
        answer = httpx.request(method, self.urls["admin"] + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def eventually(self, holds: Callable[[], bool], seconds: float = 30) -> bool:
        """Whether something comes to hold in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_AGAIN)
        return True

    def pods(self) -> set[tuple[str, str]]:
        """(component, colour) of the pods that are there now, leaving ones included."""
        pods = self.context().client.list(POD, self.topology.cluster(CLUSTER).namespace, PLATFORM)
        return {(pod["metadata"]["labels"][NAME], pod["metadata"]["labels"][COLOUR]) for pod in pods}
