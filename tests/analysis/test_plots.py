"""What the pictures of evidence show: limits that were broken, few looks, time as people read it."""

from collections.abc import Iterable
from xml.etree import ElementTree

from simulated import Platform, new_plan

from nexus_ops.analysis.plots import pictures
from nexus_ops.analysis.replay import Subject, to_json
from nexus_ops.analysis.samples import Level, Sample
from nexus_ops.charts import Line, chart

SUBJECT = Subject("production-us-west-2", "r-1", "v1.5.0", "alice")


def drawn(samples: Iterable[Sample]) -> dict[str, ElementTree.Element]:
    return {
        title: ElementTree.fromstring(svg) for title, svg in pictures(to_json(SUBJECT, new_plan(), samples)).items()
    }


def texts(svg: ElementTree.Element) -> set[str]:
    return set(svg.itertext())


def test_a_limit_that_was_broken_is_drawn_first_with_what_broke_it() -> None:
    platform = Platform()
    before = platform.looks(3)
    platform.levels["portfolio-pnl"] = (Level("", "", "", -15000.0),)
    found = drawn([*before, platform.look()])
    assert next(iter(found)) == "portfolio-pnl, and its limit"
    chart_of_it = found["portfolio-pnl, and its limit"]
    assert {"portfolio-pnl", "limit -10,000", "-15,000", "1,200"} <= texts(chart_of_it)
    assert not any(title.startswith("portfolio-risk") for title in found), "its limit was kept"


def test_a_limit_of_a_colour_is_drawn_beside_the_stable_one() -> None:
    platform = Platform()
    pods = [Level("risk-manager", colour, "", value) for colour, value in (("green", 0.0), ("blue", 2.0))]
    platform.levels["no-pod-answers"] = tuple(pods)
    found = drawn(platform.looks(3))
    assert {"candidate (green)", "stable (blue)"} <= texts(found["no-pod-answers of risk-manager, and its limit"])


def test_the_stable_colours_breach_of_a_limit_is_no_picture_of_the_candidate() -> None:
    platform = Platform()
    pods = [Level("risk-manager", colour, "", value) for colour, value in (("green", 2.0), ("blue", 0.0))]
    platform.levels["no-pod-answers"] = tuple(pods)
    assert not any(title.endswith("and its limit") for title in drawn(platform.looks(3)))


def circles(svg: str) -> int:
    return svg.count("<circle")


def test_few_looks_are_marked_for_a_line_of_one_point_cannot_be_seen() -> None:
    one = chart([Line("observed", "#000000", [(0.0, 1.0)])], str)
    many = chart([Line("observed", "#000000", [(float(x), 1.0) for x in range(100)])], str)
    assert (circles(one), circles(many)) == (1, 0)


def test_short_times_are_seconds_and_long_ones_minutes() -> None:
    short = ElementTree.fromstring(chart([Line("x", "#000000", [(0.0, 1.0), (8.0, 1.0)])], str))
    long = ElementTree.fromstring(chart([Line("x", "#000000", [(0.0, 1.0), (1200.0, 1.0)])], str))
    assert {"0 s", "2 s", "4 s", "6 s", "8 s"} <= texts(short)
    assert {"0 min", "5 min", "20 min"} <= texts(long)
