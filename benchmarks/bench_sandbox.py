"""Starting the sandbox: the first time, and again from the same state folder; and what it takes of the memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.measure import say
from benchmarks.scene import VERSIONS, Scene
from nexus_ops.clusters.apply import apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.clusters.readiness import wait_ready
from nexus_ops.rollouts.context import utc_now
from nexus_ops.sandbox import supervisor
from nexus_ops.topology import COLOURS

SETTLED_SECONDS = 20.0
"""So long pods are scraped and asked before memory is looked at."""
GOAL_SECONDS, GOAL_MEBIBYTES = 15.0, 800


def bench() -> None:
    """All enabled clusters with all their parts, as `make demo` starts them."""
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
        home = Path(folder)
        try:
            cold = _start(home)
            number = len(_found(home).clusters)
            used = _memory(_found(home))
            supervisor.stop(home)
            warm = _start(home)
        finally:
            supervisor.stop(home)
    say(f"sandbox, {number} clusters: first start", cold, "s", "goal", GOAL_SECONDS)
    say(f"sandbox, {number} clusters: start again", warm, "s", "its first start", cold)
    with Scene(supervisor.DEFAULT_PARTS, "production-us-west-2", beside=True) as scene:
        pods = _two_colours(scene)
        full = _memory(scene.state)
    say(f"its memory, production with {pods} pods", full, "MiB", "goal", GOAL_MEBIBYTES)
    say(f"its memory, production with {pods} pods", full, "MiB", "with nothing deployed", used)


def _two_colours(scene: Scene) -> int:
    """Both colours of the platform, each with all of its pods, ready and scraped; how many pods they are."""
    context, space = scene.context(), scene.cluster.ops_namespace
    components = scene.topology.components.items()
    wanted = {f"{name}-{colour}": component.replicas for name, component in components for colour in COLOURS}
    with acquire(context.client, space, "rollout", "bench", clock=utc_now) as lease:
        for version, colour in zip(VERSIONS, COLOURS, strict=True):
            rendering = context.rendering(scene.release(version).digest, colour)
            apply_rendering(
                Fenced(context.client, lease), rendering.objects, ApplySet(f"applyset-{colour}", space), replicas=wanted
            )
    late = wait_ready(context.client, scene.cluster.namespace, wanted, seconds=120)
    assert not late, late
    time.sleep(SETTLED_SECONDS)
    return sum(wanted.values())


def _memory(state: supervisor.State) -> float:
    """MiB of all processes, what they share counted once."""
    return sum(supervisor.memory(state).values()) / 2**20


def _start(home: Path) -> float:
    began = time.perf_counter()
    supervisor.start(home)
    return time.perf_counter() - began


def _found(home: Path) -> supervisor.State:
    state = supervisor.find(home)
    assert state is not None, "the sandbox has ended"
    return state


if __name__ == "__main__":
    bench()
