"""The watchdog: its judgement, its sign of life, and both within a real Dagster daemon's loop."""

import logging
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import watched_definitions
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time, load_remote_repo
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._daemon.types import DaemonHeartbeat
from watched_definitions import WATCHED

from nexus_ops.assets.checking import last_evaluation
from nexus_ops.sensors.watchdog import AUTOMATION, BREAK_SECONDS, DAEMONS, look, watching_since
from nexus_ops.storage import ObjectStore
from nexus_ops.watchdog import KEY, Heartbeat, Seen, State, Tick, judge, judge_heartbeat

NOW = 1_800_000_000.0
LONG_AGO = NOW - 86_400
SENSOR = Seen("s", period=5, due=NOW - 185, ticks=(Tick(NOW - 2, "skipped", "nothing to do"),))
DAILY = Seen("d", period=86_400, due=NOW - 3600, ticks=(Tick(NOW - 3600, "success"),))


def failures(*ages: float) -> tuple[Tick, ...]:
    return tuple(Tick(NOW - age, "failure", "it broke") for age in ages)


def blind(*ages: float) -> tuple[Tick, ...]:
    return tuple(Tick(NOW - age, "skipped", "could not look: no answer") for age in ages)


@pytest.mark.parametrize(
    ("seen", "state", "said"),
    [
        (SENSOR, "fine", "it was evaluated 2 seconds ago"),
        (replace(SENSOR, stopped=True), "stopped", "it is stopped"),
        (replace(SENSOR, ticks=()), "late", "it has never been evaluated, and should be every 5 seconds"),
        (replace(SENSOR, ticks=(Tick(NOW - 600, "skipped"),)), "late", "it was last evaluated 10 minutes ago"),
        (replace(SENSOR, ticks=(Tick(NOW - 600, "started"),)), "late", "10 minutes ago"),  # it hangs
        (replace(SENSOR, ticks=failures(2, 7)), "fine", ""),  # a code server that was slow for a moment
        (replace(SENSOR, ticks=failures(2, 7, 12)), "failing", "its last 3 evaluations failed: it broke"),
        (replace(SENSOR, ticks=(Tick(NOW - 1, "started"), *failures(2, 7, 12))), "failing", ""),
        (replace(SENSOR, ticks=blind(2, 7, 12, 290)), "fine", ""),
        (replace(SENSOR, ticks=blind(2, 7, 12, 301)), "failing", "for 5 minutes and more it could not look: no answer"),
        (replace(SENSOR, ticks=(*blind(2, 7), Tick(NOW - 12, "success"), *blind(301))), "fine", ""),
        (DAILY, "fine", ""),
        (replace(DAILY, ticks=(Tick(NOW - 90_000, "success"),)), "late", "1 day ago, and should be every 1 day"),
        (replace(DAILY, ticks=failures(3600)), "failing", "its last evaluation failed: it broke"),
        (replace(DAILY, runs_failed=(True, False)), "failing", "the last run that it launched failed"),
        (replace(DAILY, runs_failed=(False, True)), "fine", ""),
        (replace(DAILY, period=300, runs_failed=(True, True, False)), "fine", ""),
        (replace(DAILY, period=300, runs_failed=(True, True, True)), "failing", "the last 3 runs"),
    ],
)
def test_each_trouble_has_its_word(seen: Seen, state: State, said: str) -> None:
    found = judge(seen, LONG_AGO, NOW)
    assert found.state == state, found
    assert said in found.why
    assert bool(found.todo) is (state != "fine")


@pytest.mark.parametrize("seen", [replace(SENSOR, ticks=()), replace(DAILY, ticks=(Tick(NOW - 90_000, "success"),))])
def test_what_was_due_while_the_daemon_was_down_is_not_late(seen: Seen) -> None:
    """After a restart, everything was last evaluated before it: that is one outage, not ten alarms."""
    assert judge(seen, NOW - 30, NOW).state == "unknown"
    assert judge(replace(seen, since=NOW - 30), LONG_AGO, NOW).state == "unknown"
    assert judge(seen, LONG_AGO, NOW).state == "late"
    assert judge(replace(seen, stopped=True), NOW - 30, NOW).state == "stopped"


def test_a_break_of_its_own_starts_the_watch_anew() -> None:
    cursor = '{"since": 100, "last": 1000}'
    assert watching_since(cursor, 1000 + BREAK_SECONDS) == 100
    assert watching_since(cursor, 1001 + BREAK_SECONDS) == 1001 + BREAK_SECONDS
    assert watching_since(None, 5.0) == 5.0


# ---------------------------------------------------------------- the sign of life


def test_a_sign_of_life_is_judged_by_its_age() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    beat = Heartbeat((now - timedelta(minutes=2)).isoformat(), 0.0, 7, ("health_every_five_minutes",))
    assert judge_heartbeat(beat, now) == (
        True,
        "the watchdog looked at 7 sensors and schedules 2 minutes ago; it has told of health_every_five_minutes.",
    )
    assert judge_heartbeat(beat, now + timedelta(minutes=4))[0] is False
    assert judge_heartbeat(None, now)[0] is False


def ask(store: str, *arguments: str) -> tuple[int, str]:
    """The command, as a probe runs it."""
    command = [sys.executable, "-m", "nexus_ops.watchdog", "--store", store, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    return ended.returncode, (ended.stdout + ended.stderr).strip()


def test_the_command_says_in_one_sentence_whether_the_watchdog_lives(tmp_path: Path) -> None:
    store = ObjectStore.open((tmp_path / "store").as_uri())
    code, said = ask(store.url)
    assert (code, said.startswith("the watchdog has never given a sign of life")) == (1, True)
    Heartbeat((datetime.now(UTC) - timedelta(minutes=3)).isoformat(), 0.0, 5).save(store)
    assert ask(store.url) == (0, "the watchdog looked at 5 sensors and schedules 3 minutes ago; nothing is amiss.")
    code, said = ask(store.url, "--minutes", "2")
    assert (code, said.startswith("the watchdog last gave a sign of life 3 minutes ago")) == (1, True)
    store.put(KEY, b"[]")
    code, said = ask(store.url)
    assert (code, said.startswith("whether the watchdog lives could not be seen: ")) == (1, True)


def test_the_command_needs_no_dagster(tmp_path: Path) -> None:
    """A probe that takes seconds of CPU would be the load that it looks for."""
    code = "import nexus_ops.watchdog, sys; print('dagster' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


# ---------------------------------------------------------------- in Dagster


@dataclass
class Daemon:
    """A code server with the definitions of watched_definitions, and the loop of the sensor daemon, turn by turn."""

    home: Path
    workspace: WorkspaceProcessContext
    repository: RemoteRepository
    ahead: float = 0.0

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.workspace.instance

    def turn(self) -> None:
        """One turn, a minute after the last one by the daemon's clock: every sensor is due again."""
        self.ahead += 61
        with freeze_time(datetime.now(UTC) + timedelta(seconds=self.ahead)):
            list(execute_sensor_iteration(self.workspace, logging.getLogger("test"), None, None))

    def verdict(self, name: str) -> dg.AssetCheckEvaluation | None:
        return last_evaluation(self.instance, dg.AssetCheckKey(AUTOMATION, name))

    def state(self, name: str) -> object:
        found = self.verdict(name)
        return found.metadata["state"].value if found else None

    def told(self) -> list[str]:
        """What people were told, without the time."""
        journal = self.home / "notifications.log"
        return [line.split(" ", 1)[1] for line in journal.read_text().splitlines()] if journal.exists() else []


@contextmanager
def environment(**variables: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("watchdog")
    file = str(Path(watched_definitions.__file__).absolute())
    folder = os.environ.get("PYTHONPATH", "")
    with (
        environment(NEXUS_HOME=str(home), NEXUS_STORE=(home / "store").as_uri(), PYTHONPATH=folder),
        dg.instance_for_test() as instance,
        create_test_daemon_workspace_context(PythonFileTarget(file, None, None, None), instance) as workspace,
    ):
        yield Daemon(home, workspace, load_remote_repo(workspace, "__repository__"))


def heartbeats(instance: dg.DagsterInstance) -> None:
    """Signs of life of every daemon, as `dagster-daemon` gives them."""
    for kind in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(datetime.now(UTC).timestamp(), kind, "test", []))


def test_a_stopped_sensor_is_told_once_and_so_is_its_return(daemon: Daemon) -> None:
    heartbeats(daemon.instance)
    daemon.turn()
    daemon.turn()
    assert (daemon.state("steady"), daemon.state("shaky"), daemon.state(DAEMONS)) == ("fine", "fine", "fine")
    assert daemon.verdict("optional") is None, "nothing depends on it"
    assert daemon.told() == []
    sensor = daemon.repository.get_sensor("steady")
    daemon.instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)
    daemon.turn()
    daemon.turn()
    stopped = daemon.verdict("steady")
    assert stopped is not None
    assert (stopped.passed, stopped.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert daemon.state("steady") == "stopped"
    assert [line.partition(": it is")[0] for line in daemon.told()] == ["Automation: sensor steady"]
    daemon.instance.start_sensor(sensor)
    daemon.turn()
    daemon.turn()
    assert daemon.state("steady") == "fine"
    assert [line.partition(": it ")[0] for line in daemon.told()] == [
        "Automation: sensor steady",
        "Automation: sensor steady: over",
    ]
    assert ask((daemon.home / "store").as_uri())[0] == 0


def test_a_sensor_that_fails_is_told_with_its_error(daemon: Daemon) -> None:
    (daemon.home / "shake").touch()
    for _ in range(4):
        daemon.turn()
    found = daemon.verdict("shaky")
    assert found is not None
    assert "its last 3 evaluations failed: " in (found.description or "")
    assert "shaken" in (found.description or "")
    assert daemon.told()[-1].startswith("Automation: sensor shaky: its last 3 evaluations failed")
    (daemon.home / "shake").unlink()
    for _ in range(2):
        daemon.turn()
    assert daemon.state("shaky") == "fine"
    assert daemon.told()[-1].startswith("Automation: sensor shaky: over")


def test_what_is_not_evaluated_any_more_is_late(daemon: Daemon) -> None:
    """As the watchdog sees it ten minutes on, when only its own ticks have come."""
    heartbeats(daemon.instance)
    now = datetime.now(UTC).timestamp() + daemon.ahead
    found = look(daemon.instance, [one for one in WATCHED if one.name != "optional"], now - 86_400, now + 600)
    assert {name: finding.state for name, finding in found.items() if name != DAEMONS} == {
        "steady": "late", "shaky": "late", "nightly": "late",
    }  # fmt: skip
    assert found["nightly"].why == "it has never been evaluated, and should be every 1 day"


def test_a_daemon_without_a_sign_of_life_is_told(daemon: Daemon) -> None:
    old = datetime.now(UTC).timestamp() - 3600
    kind = sorted(daemon.instance.get_required_daemon_types())[0]
    heartbeats(daemon.instance)
    daemon.instance.add_daemon_heartbeat(DaemonHeartbeat(old, kind, "test", []))
    now = datetime.now(UTC).timestamp()
    found = look(daemon.instance, [], now - 86_400, now)[DAEMONS]
    assert found.state == "failing"
    assert kind.lower().replace("_", " ") in found.why
    assert look(daemon.instance, [], now - 5, now)[DAEMONS].state == "unknown"


def test_by_hand_the_same_is_judged_in_a_run(daemon: Daemon) -> None:
    result = watched_definitions.defs.resolve_job_def("look_now").execute_in_process(instance=daemon.instance)
    judged = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert set(judged) == {"steady", "shaky", "nightly", DAEMONS}
    assert judged["steady"] is True
