"""Applying a colour to a cluster, beside `kubectl apply --server-side` of the same objects."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import leave_out, median, say
from benchmarks.scene import CLUSTER, Scene
from nexus_ops.clusters.apply import apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.fence import Fenced, is_routed
from nexus_ops.clusters.lease import acquire
from nexus_ops.rollouts.context import utc_now

Object = dict[str, Any]
COLOUR = "green"


def bench() -> None:
    """First with nothing there, then again with nothing to change. Deployments with no pods: only the API works."""
    with Scene(parts=()) as scene, tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
        context, space = scene.context(), scene.cluster.ops_namespace
        objects = [
            obj for obj in context.rendering(scene.release("v1.0.0").digest, COLOUR).objects if not is_routed(obj)
        ]
        elsewhere = f"{scene.cluster.namespace}-kubectl"
        context.client.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": elsewhere}}, manager="bench"
        )
        applyset = ApplySet(f"applyset-{COLOUR}", space)
        with acquire(context.client, space, "rollout", "bench", clock=utc_now) as lease:
            fenced = Fenced(context.client, lease)

            def ours() -> None:
                apply_rendering(fenced, objects, applyset, replicas={})

            first, again = median(ours, 1), median(ours, 5)
        what = f"apply a colour ({len(objects)} objects)"
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            return leave_out(what, "kubectl is not on the PATH")
        file = Path(folder) / "objects.yaml"
        file.write_text(yaml.safe_dump_all([_moved(obj, elsewhere) for obj in objects]))
        command = [kubectl, f"--kubeconfig={scene.state.kubeconfig}", f"--context={CLUSTER}", f"--cache-dir={folder}"]
        command += ["apply", "--server-side", "--filename", str(file)]

        def theirs() -> None:
            subprocess.run(command, check=True, capture_output=True)

        say(f"{what}, new", first, "s", "kubectl apply --server-side", median(theirs, 1))
        say(f"{what}, unchanged", again, "s", "kubectl apply --server-side", median(theirs, 5))


def _moved(obj: Object, namespace: str) -> Object:
    """The same object in another namespace, so that neither finds the other's work done."""
    moved = {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}
    return {**moved, "spec": {**obj["spec"], "replicas": 0}} if obj["kind"] == "Deployment" else moved


if __name__ == "__main__":
    bench()
