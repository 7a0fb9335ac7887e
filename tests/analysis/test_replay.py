"""Stored evidence gives the same verdict again, and another α can be tried on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Platform, new_plan, worse

from nexus_ops.analysis.__main__ import main
from nexus_ops.analysis.judge import advance, begin, judge, learned, verdict
from nexus_ops.analysis.power import forecast, information, wald_seconds
from nexus_ops.analysis.replay import Subject, curve, read, rejudge, to_json
from nexus_ops.analysis.samples import EvidenceError, Level, Sample
from nexus_ops.analysis.state import from_json
from nexus_ops.analysis.state import to_json as state_to_json
from nexus_ops.analysis.watch import beside_history

SUBJECT = Subject("production-us-west-2", "r-1", "v1.2.0", "alice")


def stored(ratio: float, looks: int = 40, seed: int = 1) -> dict[str, Any]:
    """Evidence as it comes back from the object store."""
    platform, plan = Platform(seed=seed, ratios=worse(ratio)), new_plan()
    plan = replace(plan, history=learned(plan, Platform(seed=seed).looks(60)))
    return json.loads(json.dumps(to_json(SUBJECT, plan, platform.looks(looks), now=platform.time + 1)))


@settings(max_examples=8, deadline=None)
@given(st.floats(0.0, 0.1), st.integers(0, 1000))
def test_stored_evidence_gives_the_same_verdict_and_the_same_numbers(ratio: float, seed: int) -> None:
    document = stored(ratio, looks=25, seed=seed)
    again = rejudge(document)
    kept = document["judgement"]
    assert (again.verdict, list(again.reasons), again.e_value) == (kept["verdict"], kept["reasons"], kept["e_value"])
    assert dict(again.e_values) == kept["e_values"]
    plan, samples = read(document)
    assert to_json(SUBJECT, plan, samples, now=document["now"]) == document


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 40), st.floats(0.0, 0.1))
def test_a_judge_that_was_killed_goes_on_as_though_it_had_not_been(looks: int, ratio: float) -> None:
    """At any look: from the stored state, or from the stored samples, the next verdict is the same."""
    platform, plan = Platform(ratios=worse(ratio)), new_plan()
    platform.levels["node-cpu"] = (Level("", "", "", 90.0),)
    before, after = platform.looks(looks), platform.looks(10)
    state = begin(plan)
    for sample in before:
        state = advance(plan, state, sample)
    state = from_json(json.loads(json.dumps(state_to_json(state))))
    for sample in after:
        state = advance(plan, state, sample)
    assert verdict(plan, state) == judge(plan, [*before, *after])


@pytest.mark.parametrize("document", [{}, {"streams": 3}, {"streams": [{}]}])
def test_a_state_that_cannot_be_read_says_so(document: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError):
        from_json(document)


def test_a_weight_that_was_asked_for_but_never_came_is_no_evidence() -> None:
    """What the colours served was counted; what was requested is kept for the record alone."""
    looks = Platform(share=0.05).looks(60)
    promised = [replace(look, requested_weight=50, observed_weight=50.0) for look in looks]
    assert judge(new_plan(), promised) == judge(new_plan(), looks)


def test_another_alpha_may_be_tried_on_history() -> None:
    document = stored(0.06, looks=60)
    assert rejudge(document).verdict == "fail"
    peak = rejudge(document).peak
    assert rejudge(document, 0.5 / peak).verdict == "insufficient"
    assert rejudge(document, 1.01 / peak).verdict == "fail"


def test_the_curve_shows_when_the_verdict_was_due() -> None:
    found = curve(stored(0.1, looks=60))
    verdicts = [kind for _, _, kind in found]
    assert len(found) == 60
    first = verdicts.index("fail")
    assert found[first][1] >= 100 > found[first - 1][1]


def test_evidence_keeps_queries_subject_and_samples() -> None:
    document = stored(0.005, looks=3)
    assert document["subject"]["actor"] == "alice"
    assert "http_requests_total" in document["plan"]["rules"]["metrics"]["request-errors"]["events"]
    assert len(document["samples"]) == 3


@pytest.mark.parametrize("change", [{"version": 2}, {"plan": {}}, {"samples": [{"time": 1}]}, {"samples": 3}])
def test_evidence_that_cannot_be_read_says_so(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError):
        rejudge({**stored(0.005, looks=1), **change})


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(EvidenceError, match="α"):
        rejudge(stored(0.005, looks=1), alpha)


def test_the_command_rejudges_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(stored(0.1)))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("fail: the candidate is worse")
    assert main([str(path), "--alpha", "1e-200"]) == 0
    assert capsys.readouterr().out.startswith("insufficient")
    path.write_text("{")
    assert main([str(path)]) == 2


@given(st.floats(0.01, 0.9), st.floats(1.1, 20.0))
def test_information_is_the_divergence_of_two_coins(share: float, theta: float) -> None:
    assert information(theta, share) > 0
    assert information(theta, share) < information(theta * 1.1, share)


def test_walds_limit_is_that_of_the_notes() -> None:
    """5 times 0.5 % errors at 100 requests a second and 5 %: 50 seconds."""
    assert wald_seconds(0.01, 5.0, 0.05, 0.5) == pytest.approx(50, abs=1)


def test_the_forecast_warns_of_a_stage_that_is_too_short_to_see_anything() -> None:
    stages = [(0.05, 300.0), (0.5, 300.0)]
    busy = forecast(
        metric="request-errors", component="risk-manager", weight=1 / 21, alpha=0.01,
        events_per_second=0.5, cluster_size=1.0, stages=stages,
    )  # fmt: skip
    assert [one.blind for one in busy] == [False, False]
    assert busy[1].needed[5.0] < busy[0].needed[5.0] < busy[0].needed[2.0]
    quiet = forecast(
        metric="request-errors", component="risk-manager", weight=1 / 21, alpha=0.01,
        events_per_second=0.001, cluster_size=None, stages=stages,
    )  # fmt: skip
    assert quiet[0].blind
    assert "too early" in str(quiet[0])
    none = forecast(
        metric="m", component="c", weight=1.0, alpha=0.01, events_per_second=0.0, cluster_size=None, stages=stages
    )
    assert "never" in str(none[0])


def watched(ratio: float) -> tuple[list[Sample], list[Sample]]:
    """The new colour's looks when it alone serves, and the old one's when it did."""
    past = Platform(share=0.0, seed=2).looks(200)
    return Platform(share=1.0, seed=3, ratio=ratio).looks(150), past


def test_the_watch_compares_the_new_colour_with_the_old_ones_last_hours() -> None:
    plan = new_plan()
    good, past = watched(0.005)
    assert judge(plan, good).verdict == "insufficient", "alone it cannot be compared"
    assert judge(plan, beside_history(good, past, stable="blue")).verdict == "pass"
    bad, _ = watched(0.02)
    assert judge(plan, beside_history(bad, past, stable="blue")).verdict == "fail"


def test_after_the_end_of_the_past_there_is_no_more_evidence() -> None:
    plan = new_plan()
    looks, past = watched(0.005)
    short = judge(plan, beside_history(looks, past[:50], stable="blue"))
    assert short.e_values == judge(plan, beside_history(looks[:50], past[:50], stable="blue")).e_values
