"""Rendering, comparing and judging a release in this process, beside a process for each render.

`python -m benchmarks.bench_render`. The other way is `helm template` where helm is on the PATH, and a fresh Python
process that renders the same part with the same engine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import leave_out, median, say
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.diff import diff
from nexus_ops.releases.gates import check_schema, custom_schemas, evaluate
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Object, Part, render, values_for
from nexus_ops.topology import Topology, default_path, project_folder

ENVIRONMENT = "production"
PARTS: tuple[Part, ...] = ("shared", "blue", "green")
ALONE = """
import json, sys, yaml
from pathlib import Path
from nexus_ops.releases.build import read_chart
from nexus_ops.releases.helm import render_chart
chart, values = read_chart(Path(sys.argv[1])), json.loads(Path(sys.argv[2]).read_text())
assert render_chart(chart, values, namespace="nexus-agents")
"""


def bench() -> None:
    """All rows."""
    helm = project_folder() / "helm"
    topology, folder = Topology.load(default_path()), helm / "nexus-ai-defi"
    chart, catalogue = read_chart(folder), FileCatalogue(project_folder() / "images.yaml")
    old, new = (
        build_release(topology, ENVIRONMENT, version, catalogue, chart, helm / f"values-{ENVIRONMENT}.yaml")
        for version in ("v1.0.0", "v1.1.0")
    )
    cluster = topology.primary(ENVIRONMENT)
    first, second = ([render(release, cluster, part, chart) for part in PARTS] for release in (old, new))
    blue = len(first[1].objects)
    one = median(lambda: render(old, cluster, "blue", chart), 20)
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as scratch:
        _render_beside(f"render a colour ({blue} objects)", one, folder, chart, old, topology, Path(scratch))
    objects = [[obj for rendering in renderings for obj in rendering.objects] for renderings in (first, second)]
    what = f"compare two releases ({len(objects[0])} objects)"
    say(what, median(lambda: diff(*objects), 10), "s", "rendering both", 6 * one)
    say(
        "judge a release, all gates",
        median(lambda: evaluate(first, topology), 5),
        "s",
        "its schemas by the library's own",
        _by_library(objects[0]),
    )
    assert check_schema(objects[0]).passed


def _render_beside(
    what: str, one: float, folder: Path, chart: Mapping[str, bytes], release: Release, topology: Topology, scratch: Path
) -> None:
    values = scratch / "values.json"
    values.write_text(json.dumps(values_for(release, topology.primary(release.environment), "blue")))
    program = [sys.executable, "-c", ALONE, str(folder), str(values)]
    say(what, one, "s", "a fresh Python process for it", median(lambda: subprocess.run(program, check=True), 3))
    if binary := shutil.which("helm"):
        command = [binary, "template", "nexus", str(folder), "--values", str(values)]
        taken = median(lambda: subprocess.run(command, check=True, capture_output=True), 5)
        say(what, one, "s", "helm template", taken)
    else:
        leave_out(f"{what}, beside `helm template`", "helm is not on the PATH")


def _by_library(objects: list[Object]) -> float:
    """The same objects through kubernetes-validate's own function, which reads its schema for each."""
    import kubernetes_validate

    core = [obj for obj in objects if (obj["apiVersion"], obj["kind"]) not in custom_schemas()]
    return median(lambda: [kubernetes_validate.validate(obj, "1.32", strict=True) for obj in core], 2)


if __name__ == "__main__":
    bench()
