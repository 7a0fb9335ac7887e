"""What manifests say in quantities and durations, as numbers."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

Object = dict[str, Any]


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


def pre_stop_seconds(container: Object) -> float:
    """How long a container's preStop hook takes: `sleep.seconds`, or an exec whose command ends in `sleep N`."""
    hook = (container.get("lifecycle") or {}).get("preStop") or {}
    if "sleep" in hook:
        return float(hook["sleep"].get("seconds") or 0)
    words = " ".join((hook.get("exec") or {}).get("command") or ()).split()
    for word, following in itertools.pairwise(words):
        if word == "sleep":
            return float(following.rstrip(";s"))
    return 0.0


def jitter(name: str) -> float:
    """A factor between 0.9 and 1.1 that is the same for the same name."""
    return 0.9 + zlib.crc32(name.encode()) % 1000 / 5000
