"""A server that is busy, broken or missing, or that does not know what is asked of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest
import yaml
from cluster_objects import apply, config

from nexus_ops.clusters.applyset import ApplySet
from nexus_ops.clusters.client import CONFIG_MAP, HTTP_ROUTE, ClusterClient, Kind
from nexus_ops.clusters.errors import ClusterUnreachable, MissingContext, Refused
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.watch import watch
from nexus_ops.topology import Cluster


@pytest.mark.sandbox_only
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again(
    fenced: Fenced, blue: ApplySet, admin: httpx.Client, namespace: str, status: int
) -> None:
    rule = {"action": "error", "status": status, "path": f"*/{namespace}/*", "times": 3}
    admin.put("/faults", json=[rule, {**rule, "methods": ["GET"], "times": 2}])
    assert apply(fenced, blue, config(namespace)).changed == ["ConfigMap/c"]


@pytest.mark.sandbox_only
def test_the_server_says_how_long_to_wait(
    cluster: Cluster, kubeconfig: Path, admin: httpx.Client, namespace: str
) -> None:
    waits: list[float] = []
    other = ClusterClient.connect(cluster, kubeconfig=kubeconfig)
    patient = ClusterClient(other._http, cluster.name, pause=waits.append)
    rule = {"action": "error", "status": 429, "methods": ["GET"], "path": f"*/{namespace}/*"}
    admin.put("/faults", json=[{**rule, "times": 1, "retry_after": 3}])
    assert patient.get(CONFIG_MAP, "none", namespace) is None
    assert len(waits) == 1
    assert waits[0] >= 3 * 0.8
    other.close()


@pytest.mark.sandbox_only
def test_a_server_that_stays_busy_is_an_error_and_not_an_empty_answer(
    impatient: ClusterClient, admin: httpx.Client, namespace: str
) -> None:
    """Read as 'nothing is there', a failed list would prune or recreate everything."""
    rule = {"action": "error", "status": 503, "methods": ["GET"], "path": f"*/{namespace}/configmaps*"}
    admin.put("/faults", json=[rule])
    for read in (lambda: impatient.list(CONFIG_MAP, namespace), lambda: impatient.get(CONFIG_MAP, "c", namespace)):
        with pytest.raises(ClusterUnreachable, match=r"did not serve GET \S+ in 1 s: it answers 503"):
            read()


@pytest.mark.sandbox_only
@pytest.mark.parametrize("status", [429, 503, 410])
def test_a_watch_outlives_a_busy_server(
    client: ClusterClient, admin: httpx.Client, namespace: str, status: int
) -> None:
    client.create(config(namespace, a="1"), manager="test")
    rule = {"action": "error", "status": status, "methods": ["GET"], "path": f"*/{namespace}/configmaps*", "times": 1}
    admin.put("/faults", json=[rule])
    found = (event for event in watch(client, CONFIG_MAP, namespace, seconds=10) if event is not None)
    assert next(found)["metadata"]["name"] == "c"


def test_a_watch_tells_of_what_is_there_and_of_what_changes(client: ClusterClient, namespace: str) -> None:
    client.create(config(namespace, a="1"), manager="test")
    values: list[str] = []
    for event in watch(client, CONFIG_MAP, namespace, seconds=15):
        if event is None or event["metadata"]["name"] != "c":
            continue
        values.append(event["data"]["a"])
        if values == ["1"]:
            client.replace({**event, "data": {"a": "2"}}, manager="test")
        else:
            break
    assert values == ["1", "2"]


@pytest.mark.sandbox_only
def test_a_stopped_cluster_is_one_sentence(impatient: ClusterClient, admin: httpx.Client) -> None:
    admin.post("/kill")
    with pytest.raises(ClusterUnreachable) as error:
        impatient.version()
    said = str(error.value)
    assert said.startswith("staging-us-west-2: the API server did not serve GET /version in 1 s: ")
    assert "\n" not in said
    assert "Traceback" not in said


@pytest.mark.sandbox_only
def test_a_server_that_hangs_holds_nobody_longer_than_their_patience(
    impatient: ClusterClient, admin: httpx.Client
) -> None:
    """It takes connections and never answers: a driver must come to its own deadline."""
    admin.post("/freeze")
    started = time.monotonic()
    with pytest.raises(ClusterUnreachable, match="ReadTimeout"):
        impatient.version()
    assert time.monotonic() - started < 10


def test_of_several_kubeconfigs_the_one_that_knows_the_context_is_taken(
    cluster: Cluster, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$KUBECONFIG is a list, as kubectl has it."""
    other = yaml.safe_load(kubeconfig.read_text())
    other = {**other, "contexts": [{**other["contexts"][0], "name": "other"}], "current-context": "other"}
    (tmp_path / "other").write_text(yaml.safe_dump(other))
    listed = [tmp_path / "none", tmp_path / "other", kubeconfig]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, listed)))
    assert ClusterClient.connect(cluster).version()
    with pytest.raises(MissingContext, match=r"needs the kube context 'nowhere'\..*Contexts there: .*other"):
        ClusterClient.connect(cluster.model_copy(update={"context": "nowhere"}))


def test_a_missing_context_lists_the_ones_there_are(cluster: Cluster, kubeconfig: Path) -> None:
    elsewhere = cluster.model_copy(update={"context": "nowhere"})
    with pytest.raises(MissingContext) as error:
        ClusterClient.connect(elsewhere, kubeconfig=kubeconfig)
    assert "cluster staging-us-west-2 needs the kube context 'nowhere'." in str(error.value)
    assert f"Contexts there: {cluster.context}" in str(error.value)


def test_a_missing_kubeconfig_says_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(MissingContext, match=r"there is no kubeconfig\. Set KUBECONFIG"):
        ClusterClient.connect(cluster, kubeconfig=tmp_path / "none")


def test_a_kind_that_the_cluster_does_not_know_is_named(client: ClusterClient) -> None:
    assert not client.serves(Kind("v1", "Magic"))
    assert client.serves(CONFIG_MAP)
    with pytest.raises(Refused, match="the cluster knows no v1 Magic"):
        client.list(Kind("v1", "Magic"), "default")


@pytest.mark.sandbox_only
def test_custom_kinds_are_found_by_discovery(client: ClusterClient) -> None:
    assert client.path(HTTP_ROUTE, "n", "r") == "/apis/gateway.networking.k8s.io/v1/namespaces/n/httproutes/r"
