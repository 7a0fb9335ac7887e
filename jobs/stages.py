"""A rollout as ops: one per stage, so that the run's graph shows how far it is.

Each op drives the rollout to the end of its stage, and no further than it can go without waiting long. When
the rollout has to wait (a bake, a hold, an approval), the op ends without an output, what follows is skipped,
and the rollout's sensor launches a run of the same graph when it is due. A stage that is over already is passed
at once: every op looks at the record in the cluster afresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from nexus_ops.assets.deployments import DEPLOYMENT
from nexus_ops.resources import NexusResource

PATIENCE = timedelta(seconds=120)
"""How long a run waits for what is expected soon (pods coming ready) before it leaves the rest to the sensor."""


@dataclass(frozen=True)
class Ticket:
    """Which rollout a run works on; handed from op to op."""

    cluster: str
    rollout: str
