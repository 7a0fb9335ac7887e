"""The topology: clouds, regions, clusters, node groups and components, as topology.yaml declares them.

Everything else in the project asks this module what exists. It refuses what cannot be meant (two
primaries, a standby of nothing, an unknown region) when it is loaded, and says in which file, at which
path, and what would be allowed, because a typing mistake found by a rollout is found too late.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nexus_ops.backup_declarations import BackupsOfEnvironment
from nexus_ops.documents import first_error, read_yaml, unknown_key
from nexus_ops.errors import PermanentError, UnknownName

Colour = Literal["blue", "green"]
Work = Literal["request", "worker", "exclusive"]
Role = Literal["primary", "standby"]
RouterKind = Literal["gateway-api", "service-selector", "alb"]
StrategyName = Literal["blue-green", "canary"]

Thing = TypeVar("Thing")
Document = dict[str, Any]

COLOURS: tuple[Colour, Colour] = ("blue", "green")

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
CpuQuantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")]
MemoryQuantity = Annotated[str, Field(pattern=r"^[0-9]+(Ki|Mi|Gi|Ti)$")]
Count = Annotated[int, Field(ge=0, le=5000)]
Seconds = Annotated[int, Field(ge=0, le=7 * 24 * 3600)]
Port = Annotated[int, Field(ge=1, le=65535)]


def other(colour: Colour) -> Colour:
    """The colour that `colour` alternates with."""
    return "green" if colour == "blue" else "blue"


class TopologyError(PermanentError):
    """topology.yaml says something that cannot be meant; names the file, the path, and what is allowed."""


class Declaration(BaseModel):
    """Base of everything in the topology: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cloud(Declaration):
    """A cloud provider, its role for the platform, and of each of its regions the role and the time zone."""

    name: Name
    role: Literal["primary", "secondary", "tertiary"]
    regions: Mapping[str, Role]
    time_zones: Mapping[str, str]

    @model_validator(mode="after")
    def _a_time_zone_for_each_region(self) -> Cloud:
        for region in self.time_zones.keys() ^ self.regions.keys():
            raise ValueError(f"time_zones: {region} is not in both; allowed: one for each region")
        for region, zone in self.time_zones.items():
            try:
                ZoneInfo(zone)
            except (KeyError, ValueError, OSError):
                raise ValueError(f"time_zones.{region}: there is no {zone!r}; allowed: as Europe/Brussels") from None
        return self


class RolloutDefaults(Declaration):
    """How rollouts of an environment go, unless a deploy says otherwise. Times in seconds."""

    strategy: StrategyName = "blue-green"
    monitor_seconds: Seconds
    """How long the new colour is watched when it has all traffic."""
    hold_seconds: Seconds
    """How long the old colour is then kept as the way back, and the new one watched on."""
    bake_seconds: Seconds = 300
    """How long each share of a canary is watched."""
    gates: tuple[Name, ...] = ()
    """Stages that a person has to let begin (job `approve`)."""
    min_requests: Count = 0
    """So many requests of the candidate must have been seen in a bake before it is over."""
    insufficient_seconds: Seconds = 300
    """How long a bake goes on without a verdict before the rollout is given up."""
    error_seconds: Seconds = 120
    """How long nothing may be measured while the candidate serves before the rollout is given up."""
    logs_seconds: Seconds = 120
    """How long a candidate that failed is kept without traffic, for its logs."""


class Environment(Declaration):
    """Staging or production: one public host, and the way its traffic is moved."""

    name: Name
    host: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]
    router: RouterKind
    rollout: RolloutDefaults
    backups: BackupsOfEnvironment


class Cluster(Declaration):
    """One Kubernetes cluster: an environment in a region. Its name is the Dagster partition key.

    `context` is the kube context that reaches it; a cluster that is not enabled needs none.
    """

    name: Name
    environment: str
    cloud: str
    region: str
    role: Role
    context: str | None = None
    enabled: bool = True
    namespace: Name = "nexus-agents"
    data_namespace: Name = "nexus-data"
    monitoring_namespace: Name = "monitoring"
    ops_namespace: Name = "nexus-ops"


class NodeGroup(Declaration):
    """A group of equal nodes. `cpu` (cores) and `memory` are those of one node of `instance_type`."""

    name: Name
    instance_type: str
    cpu: CpuQuantity
    memory: MemoryQuantity
    min: Count
    max: Count
    desired: Count
    labels: Mapping[str, str]

    @model_validator(mode="after")
    def _sizes_in_order(self) -> NodeGroup:
        if not self.min <= self.desired <= self.max:
            raise ValueError(f"desired is {self.desired}; allowed: {self.min} (min) to {self.max} (max)")
        return self


class Ports(Declaration):
    """Container ports: the agent's HTTP interface, and its Prometheus metrics."""

    http: Port
    metrics: Port


class Autoscaling(Declaration):
    """Bounds (replicas) and utilisation targets (percent of the requests) of the autoscaler."""

    min: Annotated[int, Field(ge=1, le=5000)]
    max: Annotated[int, Field(ge=1, le=5000)]
    cpu_percent: Annotated[int, Field(ge=1, le=100)]
    memory_percent: Annotated[int, Field(ge=1, le=100)]

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Autoscaling:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}; allowed: at most max, {self.max}")
        return self


class Quantities(Declaration):
    """CPU (cores) and memory of one container."""

    cpu: CpuQuantity
    memory: MemoryQuantity


class Resources(Declaration):
    """What a container is promised, and what it may not exceed."""

    requests: Quantities
    limits: Quantities


class SecretKey(Declaration):
    """A value that lives in a Kubernetes Secret: its name and key, never the value."""

    secret: Name
    key: str


class Component(Declaration):
    """One of the agent services. `work` decides how it takes part in a rollout (DESIGN.md, decision 2)."""

    name: Name
    work: Work
    edge: bool = False
    """Whether the public host leads to this component."""
    replicas: Count
    autoscaling: Autoscaling
    resources: Resources
    ports: Ports
    node_group: str
    environment: Mapping[str, str | SecretKey]
    drain_seconds: Count
    """How long the component may need to finish what it has begun (seconds)."""

    @model_validator(mode="after")
    def _replicas_within_bounds(self) -> Component:
        low, high = self.autoscaling.min, self.autoscaling.max
        if not low <= self.replicas <= high:
            raise ValueError(
                f"replicas is {self.replicas}; allowed: {low} (autoscaling.min) to {high} (autoscaling.max)"
            )
        if self.edge and self.work != "request":
            raise ValueError(
                f"edge is true for {self.work} work; allowed: request, for edge weight moves requests only"
            )
        return self

    def environment_for(self, colour: Colour) -> dict[str, str | SecretKey]:
        """The environment variables of this component in `colour`; `{colour}` is filled in."""
        return {
            key: value.replace("{colour}", colour) if isinstance(value, str) else value
            for key, value in self.environment.items()
        }


class Topology(Declaration):
    """All that is operated. `Topology.load` reads it from a file."""

    disaster_recovery: bool
    auto_failover: bool
    kubernetes_version: Annotated[str, Field(pattern=r"^1\.[0-9]{2}$")]
    """Minor version of every cluster's control plane and nodes, for example 1.32."""
    clouds: Mapping[str, Cloud]
    environments: Mapping[str, Environment]
    clusters: Mapping[str, Cluster]
    node_groups: Mapping[str, NodeGroup]
    add_ons: tuple[str, ...]
    components: Mapping[str, Component]

    @classmethod
    def load(cls, path: Path) -> Topology:
        """Read and check a topology file; a `TopologyError` names the path and what is allowed."""
        return cls.parse(read_yaml(path), source=path.name)

    @classmethod
    def parse(cls, document: Any, *, source: str = "topology") -> Topology:
        """Check a document of topology.yaml's shape; `source` names it in errors."""
        if not isinstance(document, dict):
            raise TopologyError("the file holds no mapping.", target=source, todo="Begin with `clouds:`.")
        try:
            return cls.model_validate(_with_names_and_defaults(cast(Document, document), source))
        except ValidationError as error:
            raise TopologyError(first_problem(error), target=source) from None

    def cluster(self, name: str) -> Cluster:
        """The cluster of this name, or `UnknownName` with the ones that can be operated."""
        return _named("cluster", name, self.clusters, [cluster.name for cluster in self.enabled_clusters])

    def component(self, name: str) -> Component:
        """The component of this name, or `UnknownName` with the ones there are."""
        return _named("component", name, self.components)

    def environment_of(self, cluster: Cluster) -> Environment:
        """The environment that a cluster serves."""
        return self.environments[cluster.environment]

    def time_zone_of(self, cluster: Cluster) -> str:
        """The time zone in which a cluster's nights are."""
        return self.clouds[cluster.cloud].time_zones[cluster.region]

    @property
    def enabled_clusters(self) -> tuple[Cluster, ...]:
        """Clusters that can be operated: enabled, hence with a kube context; in the file's order."""
        return tuple(cluster for cluster in self.clusters.values() if cluster.enabled)

    @property
    def edge_component(self) -> Component:
        """The component behind the public host."""
        return next(component for component in self.components.values() if component.edge)

    def primary(self, environment: str) -> Cluster:
        """The enabled primary cluster of an environment."""
        return next(
            cluster
            for cluster in self.enabled_clusters
            if cluster.environment == environment and cluster.role == "primary"
        )

    @model_validator(mode="after")
    def _clouds_differ(self) -> Topology:
        for role, uses in Counter(cloud.role for cloud in self.clouds.values()).items():
            if uses > 1:
                raise ValueError(f"clouds: {uses} clouds have the role {role}; allowed: one each")
        return self

    @model_validator(mode="after")
    def _clusters_fit(self) -> Topology:
        for name, cluster in self.clusters.items():
            where = f"clusters.{name}"
            _must_be_one_of(f"{where}.environment", cluster.environment, self.environments)
            _must_be_one_of(f"{where}.cloud", cluster.cloud, self.clouds)
            _must_be_one_of(f"{where}.region", cluster.region, self.clouds[cluster.cloud].regions)
            if cluster.enabled and not cluster.context:
                raise ValueError(
                    f"{where}.context: missing; an enabled cluster needs a kube context (or enabled: false)"
                )
        for environment in self.environments:
            of = [cluster for cluster in self.clusters.values() if cluster.environment == environment]
            primaries = [cluster.name for cluster in of if cluster.role == "primary"]
            if len(primaries) > 1:
                names = ", ".join(primaries)
                raise ValueError(f"clusters: {environment} has {len(primaries)} primaries ({names}); allowed: one")
            if not primaries:
                raise ValueError(f"clusters: {environment} has no primary; allowed: one, and standbys only beside it")
            if any(cluster.enabled for cluster in of) and not self.clusters[primaries[0]].enabled:
                raise ValueError(
                    f"clusters.{primaries[0]}.enabled: false, but {environment} has enabled clusters; allowed: a primary "
                    "that is enabled, or none of its clusters"
                )
        contexts = Counter(cluster.context for cluster in self.enabled_clusters)
        for context, uses in contexts.items():
            if uses > 1:
                raise ValueError(f"clusters: context {context!r} is used {uses} times; allowed: one cluster each")
        return self

    @model_validator(mode="after")
    def _components_fit(self) -> Topology:
        for name, component in self.components.items():
            _must_be_one_of(f"components.{name}.node_group", component.node_group, self.node_groups)
        edges = [component.name for component in self.components.values() if component.edge]
        if len(edges) != 1:
            raise ValueError(f"components: edge is true for {', '.join(edges) or 'none'}; allowed: exactly one")
        if len(set(self.add_ons)) != len(self.add_ons):
            twice = sorted(name for name, uses in Counter(self.add_ons).items() if uses > 1)
            raise ValueError(f"add_ons: {', '.join(twice)} is listed twice; allowed: once")
        return self


def default_path() -> Path:
    """Where the topology is: $NEXUS_TOPOLOGY, else topology.yaml in the project's folder."""
    return Path(os.environ.get("NEXUS_TOPOLOGY") or project_folder() / "topology.yaml")


def project_folder() -> Path:
    """The folder with topology.yaml, images.yaml and helm/: $NEXUS_PROJECT, else the checkout, else here."""
    if configured := os.environ.get("NEXUS_PROJECT"):
        return Path(configured)
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "topology.yaml").exists() else Path.cwd()


def _named(kind: str, name: str, things: Mapping[str, Thing], offered: list[str] | None = None) -> Thing:
    """`offered`: the names that the error lists; all, where it is not given."""
    if name not in things:
        raise UnknownName(kind, name, offered or list(things))
    return things[name]


def _must_be_one_of(where: str, value: str, allowed: Mapping[str, Any]) -> None:
    if value not in allowed:
        raise ValueError(f"{where}: {value!r} is not declared; allowed: {', '.join(allowed)}")


def _with_names_and_defaults(document: Document, source: str) -> Document:
    """The document with each entry's key as its `name`, and the components' shared defaults merged in."""
    result = {key: value for key, value in document.items() if key != "component_defaults"}
    defaults = document.get("component_defaults", {})
    if not isinstance(defaults, dict):
        raise TopologyError("component_defaults: no mapping.", target=source)
    for section in ("clouds", "environments", "clusters", "node_groups", "components"):
        if not isinstance(result.get(section), dict):
            raise TopologyError(f"{section}: missing, or no mapping of names.", target=source)
        entries = cast(dict[str, Any], result[section])
        base = cast(Document, defaults) if section == "components" else {}
        for name, entry in entries.items():
            if not isinstance(entry, dict):
                raise TopologyError(f"{section}.{name}: no mapping.", target=source)
        result[section] = {name: {**_merged(base, entry), "name": name} for name, entry in entries.items()}
    return result


def _merged(base: Document, over: Document) -> Document:
    result = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], cast(Document, value)) if nested else value
    return result


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a declaration, in a sentence: where, and what is allowed."""
    first = first_error(error)
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "SecretKey"))
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        return f"{where}: {unknown_key(str(first['loc'][-1]), known)}"
    return f"{where}: {what}." if where else f"{what}."


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    """The keys that the model at this place of the document takes."""
    sections: dict[str, type[Declaration]] = {
        "clouds": Cloud, "environments": Environment, "clusters": Cluster,
        "node_groups": NodeGroup, "components": Component,
    }  # fmt: skip
    model: type[BaseModel] | None = Topology
    parts = list(path)
    if parts and parts[0] in sections:
        model, parts = sections[str(parts[0])], parts[2:]
    for part in parts:
        field = model.model_fields.get(str(part)) if model else None
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return [name for name in model.model_fields if name != "name"] if model else []
