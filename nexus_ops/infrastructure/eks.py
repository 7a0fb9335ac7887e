"""What EKS says of a cluster: its version and its node groups (boto3, credentials by AWS's normal chain).

https://docs.aws.amazon.com/eks/latest/APIReference/API_DescribeNodegroup.html. The account needs eks:DescribeCluster,
eks:ListNodegroups and eks:DescribeNodegroup, nothing that changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_ops.errors import TemporaryError
from nexus_ops.topology import Cluster

SECONDS = 5
"""How long AWS may take to answer once, and to take a connection."""


class NotSeen(TemporaryError):
    """AWS could not be asked, or did not answer what was asked."""


@dataclass(frozen=True)
class LiveGroup:
    """A managed node group as it is."""

    name: str
    status: str
    min: int
    max: int
    instance_types: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class EksCluster:
    """A cluster as EKS describes it."""

    version: str
    groups: tuple[LiveGroup, ...]


def describe(cluster: Cluster, client: Any = None) -> EksCluster:
    """Ask EKS; whatever keeps it from answering is `NotSeen`. `client`: a boto3 client of EKS."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        eks = client or _client(cluster.region)
        version = eks.describe_cluster(name=cluster.name)["cluster"]["version"]
        pages = eks.get_paginator("list_nodegroups").paginate(clusterName=cluster.name)
        names = [name for page in pages for name in page["nodegroups"]]
        found = [eks.describe_nodegroup(clusterName=cluster.name, nodegroupName=name)["nodegroup"] for name in names]
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "an error")
        raise NotSeen(f"EKS answers {code}.", target=cluster.name, todo=_todo(code)) from None
    except BotoCoreError as error:
        raise NotSeen(f"EKS could not be asked: {type(error).__name__}.", target=cluster.name, todo=_todo("")) from None
    return EksCluster(version, tuple(_live_group(group) for group in found))


def _client(region: str) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    limits = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 2})
    # A session of its own: several clusters are asked at once, and the shared one is not made for that.
    session: Any = Session()
    return session.client("eks", region_name=region, config=limits)


def _todo(code: str) -> str:
    if code == "ResourceNotFoundException":
        return "EKS knows no cluster of this name: it is made by its ClusterConfig, under the topology's name."
    return "Give nexus-ops credentials of AWS that may describe clusters and node groups (docs/infrastructure.md)."


def _live_group(group: Mapping[str, Any]) -> LiveGroup:
    sizes = group.get("scalingConfig") or {}
    return LiveGroup(
        name=group["nodegroupName"],
        status=group.get("status", ""),
        min=sizes.get("minSize", 0),
        max=sizes.get("maxSize", 0),
        instance_types=tuple(group.get("instanceTypes") or ()),
        labels=group.get("labels") or {},
    )
