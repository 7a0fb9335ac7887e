"""The manifest: all that is known about one backup, as one JSON document, and the keys under which its parts are.

A backup is there when its manifest is. Everything that a restore needs to know beforehand is in it; what it names is
found by hash. Docs: docs/backups.md, "The manifest".
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from nexus_ops.backups.lsn import Lsn
from nexus_ops.errors import PermanentError
from nexus_ops.storage import digest_of

System = Literal["postgresql", "redis"]
Kind = Literal["physical", "logical", "redis"]
FORMAT = 1
_ID = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{6})")
_CLUSTER = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_STAMP = "%Y%m%dT%H%M%SZ"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0)]


class BadManifest(PermanentError):
    """A document that is no manifest, or is not the one that was written."""


@dataclass(frozen=True, order=True)
class BackupId:
    """When a backup began (UTC, seconds) and six random digits: `20260131T020000Z-a1b2c3`. Sorts by time."""

    at: datetime
    tag: str

    @classmethod
    def new(cls, at: datetime) -> BackupId:
        """An id that nobody else has."""
        return cls(at.astimezone(UTC).replace(microsecond=0), secrets.token_hex(3))

    @classmethod
    def parse(cls, text: str) -> BackupId:
        found = _ID.fullmatch(text)
        if found:
            try:
                return cls(datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC), found[2])
            except ValueError:
                pass  # digits that are no date
        raise PermanentError(f"{text!r} is no backup's id.", todo="Ids look like 20260131T020000Z-a1b2c3.")

    def __str__(self) -> str:
        # Not strftime: its %Y does not fill up years before 1000.
        at = self.at
        return f"{at.year:04}{at.month:02}{at.day:02}T{at.hour:02}{at.minute:02}{at.second:02}Z-{self.tag}"


@dataclass(frozen=True, order=True)
class Place:
    """Where the backups of one system of one cluster are kept: `backups/<cluster>/<system>`."""

    cluster: str
    system: System

    def __post_init__(self) -> None:
        if not _CLUSTER.fullmatch(self.cluster) or self.system not in ("postgresql", "redis"):
            raise PermanentError(
                f"{self.cluster}/{self.system} is no place of backups.",
                todo="Write it as <cluster>/postgresql or <cluster>/redis.",
            )

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place of its path."""
        top, _, rest = text.partition("/")
        cluster, _, system = rest.partition("/")
        if top != "backups" or system not in ("postgresql", "redis"):
            raise PermanentError(f"{text!r} is no place of backups.", todo="It looks like backups/<cluster>/<system>.")
        return cls(cluster, system)

    def __str__(self) -> str:
        return f"backups/{self.cluster}/{self.system}"

    @property
    def manifests(self) -> str:
        return f"{self}/manifests"

    @property
    def bundles(self) -> str:
        return f"{self}/bundles"

    @property
    def pins(self) -> str:
        return f"{self}/pins"

    @property
    def tombstones(self) -> str:
        return f"{self}/tombstones"

    @property
    def drills(self) -> str:
        return f"{self}/drills"

    def pointer(self, name: str) -> str:
        """`latest` or `latest-verified`."""
        return f"{self}/{name}"

    def manifest(self, backup: BackupId, digest: str) -> str:
        """The manifest's key holds its digest: what was edited no longer matches its name."""
        return f"{self.manifests}/{backup}/{digest}.json"

    def of_manifest(self, key: str) -> tuple[BackupId, str]:
        """Id and digest of a manifest's key."""
        name, _, file = key.removeprefix(f"{self.manifests}/").partition("/")
        return BackupId.parse(name), file.removesuffix(".json")


class Part(BaseModel):
    """Base of all that a manifest holds: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _position(value: object) -> Lsn:
    if isinstance(value, str):
        try:
            return Lsn.parse(value)
        except PermanentError as error:
            raise ValueError(error.problem) from None
    if isinstance(value, int):
        return Lsn(value)
    raise ValueError("no position in a write-ahead log")


def _identity(value: object) -> BackupId:
    if isinstance(value, BackupId):
        return value
    try:
        return BackupId.parse(str(value))
    except PermanentError as error:
        raise ValueError(error.problem) from None


Position = Annotated[Lsn, PlainValidator(_position), PlainSerializer(str, return_type=str)]
Id = Annotated[BackupId, PlainValidator(_identity), PlainSerializer(str, return_type=str)]


class Entry(Part):
    """A piece of a named thing within a bundle's raw bytes: a slice of a table, a file that continues."""

    name: str
    offset: Size
    """Where it begins in the raw bytes."""
    size: Size
    at: Size = 0
    """Where the piece belongs in the thing."""


class Bundle(Part):
    """One immutable object. Raw: as it came from the server; stored: compressed (by us) and encrypted."""

    key: Annotated[str, Field(pattern=r"^bundles/[0-9TZa-f-]+/[a-z0-9._-]+/\d{6,}[a-z.]*$")]
    """Below the place, as in `bundles/20260131T020000Z-a1b2c3/base/000001.zst.age`."""
    raw_size: Size
    stored_size: Size
    stored_sha256: Sha256
    raw_sha256: Sha256 | None = None
    """None where it is encrypted: what decrypts is what was encrypted, that much age itself makes sure of."""
    entries: tuple[Entry, ...] = ()
    """What the bundle holds, where that is not plain from its content. In a tar: the file that continues from the
    bundle before, if one does."""


class Stream(Part):
    """Bytes in order, cut into bundles: a tar of the data folder, a table, an RDB."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9._-]+$")]
    content: Literal["tar", "copy", "sql", "rdb", "json", "dump"]
    compression: Literal["zstd", "none"]
    level: int = 0
    compressed_by: Literal["server", "client"] = "client"
    """`client`: each bundle is compressed alone, and decodes alone. `server`: the raw bytes are slices of one zstd
    stream, that decodes only from its beginning."""
    size: Size
    """Bytes before any compression."""
    bundles: tuple[Bundle, ...]

    @property
    def stored_size(self) -> int:
        return sum(bundle.stored_size for bundle in self.bundles)


class Tablespace(Part):
    oid: int
    location: str


class WalFile(Part):
    """A segment of the write-ahead log within the backup, where the client saw it pass."""

    name: str
    sha256: Sha256


class Postgres(Part):
    """What was backed up, of PostgreSQL. LSNs and WAL of a logical backup are those of its snapshot."""

    system_id: str
    version: int
    """`server_version_num`: 160014."""
    timeline: int
    begin: Position
    end: Position
    begin_wal: str
    end_wal: str
    segment_bytes: int
    from_standby: bool = False
    data_checksums: bool = False
    tablespaces: tuple[Tablespace, ...] = ()
    databases: tuple[str, ...] = ()
    superuser: str = ""
    """The name of the first role, who may do everything: a scratch server is asked by it."""
    wal: tuple[WalFile, ...] = ()

    @property
    def major(self) -> int:
        return self.version // 10000


class RedisNode(Part):
    """One master: where its stream came from, and up to where."""

    id: str
    source: str
    """host:port of the node that sent the stream, a replica where there is one."""
    slots: tuple[tuple[int, int], ...] = ()
    """Ranges of slots, both ends included; none: not a cluster."""
    replication_id: str
    offset: int
    keys: Mapping[str, int]
    """Keys by database (`0`), as DBSIZE counted them."""
    stream: str


class Redis(Part):
    version: str
    mode: Literal["standalone", "cluster"]
    nodes: tuple[RedisNode, ...]


class Manifest(Part):
    """One backup."""

    format: Literal[1] = FORMAT
    id: Id
    cluster: str
    system: System
    kind: Kind
    started: AwareDatetime
    ended: AwareDatetime
    streams: tuple[Stream, ...]
    recipients: tuple[str, ...]
    """age public keys of those who can read it; none: it is not encrypted."""
    tools: Mapping[str, str]
    """Versions of what took part."""
    parent: Id | None = None
    postgres: Postgres | None = None
    redis: Redis | None = None
    counts: Mapping[str, int] = Field(default_factory=dict)
    """Rows by `database.schema.table` (logical: exact, of the snapshot), keys by node for Redis."""
    lock_until: AwareDatetime | None = None
    """Until when the store itself refuses to delete it (Object Lock)."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes, *, target: str = "manifest") -> Manifest:
        """The manifest of its bytes; `BadManifest` says what is wrong with them."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "document"
            raise BadManifest(
                f"it is no manifest of format {FORMAT}: {where}: {first['msg']}.", target=target
            ) from None

    def to_bytes(self) -> bytes:
        """JSON, the same bytes for the same manifest."""
        return self.model_dump_json(exclude_defaults=False).encode() + b"\n"

    @property
    def digest(self) -> str:
        return digest_of(self.to_bytes())

    @property
    def place(self) -> Place:
        return Place(self.cluster, self.system)

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return sum(stream.size for stream in self.streams)

    @property
    def stored_size(self) -> int:
        return sum(stream.stored_size for stream in self.streams)

    @property
    def seconds(self) -> float:
        return (self.ended - self.started).total_seconds()

    def stream(self, name: str) -> Stream:
        """A stream by name; the names are part of each kind's format."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise BadManifest(f"it has no stream {name}.", target=f"backup {self.id}")
