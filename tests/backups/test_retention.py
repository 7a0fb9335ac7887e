"""Retention: what must never go stays, whatever the series; and what goes is what no rule wants."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_ops.backups.retention import (
    Held,
    Judged,
    Policy,
    anchor,
    judge,
    removable_wal,
)

NOW = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = Policy(days=30, wal_days=7, last=3, least_verified=3, grace=3 * DAY, orphan_grace=2 * DAY)


def segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 256:08X}{number % 256:08X}"


def nightly(days: int, *, verified: bool = True) -> list[Held]:
    """A backup each night, the last one now."""
    return [held(age, verified=verified) for age in range(days)]


def held(age: float, *, verified: bool = True, **fields: object) -> Held:
    ended = NOW - age * DAY
    log = int(1_000_000 - age * 100)
    base = Held(
        f"b{age:06.2f}", ended, verified=ended if verified else None, anchors=True,
        first_wal=segment(log), last_wal=segment(log + 2),
    )  # fmt: skip
    return replace(base, **fields)  # pyright: ignore[reportArgumentType]


moments = st.floats(-0.02, 120).map(lambda age: NOW - age * DAY)
optional_moments = st.none() | moments


@st.composite
def series(draw: st.DrawFn) -> list[Held]:
    made: list[Held] = []
    for number in range(draw(st.integers(0, 14))):
        first = draw(st.integers(0, 5000))
        made.append(
            Held(
                id=f"b{number}",
                ended=draw(moments),
                verified=draw(optional_moments),
                pinned=draw(st.booleans()) and draw(st.booleans()),
                parent=draw(st.none() | st.sampled_from([f"b{n}" for n in range(number)])) if number else None,
                locked_until=draw(st.none() | st.floats(-9, 9).map(lambda days: NOW + days * DAY)),
                tombstoned=draw(st.none() | moments),
                anchors=draw(st.booleans()),
                first_wal=segment(first),
                last_wal=segment(first + draw(st.integers(0, 9))),
            )
        )
    return made


policies = st.builds(
    Policy,
    days=st.integers(1, 60), wal_days=st.integers(0, 30), last=st.integers(1, 6), least_verified=st.integers(1, 4),
    grace=st.integers(1, 200).map(lambda hours: timedelta(hours=hours)), orphan_grace=st.just(2 * DAY),
)  # fmt: skip


def verdicts(judged: Judged) -> dict[str, str]:
    return {judgement.id: judgement.verdict for judgement in judged.judgements}


@settings(max_examples=60, deadline=None)
@given(series(), policies)
def test_what_a_rule_wants_is_kept_and_so_is_what_it_needs(backups: list[Held], policy: Policy) -> None:
    by_id, found = {backup.id: backup for backup in backups}, verdicts(judge(backups, policy, NOW))
    alive = sorted((b for b in backups if b.tombstoned is None), key=lambda b: (b.ended, b.id))
    wanted = {b.id for b in alive[-policy.last :]}
    wanted |= {b.id for b in alive if b.ended >= NOW - policy.days * DAY}
    wanted |= {b.id for b in backups if b.pinned or (b.locked_until and b.locked_until > NOW)}
    wanted |= {b.id for b in alive if b.verified}.intersection(
        {[b.id for b in alive if b.verified][-1]} if any(b.verified for b in alive) else ()
    )
    if first := anchor(backups, policy, NOW):
        wanted.add(first.id)
    for name in list(wanted):
        while (name := by_id[name].parent or "") in by_id:
            wanted.add(name)
    assert {name for name, verdict in found.items() if verdict == "KEEP"} == wanted


@settings(max_examples=60, deadline=None)
@given(series(), policies)
def test_nothing_is_deleted_without_a_tombstone_and_its_whole_grace(backups: list[Held], policy: Policy) -> None:
    by_id = {backup.id: backup for backup in backups}
    for name, verdict in verdicts(judge(backups, policy, NOW)).items():
        tombstoned = by_id[name].tombstoned
        if verdict == "EXPIRED":
            assert tombstoned is not None
            assert NOW - tombstoned >= policy.grace
        if verdict == "OBSOLETE":
            assert tombstoned is None


@settings(max_examples=60, deadline=None)
@given(series(), policies)
def test_nothing_goes_while_too_few_verified_would_remain(backups: list[Held], policy: Policy) -> None:
    judged = judge(backups, policy, NOW)
    by_id = {backup.id: backup for backup in backups}
    left = [by_id[name] for name in judged.of("KEEP")]
    verified = [backup for backup in left if backup.verified and backup.tombstoned is None]
    goes = judged.of("OBSOLETE") + judged.of("EXPIRED")
    assert (judged.refusal is not None) == (bool(goes) and len(verified) < policy.least_verified)


@settings(max_examples=60, deadline=None)
@given(series(), policies, st.randoms())
def test_the_order_in_which_a_store_lists_them_changes_nothing(
    backups: list[Held], policy: Policy, chance: object
) -> None:
    shuffled = list(backups)
    chance.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    assert judge(shuffled, policy, NOW) == judge(backups, policy, NOW)


@settings(max_examples=60, deadline=None)
@given(series(), policies, st.integers(1, 60))
def test_what_went_obsolete_never_becomes_wanted_by_time_alone(backups: list[Held], policy: Policy, days: int) -> None:
    """Or a backup would be tombstoned on one day and missed on the next. The anchor is the one that moves: to younger ones."""
    today, later = judge(backups, policy, NOW), judge(backups, policy, NOW + days * DAY)
    was = set(today.of("OBSOLETE"))
    back = was & set(later.of("KEEP"))
    first = anchor(backups, policy, NOW + days * DAY)
    needed = {first.id} if first else set[str]()
    by_id = {backup.id: backup for backup in backups}
    for name in list(needed):
        while (name := by_id[name].parent or "") in by_id:
            needed.add(name)
    assert back <= needed


@settings(max_examples=60, deadline=None)
@given(series(), policies, st.lists(st.integers(0, 6000), max_size=40))
def test_wal_that_any_backup_or_any_promised_moment_needs_stays(
    backups: list[Held], policy: Policy, numbers: list[int]
) -> None:
    names = [segment(number, timeline=1 + number % 2) for number in numbers]
    gone = removable_wal(names, backups, policy, NOW)
    first = anchor(backups, policy, NOW)
    assert first is not None or gone == ()
    for name in gone:
        assert first is not None
        assert first.first_wal is not None
        assert name[8:] < first.first_wal[8:]
        for backup in backups:
            assert backup.first_wal is not None
            assert backup.last_wal is not None
            assert not backup.first_wal[8:] <= name[8:] <= backup.last_wal[8:], f"{backup.id} needs {name}"


def test_thirty_days_of_nights_as_in_the_first_plan() -> None:
    judged = judge(nightly(34), POLICY, NOW)
    assert judged.refusal is None
    assert judged.of("OBSOLETE") == ("b033.00", "b032.00", "b031.00")
    assert len(judged.of("KEEP")) == 31
    reasons = {judgement.id: judgement.reasons for judgement in judged.judgements}
    assert reasons["b007.00"] == (
        "younger than 30 days",
        "anchor: a restore to any moment of the last 7 days begins with it",
    )
    assert reasons["b000.00"][:2] == ("younger than 30 days", "number 1 of the last 3")
    assert reasons["b033.00"] == ("older than 30 days, not among the last 3, and nothing needs it",)


def test_when_the_nights_stopped_the_last_ones_stay_however_old() -> None:
    """A cluster whose backups stopped two months ago must not lose the ones it has."""
    old = [held(age) for age in range(60, 70)]
    assert judge(old, POLICY, NOW).of("KEEP") == ("b062.00", "b061.00", "b060.00")


def test_an_incremental_chain_stays_as_long_as_its_last_link() -> None:
    chain = [held(40), held(39, parent="b040.00"), held(5, parent="b039.00"), *[held(age) for age in range(4)]]
    assert judge(chain, POLICY, NOW).of("OBSOLETE") == ()


def test_unverified_backups_never_push_out_verified_ones() -> None:
    judged = judge([*[held(age) for age in (41, 42, 43)], *nightly(30, verified=False)], POLICY, NOW)
    assert judged.refusal == "1 verified backups would remain; at least 3 must. Run the drill first."


def test_a_clock_that_is_wrong_removes_nothing() -> None:
    """Ours may be behind, or theirs ahead: from the ages alone it cannot be told."""
    judged = judge([*nightly(34), held(-2)], POLICY, NOW)
    assert judged.refusal is not None
    assert "a clock is wrong" in judged.refusal


def test_a_tombstone_waits_and_a_pin_outlives_it() -> None:
    buried = [
        held(40, tombstoned=NOW - 2 * DAY),
        held(41, tombstoned=NOW - 3 * DAY),
        held(42, tombstoned=NOW - 9 * DAY, pinned=True),
    ]
    found = verdicts(judge([*nightly(30), *buried], POLICY, NOW))
    assert (found["b040.00"], found["b041.00"], found["b042.00"]) == ("TOMBSTONED", "EXPIRED", "KEEP")


def test_wal_before_the_anchor_goes_and_history_never() -> None:
    backups = nightly(30)
    first = anchor(backups, POLICY, NOW)
    assert first is not None
    assert first.id == "b007.00"
    edge = 1_000_000 - 700
    # b008 needs 999200..999202, though it is before the anchor
    names = [
        segment(edge - 50),
        segment(edge - 100),
        segment(edge - 98),
        segment(edge),
        segment(edge + 9),
        "00000002.history",
    ]
    assert removable_wal(names, backups, POLICY, NOW) == (segment(edge - 50),)


def test_no_wal_goes_while_a_backup_does_not_say_what_it_needs() -> None:
    assert removable_wal([segment(1)], [*nightly(30), held(3.5, first_wal=None)], POLICY, NOW) == ()


@pytest.mark.parametrize(
    "wrong", [{"days": 0}, {"last": 0}, {"least_verified": 0}, {"wal_days": -1}, {"grace": timedelta(0)}]
)
def test_a_policy_that_would_keep_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        replace(POLICY, **wrong)  # pyright: ignore[reportArgumentType]
