"""What a backup, restore, drill or prune of one database of one cluster works with, and where its credentials come from.

A DSN is read when it is needed, from the cluster's own Secret or from an environment variable. It is handed on, and never kept, shown or
put into an error.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nexus_ops.backup_declarations import BackupsOfEnvironment, Reference, RetentionDays
from nexus_ops.backups.bundles import Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.encryption import Identity
from nexus_ops.backups.manifest import Place, System
from nexus_ops.backups.retention import Policy
from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.errors import PermanentError
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Cluster

SECRET = Kind("v1", "Secret")
CNPG_ARCHIVE = "cnpg-archive"
"""The folder of the state folder in which the sandbox's stand-in for CloudNativePG archives."""
SYSTEMS: tuple[System, System] = ("postgresql", "redis")


class NotDeclared(PermanentError):
    """The topology does not say how this database is backed up."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class BackupContext:
    """One database of one cluster, its backups, and the ways to both."""

    cluster: Cluster
    system: System
    declared: BackupsOfEnvironment
    time_zone: str
    catalogue: Catalogue
    second: Catalogue | None
    """The copies in the second region; None: nobody named a second store."""
    packing: Packing
    url: Callable[[], str]
    """The database's DSN; holds a credential."""
    identity: Callable[[], Identity | None]
    """Who can read the backups; None: they are not encrypted, or nobody named it."""
    scratch: Path
    """A folder for scratch servers."""
    connect: Callable[[], ClusterClient]
    """A client of the cluster; the caller closes it."""
    cnpg_archive: str = ""
    """Where CloudNativePG's archive is reached from here (a URL); empty: where its ObjectStore says."""
    report: Callable[[str], None] = lambda _: None
    clock: Callable[[], datetime] = _now

    @property
    def place(self) -> Place:
        return self.catalogue.place

    @property
    def policy(self) -> Policy:
        return policy_of(self.declared.retention)


def policy_of(declared: RetentionDays) -> Policy:
    """The declared retention as the one that judges."""
    return Policy(
        days=declared.days,
        wal_days=declared.wal_days,
        last=declared.last,
        least_verified=declared.least_verified,
        grace=timedelta(days=declared.grace_days),
        orphan_grace=timedelta(days=declared.orphan_days),
    )


def declared_url(declared: BackupsOfEnvironment, system: System, cluster: Cluster) -> Reference:
    """Where the DSN of a database is, or `NotDeclared`."""
    found = declared.postgresql if system == "postgresql" else declared.redis
    if found is None:
        raise NotDeclared(
            f"no {system} is declared to be backed up.",
            target=cluster.name,
            todo=f"Declare environments.{cluster.environment}.backups.{system} in topology.yaml.",
        )
    return found.url


def read_reference(
    reference: Reference,
    cluster: Cluster,
    connect: Callable[[], ClusterClient],
    environment: Mapping[str, str] = os.environ,
) -> str:
    """The value that a reference leads to; the error names the place, never the value."""
    if variable := reference.variable_of(cluster.name):
        if not environment.get(variable):
            raise PermanentError("the environment variable is not set.", target=variable)
        return environment[variable]
    where = f"Secret/{reference.secret} in {cluster.data_namespace} of {cluster.name}"
    client = connect()
    try:
        secret = client.get(SECRET, reference.secret or "", cluster.data_namespace)
    finally:
        client.close()
    if secret is None:
        raise PermanentError("the Secret does not exist.", target=where, todo="docs/backups.md says what it holds.")
    encoded = (secret.get("data") or {}).get(reference.key)
    if not encoded:
        raise PermanentError(f"the Secret has no key {reference.key!r}.", target=where)
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise PermanentError(f"what the key {reference.key!r} holds cannot be read.", target=where) from None


@dataclass(frozen=True)
class Vault:
    """Where backups are kept, and for whom they are encrypted: from the environment, for every cluster alike."""

    store: ObjectStore
    second: ObjectStore | None
    recipients: tuple[str, ...]
    identity: str
    """A reference to the identity (encryption.Identity.load); empty: none."""
    cnpg_archive: str
    """The URL under which CloudNativePG's archive is reached from here; empty: the one of its ObjectStore."""

    @classmethod
    def open(cls, home: Path, default_store: str, environment: Mapping[str, str] = os.environ) -> Vault:
        """NEXUS_BACKUP_STORE, _DR_STORE, _RECIPIENTS and _IDENTITY, and NEXUS_CNPG_ARCHIVE.

        With none of them, as on one machine: the store of everything else, a second one in the state folder, and the identity and
        the archive of CloudNativePG's stand-in that the sandbox put there.
        """
        key = home / "backup-identity.txt"
        identity = environment.get("NEXUS_BACKUP_IDENTITY") or (str(key) if key.exists() else "")
        recipients = tuple(environment.get("NEXUS_BACKUP_RECIPIENTS", "").replace(",", " ").split())
        if not recipients and identity:
            recipients = Identity.load(identity).public_keys
        url = environment.get("NEXUS_BACKUP_STORE") or default_store
        is_local = not environment.get("NEXUS_BACKUP_STORE") and url.startswith("file:")
        second = environment.get("NEXUS_BACKUP_DR_STORE") or ((home / "dr-store").as_uri() if is_local else "")
        sandboxed = home / CNPG_ARCHIVE
        archive = environment.get("NEXUS_CNPG_ARCHIVE") or (sandboxed.as_uri() if sandboxed.exists() else "")
        return cls(ObjectStore.open(url), ObjectStore.open(second) if second else None, recipients, identity, archive)

    def load_identity(self) -> Identity | None:
        return Identity.load(self.identity) if self.identity else None


def deleting_store(url: str, environment: Mapping[str, str] = os.environ) -> ObjectStore:
    """The store of backups by the credential that may delete: of the AWS profile NEXUS_PRUNE_AWS_PROFILE.

    The credential that takes backups should not be able to delete them: who steals it must not be able to. A folder knows
    no credentials. Other clouds have none of their own here: their prune runs in a process with the other credential.
    """
    if not url.startswith("s3:"):
        return ObjectStore.open(url)
    profile = environment.get("NEXUS_PRUNE_AWS_PROFILE")
    if not profile:
        raise PermanentError(
            "nobody named a credential that may delete backups.",
            target=url,
            todo="Set NEXUS_PRUNE_AWS_PROFILE; until then backups are tombstoned, and none is deleted.",
        )
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    return ObjectStore.open(url, credential_provider=Boto3CredentialProvider(boto3.Session(profile_name=profile)))
