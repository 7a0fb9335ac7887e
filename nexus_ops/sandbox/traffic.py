"""Traffic as users make it: an open-loop client that never retries, and order senders that retry the same order.

Open loop: requests are sent when their time has come, whether or not earlier ones were answered, so that a slow
server cannot hide by slowing its clients down.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import uuid
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import uvloop

MOST_OPEN = 50
"""Orders that wait to be confirmed; with more, no new one is made: nobody answers there."""

EXCLUSIVE = ("execution-engine", "payment-processor")


@dataclass
class Tally:
    """What came back: status (or error) by request id."""

    answers: dict[str, str] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> list[str]:
        """Requests without an answer, or with a refusal of the gateway (502, 503, 504)."""
        return [key for key, what in self.answers.items() if not what.isdigit() or what in ("502", "503", "504")]


async def send_requests(
    url: str, host: str, rate: float, tally: Tally, stop: asyncio.Event, *, keep: bool = True
) -> None:
    """Send `rate` requests a second until `stop`; each with its own x-request-id."""
    connector = aiohttp.TCPConnector(limit=0)
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def one(identity: str) -> None:
            try:
                async with session.get(url, headers={"Host": host, "x-request-id": identity}) as answer:
                    await answer.read()
                    what = str(answer.status)
                    tally.versions[answer.headers.get("x-nexus-version", "none")] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                what = type(error).__name__
            if keep:
                tally.answers[identity] = what

        started = loop.time()
        for number in itertools.count():
            if stop.is_set():
                break
            delay = started + number / rate - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            task = loop.create_task(one(uuid.uuid4().hex))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)


async def send_orders(
    url: str, component: str, namespace: str, rate: float, sent: list[str], stop: asyncio.Event, *, keep: bool = True
) -> None:
    """Send orders to an exclusive component, each with one id until it is confirmed."""
    host = f"{component}.{namespace}.svc"
    pending: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def one(identity: str) -> None:
            while True:
                try:
                    body = {"id": identity}
                    async with session.post(f"{url}/orders", json=body, headers={"Host": host}) as answer:
                        await answer.read()
                        if answer.status == 200:
                            break
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not confirmed: sent again, under the same id
                await asyncio.sleep(0.2)
            if keep:
                sent.append(identity)

        while not stop.is_set():
            if len(pending) < MOST_OPEN:
                task = loop.create_task(one(uuid.uuid4().hex))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.sleep(1 / rate)
        await asyncio.wait(pending, timeout=60) if pending else None


async def run(options: argparse.Namespace) -> None:
    """Traffic until the process is ended."""
    never = asyncio.Event()
    await asyncio.gather(
        send_requests(options.edge, options.host, options.rate, Tally(), never, keep=False),
        *(
            send_orders(options.services, component, options.namespace, 2.0, [], never, keep=False)
            for component in EXCLUSIVE
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Traffic for one sandbox cluster.")
    for name in ("edge", "host", "services", "namespace"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
