"""For all tests: on a real cluster those run that a cluster can serve; of each other one it is said why it did not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage

ON_A_CLUSTER = {"kubeconfig", "platform"}
"""Fixtures that lead to the cluster of NEXUS_TEST_KUBECONFIG where there is one, and to a sandbox otherwise."""
SANDBOX = Path(__file__).parent / "sandbox"
LEFT_OUT = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def no_instance_of_an_earlier_test() -> Iterator[None]:
    """Dagster remembers the last instance for whoever loads definitions, also when it is gone."""
    with set_defs_state_storage(None):
        yield


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
