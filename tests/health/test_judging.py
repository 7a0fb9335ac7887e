"""What each probe makes of what it sees: pure judgements over what Kubernetes and Prometheus answer."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nexus_ops.health.backing import judge_postgres, judge_redis, judge_sei, judge_service
from nexus_ops.health.cluster import judge_add_ons, judge_nodes
from nexus_ops.health.edge import judge_certificates, judge_edge
from nexus_ops.health.model import State, worst
from nexus_ops.health.monitoring import judge_alerts, judge_targets
from nexus_ops.health.workloads import copies_of, judge_autoscalers, judge_workloads
from nexus_ops.rollouts.record import Copy, Phase, Record
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.topology import Colour, NodeGroup

Object = dict[str, Any]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
GROUP = NodeGroup(name="agent-nodes", instance_type="c5", cpu="8", memory="16Gi", min=2, max=5, desired=3, labels={"workload-type": "agents"})  # fmt: skip
IMAGE, OTHER = "registry/risk-manager:v1@sha256:aa", "registry/risk-manager:v1@sha256:bb"
SERVING = Copy("blue", "v1.0.0", "r1")


def node(number: int, *, ready: str = "True", labels: Object | None = None, **conditions: str) -> Object:
    listed = [{"type": kind, "status": status} for kind, status in {"Ready": ready, **conditions}.items()]
    own = {"workload-type": "agents"} if labels is None else labels
    return {"metadata": {"name": f"n{number}", "labels": own}, "status": {"conditions": listed}}


@pytest.mark.parametrize(
    ("nodes", "state", "said"),
    [
        ([node(0), node(1)], "healthy", "agent-nodes 2 of 2 ready"),
        ([node(0), node(1), node(2, ready="Unknown")], "degraded", "n2 not ready"),
        ([node(0), node(1, MemoryPressure="True")], "degraded", "n1 has MemoryPressure"),
        ([node(0)], "degraded", "the minimum is 2"),
        ([node(0, ready="False"), node(1, ready="False")], "failed", "0 of 2 ready"),
        ([node(0, labels={}), node(1, labels={})], "failed", "0 of 0 ready"),
    ],
)
def test_a_group_of_nodes_is_judged_by_its_ready_nodes_and_its_minimum(
    nodes: list[Object], state: State, said: str
) -> None:
    found = judge_nodes(nodes, {"agent-nodes": GROUP})
    assert found.state == state
    assert said in found.why
    assert bool(found.todo) == (state != "healthy")


def system(name: str, ready: int, wanted: int, kind: str = "Deployment") -> Object:
    if kind == "DaemonSet":
        status = {"numberReady": ready, "desiredNumberScheduled": wanted}
        return {"kind": kind, "metadata": {"name": name}, "spec": {}, "status": status}
    return {"kind": kind, "metadata": {"name": name}, "spec": {"replicas": wanted}, "status": {"readyReplicas": ready}}


def test_an_add_on_is_all_of_its_workloads_and_all_their_pods() -> None:
    whole = [system("coredns", 2, 2), system("ebs-csi-controller", 2, 2), system("ebs-csi-node", 21, 21, "DaemonSet")]
    wanted = ("coredns", "aws-ebs-csi-driver")
    assert judge_add_ons(whole, wanted).state == "healthy"
    missing = judge_add_ons(whole[:2], wanted)
    assert (missing.state, missing.why) == ("failed", "aws-ebs-csi-driver: there is no ebs-csi-node")
    limping = judge_add_ons([system("coredns", 1, 2), *whole[1:]], wanted)
    assert (limping.state, limping.why) == ("degraded", "coredns: coredns has 1 of 2 pods ready")
    assert judge_add_ons([system("coredns", 0, 2), *whole[1:]], wanted).state == "failed"


def test_where_kube_system_shows_nothing_nothing_is_claimed_of_add_ons() -> None:
    assert judge_add_ons([], ("coredns",)).state == "unknown"


def deployment(ready: int, wanted: int, colour: Colour = "blue") -> Object:
    labels = {"app.kubernetes.io/name": "risk-manager", "nexus.ai/colour": colour}
    template = {"spec": {"containers": [{"image": IMAGE}]}}
    status = {"readyReplicas": ready, "updatedReplicas": wanted, "replicas": wanted, "observedGeneration": 1}
    return {
        "metadata": {"name": f"risk-manager-{colour}", "labels": labels, "generation": 1},
        "spec": {"replicas": wanted, "selector": {"matchLabels": labels}, "template": template},
        "status": status,
    }


def pod(image: str = IMAGE, colour: Colour = "blue", phase: str = "Running", **container: Any) -> Object:
    labels = {"app.kubernetes.io/name": "risk-manager", "nexus.ai/colour": colour}
    return {
        "metadata": {"name": "p", "labels": labels},
        "spec": {"containers": [{"image": image}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "agent", "restartCount": 0, **container}]},
    }


def judged(deployments: list[Object], pods: list[Object], *copies: Copy) -> tuple[State, str, dict[str, float]]:
    copies = copies or (SERVING,)
    found = judge_workloads(deployments, pods, copies, {copy.colour: {"risk-manager": IMAGE} for copy in copies}, NOW)
    return found.state, found.why, dict(found.numbers)


def test_a_component_with_all_its_pods_on_the_releases_image_is_healthy() -> None:
    state, why, numbers = judged([deployment(3, 3)], [pod()])
    assert (state, why) == ("healthy", "3 of 3 pods ready of v1.0.0 (blue), 0 restarts")
    assert (numbers["pods ready"], numbers["pods wanted"]) == (3, 3)


def test_a_component_that_lacks_a_pod_limps_and_one_without_pods_has_failed() -> None:
    assert judged([deployment(2, 3)], [pod()])[:2] == (
        "degraded",
        "2 of 3 pods ready of v1.0.0 (blue), 0 restarts: risk-manager-blue: 2 of 3 pods are ready",
    )
    assert judged([deployment(0, 3)], [pod()])[0] == "failed"
    assert judged([deployment(0, 0)], [])[0] == "failed"
    assert judged([], [])[0] == "failed"


def test_a_crash_loop_fails_with_its_reason_although_other_pods_are_ready() -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    state, why, _ = judged([deployment(2, 3)], [pod(), pod(restartCount=4, state=waiting)])
    assert state == "failed"
    assert "CrashLoopBackOff" in why
    assert "4 restarts" in why


def test_a_pod_of_another_image_is_told_and_a_container_beside_the_agent_is_not() -> None:
    state, why, numbers = judged([deployment(3, 3)], [pod(OTHER)])
    assert (state, numbers["pods of another image"]) == ("degraded", 1)
    assert "pod p does not run the release's image" in why
    beside = pod()
    beside["spec"]["containers"].insert(0, {"image": "mesh@sha256:cc"})
    assert judged([deployment(3, 3)], [beside])[0] == "healthy"
    assert judged([deployment(3, 3)], [pod(OTHER, colour="green"), pod(OTHER, phase="Failed")])[0] == "healthy"


@pytest.mark.parametrize(("minutes", "state"), [(14, "degraded"), (16, "healthy")])
def test_a_recent_restart_degrades_and_an_old_one_is_only_counted(minutes: int, state: State) -> None:
    ended = {"terminated": {"finishedAt": (NOW - timedelta(minutes=minutes)).isoformat()}}
    found, _, numbers = judged([deployment(1, 1)], [pod(restartCount=1, lastState=ended)])
    assert (found, numbers["restarts"]) == (state, 1)


def test_while_a_rollout_runs_a_component_may_serve_in_either_colour() -> None:
    both = (SERVING, Copy("green", "v1.1.0", "r2"))
    handed_over = [deployment(0, 0), deployment(3, 3, "green")]
    assert judged(handed_over, [pod(colour="green")], *both)[0] == "healthy"
    assert judged([deployment(3, 3), deployment(0, 3, "green")], [pod()], *both)[0] == "healthy"
    assert judged([deployment(0, 3), deployment(0, 3, "green")], [], *both)[0] == "failed"


@pytest.mark.parametrize(
    ("phase", "serving"),
    [("running", ["v1", "v2"]), ("rolling-back", ["v1", "v2"]), ("done", ["v2"]), ("rolled-back", ["v1"])],
)
def test_what_may_serve_is_what_the_rollouts_record_says(phase: Phase, serving: list[str]) -> None:
    stable, candidate = Copy("blue", "v1", "r1"), Copy("green", "v2", "r2")
    times = Settings(monitor_seconds=1, hold_seconds=1)
    record = Record("1", "c", "me", NOW.isoformat(), times, candidate, stable, (), phase=phase)
    assert [copy.version for copy in copies_of(record)] == serving
    assert copies_of(None) == ()


def scaler(
    wants: int, *, low: int = 3, high: int = 10, now: int = 3, active: tuple[str, str] = ("True", "ok")
) -> Object:
    condition = {"type": "ScalingActive", "status": active[0], "reason": active[1]}
    status = {"currentReplicas": now, "desiredReplicas": wants, "conditions": [condition]}
    return {"metadata": {"name": "s"}, "spec": {"minReplicas": low, "maxReplicas": high}, "status": status}


@pytest.mark.parametrize(
    ("of", "state"),
    [
        (scaler(9), "healthy"),
        (scaler(10), "degraded"),
        (scaler(10, low=10), "healthy"),
        (scaler(3, active=("False", "FailedGetResourceMetric")), "degraded"),
        (scaler(10, now=0), "unknown"),
        (scaler(0, active=("False", "ScalingDisabled")), "unknown"),
    ],
)
def test_an_autoscaler_is_at_its_limit_when_it_wants_all_that_it_may_have(of: Object, state: State) -> None:
    assert judge_autoscalers([of]).state == state


def test_what_the_data_layers_services_and_operators_say() -> None:
    assert judge_service("Redis", "r.ns", None) == ("failed", "Redis is not reachable: there is no Service r.ns")
    assert judge_service("Redis", "r.ns", 0)[0] == "failed"
    assert judge_service("Redis", "r.ns", 1)[0] == "healthy"

    def postgres(ready: int, archiving: str = "True") -> State:
        conditions = [{"type": "ContinuousArchiving", "status": archiving, "message": "no bucket"}]
        status = {"readyInstances": ready, "conditions": conditions}
        return judge_postgres({"metadata": {"name": "pg"}, "spec": {"instances": 3}, "status": status})[0][0]

    assert [postgres(3), postgres(2), postgres(0), postgres(3, "False")] == [
        "healthy",
        "degraded",
        "failed",
        "degraded",
    ]

    def redis(leaders: int, followers: int) -> State:
        status = {"readyLeaderReplicas": leaders, "readyFollowerReplicas": followers}
        return judge_redis({"metadata": {"name": "r"}, "spec": {"clusterSize": 3}, "status": status})[0][0]

    assert [redis(3, 3), redis(3, 1), redis(3, 0), redis(2, 3)] == ["healthy", "degraded", "degraded", "failed"]


def test_sei_is_reachable_when_it_names_its_chain() -> None:
    assert judge_sei("rpc", 200, {"result": "0x531"}, 0.1).state == "healthy"
    assert judge_sei("rpc", 200, {"result": "0x531"}, 3.0).state == "degraded"
    assert judge_sei("rpc", 200, {"error": {}}, 0.1).state == "failed"
    assert judge_sei("rpc", 503, {}, 0.1).state == "failed"


def up(value: int, job: str = "nexus-agents", name: str = "p") -> Object:
    return {"metric": {"job": job, "pod": name}, "value": [0, str(value)]}


@pytest.mark.parametrize(
    ("series", "state"),
    [
        ([up(1), up(1)], "healthy"),
        ([up(1), up(0)], "degraded"),
        ([up(1), up(0, "node-exporter")], "degraded"),
        ([up(0), up(0), up(1, "node-exporter")], "failed"),
        ([up(1, "node-exporter")], "unknown"),
        ([], "unknown"),
    ],
)
def test_targets_are_judged_and_a_platform_that_nobody_scrapes_is_not_healthy(
    series: list[Object], state: State
) -> None:
    assert judge_targets(series).state == state


def alert(severity: str, state: str = "firing") -> Object:
    one = {"labels": {"severity": severity}, "annotations": {"summary": "s"}, "state": state}
    return {"rules": [{"name": f"A-{severity}", "alerts": [one]}]}


@pytest.mark.parametrize(
    ("groups", "state", "said"),
    [
        ([alert("warning"), alert("critical")], "failed", "2 firing: A-critical: s; A-warning: s"),
        ([alert("warning")], "degraded", "1 firing: A-warning: s"),
        ([alert("critical", "pending")], "healthy", "none of 1 alerts fires, 1 pending"),
        ([alert("none")], "healthy", "none of 1 alerts fires, 0 pending"),
        ([], "unknown", "no alert rules"),
    ],
)
def test_alerts_count_by_severity_and_no_rules_is_not_healthy(groups: list[Object], state: State, said: str) -> None:
    found = judge_alerts(groups)
    assert found.state == state
    assert said in found.why


def test_the_edge_is_judged_by_errors_and_median() -> None:
    good, bad, nobody = (200, 0.02), (503, 0.01), (0, 2.0)
    assert judge_edge([good] * 20, "h").state == "healthy"
    assert judge_edge([good] * 19 + [bad], "h").state == "healthy"
    assert judge_edge([good] * 18 + [bad] * 2, "h").state == "degraded"
    assert judge_edge([(200, 1.5)] * 20, "h").state == "degraded"
    assert judge_edge([nobody] * 3, "h").state == "failed"
    assert "503" in judge_edge([good] * 9 + [bad] * 11, "h").why


def test_a_certificate_is_told_before_it_ends() -> None:
    def of(days: float) -> State:
        return judge_certificates({"edge": NOW + timedelta(days=days)}, NOW).state

    assert [of(90), of(20), of(-1)] == ["healthy", "degraded", "failed"]
    assert judge_certificates({"edge": "TimeoutError"}, NOW).state == "unknown"
    assert judge_certificates({}, NOW).state == "healthy"


def test_what_cannot_be_seen_is_worse_than_what_limps_and_better_than_what_failed() -> None:
    assert worst(["healthy", "degraded", "unknown"]) == "unknown"
    assert worst(["unknown", "failed", "healthy"]) == "failed"
    assert worst([]) == "unknown"
