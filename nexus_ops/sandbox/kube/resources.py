"""What the API serves: the built-in kinds, and those that CustomResourceDefinitions add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """One served resource type."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    status: bool = False
    scale: bool = False
    categories: tuple[str, ...] = ()
    custom: bool = False
    schema: dict[str, Any] | None = None
    """The structural schema of a custom resource."""
    columns: tuple[dict[str, Any], ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS

    @property
    def key(self) -> str:
        """Name across groups: plural, with the group where there is one."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def generation(self) -> bool:
        """Whether a change of the spec raises metadata.generation."""
        return self.custom or self.group in (
            "apps",
            "batch",
            "autoscaling",
            "policy",
            "networking.k8s.io",
            "apiextensions.k8s.io",
        )


def _core(plural: str, kind: str, **more: Any) -> Resource:
    return Resource("", "v1", plural, kind, **more)


BUILT_IN = (
    _core("namespaces", "Namespace", namespaced=False, short=("ns",), status=True,
          verbs=("create", "delete", "get", "list", "patch", "update", "watch")),
    _core("nodes", "Node", namespaced=False, short=("no",), status=True),
    _core("pods", "Pod", short=("po",), status=True, categories=("all",)),
    _core("services", "Service", short=("svc",), status=True, categories=("all",)),
    _core("endpoints", "Endpoints", short=("ep",)),
    _core("configmaps", "ConfigMap", short=("cm",)),
    _core("secrets", "Secret"),
    _core("serviceaccounts", "ServiceAccount", short=("sa",)),
    _core("events", "Event", short=("ev",)),
    _core("persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), status=True),
    _core("resourcequotas", "ResourceQuota", short=("quota",), status=True),
    _core("limitranges", "LimitRange", short=("limits",)),
    Resource("apps", "v1", "deployments", "Deployment", short=("deploy",), status=True, scale=True, categories=("all",)),
    Resource("apps", "v1", "replicasets", "ReplicaSet", short=("rs",), status=True, scale=True, categories=("all",)),
    Resource("apps", "v1", "statefulsets", "StatefulSet", short=("sts",), status=True, scale=True, categories=("all",)),
    Resource("apps", "v1", "daemonsets", "DaemonSet", short=("ds",), status=True, categories=("all",)),
    Resource("apps", "v1", "controllerrevisions", "ControllerRevision"),
    Resource("batch", "v1", "jobs", "Job", status=True, categories=("all",)),
    Resource("batch", "v1", "cronjobs", "CronJob", short=("cj",), status=True, categories=("all",)),
    Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short=("hpa",), status=True,
             categories=("all",)),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short=("pdb",), status=True),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    Resource("networking.k8s.io", "v1", "ingresses", "Ingress", short=("ing",), status=True),
    Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short=("netpol",)),
    Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short=("pc",)),
    Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False, short=("sc",)),
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False,
             short=("crd", "crds"), status=True),
)  # fmt: skip


class Resources:
    """The resource types that are served now, by key and by path."""

    def __init__(self) -> None:
        self._by_key = {resource.key: resource for resource in BUILT_IN}
        self._by_path = {(r.group, r.version, r.plural): r for r in BUILT_IN}

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_path.values())

    def by_key(self, key: str) -> Resource:
        return self._by_key[key]

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def versions(self) -> dict[str, list[str]]:
        """Served versions by group; the core group is the empty string."""
        result: dict[str, list[str]] = {}
        for group, version, _ in self._by_path:
            if version not in result.setdefault(group, []):
                result[group].append(version)
        return result

    def add_definition(self, crd: dict[str, Any]) -> None:
        """Serve the kinds of a CustomResourceDefinition (its storage version under the key)."""
        self.remove_definition(crd)
        spec, names = crd["spec"], crd["spec"]["names"]
        for version in spec["versions"]:
            if not version.get("served"):
                continue
            subresources = version.get("subresources") or {}
            resource = Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                short=tuple(names.get("shortNames") or ()),
                status="status" in subresources,
                categories=tuple(names.get("categories") or ()),
                custom=True,
                schema=_without_head((version.get("schema") or {}).get("openAPIV3Schema")),
                columns=tuple(version.get("additionalPrinterColumns") or ()),
            )
            self._by_path[(resource.group, resource.version, resource.plural)] = resource
            if version.get("storage") or resource.key not in self._by_key:
                self._by_key[resource.key] = resource

    def remove_definition(self, crd: dict[str, Any]) -> None:
        """Serve the kinds of a CustomResourceDefinition no longer."""
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        self._by_key.pop(f"{plural}.{group}", None)
        for path in [path for path in self._by_path if path[0] == group and path[2] == plural]:
            del self._by_path[path]


def _without_head(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """A custom resource's schema; that it has a kind and metadata, which it may require, is looked at for every kind."""
    if schema is None or "required" not in schema:
        return schema
    required = [name for name in schema["required"] if name not in ("apiVersion", "kind", "metadata")]
    return {
        **{key: value for key, value in schema.items() if key != "required"},
        **({"required": required} if required else {}),
    }
