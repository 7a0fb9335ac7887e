"""Whether what is live is what was declared: pure judgement of nodes, node groups and add-ons."""

from dataclasses import replace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from nexus_ops.infrastructure.add_ons import KNOWN
from nexus_ops.infrastructure.drift import INSTANCE_TYPE, Judgement, judge_add_ons, judge_eks, judge_nodes
from nexus_ops.infrastructure.eks import EksCluster, LiveGroup, NotSeen, describe
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
TOPOLOGY = Topology.load(default_path())
GROUPS = TOPOLOGY.node_groups


def node(group: str, number: int, **labels: str | None) -> Object:
    declared = GROUPS[group]
    found = {**declared.labels, INSTANCE_TYPE: declared.instance_type, **labels}
    return {
        "metadata": {"name": f"{group}-{number}", "labels": {k: v for k, v in found.items() if v is not None}},
        "status": {"capacity": {"cpu": declared.cpu, "memory": declared.memory}},
    }


def nodes() -> list[Object]:
    return [node(name, number) for name, group in GROUPS.items() for number in range(group.desired)]


def test_nodes_as_declared_are_no_drift_however_many_the_autoscaler_chose() -> None:
    for number in (GROUPS["agent-nodes"].min, GROUPS["agent-nodes"].max):
        of_group = [node("agent-nodes", one) for one in range(number)]
        found = judge_nodes([*(n for n in nodes() if "agent" not in n["metadata"]["name"]), *of_group], GROUPS)
        assert found.passed, found
        assert found.numbers["agent-nodes nodes"] == number


def test_no_nodes_at_all_is_not_seen_and_no_pass() -> None:
    found = judge_nodes([], GROUPS)
    assert not found.passed
    assert found.drift == []
    assert found.summary("fine") == "not seen: the API server shows no nodes at all"


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (nodes()[1:-5], "data-nodes has 1 nodes; declared: 3 to 15"),
        ([*nodes(), *(node("system-nodes", number) for number in range(9, 20))], "system-nodes has 16 nodes; declared: 3 to 10"),
        (
            [*nodes(), node("agent-nodes", 77, **{INSTANCE_TYPE: "c5.large"})],
            "agent-nodes is declared as c5.2xlarge: agent-nodes-77 is c5.large",
        ),
        (
            [*nodes(), {"metadata": {"name": "pet"}, "status": {}}],
            "1 nodes belong to no declared group: pet",
        ),
        (
            [*nodes(), {**node("data-nodes", 77), "status": {"capacity": {"cpu": "2"}}}],
            "data-nodes is declared with 4 cores a node: data-nodes-77 has 2",
        ),
    ],
)  # fmt: skip
def test_what_differs_is_said_with_what_was_declared(live: list[Object], said: str) -> None:
    assert judge_nodes(live, GROUPS).drift == [said]


def test_nodes_that_do_not_say_what_they_are_pass_nothing() -> None:
    found = judge_nodes([*nodes(), node("agent-nodes", 77, **{INSTANCE_TYPE: None})], GROUPS)
    assert (found.drift, found.unseen) == ([], ["the instance type of agent-nodes: its nodes do not say it"])
    assert judge_nodes([node("agent-nodes", n, **{INSTANCE_TYPE: "n2"}) for n in range(5)], {"agent-nodes": GROUPS["agent-nodes"]}, typed=False).passed  # fmt: skip


# ---------------------------------------------------------------- EKS

LIVE = EksCluster(
    TOPOLOGY.kubernetes_version,
    tuple(
        LiveGroup(group.name, "ACTIVE", group.min, group.max, (group.instance_type,), group.labels)
        for group in GROUPS.values()
    ),
)


def judged(live: EksCluster) -> list[str]:
    found = Judgement()
    judge_eks(found, live, TOPOLOGY)
    return found.drift


def changed(**fields: Any) -> EksCluster:
    first, *rest = LIVE.groups
    return replace(LIVE, groups=(replace(first, **fields), *rest))


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (LIVE, []),
        (replace(LIVE, version="1.29"), ["EKS is of version 1.29; declared: 1.32"]),
        (replace(LIVE, groups=LIVE.groups[1:]), ["EKS has no node group system-nodes"]),
        (changed(max=99), ["system-nodes may have 3 to 99 nodes; declared: 3 to 10"]),
        (changed(instance_types=("t3.small",)), ["system-nodes is of t3.small; declared: t3.large"]),
        (changed(labels={}), ["system-nodes does not give its nodes the label workload-type"]),
        (changed(status="DEGRADED"), ["system-nodes is DEGRADED"]),
        (
            replace(LIVE, groups=(*LIVE.groups, replace(LIVE.groups[0], name="by-hand"))),
            ["node groups that nobody declared: by-hand"],
        ),
        (
            replace(LIVE, groups=()),  # an answer without groups is one, and says that all are missing
            [f"EKS has no node group {name}" for name in GROUPS],
        ),
    ],
)
def test_what_eks_has_otherwise_is_said(live: EksCluster, said: list[str]) -> None:
    assert judged(live) == said


def test_a_cluster_that_eks_does_not_know_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock_aws():
        eks = boto3.client("eks", region_name="us-west-2")
        with pytest.raises(NotSeen, match="EKS answers ResourceNotFoundException") as refused:
            describe(TOPOLOGY.cluster("staging-us-west-2"), eks)
    assert refused.value.todo is not None
    assert "under the topology's name" in refused.value.todo


# ---------------------------------------------------------------- add-ons

THERE = [workload for name in TOPOLOGY.add_ons for workload in KNOWN[name].workloads]


def test_add_ons_that_are_there_pass_and_others_are_only_named() -> None:
    found = judge_add_ons([*THERE, "metrics-server"], TOPOLOGY.add_ons)
    assert found.passed
    assert found.also == ["metrics-server"]


def test_a_missing_add_on_is_drift() -> None:
    found = judge_add_ons([name for name in THERE if name != "ebs-csi-node"], TOPOLOGY.add_ons)
    assert found.drift == ["aws-ebs-csi-driver is declared and not there (no ebs-csi-node in kube-system)"]
    assert found.numbers == {"declared": 6, "missing": 1}


def test_a_kube_system_that_shows_nothing_passes_nothing() -> None:
    found = judge_add_ons([], TOPOLOGY.add_ons)
    assert not found.passed
    assert found.drift == []
