"""The policies of docs/backups.md are enough, each for what it is for, and for nothing else."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from backup_scene import BUCKET, Keys
from emulated_aws import emulated_aws

from nexus_ops.backups.bundles import MEGABYTE
from nexus_ops.backups.catalogue import Note
from nexus_ops.backups.context import BackupContext, deleting_store
from nexus_ops.backups.operations import claimed, drill_newest, take_backup, verify_all
from nexus_ops.backups.postgres.programs import Instance
from nexus_ops.backups.prune import Pruned, prune
from nexus_ops.backups.retention import Policy
from nexus_ops.resources import NexusResource
from nexus_ops.storage import StoreRefused
from nexus_ops.topology import project_folder

ServerOf = Callable[[int], Instance]
CLUSTER = "staging-us-west-2"
ROLES = ("backup", "drill", "prune")
REGION = "us-west-2"


def policy(role: str) -> str:
    text = (project_folder() / "docs" / "backups.md").read_text()
    found = text.split(f"<!-- policy: {role} -->\n```json\n")[1].split("```")[0]
    return found.replace("BUCKET", BUCKET)


@dataclass(frozen=True)
class Guarded:
    """An S3 that looks at who asks: the users of the three policies, and a profile for each."""

    endpoint: str
    profiles: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with emulated_aws() as endpoint:
        known = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        s3: Any = boto3.client("s3", endpoint_url=endpoint, **known)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        iam: Any = boto3.client("iam", endpoint_url=endpoint, **known)
        lines: list[str] = []
        for role in ROLES:
            iam.create_user(UserName=role)
            iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=policy(role))
            key = iam.create_access_key(UserName=role)["AccessKey"]
            lines += [f"[{role}]", f"aws_access_key_id = {key['AccessKeyId']}"]
            lines += [f"aws_secret_access_key = {key['SecretAccessKey']}"]
        profiles = tmp_path_factory.mktemp("aws") / "credentials"
        profiles.write_text("\n".join(lines) + "\n")
        # From here on it looks at every request.
        begin = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(begin).close()
        yield Guarded(endpoint, profiles)


@pytest.fixture
def context_as(
    guarded: Guarded, server_of: ServerOf, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], BackupContext]:
    """What a process works with whose credentials are those of a role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "NEXUS_BACKUP_DR_STORE"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "AWS_SHARED_CREDENTIALS_FILE": str(guarded.profiles), "AWS_ENDPOINT_URL": guarded.endpoint,
        "AWS_ALLOW_HTTP": "true", "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
        "NEXUS_HOME": str(tmp_path), "NEXUS_BACKUP_STORE": f"s3://{BUCKET}", "NEXUS_BACKUP_IDENTITY": str(keys.path),
        "NEXUS_PRUNE_AWS_PROFILE": "prune",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def become(role: str) -> BackupContext:
        monkeypatch.setenv("AWS_PROFILE", role)
        found = NexusResource().backups(CLUSTER, "postgresql")
        return replace(found, url=lambda: server_of(16).dsn, packing=replace(found.packing, bundle_bytes=8 * MEGABYTE))

    return become


def pruned(context: BackupContext, later: timedelta) -> Pruned:
    url = context.catalogue.store.url
    keep_one = Policy(
        days=1, wal_days=1, last=1, least_verified=1, grace=timedelta(days=2), orphan_grace=timedelta(days=2)
    )
    with claimed(context, "prune", "a test"):
        return prune(
            context.catalogue, keep_one, context.clock() + later, dry_run=False, deleter=lambda: deleting_store(url)
        )


def test_each_policy_is_enough_for_its_work(context_as: Callable[[str], BackupContext]) -> None:
    taking = context_as("backup")
    first = take_backup(taking, "a test").listed.id
    second = take_backup(taking, "a test").listed.id
    drilling = context_as("drill")
    assert drill_newest(drilling, "a test").drill.passed
    assert all(answer.passed for answer in verify_all(drilling).values())
    assert drilling.catalogue.latest_verified().id == second
    pruning = context_as("backup")
    assert pruned(pruning, timedelta(days=3)).tombstoned == [str(first)]
    done = pruned(pruning, timedelta(days=6))
    assert (done.deleted, done.undone) == ([str(first)], "")
    assert [one.id for one in pruning.catalogue.list(tombstoned=True).backups] == [second]
    assert not pruning.catalogue.store.list(f"{pruning.place.bundles}/{first}")


def test_none_of_them_may_do_the_work_of_another(context_as: Callable[[str], BackupContext]) -> None:
    taking = context_as("backup")
    listed = take_backup(taking, "a test").listed
    bundle = f"{taking.place}/{listed.manifest.streams[0].bundles[0].key}"
    for role in ("backup", "drill"):
        with pytest.raises(StoreRefused, match="could not delete: AccessDenied"):
            context_as(role).catalogue.store.delete(bundle)
    for role in ("drill", "prune"):
        with pytest.raises(StoreRefused, match="could not write: AccessDenied"):
            context_as(role).catalogue.store.put(bundle, b"something else")
    with pytest.raises(StoreRefused, match="could not write: AccessDenied"):
        context_as("drill").catalogue.tombstone(listed.id, Note("a thief", taking.clock(), "hide it"))
    with pytest.raises(StoreRefused, match="AccessDenied"):
        take_backup(context_as("prune"), "a test")
    assert verify_all(context_as("backup"))[listed.id].passed
