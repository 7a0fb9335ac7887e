"""What is installed is what is in the tree."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
ELSEWHERE = ("assets", "jobs", "sensors")  # folders at the top that are installed as subpackages


def test_every_package_is_installed() -> None:
    """A package that is not listed works in a checkout, and is missing from the wheel."""
    inner = [path.parent for path in (PROJECT / "nexus_ops").rglob("__init__.py")]
    names = {".".join(path.relative_to(PROJECT).parts) for path in inner if not path.is_symlink()}
    names |= {f"nexus_ops.{name}" for name in ELSEWHERE}
    assert set(SETTINGS["packages"]) == names


def test_every_file_of_data_is_installed() -> None:
    """Without its definitions the schema gate of an installed nexus-ops would know no custom resource."""
    patterns = [(name, pattern) for name, found in SETTINGS["package-data"].items() for pattern in found]
    installed = {
        path
        for name, pattern in patterns
        for path in PROJECT.joinpath(*name.split(".")).glob(pattern)
        if path.is_file()
    }
    data = {
        path
        for path in (PROJECT / "nexus_ops").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.relative_to(PROJECT).parts[1] not in ELSEWHERE
    }
    assert sorted(data - installed) == []


def test_every_test_that_starts_a_sandbox_says_so() -> None:
    """On a real cluster a test that is not marked would be taken for one that needs no cluster, and be left out unseen."""
    tests = PROJECT / "tests"
    leads = {
        tests / "clusters" / "conftest.py",
        tests / "rollouts" / "conftest.py",
    }  # to a real cluster, if one is named
    starts = {
        path
        for path in tests.rglob("*.py")
        if "supervisor.start(" in path.read_text() and path not in leads and path != Path(__file__)
    }
    folders = {path.parent for path in starts if path.name == "conftest.py"}
    users = {
        path
        for path in tests.rglob("test_*.py")
        if path in starts
        or (path.parent in folders and any(name in path.read_text() for name in ("deployed", "operated")))
    }
    unmarked = [path.name for path in users if path.parent.name != "sandbox" and "sandbox_only" not in path.read_text()]
    assert unmarked == []
