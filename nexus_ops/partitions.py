"""Dagster's partitions and choices, read from the topology when definitions load.

What exists once per cluster is partitioned by cluster, what exists once per environment by environment; the topology is the one file that is read at load.
"""

from __future__ import annotations

import dagster as dg

from nexus_ops.topology import Topology, default_path

TOPOLOGY = Topology.load(default_path())

clusters = dg.StaticPartitionsDefinition([cluster.name for cluster in TOPOLOGY.enabled_clusters])
environments = dg.StaticPartitionsDefinition(list(TOPOLOGY.environments))
aws_clusters = dg.StaticPartitionsDefinition([one.name for one in TOPOLOGY.clusters.values() if one.cloud == "aws"])
"""Those on AWS, the ones that do not exist yet among them: what makes them is needed first."""
