"""PostgreSQL with its backups, and Redis, as their operators take them."""

import pytest
from platform_chart import (
    CHART,
    ENVIRONMENTS,
    TOPOLOGY,
    changed,
    objects_of,
    of_kind,
    one,
    release_of,
    render,
    values_of,
)

from nexus_ops.releases.gates import evaluate
from nexus_ops.releases.rendering import Rendering
from nexus_ops.releases.rendering import render as render_release

SEED_PARAMETERS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "4MB",
    "maintenance_work_mem": "64MB",
    "random_page_cost": "1.1",
    "effective_io_concurrency": "200",
    "max_worker_processes": "8",
    "max_parallel_workers": "4",
    "max_parallel_workers_per_gather": "2",
}
PLUGIN = "barman-cloud.cloudnative-pg.io"


def test_postgresql_is_the_seed_s() -> None:
    spec = one(objects_of("shared"), "Cluster", "postgresql-cluster")["spec"]
    assert spec["instances"] == 3
    assert spec["primaryUpdateStrategy"] == "unsupervised"
    assert spec["postgresql"]["parameters"] == SEED_PARAMETERS
    initdb = spec["bootstrap"]["initdb"]
    assert (initdb["database"], initdb["owner"]) == ("nexus", "nexus_user")
    assert initdb["secret"] == {"name": "postgresql-secret"}
    assert spec["storage"] == {"size": "500Gi", "storageClass": "gp3"}
    assert "@sha256:" in spec["imageName"]


def test_its_instances_are_on_different_data_nodes() -> None:
    affinity = one(objects_of("shared"), "Cluster", "postgresql-cluster")["spec"]["affinity"]
    assert affinity["podAntiAffinityType"] == "required"
    assert affinity["topologyKey"] == "kubernetes.io/hostname"
    assert affinity["nodeSelector"] == TOPOLOGY.node_groups["data-nodes"].labels


def test_the_service_names_of_the_operators_are_those_that_components_use() -> None:
    """CloudNativePG calls it <cluster>-rw, the Redis operator <cluster>-leader."""
    redis = TOPOLOGY.components["risk-manager"].environment["REDIS_URL"]
    (name,) = of_kind(objects_of("shared"), "RedisCluster")
    assert redis == f"redis://{name}-leader.nexus-data.svc:6379"
    (container,) = one(objects_of("shared"), "StatefulSet", "grafana")["spec"]["template"]["spec"]["containers"]
    host = next(v["value"] for v in container["env"] if v["name"] == "GF_DATABASE_HOST")
    (cluster,) = of_kind(objects_of("shared"), "Cluster")
    assert host == f"{cluster}-rw.nexus-data.svc:5432"


def test_backups_go_through_the_plugin_and_are_kept_for_thirty_days() -> None:
    objects = objects_of("shared")
    spec = one(objects, "Cluster", "postgresql-cluster")["spec"]
    (plugin,) = spec["plugins"]
    assert (plugin["name"], plugin["isWALArchiver"]) == (PLUGIN, True)
    store = one(objects, "ObjectStore", plugin["parameters"]["barmanObjectName"])["spec"]
    assert store["retentionPolicy"] == "30d"
    assert store["configuration"]["destinationPath"] == "s3://nexus-backups/postgresql"
    assert store["configuration"]["s3Credentials"] == {
        "accessKeyId": {"name": "backup-secret", "key": "ACCESS_KEY_ID"},
        "secretAccessKey": {"name": "backup-secret", "key": "SECRET_ACCESS_KEY"},
    }
    scheduled = one(objects, "ScheduledBackup", "postgresql-cluster")["spec"]
    assert scheduled["method"] == "plugin"
    assert scheduled["pluginConfiguration"] == {"name": PLUGIN}
    assert scheduled["cluster"] == {"name": "postgresql-cluster"}
    assert scheduled["schedule"] == "0 0 2 * * *", "six fields: the first is the second"
    assert scheduled["backupOwnerReference"] == "none", "taking the schedule away takes no backup away"
    assert "backup" not in spec, "the in-tree way is being replaced"


def test_clusters_that_share_a_bucket_write_under_names_of_their_own() -> None:
    """Two servers under one name would each archive over the other's WAL."""
    names: set[str] = set()
    for name, cluster in TOPOLOGY.clusters.items():
        found = render_release(release_of(cluster.environment), cluster, "shared", CHART)
        (plugin,) = one(found.objects, "Cluster", "postgresql-cluster")["spec"]["plugins"]
        assert plugin["parameters"]["serverName"] == name
        names.add(plugin["parameters"]["serverName"])
    assert len(names) == len(TOPOLOGY.clusters)


def test_without_a_secret_the_pods_own_role_is_used_and_without_backups_nothing_is_archived() -> None:
    by_role = render(changed(values_of("shared"), "backup.secret", ""))
    (store,) = of_kind(by_role, "ObjectStore").values()
    assert store["spec"]["configuration"]["s3Credentials"] == {"inheritFromIAMRole": True}
    none = render(changed(values_of("shared"), "backup.enabled", False))
    assert "plugins" not in one(none, "Cluster", "postgresql-cluster")["spec"]


def test_grafana_gets_a_database_that_outlives_it_and_a_role_for_it() -> None:
    database = one(objects_of("shared"), "Database", "grafana")["spec"]
    assert database["cluster"] == {"name": "postgresql-cluster"}
    assert (database["name"], database["owner"]) == ("grafana", "grafana")
    assert database["databaseReclaimPolicy"] == "retain"
    (role,) = one(objects_of("shared"), "Cluster", "postgresql-cluster")["spec"]["managed"]["roles"]
    assert (role["name"], role["passwordSecret"]) == ("grafana", {"name": "grafana-database"})
    without = render(changed(values_of("shared"), "monitoring.grafana.enabled", False))
    assert "managed" not in one(without, "Cluster", "postgresql-cluster")["spec"]


def test_redis_has_six_nodes_that_keep_their_data() -> None:
    """The seed's six are three leaders and three followers: clusterSize counts the leaders."""
    spec = one(objects_of("shared"), "RedisCluster", "redis-cluster")["spec"]
    assert spec["clusterSize"] == 3
    assert spec["kubernetesConfig"]["image"].startswith("quay.io/opstree/redis:")
    assert spec["kubernetesConfig"]["redisSecret"] == {"name": "redis-secret", "key": "password"}
    assert spec["storage"]["keepAfterDelete"] is True
    claim = spec["storage"]["volumeClaimTemplate"]["spec"]
    assert (claim["storageClassName"], claim["resources"]) == ("gp3", {"requests": {"storage": "100Gi"}})
    assert claim["accessModes"] == ["ReadWriteOnce"]
    for role in ("redisLeader", "redisFollower"):
        assert spec[role]["resources"] == {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        }
        assert spec[role]["nodeSelector"] == TOPOLOGY.node_groups["data-nodes"].labels
    assert (spec["podSecurityContext"]["runAsUser"], spec["podSecurityContext"]["fsGroup"]) == (1000, 1000)


def test_what_operators_run_is_restricted_as_its_namespace_asks() -> None:
    spec = one(objects_of("shared"), "RedisCluster", "redis-cluster")["spec"]
    assert spec["podSecurityContext"]["runAsNonRoot"] is True
    assert spec["podSecurityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in ("redisLeader", "redisFollower", "redisExporter"):
        assert spec[container]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    for kind in ("Prometheus", "Alertmanager"):
        (found,) = of_kind(objects_of("shared"), kind).values()
        assert found["spec"]["securityContext"]["runAsNonRoot"] is True
        assert found["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_data_layer_fits_its_nodes_also_in_staging(environment: str) -> None:
    cluster, release = TOPOLOGY.primary(environment), release_of(environment)
    parts = [Rendering(release.digest, cluster.name, "shared", objects_of("shared", environment))]
    assert all(gate.passed for gate in evaluate(parts, TOPOLOGY))
