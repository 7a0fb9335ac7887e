"""What an operator does in the UI, by a real browser: deploys, follows, aborts, and reads how the cluster is.

The documentation's pictures are taken here (`make pictures`), so that what they show has been seen to work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from operated import CLUSTER, SECONDS, Operated, until
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.sandbox_only, pytest.mark.alone, pytest.mark.timeout(900)]
JOBS = "/locations/nexus_ops.definitions/jobs"
SLOW = 120_000
"""Milliseconds for which a page is waited for: the webserver of a busy machine takes its time."""
Shoot = Callable[[str], None]


@pytest.fixture
def page(chromium: Browser, operated: Operated) -> Iterator[Page]:
    """A fresh tab of the UI."""
    context = chromium.new_context(base_url=operated.url, viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SLOW)
    expect.set_options(timeout=SLOW)
    yield context.new_page()
    context.close()


@pytest.fixture
def shoot(page: Page, pictures: Path) -> Shoot:
    """Take a picture of the page. What it is to show has to be waited for before: a page tells nobody that it is whole."""

    def take(name: str) -> None:
        page.screenshot(path=pictures / f"{name}.png", animations="disabled")

    return take


def fill_in(page: Page, job: str, config: str) -> None:
    """Open a job's Launchpad and replace what it opens with."""
    page.goto(f"{JOBS}/{job}/playground")
    expect(page.get_by_role("button", name="Launch Run")).to_be_enabled()
    expect(page.get_by_text("All defaults expanded")).to_be_visible()
    page.locator(".CodeMirror-code").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(config)
    expect(page.get_by_text("No errors")).to_be_visible()


def launch(page: Page) -> str:
    """Press the button; the id of the run, whose page is open then."""
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    return page.url.rpartition("/runs/")[2][:36]


def test_a_deploy_is_launched_followed_and_found_by_its_tags(page: Page, operated: Operated, shoot: Shoot) -> None:
    operated.ensure("v1.0.0")
    page.goto(f"{JOBS}/deploy/playground")
    editor = page.locator(".CodeMirror-code").first
    for line in ("cluster: ''", "version: ''", "dry_run: true"):
        expect(editor).to_contain_text(line)
    expect(page.get_by_text("All defaults expanded")).to_be_visible()
    shoot("launchpad")

    fill_in(page, "deploy", f"ops: {{plan: {{config: {{cluster: {CLUSTER}, version: v1.1.0, dry_run: false}}}}}}")
    run = launch(page)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=SECONDS * 1000)
    page.get_by_placeholder("Filter…").last.fill("step:switch_traffic")
    expect(page.get_by_text("the candidate's share of traffic becomes 100 %").first).to_be_visible()
    shoot("run")

    page.goto("/assets/deployment")
    expect(page.get_by_text("v1.1.0 serves (").first).to_be_visible()
    expect(page.get_by_text("To go back: the job").first).to_be_visible()
    shoot("deployment")

    tags = operated.tags(run)
    assert tags["cluster"] == CLUSTER
    for tag in ("rollout", "release", "actor"):
        page.goto(f"/runs/?q[0]=tag%3A{tag}%3D{tags[tag]}")
        expect(page.get_by_role("link", name=run[:8]).first).to_be_visible()


def test_a_running_deploy_is_aborted_and_the_old_version_goes_on(page: Page, operated: Operated) -> None:
    operated.ensure("v1.1.0")
    deploy = f"cluster: {CLUSTER}, version: v1.0.0, dry_run: false, monitor_seconds: 900"
    fill_in(page, "deploy", f"ops: {{plan: {{config: {{{deploy}}}}}}}")
    first = launch(page)
    expect(page.get_by_text("the candidate is watched with").first).to_be_visible(timeout=SECONDS * 1000)

    fill_in(page, "abort", f"ops: {{request_abort: {{config: {{cluster: {CLUSTER}, reason: it was a test}}}}}}")
    launch(page)
    until(lambda: operated.reported().get("summary") == "v1.0.0 rolled back; v1.1.0 serves", "it is rolled back")
    assert "it was a test" in operated.reported()["reason"]
    assert operated.end_of(first) in ("FAILURE", "SUCCESS")
    page.goto("/assets/deployment")
    expect(page.get_by_text("v1.0.0 rolled back; v1.1.0 serves").first).to_be_visible()


def test_the_health_of_a_cluster_is_read(page: Page, operated: Operated, shoot: Shoot) -> None:
    operated.ensure("v1.1.0")
    fill_in(page, "health_of_all_clusters", "{}")
    assert operated.end_of(launch(page)) == "SUCCESS"
    page.goto(f"/assets/health?partition={CLUSTER}")
    for row in ("API server", "data layer", "Prometheus"):
        expect(page.get_by_text(row, exact=False).first).to_be_visible()
    shoot("health")
    page.goto("/assets/health?view=checks")
    expect(page.get_by_text("critical_probes_staging_us_west_2").first).to_be_attached()  # shown shortened


def test_the_lineage_leads_from_a_release_to_what_serves(page: Page, operated: Operated, shoot: Shoot) -> None:
    operated.ensure("v1.1.0")
    page.goto("/assets/deployment?view=lineage")
    for asset in ("release", "deployment"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    for told in ("3 / 3 Passed", "% filled"):  # the gates of the release, and that something of both is there
        expect(page.get_by_text(told).first).to_be_visible()
    shoot("lineage")
