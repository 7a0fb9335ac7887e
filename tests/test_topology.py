"""The topology refuses what cannot be meant, and says where and what is allowed."""

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.documents import DocumentError
from nexus_ops.errors import UnknownName
from nexus_ops.topology import Topology, TopologyError, default_path, other

DOCUMENT: dict[str, Any] = yaml.safe_load(default_path().read_text())


def changed(path: str, value: Any) -> dict[str, Any]:
    """The project's topology with the value at a dotted path replaced (None removes it)."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split(".")
    place = document
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


def test_the_topology_of_the_project_has_the_platform_of_the_seed() -> None:
    topology = Topology.load(default_path())
    assert [cluster.name for cluster in topology.enabled_clusters] == [
        "staging-us-west-2",
        "production-us-west-2",
        "production-us-east-1",
    ]
    assert topology.primary("production").region == "us-west-2"
    assert sum(component.replicas for component in topology.components.values()) == 36
    assert {c.name for c in topology.components.values() if c.work == "exclusive"} == {
        "execution-engine",
        "payment-processor",
    }
    assert topology.edge_component.name == "agent-orchestrator"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "clusters.staging-us-west-2.region",
            "mars-1",
            ["clusters.staging-us-west-2.region", "mars-1", "us-west-2, us-east-1"],
        ),
        (
            "clusters.staging-us-west-2.environment",
            "qa",
            ["clusters.staging-us-west-2.environment", "staging, production"],
        ),
        ("clusters.staging-us-west-2.cloud", "ibm", ["clusters.staging-us-west-2.cloud", "aws, gcp, azure"]),
        ("clusters.production-us-west-2.role", "standby", ["production has no primary"]),
        (
            "clusters.production-us-east-1.role",
            "primary",
            ["production has 2 primaries", "production-us-east-1"],
        ),
        (
            "clusters.production-us-east-1.context",
            "production-us-west-2",
            ["'production-us-west-2' is used 2 times"],
        ),
        ("clusters.production-us-east-1.context", None, ["clusters.production-us-east-1.context: missing"]),
        (
            "clusters.production-us-west-2.enabled",
            False,
            ["clusters.production-us-west-2.enabled: false", "production has enabled clusters"],
        ),
        (
            "components.risk-manager.replicas",
            51,
            ["components.risk-manager", "replicas is 51", "3 (autoscaling.min) to 50"],
        ),
        (
            "components.risk-manager.colour",
            "blue",
            ["components.risk-manager.colour: unknown key", "allowed: work, edge"],
        ),
        ("components.risk-manager.node_group", "gpu", ["components.risk-manager.node_group", "agent-nodes"]),
        (
            "components.risk-manager.work",
            "batch",
            ["components.risk-manager.work", "'request', 'worker' or 'exclusive'"],
        ),
        ("components.risk-manager.edge", True, ["agent-orchestrator, risk-manager", "exactly one"]),
        ("components.execution-engine.edge", True, ["exclusive work"]),
        (
            "node_groups.data-nodes.desired",
            99,
            ["node_groups.data-nodes", "desired is 99", "3 (min) to 15 (max)"],
        ),
        (
            "component_defaults.resources.limits.cpu",
            "lots",
            ["components.portfolio-manager.resources.limits.cpu"],
        ),
        ("add_ons", ["coredns", "coredns"], ["add_ons: coredns is listed twice"]),
        (
            "environments.staging.rollout.speed",
            9,
            ["environments.staging.rollout.speed: unknown key", "monitor_seconds"],
        ),
        (
            "environments.staging.rollout",
            {"monitor_seconds": 1, "hold_secs": 1},
            ["environments.staging.rollout.hold_secs: unknown key", "Did you mean hold_seconds?"],
        ),
    ],
)
def test_a_broken_topology_is_refused_with_path_and_what_is_allowed(path: str, value: Any, said: list[str]) -> None:
    with pytest.raises(TopologyError) as caught:
        Topology.parse(changed(path, value), source="topology.yaml")
    for words in ["topology.yaml: ", *said]:
        assert words in str(caught.value)


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(default_path().read_text() + "\nadd_ons: []\n")
    with pytest.raises(DocumentError, match=r"'add_ons' is declared 2 times \(line"):
        Topology.load(path)


@pytest.mark.parametrize(("text", "said"), [("", "no mapping"), ("clouds: [", "line 1"), ("- a", "no mapping")])
def test_a_file_that_is_no_topology_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(text)
    with pytest.raises((TopologyError, DocumentError), match=said):
        Topology.load(path)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"no cluster named 'production-eu'.*production-us-east-1"):
        Topology.load(default_path()).cluster("production-eu")


def test_colours_alternate() -> None:
    assert other("blue") == "green"
    assert other("green") == "blue"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*DOCUMENT]), JUNK)
def test_no_document_makes_the_topology_fail_with_anything_but_its_own_error(section: str, junk: Any) -> None:
    with suppress(TopologyError):
        Topology.parse({**DOCUMENT, section: junk})


def test_the_nights_of_a_cluster_are_those_of_its_region() -> None:
    topology = Topology.load(default_path())
    zones = {cluster.name: topology.time_zone_of(cluster) for cluster in topology.enabled_clusters}
    assert zones == {
        "staging-us-west-2": "America/Los_Angeles",
        "production-us-west-2": "America/Los_Angeles",
        "production-us-east-1": "America/New_York",
    }


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("clouds.aws.time_zones", {"us-west-2": "America/Los_Angeles"}, "us-east-1 is not in both"),
        ("clouds.aws.time_zones.us-west-2", "Mars/Olympus", "there is no 'Mars/Olympus'"),
        ("environments.staging.backups", None, "environments.staging.backups"),
        ("environments.staging.backups.retention.days", None, "environments.staging.backups.retention.days"),
        ("environments.staging.backups.retention.last", 0, "environments.staging.backups.retention.last"),
        ("environments.staging.backups.schedule", "nightly", "environments.staging.backups.schedule"),
        ("environments.staging.backups.redis.url", {"secret": "s"}, "a secret with its key, or a variable"),
        ("environments.staging.backups.redis.url", {"url": "redis://u:p@h"}, "environments.staging.backups.redis.url"),
        ("environments.staging.backups.postgresql.database", "nexus", "a physical backup is of the whole server"),
    ],
)
def test_how_databases_are_backed_up_has_no_defaults_and_holds_no_secret(path: str, value: Any, said: str) -> None:
    with pytest.raises(TopologyError) as refused:
        Topology.parse(changed(path, value))
    assert said in str(refused.value)
    assert "u:p@h" not in str(refused.value)
