"""What a release would change in a cluster that serves, asked of the API server by dry runs."""

import copy
import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from platform_cluster import CLUSTER, Platform

from nexus_ops.clusters.client import AUTOSCALER, CONFIG_MAP, DEPLOYMENT, HTTP_ROUTE, SERVICE, Kind
from nexus_ops.clusters.fence import RELEASE
from nexus_ops.releases.diff import ABSENT, Change, FieldChange
from nexus_ops.rollouts.drift import HIDDEN, Comparison, RolloutRuns, changes_to_live, drift_of
from nexus_ops.rollouts.operations import plan_rollout
from nexus_ops.rollouts.strategy import Settings

Object = dict[str, Any]
MONITOR = Kind("monitoring.coreos.com/v1", "ServiceMonitor")


def compared(platform: Platform, version: str) -> Comparison:
    serving = platform.record().serving
    assert serving is not None
    return changes_to_live(platform.context(), platform.releases.resolve("staging", version), serving)


def changes(platform: Platform, version: str = "v1.0.0") -> dict[tuple[str, str], Change]:
    return {(change.kind, change.name): change for change in compared(platform, version).changes}


@contextmanager
def by_hand(
    platform: Platform, kind: Kind, name: str, change: Callable[[Object], object], manager: str = "by-hand"
) -> Generator[None]:
    """Somebody changes an object; afterwards it is as it was, and theirs no more."""
    client, namespace = platform.context().client, platform.topology.cluster(CLUSTER).namespace
    before = client.get(kind, name, namespace)
    assert before is not None
    changed = copy.deepcopy(before)
    change(changed)
    client.replace(changed, manager=manager)
    try:
        yield
    finally:
        live = client.get(kind, name, namespace)
        assert live is not None
        meta = {**before["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
        client.replace({**before, "metadata": meta}, manager=manager)


def test_what_serves_is_no_change_to_itself_and_another_release_is(platform: Platform) -> None:
    """Defaults of the server, labels of the applier, replicas and weights of the rollout are nobody's drift."""
    platform.ensure("v1.0.0")
    same = compared(platform, "v1.0.0")
    assert same.changes == ()
    assert same.seen > 60, "an empty read would be no drift, too"
    colour = platform.at_the_edge()[1]
    other = changes(platform, "v1.1.0")
    assert {change.what for change in other.values()} == {"changed"}
    images = [field for field in other["Deployment", f"risk-manager-{colour}"].fields if field.path.endswith(".image")]
    assert [("v1.0.0" in field.before, "v1.1.0" in field.after) for field in images] == [(True, True)]
    assert {field.by for change in other.values() for field in change.fields} == {""}


def test_a_dry_run_changes_nothing(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]
    client, namespace = platform.context().client, platform.topology.cluster(CLUSTER).namespace
    with by_hand(platform, CONFIG_MAP, f"risk-manager-{colour}", lambda obj: obj["data"].update(LOG_LEVEL="debug")):
        before = client.get(CONFIG_MAP, f"risk-manager-{colour}", namespace)
        assert changes(platform, "v1.1.0")
        assert client.get(CONFIG_MAP, f"risk-manager-{colour}", namespace) == before


def test_what_somebody_changed_by_hand_is_shown_with_who_and_when(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]
    name = f"risk-manager-{colour}"
    begun = datetime.now(UTC) - timedelta(minutes=1)  # the server's clock is another
    with by_hand(platform, CONFIG_MAP, name, lambda obj: obj["data"].update(LOG_LEVEL="debug")):
        found = changes(platform)
        assert set(found) == {("ConfigMap", name)}
        (field,) = found["ConfigMap", name].fields
        assert (field.path, field.before, field.after) == ("data.LOG_LEVEL", "debug", "info")
        who, _, when = field.by.removeprefix("set by ").removesuffix(" UTC").partition(" at ")
        assert who == "by-hand"
        assert begun <= datetime.fromisoformat(when).replace(tzinfo=UTC) <= begun + timedelta(minutes=3)
        assert "# set by by-hand at " in compared(platform, "v1.0.0").to_markdown()
        # What the next release would change there, too, is still said to be theirs.
        assert changes(platform, "v1.1.0")["ConfigMap", name].fields[-1].by.startswith("set by by-hand at ")
    assert changes(platform) == {}


def test_what_somebody_added_stays_and_is_told(platform: Platform) -> None:
    """A variable, a label and a container that nobody released: no apply takes them away."""
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]
    name = f"analytics-core-{colour}"

    def add(obj: Object) -> None:
        obj["metadata"]["labels"]["team"] = "quant"
        obj["metadata"]["annotations"]["note"] = "of a tool"
        template = obj["spec"]["template"]
        template["metadata"].setdefault("annotations", {})["kubectl.kubernetes.io/restartedAt"] = "now"
        template["spec"]["containers"][0]["env"].append({"name": "FAST", "value": "1"})

    with by_hand(platform, DEPLOYMENT, name, add, manager="kubectl-edit"):
        (change,) = compared(platform, "v1.0.0").changes
        assert {(field.path, json.dumps(field.before)) for field in change.fields} == {
            ("metadata.labels.team", '"quant"'),
            ("spec.template.spec.containers[agent].env[FAST]", '{"name": "FAST", "value": "1"}'),
        }
        for field in change.fields:
            assert field.before == field.after
            assert field.by.startswith("added by kubectl-edit at ")


def test_what_somebody_took_away_would_come_back(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]
    name = f"risk-manager-{colour}"
    with by_hand(platform, CONFIG_MAP, name, lambda obj: obj["data"].pop("LOG_LEVEL")):
        assert changes(platform)["ConfigMap", name].fields == (FieldChange("data.LOG_LEVEL", ABSENT, "info"),)


def test_an_object_that_is_gone_is_drift(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    client, namespace = platform.context().client, platform.topology.cluster(CLUSTER).namespace
    before = client.get(MONITOR, "nexus-agents", namespace)
    assert before is not None
    client.delete(MONITOR, "nexus-agents", namespace)
    try:
        found = changes(platform)
        assert {key: change.what for key, change in found.items()} == {("ServiceMonitor", "nexus-agents"): "added"}
    finally:
        meta = {key: before["metadata"][key] for key in ("name", "namespace", "labels")}
        client.apply({**before, "metadata": meta}, manager=RELEASE)
    assert changes(platform) == {}


def test_sizes_and_weights_are_the_rollouts_and_nobody_drifts_by_them(platform: Platform) -> None:
    """An autoscaler's choice, a pinned floor, a person's `kubectl scale` and the route's weights."""
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]

    def route(obj: Object) -> None:
        (backend,) = obj["spec"]["rules"][0]["backendRefs"]
        obj["spec"]["rules"][0]["backendRefs"] = [{**backend, "weight": 7}]

    with (
        by_hand(platform, DEPLOYMENT, f"portfolio-manager-{colour}", lambda obj: obj["spec"].update(replicas=6)),
        by_hand(platform, AUTOSCALER, f"risk-manager-{colour}", lambda obj: obj["spec"].update(minReplicas=4)),
        by_hand(platform, HTTP_ROUTE, "nexus-api", route),
    ):
        assert changes(platform) == {}


def test_the_rest_of_a_route_is_the_releases(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    with by_hand(platform, HTTP_ROUTE, "nexus-api", lambda obj: obj["spec"]["hostnames"].append("elsewhere.example")):
        (change,) = compared(platform, "v1.0.0").changes
        assert (change.kind, change.name) == ("HTTPRoute", "nexus-api")
        assert [field.path for field in change.fields] == ["spec.hostnames"]
        assert change.fields[0].by.startswith("set by by-hand at ")


def test_a_secret_that_somebody_put_there_is_not_repeated(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    colour = platform.at_the_edge()[1]

    def add(obj: Object) -> None:
        container = obj["spec"]["template"]["spec"]["containers"][0]
        container["env"].append({"name": "DB_PASSWORD", "value": "hunter2-hunter2"})

    with by_hand(platform, DEPLOYMENT, f"analytics-core-{colour}", add):
        page = compared(platform, "v1.0.0").to_markdown()
        assert "DB_PASSWORD" in page
        assert HIDDEN in page
        assert "hunter2" not in page


def test_a_plan_shows_the_drift_and_that_a_deploy_would_be_refused(platform: Platform) -> None:
    platform.ensure("v1.0.0")
    service = "execution-engine"
    with by_hand(platform, SERVICE, service, lambda obj: obj["spec"]["ports"][0].update(targetPort=9999)):
        page = plan_rollout(platform.context(), "v1.1.0", Settings(1, 1)).changes
        assert "### Drift in the cluster" in page
        assert f"Service {service}: fields in conflict: 1; a deploy is refused until they are given up" in page
        assert "- spec.ports[http].targetPort: 9999" in page
    page = plan_rollout(platform.context(), "v1.1.0", Settings(1, 1)).changes
    assert page.endswith("objects are as v1.0.0 states them.")


def test_while_a_rollout_runs_nothing_is_said_of_drift(platform: Platform) -> None:
    """What is live is then of two releases, by intent."""
    platform.ensure("v1.0.0")
    record = platform.record()
    found = drift_of(platform.context(), record)
    assert found is not None
    assert found.same, found.to_markdown()
    with pytest.raises(RolloutRuns, match=rf"a rollout of {re.escape(record.candidate.version)} runs"):
        drift_of(platform.context(), replace(record, phase="running"))
    assert drift_of(platform.context(), None) is None
