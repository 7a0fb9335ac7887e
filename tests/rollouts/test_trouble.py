"""What a rollout meets that will not pass by itself: it goes back, says why, and tells people once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from platform_cluster import CLUSTER, QUICK, Platform

from nexus_ops.clusters.client import CONFIG_MAP
from nexus_ops.documents import DocumentError
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.rollouts.driver import advance
from nexus_ops.rollouts.operations import approve, plan_rollout, request_abort
from nexus_ops.topology import project_folder

CONFIG = "risk-manager-{}"
Object = dict[str, Any]


def config_of_the_candidate(platform: Platform) -> tuple[str, str]:
    """Name and namespace of a ConfigMap that the next candidate is going to have."""
    candidate = plan_rollout(platform.context(), "v1.1.0", QUICK).candidate
    return CONFIG.format(candidate.colour), platform.topology.cluster(CLUSTER).namespace


@pytest.fixture
def foreign(platform: Platform) -> Generator[Object]:
    """A ConfigMap of the next candidate, as a Helm release has made it; gone at the end."""
    platform.ensure("v1.0.0")
    client = platform.context().client
    name, namespace = config_of_the_candidate(platform)
    client.delete(CONFIG_MAP, name, namespace)
    meta = {"name": name, "namespace": namespace, "annotations": {"meta.helm.sh/release-name": "nexus-blue"}}
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"LOG_LEVEL": "debug"}}
    client.apply(obj, manager="helm")
    yield obj
    client.delete(CONFIG_MAP, name, namespace)


def test_objects_of_a_helm_release_are_refused_before_anything_is_applied_and_taken_over_when_asked(
    platform: Platform, foreign: Object
) -> None:
    name, namespace = foreign["metadata"]["name"], foreign["metadata"]["namespace"]
    platform.notified.clear()
    assert platform.deploy("v1.1.0").state == "rolled-back"
    record = platform.record()
    assert f"somebody else owns ConfigMap {name} (the Helm release nexus-blue)" in record.reason
    assert "adopt: true" in record.reason
    assert not record.applied
    assert any("is rolled back" in message for message in platform.notified)
    assert (platform.context().client.get(CONFIG_MAP, name, namespace) or {})["data"] == {"LOG_LEVEL": "debug"}
    assert platform.deploy("v1.1.0", replace(QUICK, adopt=True)).state == "done"
    assert platform.at_the_edge()[0] == "v1.1.0"


def test_a_field_that_somebody_else_has_set_ends_the_rollout_with_its_name(platform: Platform) -> None:
    """It was tried again every twenty seconds for ever, and nobody was told."""
    platform.ensure("v1.0.0")
    client = platform.context().client
    name, namespace = config_of_the_candidate(platform)
    live = client.get(CONFIG_MAP, name, namespace)
    if live is None:
        assert platform.deploy("v1.1.0").state == "done"
        platform.ensure("v1.0.0")
        name, namespace = config_of_the_candidate(platform)
        live = client.get(CONFIG_MAP, name, namespace)
    assert live is not None
    meta = {"name": name, "namespace": namespace}
    key = next(iter(live["data"]))
    by_hand = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {key: "by hand"}}
    client.apply(by_hand, manager="somebody", force=True)
    platform.notified.clear()
    try:
        assert platform.deploy("v1.1.0").state == "rolled-back"
    finally:
        client.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}, manager="somebody")
        client.delete(CONFIG_MAP, name, namespace)
    assert f".data.{key}" in platform.record().reason
    assert "somebody" in platform.record().reason
    assert sum("is rolled back" in message for message in platform.notified) == 1
    assert platform.at_the_edge()[0] == "v1.0.0"


@pytest.mark.sandbox_only
def test_a_way_back_that_is_blocked_is_told_once_and_goes_on_when_it_can(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    platform.begin("v1.1.0", replace(QUICK, monitor_seconds=600))
    assert advance(platform.context(), patience=timedelta(seconds=40)).state == "waiting"
    platform.notified.clear()
    platform.admin("PUT", "/behaviours/v1.0.0", {"crash_after_seconds": 0.1})
    try:
        request_abort(platform.context(), "test", "to be blocked")
        for _ in range(2):
            result = advance(platform.context(), patience=timedelta(seconds=20))
            assert result.state == "waiting"
            assert result.why.startswith("the way back is blocked: ")
    finally:
        platform.admin("PUT", "/behaviours/v1.0.0", {"crash_after_seconds": None})
    assert platform.record().said.startswith("the way back is blocked: ")
    assert "CrashLoopBackOff" in platform.record().said
    assert sum("cannot go on by itself" in message for message in platform.notified) == 1
    assert platform.finish().state == "rolled-back"
    assert platform.at_the_edge()[0] == "v1.0.0"


@pytest.fixture
def smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's own smoke tests."""
    monkeypatch.setenv("NEXUS_PROJECT", str(tmp_path))
    return tmp_path / "smoke.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("risk-manager: [{paht: /x}]", r"smoke\.yaml: risk-manager\.0\.(path: field required|paht: unknown key)"),
        ("risk-manger: [{path: /x}]", r"smoke\.yaml: risk-manger is no component\. Components: agent-orchestrator"),
        ("risk-manager: [{path: x}]", r"smoke\.yaml: risk-manager\.0\.path: "),
        ("risk-manager: {path: /x}", r"smoke\.yaml: risk-manager: "),
    ],
)
def test_a_mistake_in_the_smoke_tests_is_told_when_the_rollout_is_planned(
    platform: Platform, smoke: Path, text: str, said: str
) -> None:
    platform.ensure("v1.0.0")
    smoke.write_text(text)
    with pytest.raises(DocumentError, match=said):
        plan_rollout(platform.context(), "v1.1.0", QUICK)


def test_the_projects_own_questions_are_asked_and_a_wrong_answer_stops_the_rollout(
    platform: Platform, smoke: Path
) -> None:
    platform.ensure("v1.0.0")
    smoke.write_text("risk-manager: [{path: /health, contains: all is lost}]")
    assert platform.deploy("v1.1.0").state == "rolled-back"
    assert "smoke tests failed: risk-manager GET /health: the answer does not contain" in platform.record().reason
    smoke.write_text("risk-manager: [{path: /positions, contains: risk-manager}]")
    assert platform.deploy("v1.1.0").state == "done"


def test_a_candidate_that_answers_with_errors_fails_its_smoke_tests_and_users_see_nothing(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    platform.admin("PUT", "/behaviours/v1.1.0", {"error_ratio": 1.0})
    try:
        assert platform.deploy("v1.1.0").state == "rolled-back"
    finally:
        platform.admin("PUT", "/behaviours/v1.1.0", {"error_ratio": 0.0})
    record = platform.record()
    assert "smoke tests failed: " in record.reason
    assert (record.weight, record.ended("run-smoke-tests")) == (0, False)
    assert platform.at_the_edge()[0] == "v1.0.0"


@pytest.fixture
def without_way_back(platform: Platform, tmp_path: Path) -> Generator[None]:
    """v1.1.0 writes a database schema that v1.0.0 cannot work with; at the end it is built as it was."""
    document = yaml.safe_load((project_folder() / "images.yaml").read_text())
    images, values = tmp_path / "images.yaml", tmp_path / "values.yaml"
    values.write_text("pods: {preStopSeconds: 1}\n")
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")

    def build(schema: int) -> None:
        document["versions"]["v1.1.0"]["database"] = {"schema": schema, "compatible_with": [1, schema]}
        images.write_text(yaml.safe_dump(document))
        built = build_release(platform.topology, "staging", "v1.1.0", FileCatalogue(images), chart, values)
        platform.releases.save(built, chart)

    build(2)
    yield
    build(1)


@pytest.mark.usefixtures("without_way_back")
def test_a_release_without_a_way_back_waits_for_a_person(platform: Platform) -> None:
    """Its database schema is one that the version before cannot work with."""
    platform.ensure("v1.0.0")
    plan = plan_rollout(platform.context(), "v1.1.0", QUICK)
    assert "writes database schema 2, which v1.0.0 cannot work with" in plan.to_markdown()
    platform.begin("v1.1.0")
    result = advance(platform.context(), patience=timedelta(seconds=40))
    assert (result.state, platform.record().weight) == ("waiting", 0)
    assert "no way back" in platform.record().said
    assert platform.at_the_edge()[0] == "v1.0.0"
    approve(platform.context(), "somebody")
    assert platform.finish().state == "done"
    assert platform.at_the_edge()[0] == "v1.1.0"
