"""A driver as a process of its own, so that a test can kill or freeze it: python drive.py KUBECONFIG STORE."""

import sys
from datetime import timedelta
from pathlib import Path

from nexus_ops.clusters import lease
from nexus_ops.clusters.client import ClusterClient
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import advance
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path

SHORT, CLOSE = timedelta(seconds=3), timedelta(seconds=1)


def main(kubeconfig: str, store_url: str) -> None:
    """Advance the rollout as far as it goes, under a lease that runs out soon."""
    lease.DURATION, lease.SKEW = SHORT, CLOSE
    topology = Topology.load(default_path())
    cluster = topology.cluster("staging-us-west-2")
    client = ClusterClient.connect(cluster, kubeconfig=Path(kubeconfig))
    store = ObjectStore.open(store_url)
    context = RolloutContext(
        topology, cluster, client, store, ReleaseStore(store), report=lambda text: print(text, flush=True)
    )
    print(advance(context, patience=timedelta(seconds=60)).state, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
