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
