"""The life of pods: scheduled, pulled, started, ready, crashed, drained, gone. Scheduler and kubelet in one.

Every pod gets a loopback address of its own (127.x.y.z) and listens on its container's real ports, so that what
is written in manifests (target ports, probes, scrape ports) is what is used.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
from collections.abc import Mapping
from typing import Any

from nexus_ops.sandbox.kube.clock import timestamp
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.sandbox.pods.server import Agent, Behaviour, Journal

Object = dict[str, Any]


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
        self.agents: dict[str, Agent] = {}
        self._logs: dict[tuple[str, str], Agent] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
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

    def read_log(self, namespace: str, pod: str, query: dict[str, str]) -> str:
        """A pod's log, for `kubectl logs`."""
        agent = self._logs.get((namespace, pod))
        lines = list(agent.lines) if agent else []
        tail = query.get("tailLines")
        return "".join(f"{line}\n" for line in (lines[-int(tail) :] if tail else lines))

    def _on_event(self, event: Event) -> None:
        if event.key != "pods":
            return
        uid = event.object["metadata"]["uid"]
        if event.type == "ADDED":
            self._tasks[uid] = asyncio.get_running_loop().create_task(self._live(event.object))
        elif event.type == "MODIFIED" and "deletionTimestamp" in event.object["metadata"]:
            if uid not in self._leaving:
                self._leaving.add(uid)
                self._tasks.pop(uid).cancel()
                self._tasks[uid] = asyncio.get_running_loop().create_task(self._leave(event.object))
        elif event.type == "DELETED":
            self._leaving.discard(uid)
            if task := self._tasks.pop(uid, None):
                task.cancel()
            if agent := self.agents.pop(uid, None):
                self._tasks[uid] = asyncio.get_running_loop().create_task(agent.close())

    # ------------------------------------------------------------------ a pod's life

    async def _live(self, pod: Object) -> None:
        meta = pod["metadata"]
        node = await self._schedule(pod)
        image = pod["spec"]["containers"][0]["image"]
        known = self.versions.get(image.rpartition("@")[2])
        if known is None:
            return await self._fail_to_pull(meta, node, image)
        component = (meta.get("labels") or {}).get("app.kubernetes.io/name") or known[0]
        colour = (meta.get("labels") or {}).get("nexus.ai/colour", "")
        restarts = 0
        lines: Agent | None = None
        while True:
            behaviour = self.behaviours.get(known[1], self.behaviours.get("default", Behaviour()))
            agent = Agent(component, colour, known[1], meta["name"], behaviour, self.journal)
            if lines is not None:
                agent.lines = lines.lines
            lines = self._logs[(meta["namespace"], meta["name"])] = agent
            ports = [p["containerPort"] for p in pod["spec"]["containers"][0].get("ports") or ()]
            address = await self._listen(agent, ports)
            self.agents[meta["uid"]] = agent
            self._report(meta, _running(pod, address, restarts, ready=False))
            if behaviour.crash_after_seconds is None:
                await asyncio.sleep(behaviour.ready_seconds)
                agent.ready = True
                self._report(meta, _running(pod, address, restarts, ready=True))
                return None
            await asyncio.sleep(behaviour.crash_after_seconds)
            agent.log("fatal: configuration key PRICE_FEED is missing")
            await agent.close()
            restarts += 1
            self._report(meta, _crashed(pod, address, restarts))
            await asyncio.sleep(min(10.0, 0.5 * 2**restarts))

    async def _leave(self, pod: Object) -> None:
        """A deleted pod: not ready at once, preStop, drained, gone; forced only when its grace is over."""
        meta, spec = pod["metadata"], pod["spec"]
        agent = self.agents.get(meta["uid"])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + meta.get("deletionGracePeriodSeconds", 30)
        if agent is not None:
            self._report(meta, {"conditions": _conditions(pod, ready=False)})
            if agent.behaviour.drain:
                hook = (spec["containers"][0].get("lifecycle") or {}).get("preStop") or {}
                pause = (hook.get("sleep") or {}).get("seconds", 0)
                await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
                agent.log("SIGTERM: draining")
                await agent.drain(max(0.0, deadline - loop.time()))
            else:
                await agent.close()
        self.agents.pop(meta["uid"], None)
        self.store.finish("pods", meta["namespace"], meta["name"])

    async def _schedule(self, pod: Object) -> str:
        """Put the pod on a node that fits; while there is none, say so as the scheduler does."""
        meta = pod["metadata"]
        while True:
            node, why = self._pick(pod)
            if node is not None:
                name = node["metadata"]["name"]
                self.store.edit("pods", meta["namespace"], meta["name"], lambda obj: obj["spec"].update(nodeName=name))
                self._report(meta, {"conditions": _conditions(pod, ready=False)[:1]})
                return name
            condition = {
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
                "lastTransitionTime": timestamp(),
            }  # fmt: skip
            self._report(meta, {"conditions": [condition]})
            await asyncio.sleep(1.0)

    def _pick(self, pod: Object) -> tuple[Object | None, str]:
        nodes = self.store.list("nodes")
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
        for node in fitting:
            cpu, memory, count = used.get(node["metadata"]["name"], (0.0, 0.0, 0))
            room = node["status"]["allocatable"]
            fits = cpu + need[0] <= cores(room["cpu"]) and memory + need[1] <= size(room["memory"])
            if fits and (best is None or count < best[0]):
                best = (count, node)
        if best is not None:
            return best[1], ""
        reasons = []
        if len(nodes) > len(fitting):
            reasons.append(f"{len(nodes) - len(fitting)} node(s) didn't match Pod's node affinity/selector")
        if fitting:
            reasons.append(f"{len(fitting)} Insufficient cpu or memory")
        return None, f"0/{len(nodes)} nodes are available: {', '.join(reasons)}."

    async def _fail_to_pull(self, meta: Object, node: str, image: str) -> None:
        del node
        for reason in itertools.chain(["ErrImagePull"], itertools.repeat("ImagePullBackOff")):
            message = f'failed to pull and unpack image "{image}": not found'
            if reason == "ImagePullBackOff":
                message = f'Back-off pulling image "{image}": ErrImagePull: {message}'
            state = {"waiting": {"reason": reason, "message": message}}
            status = {"name": "agent", "ready": False, "restartCount": 0, "image": image, "imageID": "", "state": state}
            self._report(meta, {"phase": "Pending", "containerStatuses": [status]})
            await asyncio.sleep(2.0)

    async def _listen(self, agent: Agent, ports: list[int]) -> str:
        """Serve on the next loopback address that is free."""
        for _ in range(50):
            address = next(self._addresses)
            try:
                await agent.listen(address, ports)
            except OSError:
                continue
            return address
        raise RuntimeError(f"no loopback address has the ports {ports} free: does something listen on 0.0.0.0 there?")

    def _report(self, meta: Object, status: Object) -> None:
        def change(obj: Object) -> None:
            obj["status"] = {**obj.get("status", {}), **copy.deepcopy(status)}

        try:
            self.store.edit("pods", meta["namespace"], meta["name"], change, subresource="status")
        except ApiError:
            pass  # deleted meanwhile: there is nothing left to report on


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
        "phase": "Running", "podIP": address, "conditions": _conditions(pod, ready=False), "containerStatuses": [status],
    }  # fmt: skip


def cores(quantity: str) -> float:
    """CPU cores of a quantity."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def size(quantity: str) -> float:
    """Bytes of a quantity."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else float(quantity)


def requests_of(pod: Object) -> tuple[float, float]:
    """CPU (cores) and memory (bytes) that a pod asks for."""
    asked = [(c.get("resources") or {}).get("requests") or {} for c in pod["spec"]["containers"]]
    return sum(cores(r.get("cpu", "0")) for r in asked), sum(size(r.get("memory", "0")) for r in asked)
