"""Helm's own template engine, in this process. The one module that knows helm-python-sdk.

A render of the platform takes milliseconds, is deterministic, and needs neither a cluster nor a helm binary. The
engine is a Go library: it deadlocks in forked children, so it is imported when it is first used, never before a fork.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from nexus_ops.errors import PermanentError

TARGET = "helm/nexus-ai-defi"
WARNING = 2
"""Helm's severities of lint: 1 is information, 2 a warning, 3 an error."""

_VIOLATION = re.compile(r"- at '(?P<path>[^']*)': (?P<what>.*)")
_FAILED = re.compile(r"execution error at \((?P<where>[^():]+:\d+):\d+\): (?P<what>.*)", re.DOTALL)


class RenderError(PermanentError):
    """The chart cannot be rendered with these values; names the value's path or the template's line."""


def render_chart(files: Mapping[str, bytes], values: Mapping[str, Any], *, namespace: str) -> list[dict[str, Any]]:
    """The chart's objects, in the order of its templates. `files` are the chart's own, by path within it."""
    import helm_python as helm

    with _unpacked(files) as folder:
        try:
            config: Any = helm.Config(storage_driver="memory")
            with helm.Chart.load(folder) as chart:
                text = config.install(chart, "nexus", dict(values), dry_run="client", namespace=namespace)["manifest"]
        except helm.HelmError as error:
            raise RenderError(f"{_readable(str(error), folder)}.", target=TARGET) from None
    return [document for document in yaml.load_all(text, Loader=_loader()) if document]


def lint_chart(files: Mapping[str, bytes], values: Mapping[str, Any]) -> list[str]:
    """Warnings and errors of `helm lint`, each with the file that it is about; none when the chart is fine."""
    import helm_python as helm

    with _unpacked(files) as folder:
        try:
            messages = helm.lint(folder, dict(values), strict=True)["messages"]
        except helm.HelmError as error:
            raise RenderError(f"{_readable(str(error), folder)}.", target=TARGET) from None
        return [f"{m['path']}: {_readable(m['error'], folder)}" for m in messages if m["severity"] >= WARNING]


@cache
def _loader() -> Any:
    """The quick loader of YAML, to which a repeated key is an error: Helm would silently keep the last one."""
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        """A type of its own, so that no other reader gets its constructor."""

    def mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
        found = loader.construct_mapping(node, deep=True)
        if len(found) != len(node.value):
            keys = sorted(key.value for key, _ in node.value)
            twice = next(key for key, after in pairwise(keys) if key == after)
            raise RenderError(f"a template renders the key {twice!r} twice in one mapping.", target=TARGET)
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader


@contextmanager
def _unpacked(files: Mapping[str, bytes]) -> Generator[str]:
    """The chart as a folder, which is what the engine reads."""
    with tempfile.TemporaryDirectory(prefix="nexus-chart-") as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield folder


def _readable(text: str, folder: str) -> str:
    """The engine's message in one line, without what only the engine cares about.

    Violations of the schema come in no particular order, as `- at '/a/b': why` below the chart's name: they become
    `a.b: why`, sorted, so that the same mistake always reads the same.
    """
    text = text.replace(folder + "/", "").replace(folder, "chart").replace("nexus-ai-defi/templates/", "templates/")
    if "don't meet the specifications of the schema" in text and "metaschema" not in text:
        found = {_violation(match) for match in _VIOLATION.finditer(text)}
        return "; ".join(sorted(found - {""})) or _one_line(text)
    if failed := _FAILED.search(text):
        return _one_line(f"{failed['what']} ({failed['where']})")
    return _one_line(text)


def _violation(match: re.Match[str]) -> str:
    if match["what"] == "validation failed":  # the heading of what follows it
        return ""
    path = match["path"].strip("/").replace("/", ".") or "values"
    return f"{path}: {match['what']}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
