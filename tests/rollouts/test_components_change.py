"""A release with a component more, or one less, than what serves: forward, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from platform_cluster import CLUSTER, Platform
from rollout_world import SIZES, START, WORKS, new_record

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.decision import Decision, Observed, Pods, Works
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.operations import request_abort
from nexus_ops.rollouts.record import Ledger, Record
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Colour, Topology, default_path, project_folder

MORE: Works = {**WORKS, "oracle": "request", "miner": "worker", "broker": "exclusive"}
NEW = "v9.0.0"


def full(names: Works, colour: Colour) -> dict[tuple[str, Colour], Pods]:
    return {(name, colour): Pods(wanted=2, ready=9, there=2) for name in names}


def serving(record: Record, works: Works) -> Record:
    return replace(record, replicas={**dict.fromkeys(works, 2), **SIZES}, applied=True, verified=tuple(works))


def test_what_is_new_with_the_candidate_is_not_waited_for_on_the_way_back() -> None:
    """It has no Deployment in the stable colour: to bring it up there would have blocked the way back for ever."""
    record = replace(serving(new_record(stable=True), MORE), phase="rolling-back", reason="r", weight=0, observed=0)
    record = replace(record, restored=True)
    pods = {**full(WORKS, "blue"), **full(MORE, "green")}
    pods = {key: replace(one, wanted=9) if key[1] == "blue" else one for key, one in pods.items()}
    told: list[Decision] = []
    while (
        decision := decide(Ledger(record, None, None), MORE, Observed(pods, 0, stable=WORKS), START)
    ).step == "scale":
        told.append(decision)
        for name, number in decision.targets.items():
            assert (name, decision.colour) in pods, f"{name} is not there in {decision.colour}"
            pods[name, decision.colour or "blue"] = Pods(number, number, number)
    assert decision.step == "rolled-back"
    assert {name for name in MORE if pods[name, "green"].there} == set()


def test_what_the_candidate_no_longer_has_goes_with_the_old_colour() -> None:
    record = serving(new_record(stable=True), WORKS)
    stages = tuple(
        replace(stage, ended=START.isoformat())
        if stage.kind != "clean-up"
        else replace(stage, started=START.isoformat(), until=START.isoformat())
        for stage in record.stages
    )
    record = replace(record, stages=stages, weight=100, observed=100)
    pods = {**full(MORE, "blue"), **full(WORKS, "green")}
    decision = decide(Ledger(record, None, None), WORKS, Observed(pods, 100, "pass", stable=MORE), START)
    assert (decision.step, decision.colour, set(decision.targets)) == ("scale", "blue", set(MORE))


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[Platform, Platform]]:
    """A cluster as it is declared, and the same with one component more (as docs/how-to/add-a-component.md has it)."""
    declared = yaml.safe_load(default_path().read_text())
    page = (project_folder() / "docs" / "how-to" / "add-a-component.md").read_text()
    declared["components"] |= yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(declared))
    before, after = Topology.load(default_path()), Topology.load(tmp_path / "topology.yaml")
    images = yaml.safe_load((project_folder() / "images.yaml").read_text())
    digests = {name: f"sha256:{hashlib.sha256((name + NEW).encode()).hexdigest()}" for name in after.components}
    images["versions"][NEW] = {**images["versions"]["v1.1.0"], "images": digests}
    (tmp_path / "images.yaml").write_text(yaml.safe_dump(images))
    (tmp_path / "values.yaml").write_text("pods: {preStopSeconds: 1}\n")
    store, chart = (
        ObjectStore.open((tmp_path / "store").as_uri()),
        read_chart(project_folder() / "helm" / "nexus-ai-defi"),
    )
    catalogue, releases = FileCatalogue(tmp_path / "images.yaml"), ReleaseStore(store)
    for topology, version in ((before, "v1.0.0"), (after, NEW)):
        releases.save(build_release(topology, "staging", version, catalogue, chart, tmp_path / "values.yaml"), chart)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NEXUS_IMAGES", str(tmp_path / "images.yaml"))
        parts = tuple(part for part in supervisor.CLUSTER_PARTS)
        try:
            state = supervisor.start(tmp_path, [CLUSTER], parts, topology=tmp_path / "topology.yaml")
            yield tuple(Platform(tmp_path, state, one, store, releases, [], []) for one in (before, after))  # pyright: ignore[reportReturnType]
        finally:
            supervisor.stop(tmp_path)


@pytest.mark.sandbox_only
def test_a_component_is_added_goes_back_and_is_taken_away_again(grown: tuple[Platform, Platform]) -> None:
    platform, larger = grown
    platform.ensure("v1.0.0")
    names = {name for name, _ in platform.pods()}
    larger.begin(NEW)
    request_abort(larger.context(), "test", "to see the way back")
    assert larger.finish().state == "rolled-back"
    assert larger.deploy(NEW).state == "done"
    assert {name for name, _ in larger.pods()} == {*names, "oracle-feed"}
    assert platform.deploy("v1.0.0").state == "done"
    assert {name for name, _ in platform.pods()} == names
