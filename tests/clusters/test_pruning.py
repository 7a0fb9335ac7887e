"""What left a set is pruned exactly, and what holds data never."""

from __future__ import annotations

import contextlib

import pytest
from cluster_objects import CLAIM, POSTGRES, REDIS, SECRET, apply, config, data_layer, deployment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_ops.clusters.applyset import ApplySet, inventory
from nexus_ops.clusters.client import CONFIG_MAP, NAMESPACE, Kind
from nexus_ops.clusters.fence import Fenced


def test_what_left_the_set_is_pruned_and_nothing_else(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    green = ApplySet("applyset-green", namespace)
    apply(fenced, blue, config(namespace, "stays"), config(namespace, "goes"), deployment(namespace))
    apply(fenced, green, config(namespace, "of-green"))
    fenced.client.create(config(namespace, "of-nobody"), manager="kubectl")
    result = apply(fenced, blue, config(namespace, "stays"))
    assert sorted(result.pruned) == ["ConfigMap/goes", "Deployment/d"]
    left = {obj["metadata"]["name"] for obj in fenced.client.list(CONFIG_MAP, namespace)}
    assert {"stays", "of-green", "of-nobody"} <= left
    assert "goes" not in left
    assert [name for *_, name in inventory(fenced.client, blue)] == ["stays"]


def test_what_holds_data_is_never_pruned(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """A mistake in a chart must not be able to delete a database."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "p", "namespace": namespace}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    apply(fenced, blue, config(namespace), config(namespace, "s", "Secret"), {**claim, "spec": spec}, space)
    result = apply(fenced, blue)
    assert result.pruned == ["ConfigMap/c"]
    assert sorted(result.kept_back) == [f"Namespace/{namespace}", "PersistentVolumeClaim/p", "Secret/s"]
    for kind, name, where in ((SECRET, "s", namespace), (CLAIM, "p", namespace), (NAMESPACE, namespace, None)):
        live = fenced.client.get(kind, name, where)
        assert live is not None
        assert "deletionTimestamp" not in live["metadata"]


@pytest.mark.parametrize("kind", [POSTGRES, REDIS])
def test_no_database_of_an_operator_is_ever_pruned(fenced: Fenced, blue: ApplySet, namespace: str, kind: Kind) -> None:
    if not fenced.client.serves(kind):
        pytest.skip(f"the cluster does not serve {kind.kind}")
    rendering = [obj for obj in data_layer() if Kind.of(obj) == kind]
    (database,) = [{**obj, "metadata": {"name": "db", "namespace": namespace}} for obj in rendering]
    apply(fenced, blue, database)
    assert apply(fenced, blue).kept_back == [f"{kind.kind}/db"]
    assert fenced.client.get(kind, "db", namespace)
    fenced.client.delete(kind, "db", namespace)


STEPS = st.lists(st.tuples(st.sets(st.sampled_from("abcde"), max_size=4), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, last=st.sets(st.sampled_from("abcde"), max_size=4))
def test_whatever_was_applied_and_cut_short_before_in_the_end_there_is_the_last_set(
    fenced: Fenced, namespace: str, steps: list[tuple[set[str], bool]], last: set[str]
) -> None:
    """`cut`: the driver is killed when the objects are there and nothing has been pruned yet, or before both."""
    whole = ApplySet("applyset-property", namespace)

    def die(_: str) -> None:
        raise KeyboardInterrupt

    for names, cut in steps:
        with contextlib.suppress(KeyboardInterrupt):
            apply(fenced, whole, *(config(namespace, name) for name in names), **({"report": die} if cut else {}))
    apply(fenced, whole, *(config(namespace, name) for name in last))
    ours = {"applyset.kubernetes.io/part-of": whole.id}
    assert {obj["metadata"]["name"] for obj in fenced.client.list(CONFIG_MAP, namespace, ours)} == last
    assert {name for *_, name in inventory(fenced.client, whole)} == last


def test_an_object_that_changed_hands_is_not_pruned(fenced: Fenced, blue: ApplySet, namespace: str) -> None:
    """The list says what the set may own; the object's label says whose it is."""
    apply(fenced, blue, config(namespace))
    apply(fenced, ApplySet("applyset-green", namespace), config(namespace), adopt=True)
    assert apply(fenced, blue).pruned == []
    assert fenced.client.get(CONFIG_MAP, "c", namespace)


def test_a_driver_killed_before_it_pruned_leaves_nothing_unknown(
    fenced: Fenced, blue: ApplySet, namespace: str
) -> None:
    """The list is the union of old and new until the pruning is done."""
    apply(fenced, blue, config(namespace, "old"))

    def die(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(fenced, blue, config(namespace, "new"), report=die)
    assert {name for *_, name in inventory(fenced.client, blue)} == {"old", "new"}
    assert apply(fenced, blue, config(namespace, "new")).pruned == ["ConfigMap/old"]


@given(names=st.tuples(st.text(min_size=1), st.text(min_size=1)), spaces=st.tuples(st.text(), st.text()))
def test_the_id_of_a_set_is_a_label_value_of_its_own(names: tuple[str, str], spaces: tuple[str, str]) -> None:
    one, two = (ApplySet(name, space).id for name, space in zip(names, spaces, strict=True))
    assert len(one) <= 63
    assert one.startswith("applyset-")
    assert one.endswith("-v1")
    if f"{names[0]}.{spaces[0]}" != f"{names[1]}.{spaces[1]}":
        assert one != two
