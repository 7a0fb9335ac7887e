"""For all tests: what a real cluster cannot do is skipped there, each test with its reason."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With NEXUS_TEST_KUBECONFIG set, what is marked `sandbox_only` is skipped; the summary names it."""
    if not os.environ.get("NEXUS_TEST_KUBECONFIG"):
        return
    for item in items:
        if item.get_closest_marker("sandbox_only"):
            item.add_marker(
                pytest.mark.skip(reason="needs the sandbox: scripted faults, behaviours or its admin interface")
            )
