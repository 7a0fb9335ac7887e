"""The judge of a rollout beside a real Prometheus: what it sees does not depend on who looks, when, or how often."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from synthetic import Scene, Story, remembered

from nexus_ops.analysis.__main__ import main
from nexus_ops.analysis.replay import from_bytes, rejudge
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.cases import case_of, rules_path
from nexus_ops.rollouts.evaluation import read_evaluation
from nexus_ops.rollouts.evidence import judge_again, keep_evidence
from nexus_ops.rollouts.forecasts import check_metrics, forecast_lines
from nexus_ops.rollouts.judging import all_looks, judged
from nexus_ops.rollouts.record import Copy
from nexus_ops.rollouts.strategy import Settings, stages_of
from nexus_ops.rollouts.verdicts import check_health, compare
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder

GOOD = Story(day=1)
BAD = Story(day=2, ratios=lambda colour, time: 0.05 if colour == "green" else 0.005)
SLOW = Story(day=3, slow=lambda colour, time: 0.2 if colour == "green" else 0.01)
LOSING = Story(day=4, pnl=lambda time: -25_000.0 if time > 100 else 1200.0)
ALONE = Story(
    day=5,
    share=lambda time: 1.0 if time >= 0 else 0.0,
    ratios=lambda colour, time: 0.03 if colour == "green" and time > 200 else 0.005,
)
RESTARTS = Story(day=6, restart_at=150.0, share=lambda time: 0.25 if time >= 0 else 0.0)
IDLE = Story(day=7, rate=0.02)


@pytest.fixture(autouse=True)
def _rules_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_ANALYSIS")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Story], Scene]]:
    folder = tmp_path_factory.mktemp("past")
    store = ObjectStore.open("memory:///")
    releases = ReleaseStore(store)
    chart = read_chart(project_folder() / "helm" / "nexus-ai-defi")
    values = project_folder() / "helm" / "values-staging.yaml"
    catalogue = FileCatalogue(project_folder() / "images.yaml")
    release = build_release(Topology.load(default_path()), "staging", "v1.1.0", catalogue, chart, values)
    releases.save(release, chart)
    with remembered(folder, [GOOD, BAD, SLOW, LOSING, ALONE, RESTARTS, IDLE]) as url:
        yield lambda story: Scene(url, story, ObjectStore.open("memory:///"), releases, release.digest)


def test_a_candidate_as_good_as_the_stable_colour_passes_its_stage(scenes: Callable[[Story], Scene]) -> None:
    scene = scenes(GOOD)
    early = check_health(scene.context(8), scene.record(5))
    assert (early.verdict, early.blames) == ("insufficient", None)
    assert "request-errors of agent-orchestrator" in early.reason
    late = check_health(scene.context(280), scene.record(5))
    assert late.verdict == "pass", late.reason
    assert late.requests == pytest.approx(5 * 280, rel=0.15), "what the candidate served in this stage"
    anew = check_health(scene.context(309), scene.record(5, 10))
    assert (anew.verdict, anew.requests) == ("insufficient", pytest.approx(40, abs=30)), "each stage is asked again"


def test_errors_and_slowness_are_found_and_blamed_on_the_release(scenes: Callable[[Story], Scene]) -> None:
    for story, metric in ((BAD, "request-errors"), (SLOW, "slow-requests")):
        found = check_health(scenes(story).context(200), scenes(story).record(5))
        assert (found.verdict, found.blames) == ("fail", "release")
        assert f"{metric} of agent-orchestrator" in found.reason


def test_a_loss_blames_the_platform_and_needs_no_traffic(scenes: Callable[[Story], Scene]) -> None:
    scene = scenes(LOSING)
    assert check_health(scene.context(90), scene.record(5)).verdict != "fail"
    found = check_health(scene.context(112), scene.record(5))
    assert (found.verdict, found.blames) == ("fail", "platform")
    assert found.reason.startswith("portfolio-pnl is -25000, below -10000 (compared with 1200)")


@pytest.mark.parametrize("story", [BAD, RESTARTS], ids=["bad", "restarts"])
def test_ticks_that_are_repeated_or_lost_change_nothing(scenes: Callable[[Story], Scene], story: Story) -> None:
    """Each tick, one of ten, each twice, one alone at the end, and with everything that was known lost."""
    record = scenes(story).record(5)
    often, seldom, twice, once, forgetful = (scenes(story) for _ in range(5))
    for at in range(4, 250, 6):
        judged(often.context(at), record, "stages")
        if at % 30 == 4:
            judged(twice.context(at), record, "stages")
            judged(twice.context(at), record, "stages")
        if at % 60 == 4:
            judged(seldom.context(at), record, "stages")
            forgetful.store = ObjectStore.open("memory:///")
            judged(forgetful.context(at), record, "stages")
    found = [judged(one.context(250), record, "stages") for one in (often, seldom, twice, once, forgetful)]
    assert {json.dumps(vars(one.judgement), default=dict) for one in found} == {
        json.dumps(vars(found[0].judgement), default=dict)
    }
    looks = [
        all_looks(one.context(250), record, had) for one, had in zip((often, seldom, once), found[:3], strict=False)
    ]
    assert looks[0] == looks[1] == looks[2]
    assert len(looks[0]) == 49


def test_a_store_that_is_away_costs_no_verdict(scenes: Callable[[Story], Scene], tmp_path: Path) -> None:
    scene = scenes(BAD)
    known = judged(scene.context(150), scene.record(5), "stages")
    broken = ObjectStore.open((tmp_path / "store").as_uri())
    (tmp_path / "store" / "analysis").write_text("a file in the way")
    with pytest.raises(Exception, match="could not"):
        broken.put("analysis/x", b"")
    again = compare(scene.context(150, broken), scene.record(5), "stages")
    assert again.verdict in ("fail", "error"), "never a pass"
    scene.store.put("analysis/staging-us-west-2/story-2/stages/state.json.gz", b"\x1f\x8bgarbage")
    assert judged(scene.context(150), scene.record(5), "stages").judgement == known.judgement
    assert any("made anew" in said for said in scene.said)


def test_what_a_rollout_stored_is_judged_again_by_the_command(
    scenes: Callable[[Story], Scene], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = scenes(BAD)
    health = check_health(scene.context(200), scene.record(5))
    kept = keep_evidence(scene.context(200), scene.record(5), "canary-5", health)
    stored = scene.store.get_content("evidence", kept.digest)
    assert (kept.stage, kept.verdict, judge_again(stored).verdict) == ("canary-5", "fail", "fail")
    assert rejudge(from_bytes(stored)).e_value == health.judged.judgement.e_value  # pyright: ignore[reportOptionalMemberAccess]
    path = tmp_path / "evidence.json"
    path.write_bytes(stored)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("fail: the candidate is worse, most of all in request-errors")
    assert main([str(path), "--alpha", "1e-90"]) == 0
    assert not capsys.readouterr().out.startswith("fail")


def test_the_watch_compares_with_the_old_colours_last_hours(scenes: Callable[[Story], Scene]) -> None:
    """A fault that begins 200 s after the promotion, with nothing of the old colour serving any more."""
    scene = scenes(ALONE)
    record = replace(scene.record(100), phase="done")
    assert compare(scene.context(190), record, "watch").verdict != "fail"
    found = compare(scene.context(300), record, "watch")
    assert (found.verdict, found.blames) == ("fail", "release")
    case = case_of(scene.context(300), record, "watch")
    assert case.shift == 900, "as far back as there is a past"
    assert case.plan.alpha == case.plan.rules.watch_alpha


def test_an_idle_environment_gives_no_verdict(scenes: Callable[[Story], Scene]) -> None:
    found = check_health(scenes(IDLE).context(500), scenes(IDLE).record(5))
    assert found.verdict == "insufficient"


def test_the_rules_of_a_rollout_stand_whatever_becomes_of_their_file(
    scenes: Callable[[Story], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scenes(GOOD)
    before = judged(scene.context(100), scene.record(5), "stages")
    changed = yaml.safe_load(rules_path().read_text()) | {"alpha": 0.2, "look_seconds": 30}
    path = tmp_path / "analysis.yaml"
    path.write_text(yaml.safe_dump(changed))
    monkeypatch.setenv("NEXUS_ANALYSIS", str(path))
    after = judged(scene.context(105), scene.record(5), "stages")
    assert after.case == before.case
    assert judged(scenes(GOOD).context(105), scene.record(5), "stages").case.step == 30, (
        "a later rollout has the new ones"
    )


def test_a_prometheus_that_does_not_answer_is_an_error(scenes: Callable[[Story], Scene]) -> None:
    scene = scenes(GOOD)
    scene.url = "http://127.0.0.1:1"
    found = check_health(scene.context(100), scene.record(5))
    assert found.verdict == "error"
    assert "could not measure" in found.reason


def test_a_plan_says_what_its_stages_will_see_and_warns_of_those_that_see_nothing(
    scenes: Callable[[Story], Scene],
) -> None:
    def lines(story: Story, bake: int) -> tuple[str, ...]:
        settings = Settings(strategy="canary", bake_seconds=bake)
        scene = scenes(story)
        works = scene.context(0).works(scene.release)
        stable = Copy("blue", "v1.0.0", scene.release)
        return forecast_lines(scene.context(0), works, stable, settings, stages_of(settings))

    first, *_, quiet = lines(GOOD, 300)
    assert first.startswith("canary-5: request-errors of agent-orchestrator at 5%: 2x in ")
    assert "Warning" not in first
    assert quiet.startswith("Too quiet to be compared, and not needed for a pass: portfolio-manager,")
    assert lines(GOOD, 5)[0].startswith("**Warning**, canary-5: ")
    assert "too early" in lines(GOOD, 5)[0]
    assert "5x in never" in lines(IDLE, 300)[0]


def test_metrics_that_cannot_be_asked_are_refused_with_query_and_answer(
    scenes: Callable[[Story], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = yaml.safe_load(rules_path().read_text())
    path = tmp_path / "analysis.yaml"
    monkeypatch.setenv("NEXUS_ANALYSIS", str(path))

    def problem(metric: str, serves: bool = True, **changes: str) -> str:
        metrics = {**rules["metrics"], metric: {**rules["metrics"][metric], **changes}}
        path.write_text(yaml.safe_dump({**rules, "metrics": metrics}))
        return check_metrics(scenes(GOOD).context(100), serves=serves).problem

    found = problem("node-cpu", query="max(((")
    assert "node-cpu: its query 'query' failed" in found
    assert "parse error" in found
    assert "[max(((]" in found
    found = problem("request-errors", total="sum by (component, colour, pod, code) (http_requests_total)")
    assert "several series for component agent-orchestrator, colour blue" in found
    found = problem("portfolio-pnl", query="min(no_such_metric)")
    assert found == "analysis.yaml: portfolio-pnl: nothing was returned [min(no_such_metric)]"
    assert problem("portfolio-pnl", serves=False, query="min(no_such_metric)") == ""
    assert problem("portfolio-pnl") == ""
    lost = f"min(portfolio_pnl_daily) and on() vector(time()) < {GOOD.start + 90}"
    assert problem("portfolio-pnl", query=lost) == "", "a scrape that was lost just now"
    gone = f"min(portfolio_pnl_daily) and on() vector(time()) < {GOOD.start + 30}"
    assert "portfolio-pnl: nothing was returned" in problem("portfolio-pnl", query=gone), "for more than a minute"


def test_the_pictures_of_a_rollout_are_drawings_of_its_evidence(scenes: Callable[[Story], Scene]) -> None:
    scene = scenes(BAD)
    record = scene.record(5)
    kept = keep_evidence(scene.context(200), record, "canary-5", check_health(scene.context(200), record))
    found = read_evaluation(scene.store.get_content("evidence", kept.digest), kept.digest, record)
    assert (found.verdict, found.stage, found.version) == ("fail", "canary-5", "v1.1.0")
    assert found.numbers["error_ratio_of_candidate"] == pytest.approx(0.05, rel=0.5)
    assert found.numbers["error_ratio_of_stable"] == pytest.approx(0.005, rel=0.7)
    assert found.numbers["share_observed"] == pytest.approx(0.05, rel=0.3)
    assert found.numbers["evidence"] >= found.numbers["needed"] == 100
    names = {title: set(ElementTree.fromstring(svg).itertext()) for title, svg in found.charts.items()}
    assert "1/α = 100" in names["Evidence that the candidate is worse"]
    assert {"stable (blue)", "candidate (green)"} <= names["request-errors of agent-orchestrator"]
    assert {"requested", "observed"} <= names["The candidate's share of the requests of the last minute"]
    assert len(found.charts) == 4, "no limit was broken by which the verdict came about"
    assert found.charts_markdown().count("](data:image/svg+xml;base64,") == 4
    assert len(found.charts_markdown()) < 100_000, "it lies in an event log"
