"""The life of pods: scheduled, pulled, started, ready, crashed, drained, gone. Scheduler and kubelet in one.

Every pod gets a loopback address of its own (127.x.y.z) and listens on its container's real ports, so that what
is written in manifests (target ports, probes, scrape ports) is what is used.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from nexus_ops.sandbox.controllers.recorder import Recorder
from nexus_ops.sandbox.controllers.workloads import owner_key
from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.sandbox.pods.quantities import cores, jitter, pre_stop_seconds, requests_of, size
from nexus_ops.sandbox.pods.server import Agent, Behaviour, Journal

Object = dict[str, Any]
KEPT_LOGS = 1_000
FOLLOW_SECONDS = 0.2
"""How often a log that is followed is looked at."""


class Kubelet:
    """Runs the pods of one cluster."""

    def __init__(
        self,
        store: Store,
        versions: Mapping[str, tuple[str, str]],
        behaviours: Mapping[str, Behaviour],
        journal: Journal,
    ) -> None:
        """`versions` maps an image digest to (component, version), `behaviours` a version to what it does."""
        self.store = store
        self.versions = versions
        self.behaviours = dict(behaviours)
        self.journal = journal
        self._tell = Recorder(store, "kubelet")
        self._tell_of_scheduling = Recorder(store, "default-scheduler")
        self.agents: dict[str, Agent] = {}
        self._logs: dict[tuple[str, str], Agent] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._leaving: set[str] = set()
        self._addresses = (
            f"127.{64 + os.getpid() % 128}.{number // 250}.{number % 250 + 1}"
            for number in itertools.count(os.getpid() % 200)
        )
        self._stop = store.subscribe(self._on_event)

    async def stop(self) -> None:
        self._stop()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*(agent.close() for agent in self.agents.values()), return_exceptions=True)

    def behave(self, version: str, overrides: dict[str, Any]) -> None:
        """Change how a version behaves, its running pods included."""
        changed = self.behaviours.get(version, Behaviour()).changed(overrides)
        self.behaviours[version] = changed
        for agent in self.agents.values():
            if agent.version == version:
                agent.behaviour = changed
                agent.changed.set()

    def read_log(self, namespace: str, pod: str, query: Mapping[str, str]) -> str:
        """A pod's log, for `kubectl logs`: all of it, or what tailLines, sinceSeconds and sinceTime leave."""
        agent = self._logs.get((namespace, pod))
        lines = list(agent.lines) if agent else []
        if seconds := query.get("sinceSeconds"):
            start = (datetime.now(UTC) - timedelta(seconds=int(seconds))).isoformat()
            lines = [line for line in lines if line >= start]
        if start := query.get("sinceTime"):
            lines = [line for line in lines if line >= start.replace("Z", "+00:00")]
        if tail := query.get("tailLines"):
            lines = lines[len(lines) - min(int(tail), len(lines)) :]
        return _as_text(lines, query)

    async def follow_log(self, namespace: str, pod: str, query: Mapping[str, str]) -> AsyncIterator[str]:
        """A pod's log and what comes to it, until the pod is gone."""
        agent = self._logs.get((namespace, pod))
        seen = agent.written if agent else 0
        yield self.read_log(namespace, pod, query)
        while self.store.find("pods", namespace, pod) is not None:
            await asyncio.sleep(FOLLOW_SECONDS)
            agent = self._logs.get((namespace, pod))
            if agent is not None and agent.written > seen:
                yield _as_text(list(agent.lines)[seen - agent.written :], query)
                seen = agent.written

    def _on_event(self, event: Event) -> None:
        if event.key != "pods":
            return
        uid = event.object["metadata"]["uid"]
        if event.type == "ADDED":
            self._tasks[uid] = asyncio.get_running_loop().create_task(self._live(event.object))
        elif event.type == "MODIFIED" and "deletionTimestamp" in event.object["metadata"]:
            if uid not in self._leaving:
                self._leaving.add(uid)
                if (task := self._tasks.pop(uid, None)) is not None:
                    task.cancel()
                self._tasks[uid] = asyncio.get_running_loop().create_task(self._leave(event.object))
        elif event.type == "DELETED":
            self._leaving.discard(uid)
            if task := self._tasks.pop(uid, None):
                task.cancel()
            if agent := self.agents.pop(uid, None):
                closing = asyncio.get_running_loop().create_task(agent.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    # ------------------------------------------------------------------ a pod's life

    async def _live(self, pod: Object) -> None:
        meta = pod["metadata"]
        pod = await self._schedule(pod)
        image = pod["spec"]["containers"][0]["image"]
        known = self.versions.get(image.rpartition("@")[2])
        if known is None:
            return await self._fail_to_pull(meta, pod, image)
        container: str = pod["spec"]["containers"][0]["name"]
        component = (meta.get("labels") or {}).get("app.kubernetes.io/name") or known[0]
        colour = (meta.get("labels") or {}).get("nexus.ai/colour", "")
        restarts, before = 0, None
        while True:
            behaviour = self.behaviours.get(known[1], self.behaviours.get("default", Behaviour()))
            agent = Agent(component, colour, known[1], meta["name"], behaviour, self.journal)
            self._keep_log(meta, agent, before)
            self.agents[meta["uid"]] = agent  # before it listens: a pod deleted meanwhile must close it
            ports = [p["containerPort"] for p in pod["spec"]["containers"][0].get("ports") or ()]
            self._tell(pod, "Pulled", f'Container image "{image}" already present on machine', container=container)
            address = await self._listen(agent, ports, pod)
            self._tell(pod, "Created", f"Created container: {container}", container=container)
            self._tell(pod, "Started", f"Started container {container}", container=container)
            self._report(meta, _running(pod, address, restarts, ready=False))
            if not await _crashes(agent, behaviour.ready_seconds * jitter(meta["name"])):
                if owner_key(pod, "Job"):
                    return await self._end(pod, agent, address)
                agent.ready = True
                self._report(meta, _running(pod, address, restarts, ready=True))
                await _crashes(agent, None)
            agent.ready = False
            agent.log("fatal: configuration key PRICE_FEED is missing")
            await agent.close()
            if owner_key(pod, "Job"):
                self._report(meta, {**_crashed(pod, address, 0), "phase": "Failed"})
                return None
            restarts, before = restarts + 1, agent
            self._report(meta, _crashed(pod, address, restarts))
            why = f"Back-off restarting failed container {container} in pod {meta['name']}_{meta['namespace']}({meta['uid']})"
            self._tell(pod, "BackOff", why, warning=True, container=container)
            await asyncio.sleep(min(10.0, 0.5 * 2**restarts))

    async def _end(self, pod: Object, agent: Agent, address: str) -> None:
        """A Job's pod has done its work."""
        agent.log("done")
        await agent.close()
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": timestamp(), "finishedAt": timestamp()}
        status = _running(pod, address, 0, ready=False)
        status["containerStatuses"] = [_container(pod, {"terminated": ended}, 0, ready=False)]
        self._report(pod["metadata"], {**status, "phase": "Succeeded"})

    def _keep_log(self, meta: Object, agent: Agent, before: Agent | None) -> None:
        """The log goes on over restarts, and outlives the pod for a while, as on a node's disk."""
        if before is not None:
            agent.lines, agent.written = before.lines, before.written
        self._logs[(meta["namespace"], meta["name"])] = agent
        while len(self._logs) > KEPT_LOGS:
            del self._logs[next(iter(self._logs))]

    async def _leave(self, pod: Object) -> None:
        """A deleted pod: not ready at once, preStop, drained, gone; forced only when its grace is over."""
        meta, spec = pod["metadata"], pod["spec"]
        agent = self.agents.get(meta["uid"])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + meta.get("deletionGracePeriodSeconds", 30)
        if agent is not None:
            self._report(meta, {"conditions": _conditions(pod, ready=False)})
            container = spec["containers"][0]["name"]
            self._tell(pod, "Killing", f"Stopping container {container}", container=container)
            if agent.behaviour.drain:
                await asyncio.sleep(min(pre_stop_seconds(spec["containers"][0]), max(0.0, deadline - loop.time())))
                agent.log("SIGTERM: draining")
                await agent.drain(max(0.0, deadline - loop.time()))
            else:
                await agent.close()
        self.agents.pop(meta["uid"], None)
        self.store.finish("pods", meta["namespace"], meta["name"])

    async def _schedule(self, pod: Object) -> Object:
        """The pod, put on a node that fits; while there is none, say so as the scheduler does."""
        meta = pod["metadata"]
        while True:
            gated = self.store.get("pods", meta["namespace"], meta["name"])["spec"].get("schedulingGates")
            node, why = (None, "") if gated else self._pick(pod)
            if node is not None:
                name = node["metadata"]["name"]
                bound = self.store.edit("pods", meta["namespace"], meta["name"], _bind(name))
                self._report(meta, {"conditions": _conditions(pod, ready=False)[:1]})
                place = f"{meta['namespace']}/{meta['name']} to {name}"
                self._tell_of_scheduling(pod, "Scheduled", f"Successfully assigned {place}")
                return bound
            condition = {
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
                "lastTransitionTime": timestamp(),
            }  # fmt: skip
            if not gated:
                self._report(meta, {"conditions": [condition]})
                self._tell_of_scheduling(pod, "FailedScheduling", why, warning=True)
            await asyncio.sleep(1.0)

    def _pick(self, pod: Object) -> tuple[Object | None, str]:
        nodes = [node for node in self.store.list("nodes") if not (node.get("spec") or {}).get("unschedulable")]
        wanted = (pod["spec"].get("nodeSelector") or {}).items()
        fitting = [node for node in nodes if wanted <= (node["metadata"].get("labels") or {}).items()]
        used: dict[str, tuple[float, float, int]] = {}
        for other in self.store.list("pods"):
            if name := other["spec"].get("nodeName"):
                cpu, memory, count = used.get(name, (0.0, 0.0, 0))
                more = requests_of(other)
                used[name] = (cpu + more[0], memory + more[1], count + 1)
        need = requests_of(pod)
        best: tuple[int, Object] | None = None
        short: Counter[str] = Counter()
        for node in fitting:
            cpu, memory, count = used.get(node["metadata"]["name"], (0.0, 0.0, 0))
            room = node["status"]["allocatable"]
            lacks = [
                what
                for what, fits in (
                    ("Insufficient cpu", cpu + need[0] <= cores(room["cpu"])),
                    ("Insufficient memory", memory + need[1] <= size(room["memory"])),
                    ("Too many pods", count < int(room.get("pods", "110"))),
                )
                if not fits
            ]
            short.update(lacks)
            if not lacks and (best is None or count < best[0]):
                best = (count, node)
        if best is not None:
            return best[1], ""
        if not nodes:
            return None, "no nodes available to schedule pods"
        reasons = [f"{number} {what}" for what, number in short.items()]
        if len(nodes) > len(fitting):
            reasons.append(f"{len(nodes) - len(fitting)} node(s) didn't match Pod's node affinity/selector")
        return None, f"0/{len(nodes)} nodes are available: {', '.join(sorted(reasons))}."

    async def _fail_to_pull(self, meta: Object, pod: Object, image: str) -> None:
        for reason in itertools.chain(["ErrImagePull"], itertools.repeat("ImagePullBackOff")):
            name, message = (
                pod["spec"]["containers"][0]["name"],
                f'failed to pull and unpack image "{image}": not found',
            )
            if reason == "ImagePullBackOff":
                self._tell(pod, "BackOff", f'Back-off pulling image "{image}"', container=name)
                message = f'Back-off pulling image "{image}": ErrImagePull: {message}'
            else:
                self._tell(pod, "Pulling", f'Pulling image "{image}"', container=name)
                self._tell(pod, "Failed", f'Failed to pull image "{image}": {message}', warning=True, container=name)
            self._tell(pod, "Failed", f"Error: {reason}", warning=True, container=name)
            state = {"waiting": {"reason": reason, "message": message}}
            status = {**_container(pod, state, 0, ready=False), "imageID": ""}
            self._report(meta, _waiting(pod, status))
            if reason == "ImagePullBackOff":
                return
            await asyncio.sleep(2.0)

    async def _listen(self, agent: Agent, ports: list[int], pod: Object) -> str:
        """Serve on the next loopback address that is free; while there is none, the pod says why."""
        while True:
            for _ in range(50):
                address = next(self._addresses)
                try:
                    await agent.listen(address, ports)
                except OSError:
                    continue
                return address
            listed = " or ".join(map(str, ports))
            message = f"the port {listed} is taken on every loopback address: something listens on 0.0.0.0 there"
            self._tell(pod, "Failed", f"Error: {message}", warning=True, container=pod["spec"]["containers"][0]["name"])
            waiting = {"waiting": {"reason": "CreateContainerError", "message": message}}
            self._report(pod["metadata"], _waiting(pod, _container(pod, waiting, 0, ready=False)))
            await asyncio.sleep(2.0)

    def _report(self, meta: Object, status: Object) -> None:
        def change(obj: Object) -> None:
            obj["status"] = {**obj.get("status", {}), **copy.deepcopy(status)}

        try:
            self.store.edit("pods", meta["namespace"], meta["name"], change, subresource="status")
        except ApiError:
            pass  # deleted meanwhile: there is nothing left to report on


def _as_text(lines: list[str], query: Mapping[str, str]) -> str:
    """Lines as a client asks for them; each begins with its time, `timestamps` puts the runtime's before it."""
    twice = query.get("timestamps") in ("true", "1")
    return "".join(f"{line.partition(' ')[0]} {line}\n" if twice else f"{line}\n" for line in lines)


def _conditions(pod: Object, *, ready: bool) -> list[Object]:
    del pod
    flags = (("PodScheduled", True), ("Initialized", True), ("ContainersReady", ready), ("Ready", ready))
    return [
        {"type": kind, "status": str(value), "lastProbeTime": None, "lastTransitionTime": timestamp()}
        for kind, value in flags
    ]


def _container(pod: Object, state: Object, restarts: int, *, ready: bool) -> Object:
    container = pod["spec"]["containers"][0]
    image = container["image"]
    return {
        "name": container["name"], "image": image, "imageID": image, "ready": ready, "started": ready,
        "restartCount": restarts, "state": state,
    }  # fmt: skip


def _waiting(pod: Object, container: Object) -> Object:
    return {"phase": "Pending", "conditions": _conditions(pod, ready=False), "containerStatuses": [container]}


def _running(pod: Object, address: str, restarts: int, *, ready: bool) -> Object:
    state = {"running": {"startedAt": timestamp()}}
    return {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "127.0.0.1",
        "startTime": timestamp(), "conditions": _conditions(pod, ready=ready),
        "containerStatuses": [_container(pod, state, restarts, ready=ready)],
    }  # fmt: skip


def _crashed(pod: Object, address: str, restarts: int) -> Object:
    name = pod["spec"]["containers"][0]["name"]
    message = f"back-off restarting failed container {name} in pod {pod['metadata']['name']}"
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    status = _container(pod, state, restarts, ready=False)
    ended = {"exitCode": 1, "reason": "Error", "startedAt": timestamp(), "finishedAt": timestamp()}
    status["lastState"] = {"terminated": ended}
    return {
        "phase": "Running", "podIP": address, "conditions": _conditions(pod, ready=False),
        "containerStatuses": [status],
    }  # fmt: skip


def _bind(node: str) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        pod["spec"]["nodeName"] = node

    return change


async def _crashes(agent: Agent, seconds: float | None) -> bool:
    """Wait so long (None: for ever); True as soon as the agent's behaviour has it crash."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    while True:
        agent.changed.clear()
        after = agent.behaviour.crash_after_seconds
        crash = None if after is None else agent.started + after
        times = [moment for moment in (end, crash) if moment is not None]
        try:
            async with asyncio.timeout_at(min(times) if times else None):
                await agent.changed.wait()
        except TimeoutError:
            return crash is not None and crash == min(times)
