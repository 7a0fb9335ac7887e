"""The verdict over looks at a platform that counts: what fails, what passes, what is not enough, what is no measurement."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import RULES, START, Platform, new_plan, worse

from nexus_ops.analysis.guardrails import known_alert
from nexus_ops.analysis.judge import Plan, advance, begin, follow, judge, learned, verdict
from nexus_ops.analysis.samples import Answer, Level, Sample

ALL = RULES.components


def learned_plan(platform: Platform, **changes: object) -> Plan:
    """A plan that knows the stable colour's last half hour."""
    plan = new_plan(*platform.components)
    return replace(plan, history=learned(plan, platform.looks(360)), **changes)  # pyright: ignore[reportArgumentType]


def seconds_to_fail(plan: Plan, platform: Platform, most: int = 720) -> float | None:
    began, state = platform.time, begin(plan)
    for _ in range(most):
        state = advance(plan, state, platform.look())
        if verdict(plan, state).verdict == "fail":
            return state.time - began
    return None


def test_a_healthy_candidate_passes_within_minutes_and_never_fails() -> None:
    platform = Platform(share=0.25)
    plan = learned_plan(platform)
    verdicts = [verdict(plan, state).verdict for state in follow(plan, platform.looks(240))]
    assert "fail" not in verdicts
    assert verdicts[0] == "insufficient"
    assert verdicts[-1] == "pass"


def test_a_candidate_with_five_times_the_errors_fails_and_the_reason_names_it() -> None:
    platform = Platform(ratios=worse(0.025))
    plan = learned_plan(replace(platform, ratios={}))
    delay = seconds_to_fail(plan, platform)
    assert delay is not None
    assert delay <= 300
    found = judge(plan, Platform(ratios=worse(0.025)).looks(120))
    assert found.verdict == "fail"
    assert found.blames == "release"
    assert "request-errors of risk-manager" in found.reasons[0]


def test_a_slow_candidate_fails_by_its_buckets() -> None:
    platform = Platform(ratios=worse(0.05, "slow-requests"))
    found = judge(learned_plan(Platform()), platform.looks(120))
    assert "slow-requests" in found.reasons[0]


def test_one_bad_component_among_seven_is_found() -> None:
    platform = Platform(ALL, ratios=worse(0.05, component="analytics-core"))
    found = judge(learned_plan(Platform(ALL)), platform.looks(100))
    assert found.verdict == "fail"
    assert "analytics-core" in found.reasons[0]


def test_a_quiet_service_is_neither_failed_nor_passed() -> None:
    """One request a minute; peers roll such services back for lack of data, or pass them."""
    platform = Platform(rate=1 / 60, share=0.5)
    plan = new_plan()
    verdicts = {verdict(plan, state).verdict for state in follow(plan, platform.looks(720))}
    assert verdicts == {"insufficient"}


def test_a_jump_from_a_zero_baseline_is_caught() -> None:
    platform = Platform(ratio=0.0, ratios=worse(0.02))
    delay = seconds_to_fail(learned_plan(Platform(ratio=0.0)), platform)
    assert delay is not None
    assert delay <= 300


def test_a_fault_that_begins_late_is_found_nearly_as_soon() -> None:
    plan = learned_plan(Platform())
    early = seconds_to_fail(plan, Platform(ratios=worse(0.05)))
    platform, state = Platform(), begin(plan)
    for _ in range(240):
        state = advance(plan, state, platform.look())
    platform.ratios, began = worse(0.05), platform.time
    while verdict(plan, state).verdict != "fail":
        state = advance(plan, state, platform.look())
    assert early is not None
    assert state.time - began <= 2 * early + 20


def test_bursts_in_one_minute_of_twenty_are_caught() -> None:
    """5 times the latency in 5 % of the minutes: gone from any average, and from ranks of minutes."""
    plan, platform = learned_plan(Platform()), Platform(share=0.25)
    state = begin(plan)
    for number in range(720):
        platform.ratios = worse(0.6, "slow-requests") if number % 240 < 12 else {}
        state = advance(plan, state, platform.look())
    assert verdict(plan, state).verdict == "fail"


def test_clusters_of_errors_are_no_reason_to_fail() -> None:
    """Twenty errors at once, in either colour by its share: with each one a witness this fails most of the time."""

    def bursty(platform: Platform) -> Sample:
        before = {key: list(sums) for key, sums in platform.counts.items()}
        sample = platform.look()
        for key, sums in platform.counts.items():
            sums[0] = before[key][0] + 20 * sum(rng.random() < 0.005 / 20 for _ in range(int(sums[1] - before[key][1])))
        return replace(sample, answers=platform.sample().answers)

    fails = {"measured": 0, "taken for independent": 0}
    for seed in range(4):
        rng, platform = random.Random(seed), Platform(seed=seed, share=0.1)
        plan = new_plan()
        measured = learned(plan, [bursty(platform) for _ in range(360)])
        independent = learned(plan, Platform(seed=seed, rate=10_000.0).looks(360))
        looks = [bursty(platform) for _ in range(120)]
        fails["measured"] += judge(replace(plan, history=measured), looks).verdict == "fail"
        fails["taken for independent"] += judge(replace(plan, history=independent), looks).verdict == "fail"
    assert fails["measured"] == 0
    assert fails["taken for independent"] > 0


def test_a_threshold_breach_is_not_ignored_while_waiting_for_traffic() -> None:
    platform = Platform(rate=0.0)
    start = platform.look()
    platform.levels["portfolio-pnl"] = (Level("", "", "", -25_000.0),)
    found = judge(new_plan(), [start, platform.look()])
    assert found.verdict == "fail"
    assert found.blames == "platform"


def test_a_loss_that_was_there_before_does_not_blame_the_rollout() -> None:
    platform = Platform()
    platform.levels["portfolio-pnl"] = (Level("", "", "", -12_000.0),)
    plan = new_plan()
    state = advance(plan, begin(plan), platform.look())
    assert verdict(plan, state).verdict == "insufficient"
    platform.levels["portfolio-pnl"] = (Level("", "", "", -12_001.0),)
    assert verdict(plan, advance(plan, state, platform.look())).verdict == "fail"
    given_ = replace(plan, baseline={"portfolio-pnl": 500.0})
    assert judge(given_, [platform.look()]).verdict == "fail", "the value when the rollout began counts, where known"


def test_a_limit_must_be_broken_for_its_whole_time() -> None:
    platform, plan = Platform(), new_plan()
    state = advance(plan, begin(plan), platform.look())
    platform.levels["node-cpu"] = (Level("", "", "", 95.0),)
    state = replace(state, baseline={**state.baseline, "node-cpu": 40.0})
    for _ in range(24):
        state = advance(plan, state, platform.look())
    assert verdict(plan, state).verdict != "fail"
    platform.levels["node-cpu"] = (Level("", "", "", 60.0),)
    state = advance(plan, state, platform.look())
    platform.levels["node-cpu"] = (Level("", "", "", 95.0),)
    for _ in range(24):
        state = advance(plan, state, platform.look())
    assert verdict(plan, state).verdict != "fail", "it began anew"
    assert verdict(plan, advance(plan, state, platform.look())).verdict == "fail"


def test_a_candidate_of_which_no_pod_answers_fails_within_seconds() -> None:
    platform = Platform()
    platform.levels["no-pod-answers"] = (
        Level("risk-manager", "blue", "", 2.0),
        Level("risk-manager", "green", "", 0.0),
    )
    assert judge(new_plan(), platform.looks(2)).verdict == "insufficient"
    found = judge(new_plan(), platform.looks(3))
    assert found.verdict == "fail"
    assert found.blames == "release"


def test_an_error_rate_that_the_stable_colour_has_too_is_no_breach() -> None:
    platform = Platform()
    stable = Level("risk-manager", "blue", "", 0.5)
    platform.levels["agent-error-rate"] = (stable, Level("risk-manager", "green", "", 1.4))
    assert judge(new_plan(), platform.looks(30)).verdict != "fail", "errors a second of equals differ by chance"
    platform.levels["agent-error-rate"] = (stable, Level("risk-manager", "green", "", 1.6))
    assert judge(new_plan(), platform.looks(30)).verdict == "fail"


@pytest.mark.parametrize("left", [(), (Level("risk-manager", "blue", "", 0.0),)])
def test_in_the_watch_what_depends_on_the_load_is_no_reason_to_go_back(left: tuple[Level, ...]) -> None:
    """The old colour serves nothing any more: it has no errors a second, or no pods. Losses are losses all the same."""
    platform, plan = Platform(), replace(new_plan(), watch=True, baseline={"node-cpu": 30.0, "portfolio-pnl": 1200.0})
    platform.levels["agent-error-rate"] = (*left, Level("risk-manager", "green", "", 0.6))
    platform.levels["node-cpu"] = (Level("", "", "", 95.0),)
    assert judge(plan, platform.looks(60)).verdict != "fail"
    assert judge(replace(plan, watch=False), platform.looks(60)).verdict == "fail"
    platform.levels["portfolio-pnl"] = (Level("", "", "", -25_000.0),)
    assert judge(plan, platform.looks(1)).verdict == "fail"


@pytest.mark.parametrize(("colour", "verdict_", "blames"), [("green", "fail", "release"), ("", "fail", "platform")])
def test_a_firing_alert_fails_at_once(colour: str, verdict_: str, blames: str) -> None:
    platform = Platform()
    platform.levels["critical-alerts"] = (Level("risk-manager", colour, "AgentDown", 1.0),)
    found = judge(new_plan(), platform.looks(1))
    assert (found.verdict, found.blames) == (verdict_, blames)
    assert "AgentDown" in found.reasons[0]


def test_an_alert_of_the_stable_colour_says_nothing_of_the_candidate() -> None:
    platform = Platform()
    platform.levels["critical-alerts"] = (Level("risk-manager", "blue", "AgentDown", 1.0),)
    assert judge(new_plan(), platform.looks(1)).verdict == "insufficient"


def test_an_alert_that_fired_before_the_rollout_is_of_who_had_the_colour_before() -> None:
    """A release that was mended is rolled out minutes after its predecessor failed in the same colour."""
    platform = Platform()
    platform.levels["critical-alerts"] = (Level("risk-manager", "green", "AgentHighErrorRatio", 1.0),)
    before = replace(new_plan(), baseline={known_alert("AgentHighErrorRatio", "green", "risk-manager"): 1.0})
    assert judge(before, platform.looks(1)).verdict == "insufficient"
    other = replace(new_plan(), baseline={known_alert("AgentHighErrorRatio", "green", "analytics-core"): 1.0})
    assert judge(other, platform.looks(1)).verdict == "fail"


def test_what_cannot_be_measured_is_an_error_and_no_pass() -> None:
    platform = Platform(share=0.5)
    plan = new_plan()
    looks = platform.looks(400)
    assert judge(plan, looks).verdict == "pass"
    broken = replace(
        looks[-1], time=looks[-1].time + 5, answers={**looks[-1].answers, "request-errors": Answer(problem="HTTP 503")}
    )
    found = judge(plan, [*looks, broken])
    assert found.verdict == "error"
    assert "HTTP 503" in found.reasons[0]
    assert judge(plan, looks, now=looks[-1].time + 61).verdict == "error"
    assert judge(plan, looks, now=looks[-1].time + 59).verdict == "pass"
    none = judge(plan, [], now=START)
    assert (none.verdict, none.reasons) == ("insufficient", ("the first look is still to come",)), "it is not due yet"


def test_what_has_no_data_is_insufficient_however_well_the_rest_goes() -> None:
    platform = Platform(share=0.5)
    platform.levels["portfolio-risk"] = ()
    found = judge(new_plan(), platform.looks(400))
    assert found.verdict == "insufficient"
    assert found.reasons == ("no data for portfolio-risk",)


def test_a_new_stage_must_earn_its_own_pass() -> None:
    platform, plan = Platform(share=0.5), new_plan()
    state = begin(plan)
    for _ in range(400):
        state = advance(plan, state, platform.look())
    assert verdict(plan, state).verdict == "pass"
    platform.stage = "50"
    state = advance(plan, state, platform.look())
    assert verdict(plan, state).verdict == "insufficient"


def test_a_fail_stays_whatever_comes_after_it() -> None:
    platform, plan = Platform(ratios=worse(0.1)), new_plan()
    state = begin(plan)
    while verdict(plan, state).verdict != "fail":
        state = advance(plan, state, platform.look())
    platform.ratios = {}
    for _ in range(200):
        state = advance(plan, state, platform.look())
    assert verdict(plan, state).verdict == "fail"


def test_a_repeated_tick_changes_nothing() -> None:
    platform, plan = Platform(), new_plan()
    looks = platform.looks(20)
    assert judge(plan, [one for look in looks for one in (look, look)]) == judge(plan, looks)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 59), max_size=25), st.sampled_from(["a", "b"]))
def test_missed_looks_and_restarts_never_make_a_candidate_fail_that_is_as_good(
    seed: int, missed: list[int], pod: str
) -> None:
    """α is the reason that this may not hold for one seed in a hundred; it holds for all that were tried."""
    platform, plan = Platform(seed=seed, share=0.2, rate=20.0), new_plan()
    looks: list[Sample] = []
    for number in range(60):
        if number in missed[:5]:
            for (_, _, colour, name), sums in platform.counts.items():
                if colour == "green" and name.endswith(pod):
                    sums[:] = [0.0, 0.0]
        sample = platform.look()
        if number not in missed:
            looks.append(sample)
    found = judge(replace(plan, alpha=1e-4), looks)
    assert found.verdict in ("insufficient", "pass")
    assert found.e_value >= 0


def both_worse(platform: Platform) -> None:
    platform.ratio = 0.1


def more_traffic(platform: Platform) -> None:
    platform.rate, platform.share = 400.0, 0.5


@pytest.mark.parametrize("change", [both_worse, more_traffic])
def test_what_happens_to_both_colours_is_no_evidence(change: Callable[[Platform], None]) -> None:
    platform, plan = Platform(share=0.2), learned_plan(Platform(share=0.2))
    looks = platform.looks(60)
    change(platform)
    assert judge(plan, [*looks, *platform.looks(60)]).verdict != "fail"


def test_without_any_component_in_both_colours_nothing_is_passed() -> None:
    found = judge(Plan(RULES, (), "green", "blue", 0.01), Platform().looks(3))
    assert found.verdict == "insufficient"


@pytest.mark.parametrize(("ratio", "why"), [(0.0, "no error at all has no ratio"), (0.1, "both are above every floor")])
def test_a_service_passes_by_its_ratio_or_by_the_floor(ratio: float, why: str) -> None:
    platform = Platform(ratio=ratio, share=0.5)
    assert judge(new_plan(), platform.looks(200)).verdict == "pass", why
