"""eksctl's ClusterConfig of an AWS cluster, rendered from the topology: what `eksctl create cluster -f` makes.

The same topology gives the same bytes. It is checked against eksctl's own schema, in which an unknown field is an error, and
kept under its digest. Nothing here talks to AWS.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from importlib import resources as package
from typing import Any

import yaml

from nexus_ops.errors import PermanentError
from nexus_ops.infrastructure.add_ons import SYSTEM, AddOn, add_on
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Cluster, NodeGroup, Topology

Document = dict[str, Any]
API_VERSION = "eksctl.io/v1alpha5"
PREFIX = "cluster-configs"


def cluster_config(topology: Topology, cluster: Cluster) -> Document:
    """The ClusterConfig of a cluster; one that is not on AWS has none."""
    if cluster.cloud != "aws":
        raise PermanentError(
            f"it is on {cluster.cloud}; eksctl makes clusters on AWS only.",
            target=cluster.name,
            todo="Make it with that cloud's own tools, with the node groups of topology.yaml.",
        )
    add_ons = [add_on(name) for name in topology.add_ons]
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterConfig",
        "metadata": {
            "name": cluster.name,
            "region": cluster.region,
            "version": topology.kubernetes_version,
            "tags": {"nexus.ai/environment": cluster.environment, "nexus.ai/role": cluster.role},
        },
        "iam": {
            "withOIDC": True,  # service accounts get their rights by it
            "serviceAccounts": [_account(one) for one in add_ons if one.account],
        },
        "addons": [_managed(one) for one in add_ons if one.managed],
        "managedNodeGroups": [_node_group(group) for group in topology.node_groups.values()],
    }


def _account(one: AddOn) -> Document:
    return {"metadata": {"name": one.account, "namespace": SYSTEM}, "wellKnownPolicies": {one.policy: True}}


def _managed(one: AddOn) -> Document:
    found: Document = {"name": one.name}
    if one.policy:
        found["wellKnownPolicies"] = {one.policy: True}
    if one.configuration:
        found["configurationValues"] = one.configuration
    return found


def _node_group(group: NodeGroup) -> Document:
    return {
        "name": group.name,
        "instanceType": group.instance_type,
        "minSize": group.min,
        "maxSize": group.max,
        "desiredCapacity": group.desired,
        "labels": dict(group.labels),
        "privateNetworking": True,
        "volumeEncrypted": True,
        "propagateASGTags": True,  # by which the autoscaler knows the labels of a group without nodes
    }


def problems(document: Document) -> Iterator[str]:
    """What eksctl's schema has against a ClusterConfig: the path, and what is wrong there."""
    for error in _validator().iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path)) or 'ClusterConfig'}: {error.message}"


@cache
def _validator() -> Any:
    import jsonschema

    data = package.files("nexus_ops.infrastructure").joinpath("schemas/eksctl-clusterconfig.json.gz").read_bytes()
    return jsonschema.Draft7Validator(json.loads(gzip.decompress(data)))


def to_yaml(document: Document) -> str:
    """The file that eksctl reads; always the same text for the same document."""
    return yaml.safe_dump(document, sort_keys=False, width=120)


def save(store: ObjectStore, cluster: Cluster, document: Document) -> str:
    """Keep a ClusterConfig that is valid under its digest; the digest."""
    if found := list(problems(document)):
        raise PermanentError(
            f"its ClusterConfig is not valid: {'; '.join(found)}.", target=cluster.name, todo="Correct topology.yaml."
        )
    return store.put_content(PREFIX, to_yaml(document).encode())
