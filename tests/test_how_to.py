"""The how-to pages, followed by the letter."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.gates import evaluate
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.smoke import read_questions
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, project_folder

PROJECT = project_folder()
NEW = "v9.0.0"


def page(name: str) -> str:
    return (PROJECT / "docs" / "how-to" / f"{name}.md").read_text()


def examples(text: str) -> list[dict[str, Any]]:
    """The YAML blocks of a page, in order."""
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)]


@pytest.fixture
def topology() -> dict[str, Any]:
    """The topology as it is, to be changed."""
    return yaml.safe_load((PROJECT / "topology.yaml").read_text())


def test_a_component_is_added_by_a_few_lines_and_an_image(topology: dict[str, Any], tmp_path: Path) -> None:
    text = page("add-a-component")
    ((name, declared),) = examples(text)[0].items()
    topology["components"][name] = declared
    images = yaml.safe_load((PROJECT / "images.yaml").read_text())
    newest = images["versions"]["v1.1.0"]
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    images["versions"][NEW] = {**newest, "images": {**newest["images"], name: digest}}
    (tmp_path / "images.yaml").write_text(yaml.safe_dump(images))

    with_it, catalogue = Topology.parse(topology), FileCatalogue(tmp_path / "images.yaml")
    helm, store = PROJECT / "helm", ReleaseStore(ObjectStore.open((tmp_path / "store").as_uri()))
    chart = read_chart(helm / "nexus-ai-defi")
    for environment in with_it.environments:
        values = helm / f"values-{environment}.yaml"
        release = build_release(with_it, environment, NEW, catalogue, chart, values)
        store.save(release, chart)
        cluster = with_it.primary(environment)
        parts = [store.render(release, cluster, part) for part in ("shared", "blue", "green")]
        assert [(gate.name, gate.problems) for gate in evaluate(parts, with_it) if not gate.passed] == []
        kinds = {obj["kind"] for part in parts for obj in part.objects if obj["metadata"]["name"].startswith(name)}
        assert {"Deployment", "Service", "HorizontalPodAutoscaler", "ConfigMap"} <= kinds
        assert any(obj["kind"] == "NetworkPolicy" and name in str(obj) for obj in parts[0].objects)
        with pytest.raises(Exception, match="no image") as refused:
            build_release(with_it, environment, "v1.1.0", catalogue, chart, values)
        assert str(refused.value).removeprefix("staging: ") in text.replace("staging: ", "") or environment != "staging"


def test_a_region_is_added_by_naming_its_cluster(topology: dict[str, Any], tmp_path: Path) -> None:
    cloud, cluster = examples(page("add-a-region"))
    topology["clouds"] |= cloud["clouds"]
    topology["clusters"] |= cluster["clusters"]
    (name,) = cluster["clusters"]
    file = tmp_path / "topology.yaml"
    file.write_text(yaml.safe_dump(topology))
    assert name in {one.name for one in Topology.load(file).enabled_clusters}
    code = (
        "import json; from nexus_ops.definitions import defs; r = defs.get_repository_def(); g = defs.resolve_asset_graph();"
        "print(json.dumps([[s.name for s in r.sensor_defs], [k.name for k in g.asset_check_keys], "
        "[d for j in r.get_all_jobs() if j.name == 'deploy' for n in j.nodes_in_topological_order "
        "for f in (getattr(n.definition.config_schema.as_field().config_type, 'fields', None) or {}).values() "
        "for d in [f.description]]]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NEXUS_TOPOLOGY": str(file)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    sensors, checks, fields = json.loads(ran.stdout)
    mark = name.replace("-", "_")
    assert f"rollout_{mark}" in sensors
    assert {f"critical_probes_{mark}", f"fresh_{mark}", f"drift_{mark}"} <= set(checks)
    assert any(name in field for field in fields), "the Launchpad names it as a choice"


def test_the_smoke_tests_of_the_page_are_understood(topology: dict[str, Any], tmp_path: Path) -> None:
    (example,) = examples(page("write-a-smoke-test"))
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(example))
    found = read_questions(tmp_path / "smoke.yaml", topology["components"])
    assert {name: len(questions) for name, questions in found.items()} == {"portfolio-manager": 1, "risk-manager": 2}
