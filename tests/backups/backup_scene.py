"""What the tests of backups share: a place, a time, a bucket, keys, manifests by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nexus_ops.backups.encryption import Identity
from nexus_ops.backups.manifest import BackupId, Manifest, Place
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
