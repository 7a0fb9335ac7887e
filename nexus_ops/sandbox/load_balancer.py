"""Stand-in for the AWS Load Balancer Controller: Ingresses of class alb become load balancers in moto, and in Envoy.

Names and tags are the real controller's, so that what looks for them finds them here too. It does its work in the same
order: target groups, targets, listener, rules, then the Ingress' status; Envoy follows the rules that moto has. Delays,
failures and unhealthy targets come on demand (`Trouble`, by the admin interface).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from nexus_ops.sandbox.aws import UNHEALTHY
from nexus_ops.sandbox.kube.errors import ApiError
from nexus_ops.sandbox.kube.store import Event, Store
from nexus_ops.topology import Cluster

Object = dict[str, Any]
INGRESSES = "ingresses.networking.k8s.io"
WATCHED = {INGRESSES, "services", "endpoints"}
ANNOTATION = "alb.ingress.kubernetes.io"
ANNOUNCED = "nexus.ai/edge-url"
AGAIN = 1.0
"""Seconds after which a failed reconciliation is tried again."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trouble:
    """What is to go wrong."""

    delay: float = 0.0
    """Seconds that the controller takes before it changes anything."""
    lag: float = 0.0
    """Seconds that traffic stays as it was after a rule has changed."""
    fail: str = ""
    """The controller does nothing and logs this."""
    unhealthy: tuple[str, ...] = ()
    """Services whose targets fail their health checks."""

    @classmethod
    def parse(cls, document: Object) -> Trouble:
        """From the admin interface; an unknown key is a ValueError."""
        if unknown := set(document) - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown trouble: {', '.join(sorted(unknown))}")
        unhealthy: tuple[str, ...] = tuple(document.pop("unhealthy", ()))
        return cls(**document, unhealthy=unhealthy)


class LoadBalancers:
    """Keeps moto and the edge as the Ingresses say."""

    def __init__(
        self, store: Store, cluster: Cluster, endpoint: str, edge_url: str, serve: Callable[[list[Object]], None]
    ) -> None:
        """`endpoint`: moto's; `serve` takes what the edge is to serve, in the shape of HTTPRoutes."""
        self.store = store
        self.cluster = cluster
        self.endpoint = endpoint
        self.edge_url = edge_url
        self.serve = serve
        self.trouble = Trouble()
        self._dirty = asyncio.Event()
        self._other_trouble = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._served: dict[str, Object] = {}
        """What the edge was given, by the Ingress' uid."""
        self._brought: dict[str, str] = {}
        """What moto was brought to, likewise."""
        self._stop = store.subscribe(self._on_event)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        self._stop()
        if self._task is not None:
            self._task.cancel()

    def disturb(self, trouble: Trouble) -> None:
        """Have something go wrong from now on."""
        self.trouble = trouble
        self._other_trouble.set()
        self._dirty.set()

    async def _pause(self, seconds: float) -> None:
        """Wait; not longer than the trouble lasts."""
        self._other_trouble.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._other_trouble.wait(), seconds)

    def _on_event(self, event: Event) -> None:
        if event.key in WATCHED:
            self._dirty.set()

    async def _follow(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            ingresses = [one for one in self.store.list(INGRESSES) if one["spec"].get("ingressClassName") == "alb"]
            if not ingresses and not self._served:
                continue
            try:
                await self._pause(self.trouble.delay)
                if self.trouble.fail:
                    raise ValueError(self.trouble.fail)
                for ingress in ingresses:
                    await self._reconcile(ingress)
                self._forget({one["metadata"]["uid"] for one in ingresses})
            except Exception:  # as the real one: logged, and tried again
                logger.exception("the load balancer controller failed")
                asyncio.get_running_loop().call_later(AGAIN, self._dirty.set)

    async def _reconcile(self, ingress: Object) -> None:
        meta = ingress["metadata"]
        state = State(self.store, self.cluster, ingress)
        wanted = repr((state.rules(), state.targets, self.trouble, ingress.get("status"), state.annotations))
        if self._brought.get(meta["uid"]) == wanted:
            return
        hostname, changed = await asyncio.to_thread(Aws(self.endpoint, self.cluster.region).bring, state, self.trouble)
        self._say(ingress, hostname)
        if changed or meta["uid"] not in self._served:
            await self._pause(self.trouble.lag)
        if (route := state.as_route()) != self._served.get(meta["uid"]):
            self._served[meta["uid"]] = route
            self.serve(list(self._served.values()))
        self._brought[meta["uid"]] = wanted

    def _forget(self, there: set[str]) -> None:
        if gone := self._served.keys() - there:
            for uid in gone:
                del self._served[uid], self._brought[uid]
            self.serve(list(self._served.values()))

    def _say(self, ingress: Object, hostname: str) -> None:
        """The address, in the status; and where it really is on this machine, as an annotation."""
        meta = ingress["metadata"]
        status = {"loadBalancer": {"ingress": [{"hostname": hostname}]}}
        try:
            if (meta.get("annotations") or {}).get(ANNOUNCED) != self.edge_url:
                self.store.edit(
                    INGRESSES, meta["namespace"], meta["name"],
                    lambda obj: obj["metadata"].setdefault("annotations", {}).update({ANNOUNCED: self.edge_url}),
                )  # fmt: skip
            if ingress.get("status") != status:
                self.store.edit(
                    INGRESSES, meta["namespace"], meta["name"], lambda obj: obj.update(status=status),
                    subresource="status",
                )  # fmt: skip
        except ApiError:
            self._dirty.set()  # deleted or changed meanwhile


class State:
    """What one Ingress asks for, with the Services and ready addresses that it leads to. Pure but for the store."""

    def __init__(self, store: Store, cluster: Cluster, ingress: Object) -> None:
        self.ingress = ingress
        self.cluster = cluster
        self.namespace: str = ingress["metadata"]["namespace"]
        self.name: str = ingress["metadata"]["name"]
        self.annotations: dict[str, str] = ingress["metadata"].get("annotations") or {}
        self.targets: dict[str, list[tuple[str, int]]] = {}
        for _, _, groups in self.rules():
            for service, _, _ in groups:
                if store.find("services", self.namespace, service) is None:
                    raise ValueError(f"Service {self.namespace}/{service} not found")  # the real one stops there, too
                self.targets[service] = list(_targets(store, self.namespace, service))

    @property
    def stack(self) -> str:
        return f"{self.namespace}/{self.name}"

    def rules(self) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
        """(host, path, [(Service, port, weight)]) of each rule."""
        found: list[tuple[str, str, list[tuple[str, str, int]]]] = []
        for rule in self.ingress["spec"].get("rules") or ():
            for path in (rule.get("http") or {}).get("paths") or ():
                service = path["backend"]["service"]
                found.append((rule.get("host", "*"), path.get("path", "/"), self._groups(service)))
        return found

    def _groups(self, service: Object) -> list[tuple[str, str, int]]:
        if service["port"].get("name") != "use-annotation":
            return [(service["name"], str(service["port"].get("number") or service["port"]["name"]), 1)]
        action = json.loads(self.annotations[f"{ANNOTATION}/actions.{service['name']}"])
        groups = action["forwardConfig"]["targetGroups"]
        return [(group["serviceName"], str(group["servicePort"]), int(group.get("weight", 1))) for group in groups]

    def resource(self, service: str, port: str) -> str:
        """How the controller tells its target groups apart."""
        return f"{self.namespace}/{self.name}-{service}:{port}"

    def name_of(self, *parts: str) -> str:
        """A name as the controller makes it: namespace and name, cut, and a digest of what makes it unique."""
        digest = hashlib.sha256("".join((self.cluster.name, self.stack, *parts)).encode()).hexdigest()
        clean = [re.sub(r"[^a-zA-Z0-9]", "", part)[:8] for part in (self.namespace, parts[0] if parts else self.name)]
        return f"k8s-{clean[0]}-{clean[1]}-{digest[:10]}"

    def tags(self, resource: str, **more: str) -> list[dict[str, str]]:
        tags = {"elbv2.k8s.aws/cluster": self.cluster.name, "ingress.k8s.aws/stack": self.stack,
                "ingress.k8s.aws/resource": resource, **more}  # fmt: skip
        return [{"Key": key, "Value": value} for key, value in tags.items()]

    def as_route(self) -> Object:
        """The same for Envoy, as an HTTPRoute; a share without a target is answered with 503, as by the real one."""
        rules = [
            {"matches": [{"path": {"type": "PathPrefix", "value": path}}],
             "backendRefs": [{"name": service, "port": int(port), "weight": weight} for service, port, weight in groups]}
            for _, path, groups in self.rules()
        ]  # fmt: skip
        meta = {key: self.ingress["metadata"][key] for key in ("namespace", "name", "uid", "creationTimestamp")}
        hosts = sorted({host for host, _, _ in self.rules()})
        return {"metadata": {**meta, "generation": 1}, "spec": {"hostnames": hosts, "rules": rules}}


def _targets(store: Store, namespace: str, service: str) -> Iterator[tuple[str, int]]:
    """Addresses and ports of a Service's ready pods."""
    for subset in (store.find("endpoints", namespace, service) or {}).get("subsets") or ():
        port = next(iter(subset.get("ports") or ()), None)
        for address in subset.get("addresses") or ():
            if port is not None:
                yield address["ip"], int(port["port"])


class Aws:
    """moto, through boto3: what an Ingress asks for is brought about, and nothing that is so already is done again."""

    def __init__(self, endpoint: str, region: str) -> None:
        self.endpoint, self.region = endpoint, region

    @cached_property
    def elb(self) -> Any:
        return self._client("elbv2")

    def _client(self, service: str) -> Any:
        import boto3

        known = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
        return boto3.client(service, region_name=self.region, endpoint_url=self.endpoint, **known)

    def bring(self, state: State, trouble: Trouble) -> tuple[str, bool]:
        """Bring it about; the load balancer's name, and whether a rule was changed."""
        balancer = self._balancer(state)
        arns = {
            (service, port): self._group(state, service, port, trouble)
            for _, _, groups in state.rules()
            for service, port, _ in groups
        }
        listener = self._listener(state, balancer["LoadBalancerArn"])
        changed = False
        for number, (host, path, groups) in enumerate(state.rules(), 1):
            weights = {arns[service, port]: weight for service, port, weight in groups}
            changed |= self._rule(state, listener, number, host, path, weights)
        return balancer["DNSName"], changed

    def _balancer(self, state: State) -> Object:
        name = state.name_of()
        for one in self.elb.describe_load_balancers()["LoadBalancers"]:
            if one["LoadBalancerName"] == name:
                return one
        subnets = [one["SubnetId"] for one in self._client("ec2").describe_subnets()["Subnets"][:2]]
        scheme = state.annotations.get(f"{ANNOTATION}/scheme", "internal")
        made = self.elb.create_load_balancer(
            Name=name, Subnets=subnets, Scheme=scheme, Tags=state.tags("LoadBalancer"), Type="application"
        )
        return made["LoadBalancers"][0]

    def _group(self, state: State, service: str, port: str, trouble: Trouble) -> str:
        name, resource = state.name_of(service, port), state.resource(service, port)
        groups = {one["TargetGroupName"]: one for one in self.elb.describe_target_groups()["TargetGroups"]}
        if name not in groups:
            vpc = self._client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
            target = next(iter(state.targets[service]), ("", 8080))[1]
            self.elb.create_target_group(
                Name=name, Protocol="HTTP", Port=target, VpcId=vpc, TargetType="ip", Tags=state.tags(resource),
                HealthCheckPath=state.annotations.get(f"{ANNOTATION}/healthcheck-path", "/"),
                Matcher={"HttpCode": state.annotations.get(f"{ANNOTATION}/success-codes", "200")},
            )  # fmt: skip
            groups = {one["TargetGroupName"]: one for one in self.elb.describe_target_groups()["TargetGroups"]}
        arn = groups[name]["TargetGroupArn"]
        self._register(arn, state.targets[service])
        if service in trouble.unhealthy:
            self.elb.add_tags(ResourceArns=[arn], Tags=[{"Key": UNHEALTHY, "Value": "true"}])
        else:
            self.elb.remove_tags(ResourceArns=[arn], TagKeys=[UNHEALTHY])
        return arn

    def _register(self, arn: str, wanted: list[tuple[str, int]]) -> None:
        health = self.elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        known = {(one["Target"]["Id"], one["Target"]["Port"]) for one in health}
        if new := set(wanted) - known:
            self.elb.register_targets(
                TargetGroupArn=arn, Targets=[{"Id": address, "Port": port} for address, port in sorted(new)]
            )
        if old := known - set(wanted):
            self.elb.deregister_targets(
                TargetGroupArn=arn, Targets=[{"Id": address, "Port": port} for address, port in sorted(old)]
            )

    def _listener(self, state: State, balancer: str) -> str:
        for one in self.elb.describe_listeners(LoadBalancerArn=balancer)["Listeners"]:
            return one["ListenerArn"]
        nothing = {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404", "ContentType": "text/plain"}}
        made = self.elb.create_listener(
            LoadBalancerArn=balancer, Protocol="HTTP", Port=80, DefaultActions=[nothing], Tags=state.tags("80")
        )
        return made["Listeners"][0]["ListenerArn"]

    def _rule(self, state: State, listener: str, number: int, host: str, path: str, weights: dict[str, int]) -> bool:
        groups = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in weights.items()]
        actions = [{"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}]
        for rule in self.elb.describe_rules(ListenerArn=listener)["Rules"]:
            if rule["Priority"] == str(number):
                now = rule["Actions"][0]["ForwardConfig"]["TargetGroups"]
                if {one["TargetGroupArn"]: one["Weight"] for one in now} == weights:
                    return False
                self.elb.modify_rule(RuleArn=rule["RuleArn"], Actions=actions)
                return True
        conditions = [
            {"Field": "host-header", "HostHeaderConfig": {"Values": [host]}},
            {"Field": "path-pattern", "PathPatternConfig": {"Values": [f"{path.rstrip('/')}/*"]}},
        ]
        self.elb.create_rule(
            ListenerArn=listener, Priority=number, Conditions=conditions, Actions=actions,
            Tags=state.tags(f"80:{number}"),
        )  # fmt: skip
        return True
