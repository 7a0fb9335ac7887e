"""`make bench`: each figure beside what it is compared with, measured in the same run. Never a verdict."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks import bench_render
from benchmarks.measure import median, say
from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.readiness import wait_ready
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import plan_rollout, start
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder

CLUSTER = "staging-us-west-2"


def cpu_of(code: str, times: int = 3) -> float:
    """Median CPU time of a fresh interpreter that runs some code (seconds)."""
    text = f"import time, json\n{code}\nprint(json.dumps(time.process_time()))"
    runs = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True) for _ in range(times)
    ]
    return statistics.median(json.loads(run.stdout.splitlines()[-1]) for run in runs)


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
    """The releases that are deployed below, stored."""
    topology, chart = Topology.load(default_path()), read_chart(project_folder() / "helm" / "nexus-ai-defi")
    store = ObjectStore.open((home / "store").as_uri())
    kept, catalogue = ReleaseStore(store), FileCatalogue(project_folder() / "images.yaml")
    built = [
        build_release(topology, "staging", version, catalogue, chart, project_folder() / "helm" / "values-staging.yaml")
        for version in ("v1.0.0", "v1.1.0")
    ]
    for release in built:
        kept.save(release, chart)
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
            bench_render.bench()
            rollout(home, *releases(home))
        finally:
            supervisor.stop(home)


if __name__ == "__main__":
    main()
