"""The asset `release` and its checks, as Dagster runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from nexus_ops.assets.releases import GATES, release, release_checks
from nexus_ops.resources import NexusResource
from nexus_ops.topology import default_path


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """An instance of its own, on a machine that reaches no cluster."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    return dg.DagsterInstance.ephemeral()


def build(
    instance: dg.DagsterInstance,
    tmp_path: Path,
    version: str | None = None,
    environment: str = "staging",
    **places: str,
) -> dg.ExecuteInProcessResult:
    config = {"ops": {"release": {"config": {"version": version}}}} if version else {}
    return dg.materialize(
        [release, *release_checks],
        instance=instance,
        partition_key=environment,
        run_config=config,
        resources={"nexus": NexusResource(store_url=(tmp_path / "store").as_uri(), **places)},
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult) -> Mapping[str, Any]:
    (event,) = result.asset_materializations_for_node("release")
    return {key: value.value for key, value in event.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def data_version(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.asset_materializations_for_node("release")
    return (event.tags or {})["dagster/data_version"]


def test_a_release_is_built_judged_and_shown(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    result = build(instance, tmp_path, "v1.0.0")
    assert result.success
    shown = metadata(result)
    assert data_version(result) == shown["digest"]
    assert shown["version"] == "v1.0.0"
    assert shown["object_count"] == len(
        shown["objects"].records if hasattr(shown["objects"], "records") else shown["objects"]
    )
    assert "execution-engine:v1.0.0@sha256:" in shown["images"]
    assert shown["changes"].startswith("The first release.")
    assert "What is live could not be seen: " in shown["changes_to_live"]
    assert "`deploy`" in shown["what_next"]
    judged = checks(result)
    assert {name: check.passed for name, check in judged.items()} == dict.fromkeys(GATES, True)
    assert "| agent-nodes | " in str(judged["capacity"].metadata["both_colours_at_once"].value)


def test_the_same_input_is_the_same_data_version_and_makes_nothing_new(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    first = build(instance, tmp_path, "v1.0.0")
    before = sorted(path for path in (tmp_path / "store").rglob("*"))
    again = build(instance, tmp_path, "v1.0.0")
    assert data_version(again) == data_version(first)
    assert metadata(again)["new"] is False
    assert sorted(path for path in (tmp_path / "store").rglob("*")) == before


def test_the_next_release_shows_what_it_changes(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    build(instance, tmp_path, "v1.0.0")
    page = metadata(build(instance, tmp_path, "v1.1.0"))["changes"]
    assert page.startswith("Against v1.0.0 (")
    assert "+ spec.template.spec.containers[agent].image: ghcr.io/nexus-ai-defi/" in page


def test_without_a_version_the_newest_is_built(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    images = tmp_path / "images.yaml"
    document = yaml.safe_load((default_path().parent / "images.yaml").read_text())
    document["versions"] = dict.fromkeys(("v1.9.0", "v1.10.0", "v2.0.0-rc1"), document["versions"]["v1.0.0"])
    images.write_text(yaml.safe_dump(document))
    assert metadata(build(instance, tmp_path, images_path=str(images)))["version"] == "v1.10.0"


def test_a_release_that_does_not_fit_is_stopped_by_its_check(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """The check blocks what is downstream, names the gate, and shows the numbers."""
    topology = tmp_path / "topology.yaml"
    document = yaml.safe_load(default_path().read_text())
    document["node_groups"]["agent-nodes"] |= {"min": 1, "max": 1, "desired": 1}
    topology.write_text(yaml.safe_dump(document))
    result = build(instance, tmp_path, "v1.0.0", topology_path=str(topology))
    assert not result.success
    judged = checks(result)
    assert {name: check.passed for name, check in judged.items()} == {"schema": True, "policy": True, "capacity": False}
    assert judged["capacity"].blocking
    assert "raise its max or lower the replicas" in " ".join(str(judged["capacity"].metadata["problems"].value).split())


def test_an_unknown_version_fails_in_a_sentence_and_stores_nothing(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    result = build(instance, tmp_path, "v9.9.9")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "there is no version named 'v9.9.9'. Known: v1.0.0, v1.1.0" in str(failure.step_failure_data.error)
    assert not list((tmp_path / "store").rglob("*"))
