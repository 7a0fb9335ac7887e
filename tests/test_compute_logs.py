"""Where one machine is not enough, what a run prints is kept in S3: proved with the real manager on moto."""

from collections.abc import Callable
from pathlib import Path

import boto3
import dagster as dg
import pytest
import yaml


@pytest.fixture
def s3(bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of an S3 with the bucket nexus-logs."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    return bucket("nexus-logs")


@dg.op
def speak() -> None:
    print("the edge weight is 100")


@dg.job(executor_def=dg.in_process_executor)
def speaking() -> None:
    speak()


def test_what_a_run_prints_is_kept_in_s3(s3: str, tmp_path: Path) -> None:
    settings = {
        "telemetry": {"enabled": False},
        "compute_logs": {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": "S3ComputeLogManager",
            "config": {"bucket": "nexus-logs", "prefix": "dagster", "endpoint_url": s3},
        },
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert speaking.execute_in_process(instance=instance).success
    bucket = boto3.client("s3", endpoint_url=s3)
    keys = [entry["Key"] for entry in bucket.list_objects_v2(Bucket="nexus-logs", Prefix="dagster")["Contents"]]
    printed = [bucket.get_object(Bucket="nexus-logs", Key=key)["Body"].read() for key in keys]
    assert any(b"the edge weight is 100" in text for text in printed)
