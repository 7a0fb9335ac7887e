"""What must hold while a rollout is under way, seen from outside: users, orders, and the pods of exclusive work."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.client import POD
from nexus_ops.rollouts.observe import COLOUR, NAME, PLATFORM
from nexus_ops.sandbox.traffic import EXCLUSIVE, Tally, send_orders, send_requests


@dataclass
class Witness:
    """What was seen. Orders that were confirmed, answers to users, and exclusive pods that stood in both colours."""

    tally: Tally = field(default_factory=Tally)
    confirmed: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    looks: int = 0
    """Events of pods that were seen; none at all would be no witness."""


@contextmanager
def witness(platform: Platform, rate: float, orders: float) -> Generator[Witness]:
    """Users (requests a second) and orders (a second, to each exclusive component) as long as the block lasts.

    At its end everything that was sent has been answered.
    """
    seen = Witness()
    cluster = platform.topology.cluster(CLUSTER)
    loop, done = asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def users() -> None:
        await asyncio.gather(
            send_requests(platform.urls["edge"], platform.context().host, rate, seen.tally, stop),
            *(
                send_orders(platform.urls["services"], name, cluster.namespace, orders, seen.confirmed, stop)
                for name in EXCLUSIVE
            ),
        )

    threads = [
        threading.Thread(target=lambda: loop.run_until_complete(users())),
        threading.Thread(target=_watch, args=(platform, seen, done)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        loop.call_soon_threadsafe(stop.set)
        for thread in threads:
            thread.join(timeout=90)
        loop.close()


def _watch(platform: Platform, seen: Witness, done: threading.Event) -> None:
    """Follow every event of the exclusive components' pods; a component in two colours at once is written down."""
    client, namespace = platform.context().client, platform.topology.cluster(CLUSTER).namespace
    while not done.is_set():
        pods, version = client.list_at(POD, namespace, PLATFORM)
        there = {pod["metadata"]["name"]: _whose(pod) for pod in pods}
        _judge(there, seen)
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "5"}
        try:
            with client.stream(client.path(POD, namespace), query, seconds=5) as answer:
                for event in map(json.loads, answer.iter_lines()):
                    if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                        continue
                    name = event["object"]["metadata"]["name"]
                    there.pop(name, None)
                    if event["type"] != "DELETED":
                        there[name] = _whose(event["object"])
                    seen.looks += 1
                    _judge(there, seen)
        except (httpx2.TransportError, json.JSONDecodeError):
            continue  # dropped: listed again


def _whose(pod: dict[str, dict[str, dict[str, str]]]) -> tuple[str, str]:
    labels = pod["metadata"]["labels"]
    return labels[NAME], labels[COLOUR]


def _judge(there: dict[str, tuple[str, str]], seen: Witness) -> None:
    for component in EXCLUSIVE:
        names = sorted(name for name, (own, _) in there.items() if own == component)
        if len({there[name][1] for name in names}) > 1:
            seen.double.append(f"{component}: {', '.join(names)}")


def complaints(platform: Platform, seen: Witness) -> list[str]:
    """What should not have been, a sentence each."""
    counts = Counter(order["id"] for order in platform.admin("GET", "/orders"))
    bad = {identity: counts[identity] for identity in seen.confirmed if counts[identity] != 1}
    found = [f"in both colours at once: {what}" for what in sorted(set(seen.double))]
    if bad:
        found.append(f"confirmed orders that were not executed once: {bad}")
    if seen.tally.lost:
        answers = Counter(seen.tally.answers[key] for key in seen.tally.lost)
        found.append(f"{len(seen.tally.lost)} of {len(seen.tally.answers)} users' requests were lost: {dict(answers)}")
    if not seen.looks or not seen.tally.answers or not seen.confirmed:
        found.append("the witness saw nothing: no pods' events, no answers or no orders")
    return found
