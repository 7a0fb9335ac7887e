"""Text as the UI shows it beside a name. It does not wrap there, and what is too long is cut: so lines are broken here."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

WIDTH = 52
"""Characters that an asset's page shows of a value on a small screen."""
BREAK = "  \n"
"""A new line within the same paragraph."""

_LIST = re.compile(r"^(?P<before>\d{0,9})(?P<mark>[.)](?=\s|$)|(?<!\d)(?:[-+*>]|#{1,6})(?=\s|$))")
"""What would begin a list, a quotation or a heading where a line happens to begin with it."""


def paragraph(text: str, indent: str = "") -> str:
    """Words, broken into lines. What has no spaces stays whole: it is to be copied."""
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return (BREAK + indent).join(_LIST.sub(r"\g<before>\\\g<mark>", line) for line in lines)


def bullets(lines: Iterable[str], none: str = "none") -> str:
    """A list; a word where it is empty (a mere dash would be shown as a list of nothing)."""
    return "\n".join(f"- {paragraph(line, '  ')}" for line in lines) or none


def steps(lines: Iterable[str]) -> str:
    """A numbered list."""
    return "\n".join(f"1. {paragraph(line, '   ')}" for line in lines)
