"""A cluster to work on: the sandbox, or a real one by NEXUS_TEST_KUBECONFIG (its current context)."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import NAMESPACE, ClusterClient
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import HeldLease, acquire
from nexus_ops.sandbox import supervisor
from nexus_ops.topology import Cluster, Topology, default_path

Object = dict[str, Any]
NAME = "staging-us-west-2"
REAL = os.environ.get("NEXUS_TEST_KUBECONFIG")


@dataclass
class Clock:
    """A clock that a test sets."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[supervisor.State]:
    home = tmp_path_factory.mktemp("sandbox")
    yield supervisor.start(home, [NAME], ())
    supervisor.stop(home)


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    return Path(REAL) if REAL else Path(request.getfixturevalue("sandbox").kubeconfig)


@pytest.fixture(scope="session")
def cluster(kubeconfig: Path) -> Cluster:
    context = yaml.safe_load(kubeconfig.read_text())["current-context"]
    return Topology.load(default_path()).cluster(NAME).model_copy(update={"context": context})


@pytest.fixture(scope="session")
def client(cluster: Cluster, kubeconfig: Path) -> Iterator[ClusterClient]:
    found = ClusterClient.connect(cluster, kubeconfig=kubeconfig)
    yield found
    found.close()


@pytest.fixture
def namespace(client: ClusterClient) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager="test")
    yield name
    client.delete(NAMESPACE, name, None)


@pytest.fixture
def admin(sandbox: supervisor.State) -> Iterator[httpx.Client]:
    """The sandbox's admin interface; what a test breaks is whole again after it."""
    with httpx.Client(base_url=sandbox.clusters[NAME]["admin"], timeout=10) as http:
        yield http
        http.delete("/faults")
        http.post("/revive")
        http.post("/thaw")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def take(client: ClusterClient, namespace: str, clock: Clock) -> Callable[[], HeldLease]:
    """Take the namespace's lease, as a driver of its own each time."""
    numbers = itertools.count(1)
    return lambda: acquire(client, namespace, "rollout", f"driver-{next(numbers)}", clock=clock)


@pytest.fixture
def fenced(client: ClusterClient, take: Callable[[], HeldLease]) -> Fenced:
    return Fenced(client, take())


@pytest.fixture
def blue(namespace: str) -> ApplySet:
    return ApplySet("applyset-blue", namespace)


@pytest.fixture
def impatient(cluster: Cluster, kubeconfig: Path) -> Iterator[ClusterClient]:
    """A client that gives up after a second."""
    found = ClusterClient.connect(cluster, kubeconfig=kubeconfig, patience=1.0)
    yield found
    found.close()
