"""The add-ons of a cluster: what each consists of, and how it gets there.

Four of the platform's six are add-ons of EKS, which eksctl installs by name. The load balancer controller and the cluster
autoscaler are not: eksctl makes their service accounts with the rights that they need, and their own charts install them.
"""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM = "kube-system"


@dataclass(frozen=True)
class AddOn:
    """An add-on by the name that the topology gives it."""

    name: str
    workloads: tuple[str, ...]
    """Deployments and DaemonSets in kube-system."""
    managed: bool = True
    """Whether EKS has an add-on of this name."""
    policy: str = ""
    """eksctl's well-known policy: the rights in AWS that its service account needs."""
    account: str = ""
    """That service account, where eksctl has to make it."""
    configuration: str = ""
    """Configuration values of the EKS add-on (JSON)."""


KNOWN = {
    add_on.name: add_on
    for add_on in (
        AddOn(
            "aws-load-balancer-controller",
            ("aws-load-balancer-controller",),
            managed=False,
            policy="awsLoadBalancerController",
            account="aws-load-balancer-controller",
        ),
        AddOn(
            "cluster-autoscaler",
            ("cluster-autoscaler",),
            managed=False,
            policy="autoScaler",
            account="cluster-autoscaler",
        ),
        AddOn("aws-ebs-csi-driver", ("ebs-csi-controller", "ebs-csi-node"), policy="ebsCSIController"),
        # Without it no NetworkPolicy of the platform is enforced.
        AddOn("vpc-cni", ("aws-node",), configuration='{"enableNetworkPolicy": "true"}'),
        AddOn("coredns", ("coredns",)),
        AddOn("kube-proxy", ("kube-proxy",)),
    )
}


def add_on(name: str) -> AddOn:
    """What an add-on is; one that is not known is an EKS add-on whose workload is named like it."""
    return KNOWN.get(name) or AddOn(name, (name,))
