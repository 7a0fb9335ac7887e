"""Seeing objects as they change: a watch that outlives what drops it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from nexus_ops.clusters.client import BUSY, ClusterClient, Kind, selector

Object = dict[str, Any]
PAUSE = 0.2
"""Seconds before a watch that was dropped is taken up again, so that one that drops at once is no busy loop."""


def watch(
    client: ClusterClient,
    kind: Kind,
    namespace: str,
    *,
    seconds: float,
    labels: Mapping[str, str] | None = None,
    since: str = "",
) -> Iterator[Object | None]:
    """Objects as they change after the version `since` (of a list; without one, what is there comes first).

    None at a quiet moment, or when the watch was dropped and is taken up again; when its history is gone (410) it begins
    anew with what is there. Ends after `seconds`. A refusal (forbidden, an unknown kind) is raised.
    """
    deadline, version = time.monotonic() + seconds, since
    path, query = client.path(kind, namespace), {"watch": "1", "allowWatchBookmarks": "true", **selector(labels)}
    while (left := deadline - time.monotonic()) > 0:
        params = {
            **query,
            "timeoutSeconds": str(max(1, int(left))),
            **({"resourceVersion": version} if version else {}),
        }
        try:
            with client.stream(path, params, seconds=left) as answer:
                if answer.status_code == 200:
                    for event in map(json.loads, answer.iter_lines()):
                        if event["type"] == "ERROR":
                            version = ""
                            break
                        version = event["object"]["metadata"]["resourceVersion"]
                        yield event["object"] if event["type"] != "BOOKMARK" else None
                        if time.monotonic() > deadline:
                            return
                elif answer.status_code == 410:
                    version = ""
                elif answer.status_code not in BUSY:
                    answer.read()
                    raise client.refusal(f"{kind.kind} in {namespace}", answer)
        except (httpx2.TransportError, json.JSONDecodeError):
            pass  # dropped in the middle: taken up again after the last version that was seen
        if (left := deadline - time.monotonic()) > 0:
            yield None
            client.pause(min(PAUSE, left))
