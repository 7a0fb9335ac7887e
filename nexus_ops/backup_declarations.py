"""How an environment's databases are backed up, as topology.yaml declares it: when, how long kept, and where credentials are.

Never a credential: a reference to a Secret of the cluster, or to an environment variable. And no defaults: a retention
that nobody declared is an error at load, not a guess.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Days = Annotated[int, Field(ge=1, le=3650)]
CRON = r"^\S+ \S+ \S+ \S+ \S+$"


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(_Declared):
    """Where a value is: `{secret: backup-redis, key: url}` in the data namespace, or `{variable: REDIS_URL}`.

    In the name of a variable, {cluster} stands for the cluster's name in capitals, with _ for -.
    """

    secret: str | None = None
    key: str | None = None
    variable: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*(\{cluster\}[A-Z0-9_]*)?$")] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Reference:
        named = (self.secret is not None, self.key is not None, self.variable is not None)
        if named not in ((True, True, False), (False, False, True)):
            raise ValueError("allowed: a secret with its key, or a variable")
        return self

    def __str__(self) -> str:
        return f"the variable {self.variable}" if self.variable else f"the Secret {self.secret} (key {self.key})"

    def variable_of(self, cluster: str) -> str | None:
        """The name of the variable of a cluster."""
        return self.variable and self.variable.replace("{cluster}", cluster.upper().replace("-", "_"))


class PostgresqlBackups(_Declared):
    """A PostgreSQL to back up. `url` is a DSN of a role that may do what the kind needs (docs/backups.md)."""

    url: Reference
    kind: Literal["physical", "logical"]
    """physical: the whole server, by replication. logical: where that is refused, as by managed services."""
    database: str | None = None
    """Of a logical backup; left out: the URL's."""
    cnpg: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] | None = None
    """The CloudNativePG Cluster in the data namespace that runs it: its own backup is taken, too, and awaited."""

    @model_validator(mode="after")
    def _database_of_logical(self) -> PostgresqlBackups:
        if self.database and self.kind == "physical":
            raise ValueError("database: a physical backup is of the whole server; allowed: with kind logical")
        return self


class RedisBackups(_Declared):
    """A Redis or Valkey to back up, standalone or a cluster. `url` leads to any of its servers."""

    url: Reference


class RetentionDays(_Declared):
    """How long backups are kept; nexus_ops/backups/retention.py has the rules."""

    days: Days
    wal_days: Annotated[int, Field(ge=0, le=3650)]
    last: Annotated[int, Field(ge=1, le=1000)]
    least_verified: Annotated[int, Field(ge=1, le=1000)]
    grace_days: Days
    orphan_days: Days


class BackupsOfEnvironment(_Declared):
    """When and how the databases of an environment are backed up. Times are those of each cluster's own time zone."""

    schedule: Annotated[str, Field(pattern=CRON)]
    drill_schedule: Annotated[str, Field(pattern=CRON)]
    retention: RetentionDays
    postgresql: PostgresqlBackups | None
    redis: RedisBackups | None
