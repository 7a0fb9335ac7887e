"""Where users come in: how fast the edge answers, and how long the certificates are still good."""

from __future__ import annotations

import socket
import ssl
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx

from nexus_ops.clusters.edge import EdgeUnknown
from nexus_ops.clusters.kubeconfig import find_context
from nexus_ops.clusters.tls import authorities
from nexus_ops.health.model import Finding, State, worst
from nexus_ops.rollouts.context import RolloutContext

REQUESTS = 20
TIMEOUT = 2.0
SLOW_SECONDS = 1.0
"""A median above this is slow, whatever the network between."""
ERROR_RATIO = 0.05
"""As the rollouts' own limit: one error in twenty may happen to anyone."""
GIVE_UP = 3
"""After so many requests without any answer no more are sent."""
DAYS = 21
"""A certificate that ends sooner should have been renewed by now."""
Answered = tuple[int, float]
"""Status and seconds of a request; status 0: nobody answered."""


def look_at_edge(context: RolloutContext) -> Finding:
    """Send a few real requests through the gateway."""
    try:
        url = context.edge_url()
    except EdgeUnknown as error:
        return Finding("unknown", error.problem.rstrip("."), "Deploy to the cluster, or look at its gateway's status.")
    return judge_edge(ask_edge(url, context.host), context.host)


def ask_edge(url: str, host: str) -> list[Answered]:
    """What a burst of requests to a host got, one after the other; over TLS its certificate must be good for the host."""
    named = {"sni_hostname": host} if url.startswith("https") else {}
    found: list[Answered] = []
    with httpx.Client(verify=authorities(), timeout=TIMEOUT) as http:
        while len(found) < REQUESTS and sum(status == 0 for status, _ in found) < GIVE_UP:
            begun = time.monotonic()
            try:
                status = http.get(url, headers={"Host": host}, extensions=named).status_code
            except httpx.TransportError:
                status = 0
            found.append((status, time.monotonic() - begun))
    return found


def judge_edge(answers: Sequence[Answered], host: str) -> Finding:
    """Latency and errors of the requests that were sent. Pure."""
    served = [seconds for status, seconds in answers if 0 < status < 500]
    bad = len(answers) - len(served)
    numbers = {"requests": float(len(answers)), "errors": float(bad)}
    todo = "Look at the gateway, its route and the pods of the edge component."
    if bad * 2 > len(answers):
        statuses = sorted({str(status) if status else "no answer" for status, _ in answers if not 0 < status < 500})
        return Finding("failed", f"{bad} of {len(answers)} requests to {host} failed ({', '.join(statuses)})", todo, numbers)  # fmt: skip
    median, slowest = statistics.median(served), max(served)
    numbers |= {"median milliseconds": round(1000 * median, 1), "slowest milliseconds": round(1000 * slowest, 1)}
    why = f"{host}: median {1000 * median:.0f} ms, slowest {1000 * slowest:.0f} ms, {bad} of {len(answers)} failed"
    if median > SLOW_SECONDS or bad > ERROR_RATIO * len(answers):
        return Finding("degraded", why, todo, numbers)
    return Finding("healthy", why, "", numbers)


def look_at_certificates(context: RolloutContext) -> Finding:
    """The certificates that the API server and the edge show; whatever issued them, these are what counts."""
    shown: dict[str, datetime | str] = {}
    places = {"API server": (find_context(context.cluster).cluster.server, "")}
    try:
        places["edge"] = (context.edge_url(), context.host)
    except EdgeUnknown:
        pass  # there is no edge to have a certificate; the row of the edge says so
    for what, (url, host) in places.items():
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            try:
                shown[what] = ends_at(parts.hostname, parts.port or 443, host or parts.hostname)
            except (OSError, ValueError) as error:
                shown[what] = type(error).__name__
    return judge_certificates(shown, context.clock())


def ends_at(address: str, port: int, name: str) -> datetime:
    """When the certificate ends that a server shows for a name. It is read, not trusted: one that has ended is told too."""
    from cryptography import x509

    insecure = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout=TIMEOUT) as raw,
        insecure.wrap_socket(raw, server_hostname=name) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    if shown is None:
        raise ValueError("the server shows no certificate")
    return x509.load_der_x509_certificate(shown).not_valid_after_utc


def judge_certificates(ends: Mapping[str, datetime | str], now: datetime) -> Finding:
    """By whose it is: when it ends, or why it could not be read. Pure."""
    if not ends:
        return Finding("healthy", "neither the API server nor the edge is served over TLS: nothing can expire")
    states, said, numbers = list[State](), list[str](), dict[str, float]()
    for what, end in ends.items():
        if isinstance(end, str):
            states.append("unknown")
            said.append(f"that of the {what} could not be read ({end})")
            continue
        days = (end - now).total_seconds() / 86400
        numbers[f"{what} days left"] = round(days, 1)
        states.append("failed" if days < 0 else "degraded" if days < DAYS else "healthy")
        word = "ended" if days < 0 else "ends"
        said.append(f"that of the {what} {word} on {end.astimezone(UTC):%Y-%m-%d}")
    state = worst(states)
    todo = "" if state == "healthy" else "Renew it; find out why that did not happen by itself."
    return Finding(state, ", ".join(said), todo, numbers)
