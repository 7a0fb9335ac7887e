"""The probes of a snapshot, in the order in which a person reads them."""

from __future__ import annotations

from nexus_ops.health.backing import look_at_data, look_at_sei
from nexus_ops.health.cluster import look_at_add_ons, look_at_api_server, look_at_nodes
from nexus_ops.health.edge import look_at_certificates, look_at_edge
from nexus_ops.health.monitoring import look_at_alerts, look_at_targets
from nexus_ops.health.take import Probe
from nexus_ops.health.workloads import look_at_autoscalers, look_at_workloads

PATIENCE = 4.0
"""Seconds for which a busy API server is tried again: below every limit, so that it is the server's answer we tell."""
LIMIT = 10.0

PROBES = (
    Probe("API server", True, 6.0, look_at_api_server, silence="failed"),
    Probe("nodes", True, LIMIT, look_at_nodes),
    Probe("add-ons", False, LIMIT, look_at_add_ons),
    Probe("workloads", True, LIMIT, look_at_workloads),
    Probe("autoscalers", False, LIMIT, look_at_autoscalers),
    Probe("data layer", True, LIMIT, look_at_data),
    Probe("certificates", True, LIMIT, look_at_certificates),
    Probe("Prometheus", True, LIMIT, look_at_targets),
    Probe("alerts", True, LIMIT, look_at_alerts),
    Probe("edge", True, LIMIT, look_at_edge),
    Probe("SEI RPC", True, LIMIT, look_at_sei),
)
"""What is not critical makes nobody's night: the platform works without it for a while."""
