"""The engine's errors name the template and its line, and it keeps to itself what only it knows."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from platform_chart import CHART, NAMESPACE, objects_of, values_of

from nexus_ops.errors import PermanentError
from nexus_ops.releases.helm import RenderError, render_chart

TEMPLATE = "templates/component.yaml"


def broken(edit: Callable[[str], str], name: str = TEMPLATE) -> dict[str, bytes]:
    """The chart with one of its files edited."""
    before = CHART[name].decode()
    after = edit(before)
    assert after != before
    return {**CHART, name: after.encode()}


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(RenderError) as refused:
        render_chart(files, values_of("green"), namespace=NAMESPACE)
    return str(refused.value)


def test_an_expression_that_fails_names_file_and_line() -> None:
    said = refusal(broken(lambda text: text.replace("$component.ports.http", "$component.ports.http.x", 1)))
    line = 1 + CHART[TEMPLATE].decode().split("$component.ports.http")[0].count("\n")
    assert f"{TEMPLATE}:{line}" in said
    assert "<$component.ports.http.x>" in said


def test_a_template_that_does_not_parse_names_file_and_line() -> None:
    lines = CHART[TEMPLATE].decode().count("\n") + 1
    assert f"{TEMPLATE}:{lines}" in refusal(broken(lambda text: text + "{{ if }}"))


def test_what_is_no_yaml_names_the_file() -> None:
    assert TEMPLATE in refusal(broken(lambda text: text.replace("kind: ConfigMap", "kind: [ConfigMap", 1)))


def test_a_key_rendered_twice_is_an_error() -> None:
    """Helm keeps the last one without a word: the first, perhaps the one that was meant, would be lost."""
    said = refusal(broken(lambda text: text.replace("  type: ClusterIP", "  type: ClusterIP\n  type: NodePort", 1)))
    assert "the key 'type' twice" in said


def test_a_chart_without_its_chart_yaml_is_refused() -> None:
    assert "Chart.yaml" in refusal({name: data for name, data in CHART.items() if name != "Chart.yaml"})


def test_errors_are_permanent_and_show_no_folder_of_this_machine() -> None:
    said = refusal(broken(lambda text: text + "{{ if }}"))
    assert issubclass(RenderError, PermanentError)
    assert said.startswith("helm/nexus-ai-defi: ")
    assert "/tmp" not in said
    assert "nexus-chart-" not in said


def test_threads_may_render_at_the_same_time() -> None:
    parts = ("shared", "blue", "green") * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: tuple(render_chart(CHART, values_of(part), namespace=NAMESPACE)), parts))
    assert found == [objects_of(part) for part in parts]


def _render_in_child(answer: "multiprocessing.Queue[int]") -> None:
    answer.put(len(render_chart(CHART, values_of("blue"), namespace=NAMESPACE)))


def test_a_spawned_process_renders_too() -> None:
    """Dagster's processes are spawned; a forked one would hang in the engine."""
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=_render_in_child, args=(answer,))
    child.start()
    try:
        assert answer.get(timeout=60) == len(objects_of("blue"))
    finally:
        child.join(10)
        child.kill()
