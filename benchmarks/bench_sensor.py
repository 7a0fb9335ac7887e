"""A tick of the rollout sensors of 100 clusters, of which 20 are in a bake (goal: at most 2 s and 300 MB).

One sandbox cluster stands for all of them: each of the hundred has its own namespace for its record there, and those in a
bake share its pods and its Prometheus. The sensors are evaluated by as many threads as the daemon has. What the emulated
API server needs for its answers, on the same cores, is in the figure.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import median, say
from benchmarks.scene import CLUSTER, Scene
from nexus_ops.clusters.client import CONFIG_MAP
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import plan_rollout, start
from nexus_ops.rollouts.record import Record
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox.supervisor import DEFAULT_PARTS
from nexus_ops.topology import default_path

CLUSTERS, ACTIVE, THREADS, TIMES = 100, 20, 8, 5
GOAL_SECONDS, GOAL_MEGABYTES = 2.0, 300.0


def bench() -> None:
    """A real canary in its first bake, its record copied to the clusters; the ticks in a process of their own."""
    with Scene(DEFAULT_PARTS) as scene:
        context = scene.context()
        quick = Settings(monitor_seconds=1, hold_seconds=0)
        start(context, plan_rollout(context, "v1.0.0", quick), "bench")
        advance(context)
        start(context, plan_rollout(context, "v1.1.0", replace(quick, strategy="canary", bake_seconds=3600)), "bench")
        baking = advance(context, patience=timedelta(seconds=60)).record
        assert baking is not None
        assert baking.stage is not None
        assert baking.stage.until, f"no bake has begun: {baking.said}"
        topology, kubeconfig = _many(scene.home, Path(scene.state.kubeconfig))
        for number in range(CLUSTERS):
            _put(scene, number, baking if number < ACTIVE else replace(baking, id=f"over-{number}", phase="done"))
        environment = os.environ | {
            "NEXUS_TOPOLOGY": str(topology),
            "KUBECONFIG": str(kubeconfig),
            "NEXUS_STORE": scene.store.url,
            "NEXUS_HOME": str(scene.home),
        }
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.bench_sensor"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-800:]
        figures = json.loads(ran.stdout.splitlines()[-1])
    what = f"sensor tick, {CLUSTERS} clusters, {ACTIVE} in a bake"
    say(what, figures["seconds"], "s", "goal", GOAL_SECONDS)
    say(f"{what}: CPU of its own", figures["cpu"], "s", "goal (of the whole)", GOAL_SECONDS)
    say(f"{what}: memory", figures["megabytes"], "MB", "goal", GOAL_MEGABYTES)


def _name(number: int) -> str:
    return f"bench-{number}"


def _many(home: Path, kubeconfig: Path) -> tuple[Path, Path]:
    """A topology of so many clusters, and a kubeconfig that leads to the one from each of them."""
    document = yaml.safe_load(default_path().read_text())
    one = document["clusters"][CLUSTER]
    document["clusters"] = {
        _name(number): {**one, "context": _name(number), "ops_namespace": _name(number), "role": "standby"}
        for number in range(CLUSTERS)
    }
    document["environments"] = {one["environment"]: document["environments"][one["environment"]]}
    document["clusters"][_name(0)]["role"] = "primary"
    config = yaml.safe_load(kubeconfig.read_text())
    led = next(entry["context"] for entry in config["contexts"] if entry["name"] == CLUSTER)
    config["contexts"] = [{"name": _name(number), "context": led} for number in range(CLUSTERS)]
    config["current-context"] = _name(0)
    for name, content in (("many.yaml", document), ("many.kubeconfig", config)):
        (home / name).write_text(yaml.safe_dump(content))
    return home / "many.yaml", home / "many.kubeconfig"


def _put(scene: Scene, number: int, record: Record) -> None:
    """A record in the namespace of one of the clusters."""
    client, name = scene.context().client, _name(number)
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager="bench")
    data = {"record": replace(record, cluster=name, stages=record.stages).to_json()}
    meta = {"name": "rollout", "namespace": name}
    client.create({**_kind(), "metadata": meta, "data": data}, manager="bench")


def _kind() -> dict[str, Any]:
    return {"apiVersion": CONFIG_MAP.api_version, "kind": CONFIG_MAP.kind}


def tick() -> dict[str, float]:
    """The median tick of all sensors, its CPU time in this process, and how large the process has become."""
    import dagster as dg

    from nexus_ops.resources import NexusResource
    from nexus_ops.sensors.rollout import SENSORS

    with dg.DagsterInstance.ephemeral() as instance, ThreadPoolExecutor(THREADS) as pool:

        def evaluate(number: int) -> str:
            cursor = None if number < ACTIVE else f"over-{number}"
            context = dg.build_sensor_context(instance, cursor=cursor, resources={"nexus": NexusResource()})
            result: Any = SENSORS[number].evaluate_tick(context)
            return f"{result.skip_message} {len(result.asset_events)}"

        def all_of_them() -> list[str]:
            return list(pool.map(evaluate, range(CLUSTERS)))

        said = all_of_them()  # contexts and clients are made once
        judged = [text for text in said if text.endswith(" 1")]
        assert len(judged) == ACTIVE, f"{len(judged)} of {ACTIVE} were judged: {said[:2]} {datetime.now(UTC)}"
        before = resource.getrusage(resource.RUSAGE_SELF)
        seconds = median(all_of_them, TIMES)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / TIMES
    return {"seconds": seconds, "cpu": cpu, "megabytes": after.ru_maxrss / 1024}


if __name__ == "__main__":
    print(json.dumps(tick()))
