"""For all tests: on a real cluster those run that a cluster can serve; of each other one it is said why it did not."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from dagster._core.storage.defs_state.base import DefsStateStorage
from emulated_aws import emulated_aws
from leftovers import guard

ON_A_CLUSTER = {"kubeconfig", "platform"}
"""Fixtures that lead to the cluster of NEXUS_TEST_KUBECONFIG where there is one, and to a sandbox otherwise."""
SANDBOX = Path(__file__).parent / "sandbox"
LEFT_OUT = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers of pytest-xdist are children of this run
        guard()


@pytest.fixture(autouse=True)
def no_instance_of_an_earlier_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster remembers the last instance for whoever loads definitions, and comes back to it when it collects garbage."""
    known = DefsStateStorage.get

    def get() -> DefsStateStorage[Any] | None:
        storage = known()
        held = getattr(storage, "_instance_weakref", None)
        return storage if held is not None and held() is not None else None

    monkeypatch.setattr(DefsStateStorage, "get", get)


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The endpoint of an emulated AWS: a process of its own, as `mock_aws` in another test would empty one in this."""
    with emulated_aws() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def bucket(aws: str) -> Callable[[str], str]:
    """Makes a bucket of that name, and tells the endpoint."""

    def make(name: str) -> str:
        known = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-west-2"}
        client: Any = boto3.client("s3", endpoint_url=aws, **known)
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        return aws

    return make


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With NEXUS_TEST_KUBECONFIG set, what needs no cluster is left out, and what needs the sandbox is skipped."""
    if not os.environ.get("NEXUS_TEST_KUBECONFIG"):
        return
    needed: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        if SANDBOX in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="is about the sandbox itself"))
        elif item.get_closest_marker("sandbox_only"):
            reason = "needs the sandbox: scripted faults, behaviours or its admin interface"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif ON_A_CLUSTER.isdisjoint(getattr(item, "fixturenames", ())):
            left_out.append(item)
            continue
        needed.append(item)
    config.stash[LEFT_OUT] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = needed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if LEFT_OUT in config.stash:
        terminalreporter.write_line(f"{config.stash[LEFT_OUT]} tests need no cluster: `make test` runs them.")
