"""Definitions of a test's own: what they do is said by files in NEXUS_HOME, for they run in a code server."""

import os
from pathlib import Path

import dagster as dg

from nexus_ops.resources import nexus_resource
from nexus_ops.sensors.watchdog import watchdog_of

RUNNING = dg.DefaultSensorStatus.RUNNING


@dg.op
def nothing() -> None: ...


@dg.job
def do_nothing() -> None:
    nothing()


@dg.sensor(job=do_nothing, minimum_interval_seconds=5, default_status=RUNNING)
def steady() -> dg.SkipReason:
    return dg.SkipReason("nothing to do")


@dg.sensor(job=do_nothing, minimum_interval_seconds=5, default_status=RUNNING)
def shaky() -> dg.SkipReason:
    if (Path(os.environ["NEXUS_HOME"]) / "shake").exists():
        raise ValueError("shaken")
    return dg.SkipReason("nothing to do")


@dg.sensor(job=do_nothing, minimum_interval_seconds=5)
def optional() -> dg.SkipReason:
    return dg.SkipReason("nobody depends on it")


nightly = dg.ScheduleDefinition(
    name="nightly", job=do_nothing, cron_schedule="0 2 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)

WATCHED = (steady, shaky, optional, nightly)
watchdog = watchdog_of(WATCHED)
look_now = dg.define_asset_job("look_now", selection=dg.AssetSelection.checks(watchdog.checks))
defs = dg.Definitions(
    assets=[watchdog.asset],
    asset_checks=[watchdog.checks],
    jobs=[do_nothing, look_now],
    schedules=[nightly],
    sensors=[steady, shaky, optional, watchdog.sensor],
    resources={"nexus": nexus_resource},
)
