"""What a release would change in a cluster that serves, seen on a sandbox cluster."""

from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.client import Kind
from nexus_ops.releases.diff import Change, FieldChange
from nexus_ops.rollouts.live import changes_to_live


def changes(platform: Platform, version: str) -> dict[tuple[str, str], Change]:
    serving = platform.record().serving
    assert serving is not None
    release = platform.releases.resolve("staging", version)
    return {(change.kind, change.name): change for change in changes_to_live(platform.context(), release, serving)}


def test_what_serves_is_no_change_to_itself_and_another_release_is(platform: Platform) -> None:
    """Defaults of the server, labels of the applier, replicas and weights of the rollout are nobody's drift."""
    platform.ensure("v1.0.0")
    assert changes(platform, "v1.0.0") == {}
    colour = platform.at_the_edge()[1]
    other = changes(platform, "v1.1.0")
    assert {change.what for change in other.values()} == {"changed"}
    images = [field for field in other["Deployment", f"risk-manager-{colour}"].fields if field.path.endswith(".image")]
    assert [("v1.0.0" in field.before, "v1.1.0" in field.after) for field in images] == [(True, True)]


def test_what_somebody_changed_by_hand_is_shown(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]
    client, namespace = platform.context().client, platform.topology.cluster(CLUSTER).namespace
    config = client.get(Kind("v1", "ConfigMap"), f"risk-manager-{colour}", namespace)
    assert config is not None
    client.replace({**config, "data": {**config["data"], "LOG_LEVEL": "debug"}}, manager="by-hand")
    try:
        found = changes(platform, "v1.0.0")
        assert {key: change.fields for key, change in found.items()} == {
            ("ConfigMap", f"risk-manager-{colour}"): (FieldChange("data.LOG_LEVEL", "debug", "info"),)
        }
    finally:
        live = client.get(Kind("v1", "ConfigMap"), f"risk-manager-{colour}", namespace)
        assert live is not None
        client.replace({**live, "data": config["data"]}, manager="by-hand")
    assert changes(platform, "v1.0.0") == {}
