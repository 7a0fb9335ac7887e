"""Rendering: a release for a cluster and a colour (or the part that both share), as ordered manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nexus_ops.releases.helm import render_chart
from nexus_ops.releases.model import Release, canonical
from nexus_ops.releases.waves import rank
from nexus_ops.storage import digest_of
from nexus_ops.topology import Cluster, Colour

Object = dict[str, Any]
Part = Literal["shared", "blue", "green"]


@dataclass(frozen=True)
class Rendering:
    """What is diffed and applied: the objects of one part, in wave order."""

    release: str
    cluster: str
    part: Part
    objects: tuple[Object, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the rendering's canonical JSON."""
        return digest_of(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical(
            {"format": 1, "release": self.release, "cluster": self.cluster, "part": self.part, "objects": self.objects}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Rendering:
        """The rendering of its canonical JSON."""
        document = json.loads(data)
        return cls(document["release"], document["cluster"], document["part"], tuple(document["objects"]))

    def of_kind(self, kind: str) -> list[Object]:
        """The objects of a kind."""
        return [obj for obj in self.objects if obj["kind"] == kind]


def render(release: Release, cluster: Cluster, part: Part, chart: Mapping[str, bytes]) -> Rendering:
    """Render one part for one cluster; the same inputs give the same bytes."""
    objects = render_chart(chart, values_for(release, cluster, part), namespace=cluster.namespace)
    return Rendering(release.digest, cluster.name, part, tuple(sorted(objects, key=rank)))


def values_for(release: Release, cluster: Cluster, part: Part) -> dict[str, Any]:
    """The chart's values: the environment's own, and what release and cluster say."""
    colour: Colour = "green" if part == "green" else "blue"
    return {
        **release.values,
        "part": part,
        "environment": release.environment,
        "cluster": cluster.name,
        "version": release.version,
        "host": release.host,
        "router": release.router,
        "namespaces": {
            "agents": cluster.namespace,
            "data": cluster.data_namespace,
            "monitoring": cluster.monitoring_namespace,
            "ops": cluster.ops_namespace,
        },
        "nodeGroups": dict(release.node_groups),
        "components": {
            name: _component(component, release.images[name], colour) for name, component in release.components.items()
        },
        **_infrastructure(release.infrastructure),
    }


def _infrastructure(stated: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a release says of the infrastructure; the chart of an older one knows no such value, and refuses it."""
    if stated is None:
        return {}
    return {
        "infrastructure": {
            "clouds": stated["clouds"],
            "disasterRecovery": stated["disaster_recovery"],
            "autoFailover": stated["auto_failover"],
        }
    }


def _component(component: Mapping[str, Any], image: str, colour: Colour) -> dict[str, Any]:
    scaling = component["autoscaling"]
    environment = [
        {"name": name, "value": value.replace("{colour}", colour)}
        if isinstance(value, str)
        else {"name": name, "secret": value["secret"], "key": value["key"]}
        for name, value in sorted(component["environment"].items())
    ]
    return {
        "work": component["work"],
        "edge": component["edge"],
        "image": image,
        "replicas": component["replicas"],
        "ports": component["ports"],
        "autoscaling": {
            "min": scaling["min"],
            "max": scaling["max"],
            "cpuPercent": scaling["cpu_percent"],
            "memoryPercent": scaling["memory_percent"],
        },
        "resources": component["resources"],
        "nodeGroup": component["node_group"],
        "drainSeconds": component["drain_seconds"],
        "environment": environment,
    }
