"""A driver that is killed or frozen anywhere: the rollout goes on, and nothing is done twice."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from drive import CLOSE, SHORT
from platform_cluster import CLUSTER, QUICK, Platform
from witness import complaints, witness

from nexus_ops.clusters import lease
from nexus_ops.clusters.client import AUTOSCALER, CONFIG_MAP, DEPLOYMENT, LEASE, Kind
from nexus_ops.clusters.errors import LeaseHeld
from nexus_ops.clusters.fence import CREATION
from nexus_ops.clusters.watch import watch
from nexus_ops.releases.waves import identity
from nexus_ops.rollouts.driver import Advance
from nexus_ops.topology import Colour, other, project_folder

DRIVE = Path(__file__).with_name("drive.py")
ACTIONS = ("hold-before", "hold-after")
COLOURS = ("new colour", "colour used before")
"""Deploying over nothing makes every object; deploying over an earlier release changes what is there."""
MOST = {"new colour": 220, "colour used before": 200}
"""The soak's highest k; a test sees to it that a clean deploy makes no more requests."""
RENEWALS = 20
"""A slower deploy renews its lease more often, which puts its last requests behind the count of the clean one."""
pytestmark = [pytest.mark.sandbox_only, pytest.mark.timeout(600)]


@contextmanager
def driver(platform: Platform) -> Generator[subprocess.Popen[str]]:
    """A driver in a process of its own; gone at the end, whatever happened."""
    command = [sys.executable, str(DRIVE), platform.state.kubeconfig, (platform.home / "store").as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def go_on(platform: Platform) -> Advance:
    """What the sensor does: try again until the dead driver's lease has run out, then finish."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return platform.finish()
        except LeaseHeld:
            assert time.monotonic() < deadline, "the lease of a dead driver never runs out"
            cluster = platform.topology.cluster(CLUSTER)
            next(watch(platform.context().client, LEASE, cluster.ops_namespace, seconds=1), None)


def check_the_end(platform: Platform, result: Advance, version: str) -> None:
    """The rollout came to an end that makes sense, and exclusive work is in one colour only."""
    assert result.state == "done", platform.record().reason
    assert platform.at_the_edge()[0] == version
    colour = platform.at_the_edge()[1]
    wanted = {(component, colour) for component in platform.topology.components}
    assert platform.eventually(lambda: platform.pods() == wanted), f"{platform.pods()} instead of {wanted}"


def check_what_is_left(platform: Platform) -> None:
    """Nothing of a half-done step stays behind: owners, floors, the sets' lists, the record's copy in the store."""
    context, record = platform.context(), platform.record()
    namespace, space = context.cluster.namespace, context.cluster.ops_namespace
    for deployment in context.client.list(DEPLOYMENT, namespace):
        managers = {entry["manager"] for entry in deployment["metadata"]["managedFields"]}
        assert not any(name.startswith(CREATION) for name in managers), f"{deployment['metadata']['name']}: {managers}"
    rendering = context.rendering(record.candidate.release, record.candidate.colour)
    for scaler in rendering.of_kind("HorizontalPodAutoscaler"):
        live = context.client.get(AUTOSCALER, scaler["metadata"]["name"], namespace)
        assert live is not None
        assert live["spec"]["minReplicas"] == scaler["spec"]["minReplicas"], f"{scaler['metadata']['name']} is pinned"
    parent = context.client.get(CONFIG_MAP, f"applyset-{record.candidate.colour}", space)
    assert parent is not None
    listed = {tuple(member) for member in json.loads(parent["data"]["inventory"])}
    assert listed == {identity(obj) for obj in rendering.objects}
    assert platform.store.exists(f"rollouts/{record.cluster}/{record.id}.json"), "the record's copy is not in the store"


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that run out soon, here as in the driver's process."""
    monkeypatch.setattr(lease, "DURATION", SHORT)
    monkeypatch.setattr(lease, "SKEW", CLOSE)


def next_version(platform: Platform) -> str:
    """Whichever of two healthy versions does not serve."""
    serving = platform.record().serving
    return "v1.1.0" if serving and serving.version == "v1.0.0" else "v1.0.0"


def ready_to_roll(platform: Platform, colour: str = "colour used before") -> str:
    """Have something serve, whatever an earlier test left behind; the version to roll out next."""
    record = platform.ledger().record
    if record is None:
        platform.ensure("v1.0.0")
    elif not record.finished:
        go_on(platform)
    serving = platform.record().serving
    assert serving is not None
    if colour == "new colour":
        remove(platform, other(serving.colour))
    elif platform.context().client.get(CONFIG_MAP, f"applyset-{other(serving.colour)}", "nexus-ops") is None:
        assert platform.deploy(next_version(platform)).state == "done"
    return next_version(platform)


def remove(platform: Platform, colour: Colour) -> None:
    """Take every object of a colour that does not serve out of the cluster, as if it had never been deployed."""
    context = platform.context()
    space = context.cluster.ops_namespace
    parent = context.client.get(CONFIG_MAP, f"applyset-{colour}", space)
    for kind, group, namespace, name in json.loads(parent["data"]["inventory"]) if parent else ():
        context.client.delete(Kind(context.client.versions(group)[0], kind), name, namespace)
    context.client.delete(CONFIG_MAP, f"applyset-{colour}", space)
    assert platform.eventually(lambda: colour not in {own for _, own in platform.pods()})


def kill_at(platform: Platform, k: int, action: str, colour: str) -> str:
    """Roll out, kill the driver at its k-th mutating request, and let another finish.

    The request at which it was killed; empty when the rollout was over before there was a k-th.
    """
    version = ready_to_roll(platform, colour)
    with witness(platform, rate=20, orders=4) as seen:
        platform.begin(version)
        platform.admin("PUT", "/faults", [{"action": action, "user_agent": "nexus-ops*", "nth": k}])
        with driver(platform) as process:
            while not (holds := platform.admin("GET", "/holds")):
                if process.poll() is not None:
                    break
                platform.eventually(lambda: bool(platform.admin("GET", "/holds")), seconds=1)
            process.kill()
            process.wait()
        platform.admin("DELETE", "/faults")
        for hold in holds:
            # Before: the request dies with its sender. After: it has been carried out, nobody heard the answer.
            platform.admin("POST", f"/holds/{hold['id']}/{'drop' if action == 'hold-before' else 'release'}")
        check_the_end(platform, go_on(platform), version)
    check_what_is_left(platform)
    assert complaints(platform, seen) == []
    return "; ".join(f"{hold['method']} {hold['path']}" for hold in holds)


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize(
    ("k", "action", "colour"),
    [
        (9, "hold-before", COLOURS[1]),
        (70, "hold-after", COLOURS[0]),
        (95, "hold-before", COLOURS[1]),
        (140, "hold-after", COLOURS[0]),
    ],
)
def test_a_driver_killed_at_a_request_leaves_a_rollout_that_ends(
    platform: Platform, k: int, action: str, colour: str
) -> None:
    assert kill_at(platform, k, action, colour), "the driver has made so many requests"


@pytest.mark.usefixtures("short_lease")
def test_a_driver_killed_as_it_says_that_the_rollout_is_over_leaves_nothing_to_do(platform: Platform) -> None:
    """What comes after the record's last word is never made up for: nobody comes back to a rollout that is over."""
    version = ready_to_roll(platform)
    platform.begin(version, replace(QUICK, hold_seconds=8))
    rule = {"action": "hold-after", "user_agent": "nexus-ops*", "path": "*/configmaps/rollout"}
    with driver(platform) as process:
        assert platform.eventually(lambda: platform.record().ended("monitor-health"), seconds=120)
        platform.admin("PUT", "/faults", [rule])
        while not platform.record().finished:
            assert process.poll() is None, "the driver has ended before the rollout"
            for hold in platform.admin("GET", "/holds"):
                if not platform.record().finished:
                    platform.admin("POST", f"/holds/{hold['id']}/release")
            platform.eventually(lambda: bool(platform.admin("GET", "/holds")), seconds=1)
        process.kill()
        process.wait()
    platform.admin("DELETE", "/faults")
    for hold in platform.admin("GET", "/holds"):
        platform.admin("POST", f"/holds/{hold['id']}/drop")
    check_the_end(platform, go_on(platform), version)
    check_what_is_left(platform)


@pytest.fixture(scope="session")
def requests_of_a_deploy(platform: Platform) -> Callable[[str], int]:
    """N: the mutating requests of a deploy that nobody disturbs, its lease's among them. Counted once."""

    @cache
    def count(colour: str) -> int:
        platform.begin(ready_to_roll(platform, colour))
        platform.admin("DELETE", "/mutations")
        with driver(platform) as process:
            output, _ = process.communicate(timeout=120)
        assert output.endswith("done\n"), output
        return sum(made["user_agent"].startswith("nexus-ops") for made in platform.admin("GET", "/mutations"))

    return count


@pytest.fixture
def passed_before(request: pytest.FixtureRequest) -> Generator[set[str]]:
    """Tests of the soak that have passed with the same code: a soak that was broken off goes on where it was.

    Kept in pytest's cache; `--cache-clear` forgets them.
    """
    sources = [
        path for part in ("nexus_ops", "helm", "tests/rollouts") for path in (project_folder() / part).rglob("*")
    ]
    digest = hashlib.sha256()
    for path in sorted(path for path in sources if path.suffix in (".py", ".yaml", ".tpl")):
        digest.update(path.read_bytes())
    kept, key = request.config.cache, f"nexus/soak/{digest.hexdigest()[:16]}"
    assert kept is not None
    passed = set(kept.get(key, []))
    yield passed
    kept.set(key, sorted(passed))


@pytest.mark.soak
@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("colour", COLOURS)
def test_the_soak_goes_as_far_as_a_clean_deploy_does(requests_of_a_deploy: Callable[[str], int], colour: str) -> None:
    assert 50 < requests_of_a_deploy(colour) <= MOST[colour] - RENEWALS


@pytest.mark.soak
@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("colour", "k"), [(colour, k) for colour in COLOURS for k in range(1, MOST[colour] + 1)])
def test_a_driver_killed_at_any_request_at_all_leaves_a_rollout_that_ends(
    platform: Platform,
    requests_of_a_deploy: Callable[[str], int],
    passed_before: set[str],
    colour: str,
    k: int,
    action: str,
) -> None:
    name = f"{colour}-{k}-{action}"
    if name in passed_before:
        pytest.skip("passed already with the same code")
    if k > requests_of_a_deploy(colour) + RENEWALS:
        pytest.skip("a clean deploy does not make so many requests")
    killed = kill_at(platform, k, action, colour)
    print(f"{action} {k} of {requests_of_a_deploy(colour)} ({colour}): {killed or 'the rollout was over before'}")
    passed_before.add(name)


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("path", ["*/httproutes/*", "*/configmaps/rollout"])
def test_a_driver_frozen_past_its_lease_changes_nothing_more(platform: Platform, path: str) -> None:
    """Frozen while a write is on its way; the write arrives when another driver has finished the rollout."""
    version = ready_to_roll(platform)
    platform.begin(version)
    platform.admin("PUT", "/faults", [{"action": "hold-before", "user_agent": "nexus-ops*", "path": path, "times": 1}])
    with driver(platform) as process:
        assert platform.eventually(lambda: platform.admin("GET", "/holds"), seconds=60)
        os.kill(process.pid, signal.SIGSTOP)
        check_the_end(platform, go_on(platform), version)
        before = platform.admin("GET", "/state")["version"]
        for hold in platform.admin("GET", "/holds"):
            platform.admin("POST", f"/holds/{hold['id']}/release")
        os.kill(process.pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
    assert platform.admin("GET", "/state")["version"] == before, f"the frozen driver wrote something: {output}"
    check_the_end(platform, go_on(platform), version)
