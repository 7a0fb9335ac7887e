"""Text for pages that cut what is long: broken into lines, with nothing lost."""

from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.markdown import WIDTH, bullets, paragraph, steps

WORDS = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=WIDTH + 20), max_size=40)


@given(WORDS)
def test_no_word_is_lost_or_broken_and_no_line_is_too_long(words: list[str]) -> None:
    said = paragraph(" ".join(words))
    assert said.split() == words
    assert all(len(line.rstrip()) <= WIDTH or " " not in line.strip() for line in said.splitlines())


def test_what_happens_to_begin_a_line_begins_no_list() -> None:
    words = "x" * (WIDTH - 1)
    for mark in ("1)", "12.", "-", "+", "*", ">", "#"):
        assert paragraph(f"{words} {mark} so").splitlines()[1] in (f"{mark[:-1]}\\{mark[-1]} so", f"\\{mark} so")
    assert paragraph(f"{words} **x** 1.5") == f"{words}  \n**x** 1.5"


def test_lists_keep_their_items_and_an_empty_one_is_a_word() -> None:
    long = "a " * 40
    assert bullets([long, "b"]).count("\n- ") == 1
    assert all(line.startswith(("- ", "  ")) for line in bullets([long, "b"]).splitlines())
    assert all(line.startswith(("1. ", "   ")) for line in steps([long, "b"]).splitlines())
    assert bullets([]) == "none"
