"""The project's own chart, rendered for its own topology: what the tests of this folder look at."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.helm import render_chart
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Part, values_for
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
PROJECT = default_path().parent
NAMESPACE = "nexus-agents"
PARTS: tuple[Part, ...] = ("shared", "blue", "green")
ENVIRONMENTS = ("staging", "production")
CHART = read_chart(PROJECT / "helm/nexus-ai-defi")
TOPOLOGY = Topology.load(default_path())
COMPONENTS = sorted(TOPOLOGY.components)
EXCLUSIVE = [name for name in COMPONENTS if TOPOLOGY.components[name].work == "exclusive"]


@cache
def release_of(environment: str = "production", version: str = "v1.0.0") -> Release:
    """A release of the project, built as the release asset builds it."""
    catalogue = FileCatalogue(PROJECT / "images.yaml")
    values = PROJECT / f"helm/values-{environment}.yaml"
    return build_release(TOPOLOGY, environment, version, catalogue, CHART, values)


def values_of(part: Part, environment: str = "production") -> dict[str, Any]:
    """The values of a part on an environment's primary cluster; the caller's own copy."""
    return copy.deepcopy(values_for(release_of(environment), TOPOLOGY.primary(environment), part))


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The values with the one at a dotted path replaced."""
    *parents, last = path.split(".")
    place: Any = values
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    place[int(last) if isinstance(place, list) else last] = value
    return values


def render(values: dict[str, Any]) -> list[Object]:
    """The objects of these values, in the chart's order."""
    return render_chart(CHART, values, namespace=NAMESPACE)


@cache
def objects_of(part: Part, environment: str = "production") -> tuple[Object, ...]:
    """The objects of a part; shared between tests, not to be changed."""
    return tuple(render(values_of(part, environment)))


def of_kind(objects: tuple[Object, ...] | list[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == kind}


def one(objects: tuple[Object, ...] | list[Object], kind: str, name: str) -> Object:
    """The object of this kind and name."""
    return of_kind(objects, kind)[name]
