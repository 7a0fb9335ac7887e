"""The documentation leads where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nexus_ops.topology import project_folder

PROJECT = project_folder()
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_to_a_page_and_a_heading_that_exist(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}: no such heading"


def test_every_page_can_be_found() -> None:
    """A page that nothing leads to is read by nobody."""
    led_to = {
        (page.parent / target).resolve() for page in PAGES for target, _ in LINK.findall(page.read_text()) if target
    }
    assert [str(page.relative_to(PROJECT)) for page in PAGES[1:] if page.resolve() not in led_to] == []
