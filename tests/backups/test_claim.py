"""One at a time, whatever dies, pauses, or has a wrong clock."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus_ops.backups.claim import DURATION, Claim, ClaimHeld, ClaimLost, claim
from nexus_ops.storage import ObjectStore

NOW = datetime(2026, 11, 25, 2, tzinfo=UTC)
KEY = "backups/staging-us-west-2/redis/claim"


class Clock:
    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(tmp_path.as_uri())


def test_the_second_is_told_who_is_at_it_and_the_next_gets_it(store: ObjectStore) -> None:
    with claim(store, KEY, "run-1", clock=Clock()) as first:
        with pytest.raises(ClaimHeld, match=r"run-1-\w+ is at it until 02:01:00 UTC"):
            claim(store, KEY, "run-2", clock=Clock())
        first.check()
    with claim(store, KEY, "run-2", clock=Clock()) as second:
        assert second.number > first.number


def test_of_many_at_once_one_gets_it(store: ObjectStore) -> None:
    def take(number: int) -> Claim | None:
        try:
            return claim(store, KEY, f"run-{number}", clock=Clock())
        except ClaimHeld:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [one for one in pool.map(take, range(16)) if one]
    assert len(taken) == 1


def test_who_was_paused_past_its_time_finds_that_it_is_over(store: ObjectStore) -> None:
    clock = Clock()
    paused = claim(store, KEY, "paused", clock=clock)
    clock.now += DURATION + timedelta(seconds=11)
    later = claim(store, KEY, "later", clock=clock)
    later.check()
    with pytest.raises(ClaimLost):
        paused.check()
    later.check()


def test_a_claim_of_a_process_that_was_killed_runs_out(tmp_path: Path, store: ObjectStore) -> None:
    program = (
        "import os, signal, sys\n"
        "from datetime import UTC, datetime\n"
        "from nexus_ops.backups.claim import claim\n"
        "from nexus_ops.storage import ObjectStore\n"
        f"with claim(ObjectStore.open(sys.argv[1]), {KEY!r}, 'killed', clock=lambda: datetime.now(UTC)):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store.url], check=False)
    assert done.returncode == -9
    now = datetime.now(UTC)
    with pytest.raises(ClaimHeld, match="killed"):
        claim(store, KEY, "next", clock=Clock(now))
    assert claim(store, KEY, "next", clock=Clock(now + timedelta(minutes=2))).number == 2


def test_a_claim_of_a_clock_that_is_a_day_ahead_does_not_lock_everyone_out(store: ObjectStore) -> None:
    """Stale locks that silently stop the nights are the complaint of other tools' users."""
    ahead = claim(store, KEY, "ahead", clock=Clock(NOW + timedelta(days=1)))
    waited: list[float] = []
    with pytest.raises(ClaimHeld, match="ahead"):  # it lives: it renews while we watch
        claim(store, KEY, "next", clock=Clock(), wait=lambda seconds: ahead.check())
    taken = claim(store, KEY, "next", clock=Clock(), wait=waited.append)
    assert sum(waited) == DURATION.total_seconds()
    taken.check()
    with pytest.raises(ClaimLost):
        ahead.check()
