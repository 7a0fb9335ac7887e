"""What is registered, and how lightly it loads."""

import json
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.snap import JobSnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from nexus_ops import definitions
from nexus_ops.definitions import defs
from nexus_ops.jobs.deploy import ApproveConfig, DeployConfig, RollbackConfig, WishConfig
from nexus_ops.rollouts.strategy import CANARY, names
from nexus_ops.sensors.watchdog import AUTOMATION, running_by_default

HEAVY = (
    "arro3",
    "boto3",
    "cryptography",
    "lightkube",
    "helm_python",
    "pandas",
    "apprise",
    "kubernetes_validate",
    "dagster_k8s",
    "dagster_aws",
    "httpx",
)


def test_the_module_is_a_code_location() -> None:
    """With a second Definitions at its top it is imported well by every test, and by no UI and no daemon."""
    assert [name for name, value in vars(definitions).items() if isinstance(value, dg.Definitions)] == ["defs"]


def test_definitions_load_without_anything_heavy() -> None:
    code = "import nexus_ops.definitions, sys, json; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(printed))
    without = subprocess.run(
        [sys.executable, "-c", "import dagster, sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert loaded.isdisjoint(set(HEAVY) - set(json.loads(without)))


@pytest.mark.parametrize("job", ["deploy", "rollback", "abort", "approve", "unpause", "promote_full", "resume_rollout"])
def test_every_rollout_job_shows_the_stages_in_order(job: str) -> None:
    shown = [node.name for node in defs.resolve_job_def(job).nodes_in_topological_order]
    assert shown[1:] == [name.replace("-", "_") for name in names(CANARY)]


def test_what_safety_depends_on_runs_by_default() -> None:
    sensors = {sensor.name: sensor.default_status for sensor in defs.get_repository_def().sensor_defs}
    needed = {f"rollout_{name}" for name in ("staging_us_west_2", "production_us_west_2", "production_us_east_1")}
    assert {*needed, "watchdog"} <= set(sensors)
    assert {sensors[name] for name in (*needed, "watchdog")} == {dg.DefaultSensorStatus.RUNNING}


def test_whatever_runs_by_default_is_watched() -> None:
    repository = defs.get_repository_def()
    running = {one.name for one in running_by_default([*repository.sensor_defs, *repository.schedule_defs])}
    keys = defs.resolve_asset_graph().get_check_keys_for_assets({AUTOMATION})
    assert {key.name for key in keys} == {*running, "daemons"} - {"watchdog"}


def test_materialising_everything_cannot_deploy() -> None:
    graph = defs.resolve_asset_graph()
    assert not graph.get(dg.AssetKey("deployment")).is_executable
    assert graph.get(dg.AssetKey("release")).is_executable


def test_a_deploy_is_a_dry_run_unless_told_otherwise() -> None:
    assert DeployConfig(cluster="c", version="v").dry_run


@pytest.mark.parametrize(
    ("job", "op", "fields"),
    [
        ("deploy", "plan", {"cluster": "", "version": "", "strategy": "", "dry_run": True}),
        ("rollback", "plan_back", {"cluster": "", "reason": "by hand", "dry_run": False}),
        ("abort", "request_abort", {"cluster": "", "reason": "by hand"}),
        ("approve", "grant_approval", {"cluster": ""}),
        ("pause", "request_pause", {"cluster": "", "reason": "by hand"}),
        ("unpause", "end_pause", {"cluster": ""}),
        ("promote_full", "request_promotion", {"cluster": "", "reason": "by hand"}),
    ],
)
def test_the_launchpad_opens_with_what_is_to_be_filled_in_and_nothing_else(
    job: str, op: str, fields: dict[str, object]
) -> None:
    """It opened with paths of files and an object store, all empty."""
    definition = defs.resolve_job_def(job)
    snapshot = JobSnap.from_job_def(definition)
    root = snapshot.config_schema_snapshot.get_config_snap(str(snapshot.mode_def_snaps[0].root_config_key))
    opened = yaml.safe_load(default_values_yaml_from_type_snap(snapshot.config_schema_snapshot, root))
    assert opened == {"ops": {op: {"config": fields}}}
    config: dict[str, Any] = {
        "deploy": DeployConfig,
        "rollback": RollbackConfig,
        **dict.fromkeys(("abort", "pause", "promote_full"), WishConfig),
    }
    described = config.get(job, ApproveConfig).model_fields.values()
    assert all(field.description for field in described)


def test_all_that_the_ui_lists_says_what_it_is() -> None:
    """An operator opens the UI unread: groups, owners and kinds of assets, a sentence for everything else."""
    graph, repository = defs.resolve_asset_graph(), defs.get_repository_def()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert (node.group_name != "default", bool(node.owners), bool(node.kinds)) == (True, True, True), key
        assert node.description, key
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    for one in (*jobs, *repository.sensor_defs, *repository.schedule_defs):
        assert (one.description or "").endswith("."), one.name


def test_every_field_of_every_launchpad_says_what_to_fill_in() -> None:
    for job in defs.get_repository_def().get_all_jobs():
        for node in job.nodes_in_topological_order:
            fields = getattr(node.definition.config_schema.config_type, "fields", None) or {}  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
            assert [f"{node.name}.{name}" for name, field in fields.items() if not field.description] == []
