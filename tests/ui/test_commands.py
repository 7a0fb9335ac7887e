"""The commands of the README, run as they are typed: on the command line and by GraphQL. The Launchpad: test_browser."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from operated import CLUSTER, Operated, until

from nexus_ops.topology import project_folder

pytestmark = [pytest.mark.sandbox_only, pytest.mark.alone, pytest.mark.timeout(900)]
JOB_RUN = """
query Last($job: String!) { runsOrError(filter: {pipelineName: $job}, limit: 1) { ... on Runs { results { runId } } } }"""


def example(language: str, mark: str) -> str:
    """The block of the README in a language that holds this."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (project_folder() / "README.md").read_text(), re.M | re.S)
    (found,) = [block for block in blocks if mark in block]
    return found


def type_in(checkout: Path, operated: Operated, lines: str) -> str:
    """Type lines into a shell, in the checkout, that knows of this machine's state only what they say; what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in operated.environment}
    leads = {"NEXUS_TOPOLOGY": operated.environment["NEXUS_TOPOLOGY"]}  # short times, instead of minutes
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines], cwd=checkout, env={**inherited, **leads}, text=True, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_commands_of_the_readme_deploy(operated: Operated, checkout: Path) -> None:
    (checkout / "deploy.yaml").write_text(example("yaml", "dry_run"))
    export, execute, launch = example("bash", "dagster job").strip().splitlines()
    type_in(checkout, operated, f"{export}\n{execute}")
    version = re.search(r"version: (\S+)", example("yaml", "dry_run"))
    assert version is not None
    until(lambda: operated.reported().get("summary", "").startswith(f"{version[1]} serves"), "it was deployed")

    before = last_run(operated)
    type_in(checkout, operated, f"{export}\n{launch}")
    run = last_run(operated)
    assert run != before
    assert operated.end_of(run) == "SUCCESS"


def last_run(operated: Operated) -> str:
    return operated.ask(JOB_RUN, {"job": "deploy"})["runsOrError"]["results"][0]["runId"]


def test_the_mutation_of_the_readme_launches_a_run(operated: Operated) -> None:
    operated.ensure("v1.0.0")
    answer = operated.ask(example("graphql", "launchRun"))["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run = answer["run"]["runId"]
    assert operated.end_of(run) == "SUCCESS"
    assert operated.tags(run)["actor"] == "me"
    assert operated.reported()["summary"].startswith("v1.0.0 serves"), "a dry run changes nothing"
    assert CLUSTER in example("graphql", "launchRun")
