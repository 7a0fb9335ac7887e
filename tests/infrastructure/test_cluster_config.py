"""The ClusterConfig of each AWS cluster: valid by eksctl's own schema, complete, and the same for the same topology."""

import copy
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from nexus_ops.assets.infrastructure import CLUSTER_CONFIG, cluster_config
from nexus_ops.errors import PermanentError
from nexus_ops.infrastructure import cluster_config as configs
from nexus_ops.infrastructure.sizes import numbers, size_table
from nexus_ops.partitions import aws_clusters
from nexus_ops.releases.capacity import Capacity
from nexus_ops.resources import NexusResource
from nexus_ops.storage import ObjectStore, digest_of
from nexus_ops.topology import Topology, default_path

TOPOLOGY = Topology.load(default_path())
AWS = [name for name, cluster in TOPOLOGY.clusters.items() if cluster.cloud == "aws"]


def config(name: str = AWS[0], topology: Topology = TOPOLOGY) -> dict[str, Any]:
    return configs.cluster_config(topology, topology.cluster(name))


@pytest.mark.parametrize("name", AWS)
def test_the_config_of_every_aws_cluster_is_valid(name: str) -> None:
    document = config(name)
    assert list(configs.problems(document)) == []
    assert document["metadata"]["name"] == name
    assert document["metadata"]["region"] == TOPOLOGY.cluster(name).region


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("managedNodeGroups", 0, "minimumSize"), 3),
        (("managedNodeGroups", 0, "minSize"), "3"),
        (("metadata", "zone"), "a"),
        (("nodegroups",), []),
        (("addons", 0, "wellKnownPolicies", "everything"), True),
        (("kind",), "Cluster"),
        (("apiVersion",), "v1"),
    ],
)
def test_the_schema_is_strict(path: tuple[Any, ...], value: Any) -> None:
    """The seed's `kind: Cluster, apiVersion: v1` would have been accepted by nobody, and checked by nobody."""
    document = copy.deepcopy(config())
    *parents, last = path
    place: Any = document
    for step in parents:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[last] = value
    assert len(list(configs.problems(document))) == 1


def test_node_groups_are_the_seeds() -> None:
    groups = {group["name"]: group for group in config()["managedNodeGroups"]}
    sizes = {
        name: (group["instanceType"], group["minSize"], group["maxSize"], group["desiredCapacity"])
        for name, group in groups.items()
    }
    assert sizes == {
        "system-nodes": ("t3.large", 3, 10, 5),
        "agent-nodes": ("c5.2xlarge", 5, 50, 10),
        "data-nodes": ("r5.xlarge", 3, 15, 6),
    }
    assert groups["agent-nodes"]["labels"] == {"workload-type": "agents"}


def test_every_add_on_of_the_topology_is_installed_or_gets_its_rights() -> None:
    """Two of the seed's six are no add-ons of EKS: asked for by name, creating the cluster fails."""
    document = config()
    installed = {one["name"]: one for one in document["addons"]}
    accounts = {one["metadata"]["name"]: one["wellKnownPolicies"] for one in document["iam"]["serviceAccounts"]}
    assert {*installed, *accounts} == set(TOPOLOGY.add_ons)
    assert accounts == {
        "aws-load-balancer-controller": {"awsLoadBalancerController": True},
        "cluster-autoscaler": {"autoScaler": True},
    }
    assert installed["aws-ebs-csi-driver"]["wellKnownPolicies"] == {"ebsCSIController": True}
    assert "enableNetworkPolicy" in installed["vpc-cni"]["configurationValues"]
    more = TOPOLOGY.model_copy(update={"add_ons": (*TOPOLOGY.add_ons, "eks-pod-identity-agent")})
    assert {"name": "eks-pod-identity-agent"} in config(topology=more)["addons"]


def test_a_cluster_of_another_cloud_has_none() -> None:
    with pytest.raises(PermanentError, match="it is on gcp; eksctl makes clusters on AWS only"):
        config("production-us-central1")


def test_what_is_not_valid_is_not_kept(tmp_path: Path) -> None:
    store = ObjectStore.open((tmp_path / "store").as_uri())
    with pytest.raises(PermanentError, match=r"its ClusterConfig is not valid: metadata: .*'zone' was unexpected"):
        configs.save(store, TOPOLOGY.cluster(AWS[0]), {**config(), "metadata": {**config()["metadata"], "zone": "a"}})
    assert store.list(configs.PREFIX) == []


# ---------------------------------------------------------------- the asset


def materialize(instance: dg.DagsterInstance, name: str = AWS[0]) -> tuple[dict[str, Any], str]:
    """Metadata and data version."""
    result = dg.materialize(
        [cluster_config], instance=instance, partition_key=name, resources={"nexus": NexusResource()}
    )
    (event,) = result.asset_materializations_for_node("cluster_config")
    shown: dict[str, Any] = {key: value.value for key, value in event.metadata.items()}
    return shown, (event.tags or {})["dagster/data_version"]


def test_the_asset_shows_what_it_keeps_and_what_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = ObjectStore.open((tmp_path / "store").as_uri())
    monkeypatch.setenv("NEXUS_STORE", store.url)
    with dg.instance_for_test() as instance:
        first, version = materialize(instance)
        assert version == first["digest"]
        kept = store.get_content(configs.PREFIX, first["digest"])
        assert digest_of(kept) == first["digest"]
        assert first["config"] == f"```yaml\n{kept.decode()}```"
        assert yaml.safe_load(kept) == config()
        assert "| agent-nodes (c5.2xlarge) | 5–10–50 | 80 to 400 | 160 to 800 | - |" in first["capacity"]
        assert (first["changes"], first["new"], first["agent-nodes/nodes at most"]) == ("The first one.", True, 50)
        again, same = materialize(instance)
        assert (same, again["changes"], again["new"]) == (version, "Nothing.", False)
        document = yaml.safe_load(default_path().read_text())
        document["node_groups"]["agent-nodes"]["max"] = 60
        changed = tmp_path / "topology.yaml"
        changed.write_text(yaml.safe_dump(document, sort_keys=False))
        monkeypatch.setenv("NEXUS_TOPOLOGY", str(changed))
        other, another = materialize(instance)
        assert another != version
        assert "-  maxSize: 50\n+  maxSize: 60\n" in other["changes"]
        newest = instance.get_latest_data_version_record(CLUSTER_CONFIG, partition_key=AWS[0])
        assert newest is not None


def test_what_a_release_asks_of_the_node_groups_is_beside_what_they_have() -> None:
    asked = Capacity("agent-nodes", 72, 21.5, 400.0, 43.0, 800.0, 3, 50)
    table = size_table(TOPOLOGY.node_groups, [asked])
    assert "| 5–10–50 | 80 to 400 | 160 to 800 | 3 nodes: 21.5 cores, 43 GiB |" in table
    assert numbers(TOPOLOGY.node_groups, [asked])["agent-nodes/nodes both colours need"] == 3.0


def test_there_is_a_partition_for_every_aws_cluster_of_the_topology() -> None:
    assert aws_clusters.get_partition_keys() == AWS
