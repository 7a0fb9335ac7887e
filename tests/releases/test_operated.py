"""The pods of databases and monitoring count: an operator makes them, but they need room like any others."""

from __future__ import annotations

import copy
from typing import Any

from nexus_ops.releases.capacity import capacity
from nexus_ops.releases.gates import check_capacity
from nexus_ops.releases.operated import operated_pods
from nexus_ops.releases.rendering import Rendering
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
TOPOLOGY = Topology.load(default_path())
DATA = dict(TOPOLOGY.node_groups["data-nodes"].labels)  # 4 cores and 32 GiB each, at most 15
RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}}
POSTGRESQL: Object = {
    "apiVersion": "postgresql.cnpg.io/v1",
    "kind": "Cluster",
    "metadata": {"name": "pg"},
    "spec": {"instances": 3, "affinity": {"nodeSelector": DATA}, "resources": RESOURCES},
}
REDIS: Object = {
    "apiVersion": "redis.redis.opstreelabs.in/v1beta2",
    "kind": "RedisCluster",
    "metadata": {"name": "redis"},
    "spec": {
        "clusterSize": 3,
        "kubernetesConfig": {"image": "x", "resources": RESOURCES},
        "redisLeader": {"nodeSelector": DATA, "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
        "redisFollower": {"nodeSelector": DATA},
        "redisExporter": {"enabled": True, "image": "y", "resources": {"requests": {"cpu": "100m", "memory": "0"}}},
    },
}


def shared(*objects: Object) -> list[Rendering]:
    return [Rendering("r", "c", "shared", objects)]


def test_a_database_and_a_redis_of_leaders_and_followers_count_once_whatever_the_colours() -> None:
    (row,) = capacity([*shared(POSTGRESQL, REDIS), Rendering("r", "c", "blue", ())], TOPOLOGY)
    assert (row.group, row.pods) == ("data-nodes", 3 + 6)
    assert row.cpu_used == 3 * 1 + 3 * 0.6 + 3 * 1.1, "leaders have resources of their own, followers the common ones"
    assert row.memory_used == 3 * 2 + 3 * 1 + 3 * 2


def test_monitoring_counts_its_replicas_and_shards() -> None:
    prometheus: Object = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": "p"},
        "spec": {"replicas": 2, "shards": 2, "nodeSelector": DATA, "resources": RESOURCES},
    }
    alertmanager = {**prometheus, "kind": "Alertmanager", "spec": {"nodeSelector": DATA, "resources": RESOURCES}}
    (row,) = capacity(shared(prometheus, alertmanager), TOPOLOGY)
    assert (row.pods, row.cpu_used) == (4 + 1, 5.0)


def test_a_database_that_fits_no_node_is_told_before_its_operator_finds_out() -> None:
    large = copy.deepcopy(POSTGRESQL)
    large["spec"]["resources"] = {"requests": {"cpu": "5", "memory": "2Gi"}}
    (problem,) = check_capacity(shared(large), TOPOLOGY).problems
    assert problem.startswith("Cluster pg: one pod asks for 5 cores and 2.0 GiB, a node of data-nodes")


def test_a_redis_of_too_many_nodes_is_told() -> None:
    large = copy.deepcopy(REDIS)
    large["spec"]["clusterSize"] = 60
    (problem,) = check_capacity(shared(large), TOPOLOGY).problems
    assert problem.startswith("node group data-nodes: both colours ask for 102.0 cores")


def test_a_kind_of_another_group_stands_for_no_pods() -> None:
    """`Cluster` is a kind of several operators."""
    assert list(operated_pods({**POSTGRESQL, "apiVersion": "cluster.x-k8s.io/v1beta1"})) == []
