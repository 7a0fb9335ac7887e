"""Controllers of the sandbox: from a wish to ready pods, and what they say when it cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from world import World, deployment, world

from nexus_ops.sandbox.controllers.recorder import Recorder
from nexus_ops.sandbox.kube.faults import Rule


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with world() as made:
            await scenario(made)

    asyncio.run(inside())


def test_a_deployment_becomes_ready_pods_behind_its_service() -> None:
    async def scenario(w: World) -> None:
        w.create("services", {"metadata": {"name": "s"}, "spec": {
            "selector": {"app": "d"}, "ports": [{"port": 80, "targetPort": "http"}]}})  # fmt: skip
        w.deploy(replicas=2)
        await w.until(lambda: w.ready() == 2)
        subsets = (await w.until(lambda: w.store.get("endpoints", "n", "s").get("subsets")))[0]
        await w.until(lambda: len(w.store.get("endpoints", "n", "s")["subsets"][0].get("addresses", ())) == 2)
        assert subsets["ports"][0]["port"] == 8080
        status = w.store.get("deployments.apps", "n", "d")["status"]
        assert status["observedGeneration"] == 1
        conditions = {c["type"]: c["status"] for c in status["conditions"]}
        assert conditions == {"Available": "True", "Progressing": "True"}

    run(scenario)


def test_a_services_endpoints_are_found_by_its_labels() -> None:
    async def scenario(w: World) -> None:
        spec = {"selector": {"app": "d"}, "clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}]}
        w.create("services", {"metadata": {"name": "s", "labels": {"team": "nexus"}}, "spec": spec})
        own = {"team": "nexus", "service.kubernetes.io/headless": ""}
        found = await w.until(lambda: w.store.find("endpoints", "n", "s"))
        assert found["metadata"]["labels"] == own
        found = await w.until(lambda: w.store.find("endpointslices.discovery.k8s.io", "n", "s"))
        assert found["metadata"]["labels"] == {
            **own,
            "kubernetes.io/service-name": "s",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        w.store.edit("services", "n", "s", lambda obj: obj["metadata"].update(labels={"team": "other"}))
        await w.until(lambda: w.store.get("endpoints", "n", "s")["metadata"]["labels"].get("team") == "other")

    run(scenario)


def test_a_fault_of_an_unknown_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(TypeError, match="action: 'errr' is not known; allowed: error, hold-before"):
        Rule.parse({"action": "errr"})


def test_a_changed_template_rolls_without_going_below_what_must_be_available() -> None:
    async def scenario(w: World) -> None:
        w.deploy(version=1, replicas=3)
        await w.until(lambda: w.ready() == 3)
        lowest: list[int] = []
        w.store.subscribe(lambda _: lowest.append(w.ready()))
        wanted = deployment(2, 3, 8080)["spec"]["template"]
        w.change("deployments.apps", "d", lambda o: o["spec"].update(template=wanted))
        await w.until(lambda: {a.version for a in w.kubelet.agents.values()} == {"v2"} and w.ready() == 3)
        assert min(lowest) >= 3
        assert w.store.get("deployments.apps", "n", "d")["metadata"]["annotations"][
            "deployment.kubernetes.io/revision"
        ] == "2"  # fmt: skip

    run(scenario)


def progressing(w: World) -> tuple[str, str]:
    """Status and reason of the Deployment's condition Progressing."""
    said = w.store.get("deployments.apps", "n", "d").get("status", {}).get("conditions") or ()
    return next(((c["status"], c["reason"]) for c in said if c["type"] == "Progressing"), ("", ""))


def test_a_rollout_that_gets_nowhere_exceeds_its_deadline_and_recovers() -> None:
    """Drivers give up on this reason; an image that cannot be pulled never gets ready."""

    async def scenario(w: World) -> None:
        w.deploy(version=1, replicas=1)
        w.change("deployments.apps", "d", lambda o: o["spec"].update(progressDeadlineSeconds=1))
        await w.until(lambda: progressing(w) == ("True", "NewReplicaSetAvailable"))
        broken = deployment(99, 1, 8080)["spec"]["template"]
        w.change("deployments.apps", "d", lambda o: o["spec"].update(template=broken))
        await w.until(lambda: progressing(w) == ("False", "ProgressDeadlineExceeded"))
        assert w.ready() == 1
        good = deployment(2, 1, 8080)["spec"]["template"]
        w.change("deployments.apps", "d", lambda o: o["spec"].update(template=good))
        await w.until(lambda: progressing(w) == ("True", "NewReplicaSetAvailable"))

    run(scenario)


def test_a_complete_deployment_does_not_fall_back_to_progressing_when_a_pod_dies() -> None:
    """The deadline is about rollouts: a pod that is replaced later must not look like one."""

    async def scenario(w: World) -> None:
        w.deploy(replicas=2)
        await w.until(lambda: progressing(w) == ("True", "NewReplicaSetAvailable"))
        seen: set[tuple[str, str]] = set()
        w.store.subscribe(lambda _: seen.add(progressing(w)))
        w.store.delete("pods", "n", w.pods()[0]["metadata"]["name"], grace_seconds=0)
        await w.until(lambda: w.ready() == 1)
        await w.until(lambda: w.ready() == 2)
        assert seen == {("True", "NewReplicaSetAvailable")}

    run(scenario)


def test_a_pod_counts_as_available_only_after_minReadySeconds() -> None:
    """Ready for a moment is not available: a rollout must not go on with pods that fall over at once."""

    async def scenario(w: World) -> None:
        w.deploy(replicas=1)
        w.change("deployments.apps", "d", lambda o: o["spec"].update(minReadySeconds=2))
        available = lambda: w.store.get("deployments.apps", "n", "d").get("status", {}).get("availableReplicas", 0)  # noqa: E731 short
        await w.until(lambda: w.ready() == 1)
        ready = asyncio.get_running_loop().time()
        assert available() == 0
        await w.until(lambda: available() == 1)
        assert asyncio.get_running_loop().time() - ready >= 0.9

    run(scenario)


def test_a_template_that_comes_back_takes_the_next_revision() -> None:
    async def scenario(w: World) -> None:
        w.deploy(version=1, replicas=1)
        await w.until(lambda: w.ready() == 1)
        first = w.store.get("deployments.apps", "n", "d")["spec"]["template"]
        second = deployment(2, 1, 8080)["spec"]["template"]
        for template, revision in ((second, "2"), (first, "3")):
            w.change("deployments.apps", "d", lambda o, t=template: o["spec"].update(template=t))
            await w.until(
                lambda r=revision: (
                    w.store.get("deployments.apps", "n", "d")["metadata"]["annotations"][
                        "deployment.kubernetes.io/revision"
                    ]
                    == r
                )
            )
        assert len(w.store.list("replicasets.apps", "n")) == 2

    run(scenario)


def test_a_pod_that_fits_nowhere_says_why() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=1, container={"resources": {"requests": {"cpu": "64"}}})

        def message() -> str:
            found = [c for p in w.pods() for c in p.get("status", {}).get("conditions") or ()]
            return next((c["message"] for c in found if c.get("reason") == "Unschedulable"), "")

        assert await w.until(message) == "0/2 nodes are available: 2 Insufficient cpu."

    run(scenario)


def test_an_autoscaler_leaves_zero_alone_and_raises_one_to_its_floor() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=0)
        w.create("horizontalpodautoscalers.autoscaling", {"metadata": {"name": "d"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "minReplicas": 3, "maxReplicas": 5}})  # fmt: skip
        hpa = await w.until(
            lambda: w.store.get("horizontalpodautoscalers.autoscaling", "n", "d")["status"].get("conditions")
        )
        assert hpa[0]["reason"] == "ScalingDisabled"
        assert w.pods() == []
        w.change("deployments.apps", "d", lambda o: o["spec"].update(replicas=1))
        await w.until(lambda: w.ready() == 3)

    run(scenario)


def test_a_job_completes() -> None:
    async def scenario(w: World) -> None:
        spec = {"containers": [{"name": "c", "image": "x@sha256:1"}], "restartPolicy": "Never"}
        w.create("jobs.batch", {"metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}})
        status = await w.until(
            lambda: (s := w.store.get("jobs.batch", "n", "j").get("status") or {}).get("completionTime") and s
        )
        assert status["succeeded"] == 1
        assert status["conditions"][-1]["type"] == "Complete"

    run(scenario)


def test_a_budget_counts_what_may_be_evicted() -> None:
    async def scenario(w: World) -> None:
        w.create("poddisruptionbudgets.policy", {"metadata": {"name": "b"}, "spec": {
            "minAvailable": 2, "selector": {"matchLabels": {"app": "d"}}}})  # fmt: skip
        w.deploy(replicas=3)
        status = lambda: w.store.get("poddisruptionbudgets.policy", "n", "b").get("status") or {}  # noqa: E731 short
        await w.until(lambda: status().get("disruptionsAllowed") == 1)
        assert (status()["currentHealthy"], status()["desiredHealthy"]) == (3, 2)

    run(scenario)


def told(w: World, kind: str) -> list[tuple[str, str, int]]:
    """Reason, message and count of the events about objects of a kind."""
    found = [event for event in w.store.list("events", "n") if event["involvedObject"]["kind"] == kind]
    return [(event["reason"], event["message"], event["count"]) for event in found]


def test_events_tell_of_a_pods_life_and_of_who_scaled_what() -> None:
    """Without them `kubectl describe` of something that does not start shows no reason."""

    async def scenario(w: World) -> None:
        w.deploy(replicas=1)
        await w.until(lambda: w.ready() == 1)
        (pod,) = w.pods()
        name = pod["metadata"]["name"]
        (node,) = {pod["spec"]["nodeName"]}
        (made,) = told(w, "ReplicaSet")
        assert made == ("SuccessfulCreate", f"Created pod: {name}", 1)
        ((reason, message, _),) = told(w, "Deployment")
        assert reason == "ScalingReplicaSet"
        assert message.startswith("Scaled up replica set d-")
        assert message.endswith(" from 0 to 1")
        said = told(w, "Pod")
        assert ("Scheduled", f"Successfully assigned n/{name} to {node}", 1) in said
        assert {reason for reason, _, _ in said} == {"Scheduled", "Pulled", "Created", "Started"}
        w.change("deployments.apps", "d", lambda obj: obj["spec"].update(replicas=0))
        await w.until(lambda: "Killing" in {reason for reason, _, _ in told(w, "Pod")})
        assert ("SuccessfulDelete", f"Deleted pod: {name}", 1) in told(w, "ReplicaSet")

    run(scenario)


def test_events_name_what_keeps_a_pod_from_running() -> None:
    async def scenario(w: World) -> None:
        w.deploy(version=9)
        await w.until(lambda: {"Failed", "BackOff"} <= {reason for reason, _, _ in told(w, "Pod")})
        w.store.delete("deployments.apps", "n", "d")
        w.deploy(replicas=1, container={"resources": {"requests": {"cpu": "90"}}})
        await w.until(lambda: "FailedScheduling" in {reason for reason, _, _ in told(w, "Pod")})
        why = next(message for reason, message, _ in told(w, "Pod") if reason == "FailedScheduling")
        assert why == "0/2 nodes are available: 2 Insufficient cpu."

    run(scenario)


def test_an_event_that_comes_again_is_counted_and_is_gone_after_an_hour() -> None:
    """Of a pod that crashes for days one line is left, and a long-lived sandbox does not fill up with events."""

    async def scenario(w: World) -> None:
        now = [0.0]
        tell = Recorder(w.store, "kubelet", clock=lambda: now[0])
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {
            "name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1"}}  # fmt: skip
        for now[0] in (0, 5, 20, 40):
            tell(pod, "BackOff", "again", warning=True)
        assert told(w, "Pod") == [("BackOff", "again", 3)]
        now[0] = 40 + 3600
        tell(pod, "Started", "at last")
        assert told(w, "Pod") == [("Started", "at last", 1)]

    run(scenario)
