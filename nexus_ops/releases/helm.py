"""Helm's own template engine, in this process. The one module that knows helm-python-sdk.

A render of the platform takes milliseconds, is deterministic, and needs neither a cluster nor a helm binary. The
engine is a Go library: it deadlocks in forked children, so it is imported when it is first used, never before a fork.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nexus_ops.errors import PermanentError


class RenderError(PermanentError):
    """The chart cannot be rendered with these values; names the value's path or the template's line."""


def render_chart(files: Mapping[str, bytes], values: Mapping[str, Any], *, namespace: str) -> list[dict[str, Any]]:
    """The chart's objects, in the order of its templates. `files` are the chart's own, by path within it."""
    import helm_python as helm

    with tempfile.TemporaryDirectory(prefix="nexus-chart-") as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            config: Any = helm.Config(storage_driver="memory")
            with helm.Chart.load(folder) as chart:
                text = config.install(chart, "nexus", dict(values), dry_run="client", namespace=namespace)["manifest"]
        except helm.HelmError as error:
            raise RenderError(_readable(str(error), folder), target="helm/nexus-ai-defi") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, Loader=loader) if document]


def _readable(text: str, folder: str) -> str:
    """The engine's message without what only it cares about."""
    text = text.replace(folder + "/", "").replace(folder, "chart")
    text = re.sub(r"values don't meet the specifications of the schema\(s\) in the following chart\(s\):\s*", "", text)
    return " ".join(text.split())
