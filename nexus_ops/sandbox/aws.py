"""AWS of the sandbox: moto's server, one for all clusters, as a process of its own.

moto calls every registered target healthy. Here a target is healthy when it answers its health check, as in AWS.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from nexus_ops.topology import Topology

Object = dict[str, Any]
CHECK_SECONDS = 1.0
EC2 = "moto.ec2.models"
UNHEALTHY = "nexus.ai/sandbox-unhealthy"
"""Tag of a target group whose targets fail their health checks on demand."""


def serve(port: int, topology: Path | None = None) -> None:
    """Answer on a loopback port until SIGTERM or SIGINT; with a topology, EKS has its clusters."""
    from moto.server import ThreadedMotoServer  # pyright: ignore[reportMissingTypeStubs]  # has none; slow to import

    known = Topology.load(topology) if topology else None
    if known is None or any(environment.router == "alb" for environment in known.environments.values()):
        check_targets()  # moto's load balancers take 110 MB, used or not
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    if known:
        make_clusters(known, f"http://127.0.0.1:{port}")
    stopped.wait()
    server.stop()


def make_clusters(topology: Topology, endpoint: str) -> None:
    """The enabled AWS clusters and their node groups, as eksctl would have made them by their ClusterConfigs."""
    from boto3.session import Session

    # moto asks its EC2, which takes 110 MB, for the launch template of every node group, and does without where it cannot.
    left_out = EC2 not in sys.modules
    if left_out:
        sys.modules[EC2] = None  # pyright: ignore[reportArgumentType]  # documented: an import of it fails

    session = Session(aws_access_key_id="sandbox", aws_secret_access_key="sandbox")
    network = {"subnetIds": ["subnet-1", "subnet-2"], "securityGroupIds": ["sg-1"]}
    role = "arn:aws:iam::123456789012:role/sandbox"
    for cluster in topology.enabled_clusters:
        if cluster.cloud != "aws":
            continue
        eks: Any = session.client("eks", region_name=cluster.region, endpoint_url=endpoint)
        version = topology.kubernetes_version
        eks.create_cluster(name=cluster.name, version=version, roleArn=role, resourcesVpcConfig=network)
        for group in topology.node_groups.values():
            eks.create_nodegroup(
                clusterName=cluster.name,
                nodegroupName=group.name,
                scalingConfig={"minSize": group.min, "maxSize": group.max, "desiredSize": group.desired},
                instanceTypes=[group.instance_type],
                labels=dict(group.labels),
                subnets=network["subnetIds"],
                nodeRole=role,
            )
    if left_out:
        del sys.modules[EC2]


def check_targets() -> None:
    """Have moto ask the targets of load balancers for their health."""
    import moto.elbv2.models as elbv2  # pyright: ignore[reportMissingTypeStubs]

    plain = elbv2.FakeTargetGroup.health_for

    def health_for(self: Any, target: Object, ec2_backend: Any) -> Any:
        found = plain(self, target, ec2_backend)
        if found.status == "healthy" and (problem := _problem(self, target)):
            found.status, found.reason, found.description = "unhealthy", "Target.FailedHealthChecks", problem
        return found

    elbv2.FakeTargetGroup.health_for = health_for


def _problem(group: Any, target: Object) -> str:
    """Why a target fails its health check; empty when it does not."""
    import moto.elbv2.models as elbv2  # pyright: ignore[reportMissingTypeStubs]

    backend = elbv2.elbv2_backends[group.account_id][group.region_name]
    tags = backend.tagging_service.get_tag_dict_for_resource(group.arn)
    if UNHEALTHY in tags:
        return "Health checks failed on demand"
    port = target.get("Port") or group.port
    connection = HTTPConnection(target["Id"], int(port), timeout=CHECK_SECONDS)
    try:
        connection.request("GET", group.health_check_path or "/")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"Health checks failed: {type(error).__name__}"
    finally:
        connection.close()
    return "" if status == 200 else f"Health checks failed with these codes: [{status}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="AWS, emulated.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--topology", type=Path, help="whose clusters EKS has")
    options = parser.parse_args()
    serve(options.port, options.topology)


if __name__ == "__main__":
    main()
