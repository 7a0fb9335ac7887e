"""What the tests of backups share: a place, a time, a bucket, keys, manifests by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nexus_ops.backups.bundles import MEGABYTE, Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.encryption import Identity
from nexus_ops.backups.lsn import Lsn
from nexus_ops.backups.manifest import BackupId, Manifest, Place
from nexus_ops.backups.postgres.physical import Options, back_up
from nexus_ops.backups.postgres.programs import Instance
from nexus_ops.storage import ObjectStore

BUCKET = "nexus-backups"
S3 = {"access_key_id": "test", "secret_access_key": "test", "region": "us-west-2"}
PLACE = Place("production-us-west-2", "postgresql")
AT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)


def open_s3(endpoint: str, prefix: str) -> ObjectStore:
    """A store in the bucket of `s3`."""
    url = f"s3://{BUCKET}/{prefix}"
    return ObjectStore.open(url, endpoint=endpoint, client_options={"allow_http": True}, **S3)


@dataclass(frozen=True)
class Keys:
    """An identity, and the public key that encrypts to it."""

    path: Path
    public: str
    identity: Identity


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it holds; `what` is said when it does not within a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def manifest(backup: BackupId, **changes: object) -> Manifest:
    """A small manifest of a backup without bundles."""
    fields: dict[str, object] = {
        "id": backup,
        "cluster": PLACE.cluster,
        "system": PLACE.system,
        "kind": "physical",
        "started": backup.at,
        "ended": backup.at,
        "streams": (),
        "recipients": (),
        "tools": {},
    }
    return Manifest.model_validate({**fields, **changes})


MAJORS = (15, 16, 18)
NAME = "Börse – 取引所"
"""A name of a database, a schema and a table that is not ASCII, with a blank and a dash."""
FILLING = f"""
CREATE ROLE trader LOGIN PASSWORD 'not a secret' CONNECTION LIMIT 7;
CREATE SCHEMA "{NAME}";
CREATE TABLE trades (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, pair text NOT NULL, amount numeric, at timestamptz,
    double numeric GENERATED ALWAYS AS (amount * 2) STORED);
INSERT INTO trades (pair, amount, at) SELECT 'SEI/USDC ' || md5(n::text), n * 1.5, 'epoch'::timestamptz + n * interval '1 s'
    FROM generate_series(1, 60000) n;
CREATE INDEX ON trades (pair);
CREATE TABLE "{NAME}"."{NAME}" ("Größe" jsonb);
INSERT INTO "{NAME}"."{NAME}" SELECT jsonb_build_object('n', n, 'wort', 'Überschuß \\ "x"') FROM generate_series(1, 1000) n;
CREATE TABLE empty (nothing int);
CREATE TABLE parts (n int, x text) PARTITION BY RANGE (n);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
INSERT INTO parts SELECT n, NULLIF(repeat('x', n % 5), '') FROM generate_series(0, 199) n;
CREATE SEQUENCE orders START 42;
SELECT nextval('orders'), nextval('orders');
SELECT lo_from_bytea(4711, decode(repeat('00ff', 50000), 'hex'));
CREATE MATERIALIZED VIEW pairs AS SELECT count(*) FROM trades;
GRANT SELECT ON trades TO trader;
CREATE TABLE log (seq int PRIMARY KEY, hash text);
"""


def fill(server: Instance) -> None:
    """Trading data of every kind: identity and generated columns, partitions, large objects, roles, names, an empty database."""
    with server.connect() as link:
        for name in ("nexus", "nothing", NAME):
            link.execute(f'CREATE DATABASE "{name}"')
    with server.connect("nexus") as link:
        link.execute(FILLING)


def contents(server: Instance, database: str = "nexus") -> dict[str, object]:
    """All that `fill` made, as one comparable value; `log` is left out, for it goes on growing."""
    questions = {
        "trades": "SELECT count(*), sum(amount), sum(double), md5(string_agg(pair, ',' ORDER BY id)) FROM trades",
        NAME: f'SELECT count(*), md5(string_agg("Größe"::text, \',\' ORDER BY "Größe"->>\'n\')) FROM "{NAME}"."{NAME}"',
        "empty": "SELECT count(*) FROM empty",
        "parts": "SELECT count(*), count(x), sum(n) FROM parts",
        "orders": "SELECT last_value, is_called FROM orders",
        "identity": "SELECT last_value FROM trades_id_seq",
        "large object": "SELECT md5(lo_get(4711))",
        "view": "SELECT * FROM pairs",
        "indexes": "SELECT count(*), bool_and(indisvalid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname IN ('trades', 'log')",
        "role": "SELECT rolcanlogin, rolconnlimit FROM pg_roles WHERE rolname = 'trader'",
        "grant": "SELECT has_table_privilege('trader', 'trades', 'SELECT')",
    }
    with server.connect(database) as link:
        found: dict[str, object] = {name: link.execute(text).fetchall() for name, text in questions.items()}
        databases = link.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall()
    return {**found, "databases": {name for (name,) in databases if not name.startswith("scratch")}}


class Writer:
    """Writes rows one commit at a time and knows between which positions of the log each commit is."""

    def __init__(self, server: Instance) -> None:
        self._server = server
        self._stop = threading.Event()
        self.commits: list[tuple[int, Lsn, Lsn]] = []
        """Sequence number, the log's position before and after the commit."""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        with self._server.connect("nexus") as link:
            link.execute("TRUNCATE log")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        number = 0
        with self._server.connect("nexus") as link:
            while not self._stop.is_set():
                number += 1
                before = link.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
                link.execute("INSERT INTO log VALUES (%s, md5(%s::text))", (number, number))
                after = link.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
                self.commits.append((number, Lsn.parse(before), Lsn.parse(after)))

    def check(self, restored: Instance, end: Lsn) -> int:
        """The restored rows are those committed up to `end`, all of them and no other; how many."""
        with restored.connect("nexus") as link:
            rows = link.execute("SELECT seq, hash = md5(seq::text) FROM log ORDER BY seq").fetchall()
        assert rows == [(number, True) for number in range(1, len(rows) + 1)], "no gap, no change"
        must = sum(after <= end for _, _, after in self.commits)
        may = sum(before < end for _, before, _ in self.commits)
        assert must <= len(rows) <= may, f"{len(rows)} rows, and between {must} and {may} were committed up to {end}"
        return len(rows)


def take(server: Instance, store: ObjectStore, keys: Keys, **options: object) -> Manifest:
    """A physical backup in small bundles."""
    return back_up(
        Catalogue(store, PLACE),
        server.dsn,
        Packing((keys.public,), bundle_bytes=MEGABYTE),
        now=datetime.now(UTC),
        options=Options(**options),  # pyright: ignore[reportArgumentType]
    ).manifest
