"""What AWS says of a load balancer: the rules that are in force for a host, and the health of their targets.

Read by boto3 (region of the cluster, credentials by its normal chain, another endpoint by AWS_ENDPOINT_URL). Which Service a
target group stands for is in its tag, as the AWS Load Balancer Controller writes it:
https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/annotations/#resource-tags.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from nexus_ops.errors import TemporaryError

Answer = TypeVar("Answer")
RESOURCE = "ingress.k8s.aws/resource"
MOST_TAGS = 20
"""Resources whose tags may be asked for at once (DescribeTags)."""
GONE = ("draining", "unused")
"""States of targets that were taken out."""


class AwsSilent(TemporaryError):
    """AWS cannot be asked, or refuses to say."""


@dataclass(frozen=True)
class TargetGroup:
    """A target group, the Service that it stands for, and its targets' states by address."""

    arn: str
    service: str
    states: Mapping[str, str] = field(default_factory=dict[str, str])

    def not_healthy(self, addresses: set[str]) -> list[str]:
        """Addresses that are to be healthy targets and are not, with their states."""
        return [
            f"{address} is {self.states.get(address, 'not registered')}"
            for address in sorted(addresses)
            if self.states.get(address) != "healthy"
        ]


Forward = dict[str, int]
"""A rule's weights, by target group."""


class LoadBalancer:
    """A load balancer, by the name under which it is reached."""

    def __init__(self, region: str, hostname: str) -> None:
        self.region = region
        self.hostname = hostname.lower().removeprefix("dualstack.")

    def forwards(self, host: str) -> list[Forward]:
        """What the rules of all listeners do with a host's requests; a rule without a forward gives no weights."""
        return [_weights(rule) for rule in self._rules() if _is_for(rule, host)]

    def groups(self, ingress: str, arns: set[str]) -> dict[str, TargetGroup]:
        """The target groups by ARN; those that are not of Services of this Ingress (`namespace/name`) are left out."""
        found: dict[str, TargetGroup] = {}
        for arn, tags in self._tags(sorted(arns)).items():
            if service := service_of(tags.get(RESOURCE, ""), ingress):
                found[arn] = TargetGroup(arn, service, self._states(arn))
        return found

    def groups_of(self, host: str, ingress: str) -> dict[str, TargetGroup]:
        """The target groups that the rules for a host name, weight or not, by Service."""
        found = self.groups(ingress, {arn for forward in self.forwards(host) for arn in forward})
        return {group.service: group for group in found.values()}

    @property
    def _client(self) -> Any:
        return _client(self.region, os.environ.get("AWS_ENDPOINT_URL", ""))

    def _arn(self) -> str:
        if arn := load_balancers(self.region).get(self.hostname):
            return arn
        raise AwsSilent(f"there is no load balancer {self.hostname}.", target=self.region)

    def _rules(self) -> Iterator[Any]:
        for listener in _pages(self._client, "describe_listeners", "Listeners", LoadBalancerArn=self._arn()):
            yield from _pages(self._client, "describe_rules", "Rules", ListenerArn=listener["ListenerArn"])

    def _states(self, arn: str) -> dict[str, str]:
        answer = _asked(lambda: self._client.describe_target_health(TargetGroupArn=arn))
        states = {one["Target"]["Id"]: one["TargetHealth"]["State"] for one in answer["TargetHealthDescriptions"]}
        return {address: state for address, state in states.items() if state not in GONE}

    def _tags(self, arns: list[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for first in range(0, len(arns), MOST_TAGS):
            some = arns[first : first + MOST_TAGS]
            answer = _asked(lambda some=some: self._client.describe_tags(ResourceArns=some))
            for one in answer["TagDescriptions"]:
                found[one["ResourceArn"]] = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        return found


def load_balancers(region: str) -> dict[str, str]:
    """The ARNs of a region's load balancers by the names under which they are reached; `AwsSilent` when AWS does not say."""
    client = _client(region, os.environ.get("AWS_ENDPOINT_URL", ""))
    return {
        one["DNSName"].lower(): one["LoadBalancerArn"]
        for one in _pages(client, "describe_load_balancers", "LoadBalancers")
    }


def service_of(resource: str, ingress: str) -> str:
    """The Service in a target group's tag, `<namespace>/<ingress>-<service>:<port>`; empty when it is of another Ingress."""
    name, _, _ = resource.rpartition(":")
    return name.removeprefix(f"{ingress}-") if name.startswith(f"{ingress}-") else ""


def _is_for(rule: Any, host: str) -> bool:
    """Whether a rule is about a host by its name. Default rules are about none."""
    conditions = {one["Field"]: one for one in rule["Conditions"]}
    return host in (conditions.get("host-header") or {}).get("HostHeaderConfig", {}).get("Values", [])


def _weights(rule: Any) -> Forward:
    for action in rule["Actions"]:
        if action["Type"] == "forward":
            groups = (action.get("ForwardConfig") or {}).get("TargetGroups") or [action]
            return {group["TargetGroupArn"]: int(group.get("Weight", 1)) for group in groups}
    return {}


@lru_cache(maxsize=32)
def _client(region: str, endpoint: str) -> Any:
    """A client of a region; `endpoint` is what boto3 reads from the environment itself, and tells one client from another."""
    import boto3
    from botocore.config import Config

    del endpoint
    patience = Config(connect_timeout=3, read_timeout=10, retries={"max_attempts": 2, "mode": "standard"})
    return boto3.client("elbv2", region_name=region, config=patience)


def _pages(client: Any, operation: str, key: str, **arguments: str) -> list[Any]:
    """All entries of a paged answer."""
    return _asked(lambda: [one for page in client.get_paginator(operation).paginate(**arguments) for one in page[key]])


def _asked(ask: Callable[[], Answer]) -> Answer:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask()
    except (BotoCoreError, ClientError) as error:
        todo = "Look at the region's elbv2, and at the credentials of this process."
        raise AwsSilent(f"AWS does not say: {error}", todo=todo) from None
