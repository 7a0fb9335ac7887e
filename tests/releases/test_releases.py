"""Releases: immutable, found by digest, rendered the same way for ever."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.errors import PermanentError, UnknownName
from nexus_ops.releases.build import build_release, pack_chart, read_chart, unpack_chart
from nexus_ops.releases.catalogue import CatalogueError, Database, FileCatalogue, newest
from nexus_ops.releases.diff import diff, markdown
from nexus_ops.releases.model import Release
from nexus_ops.releases.rendering import Rendering, render
from nexus_ops.releases.store import Build, ReleaseStore
from nexus_ops.releases.waves import WAVES, identity, in_waves, wave_of
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path

Object = dict[str, Any]
PROJECT = default_path().parent
TOPOLOGY = Topology.load(default_path())
CLUSTER = TOPOLOGY.primary("staging")
CHART = read_chart(PROJECT / "helm/nexus-ai-defi")
VALUES = PROJECT / "helm/values-staging.yaml"
CATALOGUE = FileCatalogue(PROJECT / "images.yaml")


def build(version: str = "v1.0.0", chart: dict[str, bytes] = CHART, values: Path = VALUES) -> Release:
    return build_release(TOPOLOGY, "staging", version, CATALOGUE, chart, values)


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(ObjectStore.open(f"file://{tmp_path}/store"))


@pytest.fixture
def other_chart() -> dict[str, bytes]:
    """The project's chart, to which somebody has added an object."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "added-later"}, "data": {"a": "b"}}
    return {**CHART, "templates/added-later.yaml": yaml.safe_dump(config).encode()}


# ---------------------------------------------------------------- a release and its digest


def test_the_same_inputs_give_the_same_release() -> None:
    assert build().digest == build().digest


def test_every_input_is_part_of_the_digest(other_chart: dict[str, bytes], tmp_path: Path) -> None:
    """What is approved by a digest cannot differ in anything that is applied."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({**yaml.safe_load(VALUES.read_text()), "preStopSeconds": 99}))
    release = build()
    others = [
        build("v1.1.0"),
        build(chart=other_chart),
        build(values=values),
        dataclasses.replace(release, host="other.example"),
        dataclasses.replace(release, database=Database(2, (1, 2))),
    ]
    assert len({release.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_a_release_round_trips() -> None:
    release = build()
    again = Release.from_bytes(release.to_bytes())
    assert again == release
    assert again.digest == release.digest


def test_a_release_of_a_later_format_is_refused() -> None:
    document = json.loads(build().to_bytes())
    with pytest.raises(PermanentError, match="format"):
        Release.from_bytes(json.dumps({**document, "format": 2}).encode())


def test_the_chart_round_trips() -> None:
    assert unpack_chart(pack_chart(CHART)) == CHART


def test_a_folder_without_a_chart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"Chart\.yaml is missing"):
        read_chart(tmp_path)


def test_what_an_editor_leaves_behind_is_no_part_of_the_chart(tmp_path: Path) -> None:
    """Helm renders every file in templates/: a backup copy there would be applied."""
    for name, data in CHART.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for name in ("templates/component.yaml~", "templates/.component.yaml.swp", "values.yaml.orig", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\xff")
    assert read_chart(tmp_path) == CHART


def test_a_chart_with_a_file_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(PermanentError, match=r"charts/sub\.tgz: the chart holds a file that is no text"):
        pack_chart({**CHART, "charts/sub.tgz": b"\x1f\x8b\xff"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def any_release(draw: st.DrawFn) -> Release:
    texts = st.text(max_size=10)
    return Release(
        environment=draw(texts), version=draw(texts), chart=draw(texts), host=draw(texts), router=draw(texts),
        values=draw(st.dictionaries(texts, JSON, max_size=4)),
        components=draw(st.dictionaries(texts, JSON, max_size=3)),
        node_groups=draw(st.dictionaries(texts, st.dictionaries(texts, texts, max_size=2), max_size=2)),
        images=draw(st.dictionaries(texts, texts, max_size=3)),
        database=Database(draw(st.integers(0, 9)), tuple(draw(st.lists(st.integers(0, 9), max_size=3)))),
    )  # fmt: skip


def reordered(value: Any) -> Any:
    """The same JSON with its keys the other way round."""
    if isinstance(value, list):
        return [reordered(item) for item in value]
    return {key: reordered(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


@given(release=any_release())
def test_any_release_round_trips_and_the_order_of_keys_is_no_part_of_it(release: Release) -> None:
    again = Release.from_bytes(release.to_bytes())
    assert (again, again.digest) == (release, release.digest)
    turned = Release.from_bytes(json.dumps(reordered(json.loads(release.to_bytes()))).encode())
    assert turned.digest == release.digest


@given(one=any_release(), other=any_release())
def test_two_releases_share_a_digest_only_when_they_are_the_same(one: Release, other: Release) -> None:
    assert (one.digest == other.digest) == (one.to_bytes() == other.to_bytes())


def test_an_unknown_environment_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"no environment named 'moon'.*Known: production, staging\."):
        build_release(TOPOLOGY, "moon", "v1.0.0", CATALOGUE, CHART, VALUES)


# ---------------------------------------------------------------- the store


def test_an_unchanged_input_makes_nothing_new(store: ReleaseStore) -> None:
    assert store.save(build(), CHART)
    store.render(build(), CLUSTER, "blue")
    before = {key: store.store.get(key) for key in store.store.list("")}
    assert not store.save(build(), CHART)
    store.render(build(), CLUSTER, "blue")
    assert {key: store.store.get(key) for key in store.store.list("")} == before


def test_a_saved_release_is_found_by_digest_and_by_version(store: ReleaseStore) -> None:
    release = build()
    store.save(release, CHART)
    assert store.load(release.digest) == release
    assert store.resolve("staging", "v1.0.0") == release
    assert store.latest("staging") == release
    assert store.latest("production") is None


def test_a_version_that_was_never_built_lists_those_that_were(store: ReleaseStore) -> None:
    store.save(build(), CHART)
    store.save(build("v1.1.0"), CHART)
    with pytest.raises(UnknownName, match=r"v1.1'.*Known: v1\.0\.0, v1\.1\.0\."):
        store.resolve("staging", "v1.1")  # the beginning of a version is no version


def test_an_old_release_renders_from_its_own_chart(store: ReleaseStore, other_chart: dict[str, bytes]) -> None:
    """Going back must not bring the new chart along."""
    old, new = build(), build(chart=other_chart)
    store.save(old, CHART)
    before = store.render(old, CLUSTER, "blue")
    store.save(new, other_chart)
    assert store.render(store.load(old.digest), CLUSTER, "blue").to_bytes() == before.to_bytes()
    added = [change.name for change in diff(before.objects, store.render(new, CLUSTER, "blue").objects)]
    assert "added-later" in added


def test_the_release_built_last_is_the_one_of_its_version(store: ReleaseStore, other_chart: dict[str, bytes]) -> None:
    """A chart that is changed and changed back: what is deployed is what the files say now."""
    old, new = build(), build(chart=other_chart)
    store.save(old, CHART)
    store.save(new, other_chart)
    assert store.resolve("staging", "v1.0.0") == new
    assert not store.save(old, CHART), "its bytes are stored already"
    assert store.resolve("staging", "v1.0.0") == old


def test_building_an_earlier_version_again_makes_it_the_latest(store: ReleaseStore) -> None:
    """The checks judge the latest release: it must be the one that was just built."""
    store.save(build("v1.0.0"), CHART)
    store.save(build("v1.1.0"), CHART)
    store.save(build("v1.0.0"), CHART)
    assert store.latest("staging") == build("v1.0.0")


def test_the_index_is_read_in_one_listing_however_many_releases_there_are(
    store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read for each release that was ever built would make a deploy slower every day."""
    for host in ("a", "b", "c"):
        store.save(dataclasses.replace(build(), host=host), CHART)
    read: list[str] = []
    get = store.store.get
    monkeypatch.setattr(store.store, "get", lambda key: (read.append(key), get(key))[1])
    found = store.latest("staging")
    assert found is not None
    assert found.host == "c"
    assert read == [f"releases/{found.digest}"]


def test_a_build_round_trips_and_sorts_by_time() -> None:
    builds = [Build(built, "v1.0.0-rc1", "a" * 64) for built in ("20260131T000000.000000Z", "20251231T235959.999999Z")]
    assert [Build.parse(str(build)) for build in builds] == builds
    assert sorted(builds) == builds[::-1]


# ---------------------------------------------------------------- renderings


def test_a_rendering_round_trips_and_is_always_the_same_bytes() -> None:
    rendering = render(build(), CLUSTER, "green", CHART)
    assert Rendering.from_bytes(rendering.to_bytes()) == rendering
    assert render(build(), CLUSTER, "green", CHART).digest == rendering.digest


def test_blue_and_green_differ_only_by_their_colour() -> None:
    """What is tested as green is what blue would be: nothing else may depend on the colour."""
    blue, green = (render(build(), CLUSTER, part, CHART) for part in ("blue", "green"))
    assert {obj["metadata"]["name"] for obj in blue.objects} != {obj["metadata"]["name"] for obj in green.objects}
    recoloured = json.loads(json.dumps(blue.objects).replace("blue", "green"))
    assert diff(recoloured, green.objects) == ()


def test_a_rendering_comes_in_the_order_of_its_waves() -> None:
    places = [WAVES.index(wave_of(obj)) for obj in render(build(), CLUSTER, "shared", CHART).objects]
    assert places == sorted(places)
    assert places[0] == WAVES.index("namespace")


def test_every_component_runs_the_image_of_the_release() -> None:
    release = build()
    rendering = render(release, CLUSTER, "blue", CHART)
    images = {
        obj["metadata"]["labels"]["app.kubernetes.io/name"]: obj["spec"]["template"]["spec"]["containers"][0]["image"]
        for obj in rendering.of_kind("Deployment")
    }
    assert images == release.images


# ---------------------------------------------------------------- waves and differences

KINDS = [
    ("v1", "Namespace"), ("apiextensions.k8s.io/v1", "CustomResourceDefinition"), ("v1", "ConfigMap"), ("v1", "Secret"),
    ("postgresql.cnpg.io/v1", "Cluster"), ("v1", "Service"), ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("apps/v1", "Deployment"), ("batch/v1", "CronJob"), ("example.org/v1", "NobodyKnowsMe"),
]  # fmt: skip


@st.composite
def objects(draw: st.DrawFn) -> list[Object]:
    """Objects of several kinds, each with an identity of its own."""
    names = st.tuples(st.sampled_from(KINDS), st.sampled_from("abcd"), st.sampled_from(["n", "m"]))
    data = st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["1", "2"]), max_size=2)
    return [
        {"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": name, "namespace": space}, "data": draw(data)}
        for kind, name, space in draw(st.lists(names, unique=True, max_size=20))
    ]


@given(found=objects(), seed=st.integers())
def test_waves_hold_every_object_once_in_an_order_that_does_not_depend_on_its_input(
    found: list[Object], seed: int
) -> None:
    waves = in_waves(found)
    assert sorted(identity(obj) for _, members in waves for obj in members) == sorted(map(identity, found))
    assert all(wave_of(obj) == wave for wave, members in waves for obj in members)
    assert [wave for wave, _ in waves] == [wave for wave in WAVES if wave in dict(waves)]
    shuffled = list(found)
    random.Random(seed).shuffle(shuffled)
    assert in_waves(shuffled) == waves


def test_what_others_need_comes_first() -> None:
    kinds = ["Deployment", "HTTPRoute", "Service", "Cluster", "ConfigMap", "CustomResourceDefinition", "Namespace"]
    shuffled: list[Object] = [{"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}} for kind in kinds]
    assert [members[0]["kind"] for _, members in in_waves(shuffled)] == kinds[::-1]


@given(found=objects())
def test_the_difference_of_equals_is_empty(found: list[Object]) -> None:
    assert diff(found, copy.deepcopy(found[::-1])) == ()


@given(old=objects(), new=objects())
def test_a_difference_names_exactly_what_was_added_removed_and_changed(old: list[Object], new: list[Object]) -> None:
    before, after = ({identity(obj): obj for obj in found} for found in (old, new))
    changes = diff(old, new)
    assert sum(change.what == "added" for change in changes) == len(set(after) - set(before))
    assert sum(change.what == "removed" for change in changes) == len(set(before) - set(after))
    both = set(before) & set(after)
    assert sum(change.what == "changed" for change in changes) == sum(before[key] != after[key] for key in both)


def test_a_change_shows_its_lines() -> None:
    old: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    new = {**old, "data": {"a": "1", "b": "3"}}
    page = markdown(diff([old], [new]))
    assert "- data.b: '2'" in page
    assert "+ data.b: '3'" in page
    assert markdown(()) == "Nothing changes."


# ---------------------------------------------------------------- the catalogue

DIGEST = "sha256:" + "a" * 64


def catalogue(tmp_path: Path, document: Any) -> FileCatalogue:
    path = tmp_path / "images.yaml"
    path.write_text(yaml.safe_dump(document))
    return FileCatalogue(path)


def entry(**changes: Any) -> Object:
    return {"database": {"schema": 1, "compatible_with": [1]}, "images": {"risk-manager": DIGEST}, **changes}


def test_versions_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = catalogue(tmp_path, {"registry": "r", "versions": dict.fromkeys(["v1.10.0", "v1.9.0", "v1.2.0"], entry())})
    assert found.versions() == ["v1.2.0", "v1.9.0", "v1.10.0"]


def test_a_candidate_comes_before_its_version_and_is_not_the_default(tmp_path: Path) -> None:
    """An empty field in the Launchpad must not build what nobody has released."""
    versions = ["v1.10.0", "v1.2.0", "v1.10.0-rc10", "v1.10.0-rc2", "v1.11.0-rc1"]
    found = catalogue(tmp_path, {"registry": "r", "versions": dict.fromkeys(versions, entry())})
    assert found.versions() == ["v1.2.0", "v1.10.0-rc2", "v1.10.0-rc10", "v1.10.0", "v1.11.0-rc1"]
    assert newest(found) == "v1.10.0"
    assert newest(catalogue(tmp_path, {"registry": "r", "versions": {"v1-rc1": entry()}})) == "v1-rc1"
    with pytest.raises(CatalogueError, match="holds no version"):
        newest(catalogue(tmp_path, {"registry": "r", "versions": {}}))


def test_an_image_is_named_by_version_and_digest(tmp_path: Path) -> None:
    found = catalogue(tmp_path, {"registry": "ghcr.io/x", "versions": {"v1": entry()}}).images("v1")
    assert found.images == {"risk-manager": f"ghcr.io/x/risk-manager:v1@{DIGEST}"}
    assert found.database == Database(1, (1,))


def test_an_unknown_version_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"images\.yaml: there is no version named 'v9'.*Known: v1\.0\.0, v1\.1\.0"):
        CATALOGUE.images("v9")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"versions": {}}, r"registry: Field required"),
        ({"registry": "r", "versions": {}, "extra": 1}, r"extra: Extra inputs"),
        ({"registry": "r", "versions": {"v1": entry(images={"a": "latest"})}}, r"versions\.v1\.images\.a: 'latest' is no"),
        ({"registry": "r", "versions": {"v1": entry(database={"schema": [1]})}}, r"versions\.v1\.database\.schema: "),
        ({"registry": "r", "versions": {"v1": entry(database={"compatible_with": [1]})}}, r"versions\.v1\.database\.schema: Field req"),
        ({"registry": "r", "versions": {"../v1": entry()}}, r"versions\.\.\./v1\.\[key\]: String should match"),
        (None, r"allowed|valid"),
    ],
)  # fmt: skip
def test_a_wrong_catalogue_is_refused_at_its_path(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(CatalogueError, match=message) as refused:
        catalogue(tmp_path, document).images("v1")
    assert str(refused.value).startswith("images.yaml: ")


def test_a_version_that_lacks_a_component_cannot_be_a_release(tmp_path: Path) -> None:
    few = catalogue(tmp_path, {"registry": "r", "versions": {"v1": entry()}})
    with pytest.raises(PermanentError, match=r"version v1 has no image of agent-orchestrator, .*payment-processor"):
        build_release(TOPOLOGY, "staging", "v1", few, CHART, VALUES)


def test_a_missing_catalogue_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"nowhere\.yaml: the file does not exist"):
        FileCatalogue(tmp_path / "nowhere.yaml").versions()


@pytest.mark.parametrize(("written", "compatible", "possible"), [(1, (1,), True), (2, (1, 2), True), (2, (1,), False)])
def test_going_back_needs_a_version_that_reads_what_was_written(
    written: int, compatible: tuple[int, ...], possible: bool
) -> None:
    assert Database(written, (written,)).can_go_back_to(Database(1, compatible)) is possible
