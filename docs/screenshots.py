"""Takes the pictures of the documentation from the UI that `make demo` left running.

Run it from the checkout: `.venv/bin/python docs/screenshots.py` (PLAYWRIGHT_CHROMIUM names another browser).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGES = CHECKOUT / "docs" / "images"
HOME = Path(os.environ.get("NEXUS_HOME") or CHECKOUT / ".nexus")
CHROMIUM = os.environ.get("PLAYWRIGHT_CHROMIUM", "/usr/bin/chromium")
LAST_DEPLOY = """{ runsOrError(filter: {pipelineName: "deploy", statuses: [SUCCESS],
                   tags: [{key: "actor", value: "demo"}]}, limit: 1) { ... on Runs { results { runId } } } }"""


def last_deploy(url: str) -> str:
    """The newest of the demo's runs of `deploy` that ended well."""
    answer = httpx.post(f"{url}/graphql", json={"query": LAST_DEPLOY}, timeout=60).json()
    return answer["data"]["runsOrError"]["results"][0]["runId"]


SHOWN = {
    "lineage": "Kubernetes",
    "deployment": "what_next",
    "run": "switch_traffic",
    "launchpad": "Launch Run",
}
"""A text that each page must hold before its picture is taken."""


def take(browser: Browser, url: str) -> None:
    """One page after the other; each is waited for by what it must show."""
    job = "/locations/nexus_ops.definitions/jobs/deploy"
    paths = {
        "lineage": "/assets/deployment?view=lineage",
        "deployment": "/assets/deployment",
        "run": f"/runs/{last_deploy(url)}",
        "launchpad": job,
    }
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(90_000)
    for name, path in paths.items():
        page = context.new_page()
        page.goto(url + path)
        if name == "launchpad":  # its address alone leads to the overview
            page.get_by_text("Launchpad", exact=True).last.click()
        page.get_by_text(SHOWN[name]).first.wait_for(state="attached")
        if name == "run":  # the log of one stage: each step with its reason
            page.get_by_placeholder("Filter…").last.fill("step:switch_traffic")
        page.wait_for_timeout(6000)  # statuses come one after the other, and the page tells nobody when it has them all
        page.screenshot(path=IMAGES / f"{name}.png")
        page.close()


def main() -> None:
    url = json.loads((HOME / "ui.json").read_text())["url"]
    IMAGES.mkdir(exist_ok=True)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        take(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
