"""The demo's part about backups: take one, prove it, destroy a table, and bring it back by the job `restore`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

if TYPE_CHECKING:
    from nexus_ops.sandbox.demo import Demo

MATERIALIZED = """
query Newest($key: [String!]!, $clusters: [String!]) {
  assetOrError(assetKey: {path: $key}) { ... on Asset { assetMaterializations(partitions: $clusters, limit: 1) {
    metadataEntries { label ... on TextMetadataEntry { text } ... on FloatMetadataEntry { floatValue }
                      ... on IntMetadataEntry { intValue } } } } }
}"""


def show_backups(demo: Demo, cluster: str) -> None:
    """Everything goes through the jobs, as an operator would launch them; the table is destroyed by hand."""
    tags = [{"key": "dagster/partition", "value": cluster}, {"key": "actor", "value": "demo"}]
    demo.wait_for_run(demo.launch("backup", {}, tags))
    for system in ("postgresql", "redis"):
        facts = _newest(demo, ["backup", system], cluster)
        demo.say(
            f"   {system}: {facts['raw_megabytes']:.1f} MB in {facts['seconds']:.1f} s, stored {facts['stored_megabytes']:.1f} MB "
            f"in {facts['objects']} objects, encrypted, read back, copied to the second region"
        )
    demo.wait_for_run(demo.launch("drill", {}, tags))
    drilled = _newest(demo, ["drill"], cluster)
    demo.say(
        f"   proven by a drill: PostgreSQL restored, started and counted ({drilled['postgresql/rto_seconds']:.1f} s), "
        f"Valkey loaded ({drilled['redis/rto_seconds']:.1f} s)"
    )
    with psycopg.connect(demo.state.clusters[cluster]["postgres"], autocommit=True) as link:
        with link.transaction():  # nothing is written between the count and the loss
            link.execute("LOCK TABLE trades")
            before, newest = _ask(link, "SELECT count(*), max(at) FROM trades")
            link.execute("DROP TABLE trades")
        demo.say(f"     [bold red]DROP TABLE trades[/] ({before} rows)")
        began = time.monotonic()
        config = {"cluster": cluster, "tables": ["public.trades"], "dry_run": False}
        demo.wait_for_run(demo.launch("restore", {"ops": {"restore_backup": {"config": config}}}, tags[1:]))
        seconds = time.monotonic() - began
        (back,) = _ask(link, "SELECT count(*) FROM trades WHERE at <= %s", newest)  # the agents trade on
        demo.say(
            f"   restored to latest-verified: {back} rows are back, {seconds:.1f} s after the launch; "
            f"{before - back} came after that backup, and are lost"
        )


def _ask(link: psycopg.Connection[Any], query: LiteralString, *values: Any) -> Any:
    """The one row of an answer."""
    return link.execute(query, values).fetchone()


def _newest(demo: Demo, key: list[str], cluster: str) -> dict[str, Any]:
    """The metadata of an asset's newest materialization."""
    found = demo.graphql(MATERIALIZED, {"key": key, "clusters": [cluster]})["assetOrError"]["assetMaterializations"]
    entries = found[0]["metadataEntries"] if found else []
    return {entry["label"]: entry.get("floatValue", entry.get("intValue", entry.get("text"))) for entry in entries}
