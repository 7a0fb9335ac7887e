"""Pods of the sandbox: crash loops, image errors, and draining in which nothing that was begun is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
from world import FAST, World, world

from nexus_ops.sandbox.pods.quantities import jitter, pre_stop_seconds
from nexus_ops.sandbox.pods.server import Behaviour


def run(scenario: Callable[[World], Awaitable[None]], **behaviours: Behaviour) -> None:
    async def inside() -> None:
        async with world(**behaviours) as made:
            await scenario(made)

    asyncio.run(inside())


def waiting_reason(w: World) -> str:
    statuses = [s for p in w.pods() for s in p.get("status", {}).get("containerStatuses") or ()]
    return next((s["state"]["waiting"]["reason"] for s in statuses if "waiting" in s["state"]), "")


async def order_in_flight(w: World, session: aiohttp.ClientSession) -> asyncio.Task[int]:
    """An order that a pod has begun."""
    pod = w.pods()[0]

    async def send() -> int:
        url = f"http://{pod['status']['podIP']}:8080/orders"
        async with session.post(url, json={"id": "o1"}) as answer:
            return answer.status

    task = asyncio.create_task(send())
    agent = w.kubelet.agents[pod["metadata"]["uid"]]
    async with asyncio.timeout(5):
        while not agent.in_flight:  # noqa: ASYNC110 - a counter, with nothing to wait on
            await asyncio.sleep(0)
    return task


def test_a_pod_answers_on_its_own_address_and_writes_down_what_it_served() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=1)
        await w.until(lambda: w.ready() == 1)
        base = f"http://{w.pods()[0]['status']['podIP']}:8080"
        async with aiohttp.ClientSession() as session:
            async with session.get(base + "/", headers={"x-request-id": "r1"}) as answer:
                assert answer.headers["x-nexus-version"] == "v1"
            async with session.get(base + "/metrics") as answer:
                assert 'http_requests_total{code="200"} 1' in await answer.text()
        assert [entry["id"] for entry in w.journal.request_log()] == ["r1"]

    run(scenario)


def test_a_drained_pod_finishes_the_order_that_it_has_begun() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=1)
        await w.until(lambda: w.ready() == 1)
        async with aiohttp.ClientSession() as session:
            order = await order_in_flight(w, session)
            w.change("deployments.apps", "d", lambda o: o["spec"].update(replicas=0))
            assert await order == 200
        await w.until(lambda: not w.pods())
        assert [entry["id"] for entry in w.journal.orders] == ["o1"]

    run(scenario, v1=replace(FAST, order_seconds=0.4))


def test_without_draining_the_order_is_cut() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=1)
        await w.until(lambda: w.ready() == 1)
        async with aiohttp.ClientSession() as session:
            order = await order_in_flight(w, session)
            w.change("deployments.apps", "d", lambda o: o["spec"].update(replicas=0))
            await w.until(lambda: not w.pods())
            assert isinstance((await asyncio.gather(order, return_exceptions=True))[0], aiohttp.ClientError)
        assert w.journal.orders == []

    run(scenario, v1=replace(FAST, order_seconds=0.4, drain=False))


def test_a_stuck_order_holds_its_pod_until_the_grace_period_ends() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=1, terminationGracePeriodSeconds=1)
        await w.until(lambda: w.ready() == 1)
        async with aiohttp.ClientSession() as session:
            order = await order_in_flight(w, session)
            began = asyncio.get_running_loop().time()
            w.change("deployments.apps", "d", lambda o: o["spec"].update(replicas=0))
            await w.until(lambda: not w.pods())
            assert 0.9 <= asyncio.get_running_loop().time() - began < 3
            assert isinstance((await asyncio.gather(order, return_exceptions=True))[0], aiohttp.ClientError)

    run(scenario, v1=replace(FAST, order_seconds=600))


def test_a_crash_loop_counts_restarts_and_keeps_the_last_lines() -> None:
    async def scenario(w: World) -> None:
        w.deploy(version=4, replicas=1)
        await w.until(lambda: waiting_reason(w) == "CrashLoopBackOff")
        pod = w.pods()[0]
        assert pod["status"]["containerStatuses"][0]["restartCount"] >= 1
        assert "fatal" in w.kubelet.read_log("n", pod["metadata"]["name"], {"tailLines": "1"})

    run(scenario, v4=replace(FAST, crash_after_seconds=0.01))


def test_a_running_pod_can_be_made_to_crash() -> None:
    async def scenario(w: World) -> None:
        w.deploy(replicas=1)
        await w.until(lambda: w.ready() == 1)
        w.kubelet.behave("v1", {"crash_after_seconds": 0.01})
        await w.until(lambda: w.ready() == 0)

    run(scenario)


def test_an_unknown_digest_cannot_be_pulled() -> None:
    async def scenario(w: World) -> None:
        w.deploy(version=99, replicas=1)
        await w.until(lambda: waiting_reason(w) == "ImagePullBackOff")
        assert w.pods()[0]["status"]["containerStatuses"][0]["name"] == "agent"

    run(scenario)


def test_preStop_hooks_of_both_forms_are_understood() -> None:
    assert pre_stop_seconds({"lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}) == 3
    assert pre_stop_seconds({"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "sleep 5; echo"]}}}}) == 5
    assert pre_stop_seconds({}) == 0


def test_the_time_to_ready_varies_but_is_the_same_for_the_same_pod() -> None:
    assert jitter("a") == jitter("a") != jitter("b")
    assert all(0.9 <= jitter(str(n)) <= 1.1 for n in range(50))


def test_a_port_that_is_taken_everywhere_is_said_by_the_pod_which_starts_when_it_is_free() -> None:
    """Something on 0.0.0.0 takes the port on every loopback address: a pod pending without a word helps nobody."""

    async def scenario(w: World) -> None:
        with socket.create_server(("0.0.0.0", 0)) as taken:
            port = taken.getsockname()[1]
            w.deploy(replicas=1, port=port)
            await w.until(lambda: waiting_reason(w) == "CreateContainerError")
            said = w.pods()[0]["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
            assert f"the port {port} is taken on every loopback address" in said
        await w.until(lambda: w.ready() == 1)

    run(scenario)
