"""Differences that a person can check: by field path, without noise of order, defaults or spelling."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.releases.diff import ABSENT, Change, FieldChange, diff, markdown
from nexus_ops.releases.quantities import NoQuantity, amount

Object = dict[str, Any]


def deployment() -> Object:
    agent = {
        "name": "agent",
        "image": "agent@sha256:1",
        "command": ["agent", "--fast"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "resources": {"requests": {"cpu": "1000m", "memory": "1Gi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/var/tmp"}],
    }
    helper = {"name": "helper", "image": "helper@sha256:1"}
    pod = {"initContainers": [{"name": "one"}, {"name": "two"}], "containers": [agent, helper]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "agent", "namespace": "n", "annotations": {"nexus.ai/replicas": "3"}},
        "spec": {"replicas": 3, "template": {"spec": pod}},
    }


def pod_of(obj: Object) -> Object:
    return obj["spec"]["template"]["spec"]


def fields(old: Object, new: Object) -> tuple[FieldChange, ...]:
    (change,) = diff([old], [new])
    return change.fields


def test_a_field_is_named_by_its_path_with_the_names_of_list_items() -> None:
    new = deployment()
    pod_of(new)["containers"][0]["image"] = "agent@sha256:2"
    new["metadata"]["annotations"]["nexus.ai/replicas"] = "4"
    path = "spec.template.spec.containers[agent].image"
    assert fields(deployment(), new) == (
        FieldChange('metadata.annotations["nexus.ai/replicas"]', "3", "4"),
        FieldChange(path, "agent@sha256:1", "agent@sha256:2"),
    )


def test_the_order_of_named_items_is_no_change() -> None:
    new = deployment()
    pod_of(new)["containers"].reverse()
    pod_of(new)["containers"][1]["env"].reverse()
    pod_of(new)["containers"][1]["volumeMounts"].reverse()
    assert diff([deployment()], [new]) == ()


@pytest.mark.parametrize("where", ["initContainers", "command"])
def test_an_order_that_means_something_is_a_change(where: str) -> None:
    new = deployment()
    (pod_of(new) if where == "initContainers" else pod_of(new)["containers"][0])[where].reverse()
    assert fields(deployment(), new)


def test_an_item_added_in_the_middle_is_one_change() -> None:
    """Compared by place, every variable behind it would seem to change."""
    new = deployment()
    pod_of(new)["containers"][0]["env"].insert(0, {"name": "0", "value": "x"})
    path = "spec.template.spec.containers[agent].env[0]"
    assert fields(deployment(), new) == (FieldChange(path, ABSENT, {"name": "0", "value": "x"}),)


def test_a_number_that_becomes_a_text_is_a_change() -> None:
    """`true`, `1` and `"1"` are three things to a server."""
    for value in ("3", 3.5, True):
        new = deployment()
        new["spec"]["replicas"] = value
        assert fields(deployment(), new) == (FieldChange("spec.replicas", 3, value),)
    old, new = deployment(), deployment()
    old["spec"]["replicas"], new["spec"]["replicas"] = 1, True
    assert fields(old, new) == (FieldChange("spec.replicas", 1, True),)


def test_null_and_absent_are_two_things() -> None:
    old, new = deployment(), deployment()
    old["spec"]["paused"] = None
    assert fields(old, new) == (FieldChange("spec.paused", None, ABSENT),)


def test_a_text_of_several_lines_shows_only_the_lines_that_change() -> None:
    old: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"f": "a\nb\nc\nd\n"}}
    new = {**old, "data": {"f": "a\nb\nc\nD\n"}}
    page = markdown(diff([old], [new]))
    assert "\n  data.f:\n" in page
    assert "\n-d\n+D\n" in page
    assert "\n-a" not in page


def test_a_page_of_many_changes_says_what_it_leaves_out() -> None:
    old: list[Object] = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}"}} for n in range(5)]
    page = markdown(diff(old, [{**obj, "data": {"a": "b"}} for obj in old]), most=2)
    assert page.count("```diff") == 2
    assert page.count("| changed |") == 5
    assert page.endswith("… and 3 more objects that change.")


def test_an_object_that_was_not_there_is_added() -> None:
    assert [change.what for change in diff([], [deployment()])] == ["added"]


def test_whose_field_it_is_and_what_stays_is_shown() -> None:
    mine = FieldChange("data.a", "1", "2", by="set by kubectl-edit at noon")
    theirs = FieldChange("data.b", "x", "x", by="added by kubectl-edit")
    page = markdown((Change("ConfigMap", "n", "c", "changed", (mine, theirs), note="2 in conflict"),))
    assert "\n# set by kubectl-edit at noon:\n- data.a: '1'\n+ data.a: '2'\n" in page
    assert "\n# added by kubectl-edit:\n  data.b: x\n" in page
    assert "\nConfigMap c: 2 in conflict\n" in page


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "500m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "x", "y"]), inner, max_size=3),
    max_leaves=12,
)


@given(old=VALUES, new=VALUES)
def test_two_values_have_no_difference_only_when_they_are_equal_but_for_the_order_of_names(old: Any, new: Any) -> None:
    """Nothing that changes may be invisible to who approves it."""

    def unordered(value: Any) -> Any:
        if isinstance(value, list):
            items = [unordered(item) for item in value]
            return sorted(items, key=repr) if items and all(isinstance(i, dict) for i in value) else items
        return {key: unordered(value[key]) for key in sorted(value)} if isinstance(value, dict) else value

    first, second = ({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": v} for v in (old, new))
    if not diff([first], [second]):
        assert repr(unordered(old)) == repr(unordered(new))
    assert diff([first], [copy.deepcopy(first)]) == ()


# ---------------------------------------------------------------- quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"),
        ("1000m", "1"),
        ("0.5", "0.5"),
        ("1Gi", "1073741824"),
        ("1G", "1e9"),
        ("1e3", "1000"),
        ("100k", "1e5"),
    ],
)
def test_a_quantity_is_an_amount(text: str, value: str) -> None:
    assert amount(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "1GB", "Gi", "1 Gi", "one", "1e", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(NoQuantity, match="is no quantity"):
        amount(text)
