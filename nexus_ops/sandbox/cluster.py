"""One sandbox cluster as one process: API, controllers, pods, gateway, Prometheus, databases, admin interface."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import signal
import sys
from importlib import resources as package
from pathlib import Path
from typing import Any

import uvloop
import yaml
from aiohttp import web

from nexus_ops.errors import OperationError
from nexus_ops.sandbox import add_ons
from nexus_ops.sandbox.admin import DISCOVERY, Admin
from nexus_ops.sandbox.certificates import make_certificate
from nexus_ops.sandbox.controllers.data_layer import PostgresBackups, PostgresOperator, RedisOperator
from nexus_ops.sandbox.controllers.disruption import DisruptionController
from nexus_ops.sandbox.controllers.endpoints import AutoscalerController, EndpointsController
from nexus_ops.sandbox.controllers.jobs import JobController
from nexus_ops.sandbox.controllers.namespaces import NamespaceController
from nexus_ops.sandbox.controllers.queue import Runner
from nexus_ops.sandbox.controllers.replicasets import ReplicaSetController
from nexus_ops.sandbox.controllers.workloads import DeploymentController
from nexus_ops.sandbox.databases import Postgres, Valkey, publish, sei_application
from nexus_ops.sandbox.envoy import write
from nexus_ops.sandbox.gateway import Gateway
from nexus_ops.sandbox.kube.api import Api
from nexus_ops.sandbox.kube.discovery import VERSION
from nexus_ops.sandbox.kube.faults import Faults
from nexus_ops.sandbox.kube.registry import Registry, Request
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.load_balancer import LoadBalancers
from nexus_ops.sandbox.pods.kubelet import Kubelet
from nexus_ops.sandbox.pods.server import Behaviour, Journal
from nexus_ops.sandbox.processes import Ports
from nexus_ops.sandbox.prometheus import Prometheus
from nexus_ops.sandbox.supervisor import PORTS
from nexus_ops.topology import Cluster, Topology

NODE_INFO = {
    "kubeletVersion": VERSION["gitVersion"], "kubeProxyVersion": "", "osImage": "simulated", "kernelVersion": "none",
    "containerRuntimeVersion": "nexus-sandbox://1", "operatingSystem": "linux", "architecture": "amd64",
    "machineID": "", "systemUUID": "", "bootID": "",
}  # fmt: skip


def behaviours() -> dict[str, Behaviour]:
    """How each version behaves; versions that are not listed behave as `default`."""
    document = yaml.safe_load(package.files("nexus_ops.sandbox").joinpath("behaviours.yaml").read_text())
    default = Behaviour().changed(document.pop("default"))
    return {"default": default, **{version: default.changed(changes) for version, changes in document.items()}}


def versions(images: Path) -> dict[str, tuple[str, str]]:
    """(component, version) by digest, from the image catalogue."""
    document = yaml.safe_load(images.read_text())
    return {
        digest: (component, version)
        for version, entry in document["versions"].items()
        for component, digest in entry["images"].items()
    }


def seed(store: Store, topology: Topology, cluster: Cluster, database: str, redis: str) -> None:
    """What is there before the platform is: system namespaces, definitions, nodes, secrets (`database`, `redis`: DSNs)."""
    registry = Registry(store)

    def create(key: str, body: dict[str, Any], namespace: str | None = None) -> None:
        registry.create(Request(store.resources.by_key(key), namespace, None, "sandbox"), body)

    for name in (
        "default",
        "kube-system",
        cluster.namespace,
        cluster.data_namespace,
        cluster.monitoring_namespace,
        cluster.ops_namespace,
    ):
        create("namespaces", {"metadata": {"name": name}})
    folder = package.files("nexus_ops.releases").joinpath("schemas")
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".json.gz"):
            create("customresourcedefinitions.apiextensions.k8s.io", json.loads(gzip.decompress(entry.read_bytes())))
    for group in topology.node_groups.values():
        for number in range(group.desired):
            room = {"cpu": group.cpu, "memory": group.memory, "pods": "58"}
            name = f"{group.name}-{number}"
            labels = {**group.labels, "nexus.ai/node-group": group.name, "kubernetes.io/hostname": name, "node.kubernetes.io/instance-type": group.instance_type, "topology.kubernetes.io/zone": f"{cluster.region}{'abc'[number % 3]}"}  # fmt: skip
            status = {
                "capacity": room, "allocatable": room, "nodeInfo": NODE_INFO,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated"}],
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            }  # fmt: skip
            store.create("nodes", {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})
    add_ons.seed(topology, sum(group.desired for group in topology.node_groups.values()), create, store.create)
    for secret, data in {"database-secret": {"url": database}, "agent-secrets": {"token": "sandbox"}}.items():
        body = {"metadata": {"name": secret}, "stringData": data}
        create("secrets", body, cluster.namespace)
    for secret, url in {"backup-postgresql": database, "backup-redis": redis}.items():
        create("secrets", {"metadata": {"name": secret}, "stringData": {"url": url}}, cluster.data_namespace)
    shown = make_certificate(topology.environments[cluster.environment].host)
    body = {"metadata": {"name": "nexus-tls"}, "type": "kubernetes.io/tls", "stringData": shown}
    create("secrets", body, cluster.namespace)


async def serve(config: dict[str, Any]) -> None:
    """Run until SIGTERM; the ports are written to `ready` when everything answers."""
    topology = Topology.load(Path(config["topology"]))
    cluster = topology.cluster(config["cluster"])
    folder = Path(config["folder"])
    os.makedirs(folder, mode=0o700, exist_ok=True)  # the DSN has a password
    reserved = Ports(PORTS, config.get("ports") or {})
    ports = reserved.numbers
    parts = set(config["parts"])
    postgres = Postgres(folder / "postgres", ports["postgres"], Path(config["templates"]))
    valkey = Valkey(folder / "valkey", ports["valkey"])
    databases = {server.name: server for server in (postgres, valkey) if server.name in parts}
    begun = asyncio.gather(*(server.start() for server in databases.values()))  # it takes seconds: beside the rest
    await asyncio.sleep(0)
    store, faults, journal = Store(), Faults(), Journal()
    runner = Runner(store)
    for controller in (
        NamespaceController,
        DeploymentController,
        ReplicaSetController,
        EndpointsController,
        AutoscalerController,
        JobController,
        DisruptionController,
    ):
        runner.add(controller(store))
    runner.add(PostgresOperator(store, ports["postgres"]))
    backups = PostgresBackups(store, postgres, Path(config.get("cnpg_archive") or folder / "cnpg-archive"))
    if "postgres" in parts:
        runner.add(backups)
    runner.add(RedisOperator(store, ports["valkey"]))
    images = versions(Path(config["images"])) | add_ons.images(topology)
    kubelet = Kubelet(store, images, behaviours(), journal)
    seed(store, topology, cluster, postgres.url, valkey.url)
    publish(store, cluster, ports)
    served = Api(store, faults, kubelet.read_log, kubelet.follow_log)
    api = await _listen(served.application(), ports["api"])
    sei = await _listen(sei_application(), ports["sei"])
    gateway = Gateway(
        store, folder / "gateway", {"admin": ports["envoy"], **{k: ports[k] for k in ("edge", "services", "balancer")}}
    )
    balancers = LoadBalancers(
        store, cluster, config.get("aws", ""), f"http://127.0.0.1:{ports['edge']}", gateway.balance
    )
    discovery = f"http://127.0.0.1:{ports['admin']}{DISCOVERY}"
    prometheus = Prometheus(store, folder / "prometheus", ports["prometheus"], cluster.monitoring_namespace, discovery)
    admin = await _listen(Admin(store, faults, kubelet, journal, balancers, prometheus).application(), ports["admin"])
    if "gateway" in parts:
        await gateway.start()
    if "gateway" in parts and config.get("aws"):
        balancers.start()
    if "prometheus" in parts:
        await prometheus.start()
    await begun
    await asyncio.gather(
        *([gateway.envoy.until_ready()] if "gateway" in parts else []),
        *([prometheus.until_ready()] if "prometheus" in parts else []),
    )
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items() if name not in ("postgres", "valkey")}
    urls |= {name: server.url for name, server in databases.items()}
    write(folder / "ready.json", {"pid": os.getpid(), **urls})
    reserved.release()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await asyncio.gather(
        balancers.stop(), gateway.stop(), prometheus.stop(), *(server.stop() for server in databases.values())
    )
    await kubelet.stop()
    runner.stop()
    backups.stop()
    await asyncio.gather(api.cleanup(), admin.cleanup(), sei.cleanup())


async def _listen(app: web.Application, port: int) -> web.AppRunner:
    server = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", port, shutdown_timeout=0.2).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description="One sandbox cluster.")
    parser.add_argument(
        "--config",
        required=True,
        help="JSON: cluster, topology, images, folder, templates, parts, ports (fixed ones, by name)",
    )
    try:
        uvloop.run(serve(json.loads(parser.parse_args().config)))
    except OperationError as error:
        sys.exit(str(error))  # the last line of the log: the starter shows it


if __name__ == "__main__":
    main()
