"""The real kubectl against a sandbox cluster: what people type, and what they get.

One Deployment and its Service in a namespace of their own; the tests run in the order in which they stand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nexus_ops.sandbox import supervisor
from nexus_ops.topology import project_folder

CLUSTER, NAMESPACE = "staging-us-west-2", "typed"
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is neither beside the interpreter nor on PATH")


class Kubectl:
    """Runs kubectl in the namespace of these tests."""

    def __init__(self, kubeconfig: str, folder: Path) -> None:
        self.command = [str(KUBECTL), "--kubeconfig", kubeconfig, "--cache-dir", str(folder / "cache"), "-n", NAMESPACE]
        self.folder = folder

    def ask(self, *arguments: str, text: str | None = None, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments], input=text, capture_output=True, text=True, timeout=seconds, check=False
        )

    def __call__(self, *arguments: str, text: str | None = None) -> str:
        """What kubectl prints; a failure fails the test with what it says."""
        done = self.ask(*arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout


def image(version: str) -> str:
    catalogue = yaml.safe_load((project_folder() / "images.yaml").read_text())
    return f"r/risk-manager@{catalogue['versions'][version]['images']['risk-manager']}"


def manifest(replicas: int = 2, kind: str = "Deployment") -> str:
    labels = {"app": "web"}
    container = {"name": "web", "image": image("v1.0.0"), "ports": [{"containerPort": 8080, "name": "http"}]}
    pod = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    deployment = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web", "labels": labels}, "spec": spec}
    ports = [{"port": 80, "targetPort": "http"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": labels, "ports": ports},
    }
    return yaml.safe_dump_all([deployment, service])


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    home = tmp_path_factory.mktemp("sandbox")
    state = supervisor.start(home, [CLUSTER], ("api",))
    made = Kubectl(state.kubeconfig, home)
    made(
        "create",
        "-f",
        "-",
        text=yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
    )
    made("apply", "-f", "-", text=manifest())
    made("rollout", "status", "deploy/web", "--timeout=30s")
    yield made
    supervisor.stop(home)


def cells(text: str) -> list[list[str]]:
    """Rows of a printed table, apart at two spaces and more, the header first."""
    return [[cell for cell in line.split("  ") if cell.strip()] for line in text.strip().splitlines()]


def test_a_manifest_that_is_applied_again_changes_nothing(kubectl: Kubectl) -> None:
    """Client-side apply compares with what the server filled in: a wrong default would show as a change."""
    assert kubectl("apply", "-f", "-", text=manifest()) == "deployment.apps/web unchanged\nservice/web unchanged\n"
    assert kubectl.ask("diff", "-f", "-", text=manifest()).returncode == 0


def test_get_prints_the_columns_of_a_real_server(kubectl: Kubectl) -> None:
    header = kubectl("get", "pods", "-o", "wide").splitlines()[0].split("  ")
    names = [name.strip() for name in header if name.strip()]
    assert names == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    row = kubectl("get", "deploy", "web", "-o", "wide", "--no-headers").split()
    assert (*row[:4], *row[5:]) == ("web", "2/2", "2", "2", "web", image("v1.0.0"), "app=web")
    assert kubectl("get", "svc", "web", "--no-headers").split()[4] == "80/TCP"
    assert {"pod", "service", "deployment.apps", "replicaset.apps"} == {
        line.split("/")[0] for line in kubectl("get", "all", "-o", "name").splitlines()
    }
    assert "kubeletVersion" not in kubectl("get", "nodes", "-o", "wide")
    assert "Ready" in kubectl("get", "nodes", "-o", "wide")


def test_get_sorts_selects_and_takes_apart(kubectl: Kubectl) -> None:
    names = kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}").split()
    shown = kubectl("get", "pods", "--sort-by=.metadata.name", "--show-labels", "--no-headers").splitlines()
    assert [line.split()[0] for line in shown] == sorted(names)
    assert kubectl("get", "pods", "-l", "app!=web", "-o", "name") == ""
    assert len(kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "name").splitlines()) == 2
    assert kubectl("get", "pods", "-o", "custom-columns=N:.metadata.name", "--no-headers").split() == names


def test_describe_tells_of_every_kind_that_is_deployed(kubectl: Kubectl) -> None:
    assert "2 desired | 2 updated | 2 total | 2 available" in kubectl("describe", "deploy", "web")
    assert "Controlled By:  ReplicaSet/web-" in kubectl("describe", "pods", "-l", "app=web")
    assert ":8080" in kubectl("describe", "service", "web")
    assert "Kubelet Version:" in kubectl("describe", "nodes")


def test_events_are_shown_by_describe_and_by_get(kubectl: Kubectl) -> None:
    assert "Scaled up replica set web-" in kubectl("describe", "deploy", "web")
    pod = kubectl("get", "pods", "-o", "name").split()[0]
    shown = kubectl("describe", pod)
    for reason, component in {"Scheduled": "default-scheduler", "Pulled": "kubelet", "Started": "kubelet"}.items():
        assert any(line.split()[1:2] == [reason] and component in line for line in shown.splitlines()), shown
    assert "Started container web" in kubectl("get", "events", "--field-selector", f"involvedObject.name={pod[4:]}")
    assert "Started container web" in kubectl("events", "--for", pod)
    assert kubectl("get", "events", "--field-selector", "type=Warning", "-o", "name") == ""


def test_explain_and_api_resources_know_built_in_and_custom_kinds(kubectl: Kubectl) -> None:
    assert "progressDeadlineSeconds\t<integer>" in kubectl("explain", "deployment.spec")
    assert "backendRefs\t<[]Object>" in kubectl("explain", "httproute.spec.rules")
    assert {"deployments.apps", "httproutes.gateway.networking.k8s.io"} <= set(
        kubectl("api-resources", "-o", "name").split()
    )


def test_diff_shows_and_server_side_apply_makes_the_change_until_somebody_owns_it(kubectl: Kubectl) -> None:
    wanted = manifest(replicas=3)
    shown = kubectl.ask("diff", "--server-side", "--force-conflicts", "-f", "-", text=wanted)
    assert shown.returncode == 1
    assert "+  replicas: 3" in shown.stdout
    refused = kubectl.ask("apply", "--server-side", "--field-manager=other", "-f", "-", text=wanted)
    assert refused.returncode == 1
    assert 'conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas' in refused.stderr
    kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", text=wanted)
    kubectl("wait", "--for=jsonpath={.status.readyReplicas}=3", "deploy/web", "--timeout=30s")
    kubectl("wait", "--for=condition=Available", "deploy/web", "--timeout=30s")


def test_patches_of_each_type_and_scale(kubectl: Kubectl) -> None:
    kubectl(
        "patch", "deploy", "web", "-p", '{"spec": {"template": {"spec": {"containers": [{"name": "web", "env": []}]}}}}'
    )
    kubectl("patch", "deploy", "web", "--type=merge", "-p", '{"metadata": {"labels": {"typed": "yes"}}}')
    kubectl("patch", "deploy", "web", "--type=json", "-p", '[{"op": "remove", "path": "/metadata/labels/typed"}]')
    kubectl("scale", "deploy/web", "--replicas=2")
    found = json.loads(kubectl("get", "deploy", "web", "-o", "json"))
    assert (found["spec"]["replicas"], found["metadata"]["labels"]) == (2, {"app": "web"})
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == image("v1.0.0")


def test_a_rollout_has_a_history_can_be_undone_and_restarted(kubectl: Kubectl) -> None:
    def running() -> str:
        return kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")

    kubectl("set", "image", "deploy/web", f"web={image('v1.1.0')}")
    assert "successfully rolled out" in kubectl("rollout", "status", "deploy/web", "--timeout=60s")
    assert running() == image("v1.1.0")
    assert [line.split()[0] for line in kubectl("rollout", "history", "deploy/web").splitlines()[2:4]] == ["1", "2"]
    assert image("v1.0.0") in kubectl("rollout", "history", "deploy/web", "--revision=1")
    kubectl("rollout", "undo", "deploy/web")
    assert running() == image("v1.0.0")
    kubectl("rollout", "restart", "deploy/web")
    assert "successfully rolled out" in kubectl("rollout", "status", "deploy/web", "--timeout=60s")
    assert kubectl("rollout", "history", "deploy/web").split()[-4::2] == ["3", "4"]


def test_logs_whole_in_part_and_followed_to_the_pods_end(kubectl: Kubectl) -> None:
    pod = kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
    assert "listening on" in kubectl("logs", pod)
    assert kubectl("logs", pod, "--tail=0") == ""
    assert "not found" in kubectl.ask("logs", pod, "--previous").stderr
    following = subprocess.Popen([*kubectl.command, "logs", "-f", pod], stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        assert "listening on" in following.stdout.readline()
        kubectl("delete", "pod", pod)
        assert "draining" in following.communicate(timeout=30)[0]
    finally:
        following.kill()


def test_get_watches(kubectl: Kubectl) -> None:
    command = [*kubectl.command, "get", "deploy", "web", "-w", "--no-headers"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[0] == "web"
        kubectl("scale", "deploy/web", "--replicas=1")
        deadline = time.monotonic() + 30
        while watching.stdout.readline().split()[1] != "1/1":
            assert time.monotonic() < deadline
    finally:
        watching.kill()
        watching.wait(5)


def test_what_is_deleted_is_waited_for(kubectl: Kubectl) -> None:
    pod = kubectl("get", "pods", "-o", "name").split()[0]
    waiting = subprocess.Popen(
        [*kubectl.command, "wait", "--for=delete", pod, "--timeout=30s"], stdout=subprocess.DEVNULL
    )
    kubectl("delete", "-f", "-", text=manifest())
    assert waiting.wait(30) == 0
    kubectl("delete", "namespace", NAMESPACE, "--timeout=30s")
    assert "NotFound" in kubectl.ask("get", "namespace", NAMESPACE).stderr


def test_what_only_protobuf_could_say_is_refused_with_the_way_round(kubectl: Kubectl) -> None:
    """`kubectl create <kind>` sends protobuf; `--dry-run=client -o yaml | kubectl create -f -` is the way round."""
    refused = kubectl.ask("create", "namespace", "made")
    assert refused.returncode == 1
    assert "accepted media types include: application/json, application/yaml" in refused.stderr
    kubectl("create", "-f", "-", text=kubectl("create", "namespace", "made", "--dry-run=client", "-o", "yaml"))
    assert kubectl("get", "namespace", "made", "-o", "name") == "namespace/made\n"
