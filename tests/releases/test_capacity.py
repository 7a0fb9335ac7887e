"""Capacity: both colours at once, as the manifests ask, on whole nodes."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.releases.capacity import Capacity, capacity, capacity_table
from nexus_ops.releases.gates import check_capacity
from nexus_ops.releases.rendering import Part, Rendering
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
TOPOLOGY = Topology.load(default_path())
AGENTS = TOPOLOGY.node_groups["agent-nodes"]  # 8 cores and 16 GiB each, at most 50


def deployment(name: str, replicas: int | None, cpu: str = "1", memory: str = "1Gi", work: str = "request") -> Object:
    """As the chart renders it: on the agents' nodes; without replicas where an autoscaler decides."""
    container = {"name": "agent", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/component": work},
            "annotations": {},
        },
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "template": {"spec": {"nodeSelector": dict(AGENTS.labels), "containers": [container]}},
        },
    }


def rendering(part: Part, *objects: Object) -> Rendering:
    return Rendering("r", "c", part, objects)


def both(*objects: Object) -> list[Rendering]:
    return [rendering("shared"), rendering("blue", *objects), rendering("green", *objects)]


def row(renderings: list[Rendering]) -> Capacity:
    (found,) = capacity(renderings, TOPOLOGY)
    return found


def test_request_work_counts_in_both_colours_and_exclusive_work_once() -> None:
    """Exclusive work is never in both: counted twice, a release that fits would be refused."""
    found = row(both(deployment("a", 3), deployment("b", 10, work="exclusive"), deployment("c", 2, work="worker")))
    assert (found.pods, found.cpu_used, found.memory_used) == (20, 20.0, 20.0)
    assert (found.cpu, found.memory, found.nodes) == (400.0, 800.0, 50)


def test_one_colour_alone_counts_as_if_both_were_there() -> None:
    objects = deployment("a", 3), deployment("b", 10, work="exclusive")
    assert row([rendering("blue", *objects)]) == row(both(*objects))


def test_replicas_that_an_autoscaler_owns_are_read_from_the_annotation() -> None:
    """The applied object has no replicas; one pod each would let everything pass."""
    obj = deployment("a", None)
    obj["metadata"]["annotations"]["nexus.ai/replicas"] = "7"
    assert row(both(obj)).pods == 14


def test_more_pods_than_declared_count_in_both_colours() -> None:
    """An autoscaler has made them of the stable colour, and the candidate has to match it."""
    renderings = both(deployment("a", 3), deployment("b", 10, work="exclusive"))
    (found,) = capacity(renderings, TOPOLOGY, {"a": 9, "b": 4})
    assert found.pods == 2 * 9 + 10
    assert not check_capacity(renderings, TOPOLOGY, {"a": 1000}).passed


def test_what_the_release_asks_counts_and_not_what_the_topology_says_now() -> None:
    """Going back to an older release that asks for more must be judged by what is applied."""
    result = check_capacity(both(deployment("risk-manager", 30, cpu="7")), TOPOLOGY)
    (problem,) = result.problems
    assert problem == (
        "node group agent-nodes: both colours ask for 420.0 cores of cpu, agent-nodes has 400.0 at its maximum; "
        "raise its max or lower the replicas."
    )
    assert not result.passed


def test_memory_counts_as_well_as_cpu() -> None:
    (problem,) = check_capacity(both(deployment("a", 60, cpu="10m", memory="8G")), TOPOLOGY).problems
    assert "both colours ask for 894.1 GiB of memory, agent-nodes has 800.0" in problem


def test_pods_are_not_divided_among_nodes() -> None:
    """51 pods of 5 cores ask for 255 of 400 cores, and need 51 of 50 nodes."""
    (problem,) = check_capacity([rendering("shared", deployment("a", 51, cpu="5"))], TOPOLOGY).problems
    assert problem.startswith("node group agent-nodes: both colours need 51 nodes, for pods are not divided;")
    assert check_capacity([rendering("shared", deployment("a", 50, cpu="5"))], TOPOLOGY).passed


def test_small_pods_fill_the_nodes_of_large_ones() -> None:
    assert row([rendering("shared", deployment("a", 4, cpu="5"), deployment("b", 12, cpu="1"))]).nodes_used == 4


def test_a_pod_that_no_node_can_hold_is_named() -> None:
    (problem,) = check_capacity([rendering("shared", deployment("whale", 1, cpu="9"))], TOPOLOGY).problems
    assert problem.startswith(
        "Deployment whale: one pod asks for 9 cores and 1.0 GiB, a node of agent-nodes (c5.2xlarge)"
    )


def test_a_pod_for_nodes_that_do_not_exist_is_named() -> None:
    lost = deployment("lost", 1)
    lost["spec"]["template"]["spec"]["nodeSelector"] = {"workload-type": "gpu"}
    (problem,) = check_capacity([rendering("shared", lost)], TOPOLOGY).problems
    assert problem.startswith("Deployment lost: its nodeSelector names no node group")


def test_init_containers_count_when_they_ask_for_more_and_sidecars_always() -> None:
    obj = deployment("a", 1)
    pod = obj["spec"]["template"]["spec"]
    first = copy.deepcopy(pod["containers"][0]) | {"name": "first"}
    first["resources"]["requests"] = {"cpu": "3", "memory": "512Mi"}
    pod["initContainers"] = [first]
    found = row([rendering("shared", obj)])
    assert (found.cpu_used, found.memory_used) == (3.0, 1.0)
    first["restartPolicy"] = "Always"
    found = row([rendering("shared", obj)])
    assert (found.cpu_used, found.memory_used) == (4.0, 1.5)


def test_the_table_shows_used_and_available() -> None:
    table = capacity_table(capacity(both(deployment("a", 3)), TOPOLOGY))
    assert table.splitlines()[2] == "| agent-nodes | 6 | 6 of 400 | 6 of 800 | 1 of 50 |"


PODS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(["100m", "1", "3", "5"]), st.sampled_from(["1Gi", "9Gi"]))
)


@given(pods=PODS)
def test_what_passes_is_placed_whole_and_more_of_it_never_needs_less(pods: list[tuple[int, str, str]]) -> None:
    objects = [deployment(f"d{place}", *pod) for place, pod in enumerate(pods)]
    rows = capacity([rendering("shared", *objects)], TOPOLOGY)
    for found in rows:
        assert found.pods == sum(pod[0] for pod in pods)
        assert found.nodes_used * float(AGENTS.cpu) >= found.cpu_used
        assert found.nodes_used * 16 >= found.memory_used
        assert found.nodes_used <= found.pods
    if check_capacity([rendering("shared", *objects)], TOPOLOGY).passed:
        assert all(found.cpu_used <= found.cpu and found.nodes_used <= found.nodes for found in rows)


def test_a_cron_job_and_a_daemon_set_count_too() -> None:
    spec = deployment("x", None)["spec"]
    cron: Object = {
        "kind": "CronJob",
        "metadata": {"name": "c"},
        "spec": {"jobTemplate": {"spec": spec | {"parallelism": 2}}},
    }
    every: Object = {"kind": "DaemonSet", "metadata": {"name": "d"}, "spec": spec}
    assert row([rendering("shared", cron)]).pods == 2
    assert row([rendering("shared", every)]).pods == AGENTS.max
