"""`make bench`: each figure beside what it is compared with, measured in the same run. Never a verdict."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.readiness import wait_ready
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.diff import diff
from nexus_ops.releases.rendering import render
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import plan_rollout, start
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder

CLUSTER = "staging-us-west-2"


def median(work: Callable[[], object], times: int) -> float:
    """Median wall time of a piece of work (seconds)."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def cpu_of(code: str, times: int = 3) -> float:
    """Median CPU time of a fresh interpreter that runs some code (seconds)."""
    text = f"import time, json\n{code}\nprint(json.dumps(time.process_time()))"
    runs = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True) for _ in range(times)
    ]
    return statistics.median(json.loads(run.stdout.splitlines()[-1]) for run in runs)


def say(what: str, value: float, unit: str, beside: str, other: float) -> None:
    """One row: the figure, what it is compared with, and the ratio."""
    print(
        f"{what:34} {value:9.3f} {unit:3}   {beside:38} {other:9.3f} {unit:3}   ratio {value / other:6.2f}", flush=True
    )


def definitions() -> None:
    """Loading the definitions, beside a bare `import dagster` (goal: at most 1.5 times)."""
    say(
        "definitions load (CPU)",
        cpu_of("import nexus_ops.definitions"),
        "s",
        "import dagster",
        cpu_of("import dagster"),
    )


def releases(home: Path) -> tuple[Topology, ReleaseStore, ObjectStore]:
    """Rendering and diffing a colour, beside a render in a process of its own."""
    topology, chart = Topology.load(default_path()), read_chart(project_folder() / "helm" / "nexus-ai-defi")
    store = ObjectStore.open((home / "store").as_uri())
    kept, catalogue = ReleaseStore(store), FileCatalogue(project_folder() / "images.yaml")
    built = [
        build_release(topology, "staging", version, catalogue, chart, project_folder() / "helm" / "values-staging.yaml")
        for version in ("v1.0.0", "v1.1.0")
    ]
    for release in built:
        kept.save(release, chart)
    cluster = topology.cluster(CLUSTER)
    first, second = (render(release, cluster, "blue", chart) for release in built)
    in_process = median(lambda: render(built[0], cluster, "blue", chart), 10)
    program = [sys.executable, "-c", "import helm_python, yaml"]
    say(
        "render a colour (35 objects)",
        in_process,
        "s",
        "only starting a process with the engine",
        median(lambda: subprocess.run(program, check=True), 3),
    )
    say(
        "diff of two renderings",
        median(lambda: diff(first.objects, second.objects), 5),
        "s",
        "rendering one",
        in_process,
    )
    return topology, kept, store


def rollout(home: Path, topology: Topology, kept: ReleaseStore, store: ObjectStore) -> None:
    """The sandbox' start, and a deploy's time over what its pods need to come ready (goal: at most 5 s)."""
    began = time.perf_counter()
    parts = tuple(part for part in supervisor.DEFAULT_PARTS if part != "traffic")
    state = supervisor.start(home, [CLUSTER], parts)
    say("sandbox start, one cluster", time.perf_counter() - began, "s", "the goal for all clusters", 15.0)
    cluster = topology.cluster(CLUSTER)
    client = ClusterClient.connect(cluster, kubeconfig=Path(state.kubeconfig))
    context = RolloutContext(topology, cluster, client, store, kept)
    for version in ("v1.0.0", "v1.1.0"):
        began = time.perf_counter()
        start(context, plan_rollout(context, version, Settings(monitor_seconds=3, hold_seconds=0)), "bench")
        advance(context, until_stage="run-smoke-tests", patience=timedelta(seconds=120))
        ready = time.perf_counter() - began
        advance(context, patience=timedelta(seconds=120))
        print(
            f"deploy {version}: {ready:.1f} s to a ready and asked candidate, {time.perf_counter() - began:.1f} s in all (3 s of it monitoring)"
        )
    replicas = {f"{name}-green": component.replicas for name, component in topology.components.items()}
    say(
        "a look at 36 ready pods",
        median(lambda: wait_ready(client, cluster.namespace, replicas, seconds=5), 5),
        "s",
        "the API's version",
        median(client.version, 5),
    )


def main() -> None:
    """All of it, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
        home = Path(folder)
        try:
            definitions()
            rollout(home, *releases(home))
        finally:
            supervisor.stop(home)


if __name__ == "__main__":
    main()
