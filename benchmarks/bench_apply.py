"""Applying a colour, and a thousand objects, to a cluster, beside `kubectl apply --server-side` of the same objects.

With NEXUS_TEST_KUBECONFIG the thousand are applied to that cluster (its current context), in namespaces that are made and
removed: the sandbox is one process on this machine, which takes what both spend the most time on, the way there, away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import leave_out, median, say
from benchmarks.scene import CLUSTER, Scene
from nexus_ops.clusters.apply import apply_rendering
from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import NAMESPACE, ClusterClient
from nexus_ops.clusters.fence import Fenced, is_routed
from nexus_ops.clusters.lease import acquire
from nexus_ops.rollouts.context import utc_now

Object = dict[str, Any]
COLOUR, MANY = "green", 1000
REAL = "NEXUS_TEST_KUBECONFIG"


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
        if not os.environ.get(REAL):
            many(scene.context().client, scene.state.kubeconfig, CLUSTER)
    if real := os.environ.get(REAL):
        context = str(yaml.safe_load(Path(real).read_text())["current-context"])
        cluster = scene.cluster.model_copy(update={"context": context})
        client = ClusterClient.connect(cluster, kubeconfig=Path(real))
        try:
            many(client, real, context)
        finally:
            client.close()


def many(client: ClusterClient, kubeconfig: str, context: str) -> None:
    """A thousand ConfigMaps: by the library, with its Lease, fence and inventory, and by kubectl."""
    what, mark = f"apply {MANY} objects", uuid.uuid4().hex[:8]
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return leave_out(what, "kubectl is not on the PATH")
    ours, theirs = (f"bench-{mark}-{name}" for name in ("ours", "kubectl"))
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder, ExitStack() as stack:
        for name in (ours, theirs):
            client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager="bench")
            stack.callback(client.delete, NAMESPACE, name, None)
        lease = stack.enter_context(acquire(client, ours, "rollout", "bench", clock=utc_now))
        fenced, applyset = Fenced(client, lease), ApplySet("applyset-bench", ours)
        file = Path(folder) / "objects.yaml"
        file.write_text(yaml.safe_dump_all(_config_maps(theirs)))
        command = [kubectl, f"--kubeconfig={kubeconfig}", f"--context={context}", f"--cache-dir={folder}"]
        command += ["apply", "--server-side", "--filename", str(file)]
        for state in ("new", "unchanged"):
            mine = median(lambda: apply_rendering(fenced, _config_maps(ours), applyset, replicas={}), 1)
            other = median(lambda: subprocess.run(command, check=True, capture_output=True), 1)
            say(f"{what}, {state} (goal: 5 times)", mine, "s", "kubectl apply --server-side", other)


def _config_maps(namespace: str) -> list[Object]:
    return [
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}", "namespace": namespace},
            "data": {"number": str(number), "text": "x" * 200},
        }
        for number in range(MANY)
    ]  # fmt: skip


def _moved(obj: Object, namespace: str) -> Object:
    """The same object in another namespace, so that neither finds the other's work done."""
    moved = {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}
    return {**moved, "spec": {**obj["spec"], "replicas": 0}} if obj["kind"] == "Deployment" else moved


if __name__ == "__main__":
    bench()
