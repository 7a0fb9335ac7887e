"""Pictures of an asset's numbers over time: those of one partition, and of what is being made."""

import base64
import re
from xml.etree import ElementTree

import dagster as dg

from nexus_ops.assets.over_time import over_time

ASSET = dg.AssetKey("health")
WANTED = {"Pods": ["pods ready", "pods wanted"], "Nothing": ["never"]}


def report(instance: dg.DagsterInstance, partition: str, **numbers: float) -> None:
    metadata = {name.replace("_", " "): value for name, value in numbers.items()}
    instance.report_runless_asset_event(dg.AssetMaterialization(ASSET, partition=partition, metadata=metadata))


def pictures(markdown: str) -> dict[str, ElementTree.Element]:
    found = re.findall(r"\*\*(.*?)\*\*\n\n!\[.*?\]\(data:image/svg\+xml;base64,(.*?)\)", markdown)
    return {title: ElementTree.fromstring(base64.b64decode(data)) for title, data in found}


def test_a_picture_is_of_one_partition_with_what_is_being_made() -> None:
    with dg.instance_for_test() as instance:
        report(instance, "a", pods_ready=36, pods_wanted=36)
        report(instance, "b", pods_ready=7, pods_wanted=8)
        report(instance, "a", pods_ready=30, pods_wanted=36)
        found = pictures(over_time(instance, ASSET, "a", WANTED, {"pods ready": 35.0, "pods wanted": 36}).value or "")
    assert list(found) == ["Pods"], "a number that was never reported has no picture"
    svg = found["Pods"]
    assert {"pods ready", "pods wanted", "36"} <= set(svg.itertext())
    assert len(svg.findall("{*}circle")) == 6, (
        "three looks at two numbers; those of the other cluster are not among them"
    )


def test_the_first_look_has_a_picture_of_one_point() -> None:
    with dg.instance_for_test() as instance:
        found = pictures(over_time(instance, ASSET, "a", WANTED, {"pods ready": 1}).value or "")
    assert len(found["Pods"].findall("{*}circle")) == 1
