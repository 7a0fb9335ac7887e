"""The ConfigMap nexus-infrastructure-config: the seed's keys, from the topology; and releases of before it."""

import json
from dataclasses import replace

import pytest
import yaml
from platform_chart import CHART, TOPOLOGY, changed, objects_of, of_kind, one, release_of, render, values_of

from nexus_ops.releases.helm import RenderError
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import values_for
from nexus_ops.topology import Topology, TopologyError, default_path

NAME = "nexus-infrastructure-config"


def test_it_has_the_keys_of_the_seed_and_says_what_the_topology_says() -> None:
    data = one(objects_of("shared"), "ConfigMap", NAME)["data"]
    assert {key: value for key, value in data.items() if key != "REGIONS"} == {
        "PRIMARY_CLOUD": "aws",
        "SECONDARY_CLOUD": "gcp",
        "TERTIARY_CLOUD": "azure",
        "DISASTER_RECOVERY_ENABLED": "true",
        "AUTO_FAILOVER_ENABLED": "true",
    }
    assert yaml.safe_load(data["REGIONS"]) == {
        "primary": ["us-west-2", "us-east-1"],
        "secondary": ["us-central1", "europe-west1"],
        "tertiary": ["eastus", "westeurope"],
    }
    assert NAME not in of_kind(objects_of("blue"), "ConfigMap")


def test_what_is_off_is_said_as_a_text() -> None:
    values = changed(values_of("shared"), "infrastructure.autoFailover", False)
    assert one(render(values), "ConfigMap", NAME)["data"]["AUTO_FAILOVER_ENABLED"] == "false"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("infrastructure.clouds.fourth", {"name": "x", "regions": ["y"]}),
        ("infrastructure.clouds.primary.regions", []),
        ("infrastructure.autoFailover", "yes"),
        ("infrastructure.clouds.primary.name", "AWS: x"),
    ],
)
def test_the_schema_refuses_what_cannot_be_meant(path: str, value: object) -> None:
    with pytest.raises(RenderError, match="infrastructure"):
        render(changed(values_of("shared"), path, value))


def test_a_release_of_before_keeps_its_digest_and_its_values() -> None:
    """Its own chart has a schema that refuses a value which it does not know."""
    before = replace(release_of("production"), infrastructure=None)
    assert "infrastructure" not in json.loads(before.to_bytes())
    again = Release.from_bytes(before.to_bytes())
    assert again == before
    assert again.digest == before.digest
    assert "infrastructure" not in values_for(before, TOPOLOGY.primary("production"), "shared")
    assert "templates/infrastructure.yaml" in CHART


def test_two_clouds_cannot_have_the_same_role() -> None:
    document = yaml.safe_load(default_path().read_text())
    document["clouds"]["gcp"]["role"] = "primary"
    with pytest.raises(TopologyError, match="2 clouds have the role primary; allowed: one each"):
        Topology.parse(document)
