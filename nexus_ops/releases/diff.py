"""What changes between two sets of objects, in words that a person can check."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from nexus_ops.releases.waves import identity, rank

Object = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One object that is added, removed or changed; `lines` is the unified diff of a change."""

    kind: str
    name: str
    what: Literal["added", "removed", "changed"]
    lines: tuple[str, ...] = ()


def diff(old: Iterable[Object], new: Iterable[Object]) -> tuple[Change, ...]:
    """Changes from old to new by object identity, in wave order."""
    before = {identity(obj): obj for obj in old}
    after = {identity(obj): obj for obj in new}
    places = sorted({**before, **after}, key=lambda key: rank(after.get(key) or before[key]))
    changes = [_change(before.get(key), after.get(key)) for key in places]
    return tuple(change for change in changes if change is not None)


def diff_live(live: Iterable[Object], new: Iterable[Object]) -> tuple[Change, ...]:
    """Changes that applying `new` would make to live objects: only fields that `new` states are compared."""
    wanted = {identity(obj): obj for obj in new}
    stated = [_only_stated(obj, wanted[identity(obj)]) if identity(obj) in wanted else obj for obj in live]
    return diff(stated, wanted.values())


def _change(old: Object | None, new: Object | None) -> Change | None:
    obj = new or old or {}
    name = obj["metadata"]["name"]
    if old is None or new is None:
        return Change(obj["kind"], name, "added" if old is None else "removed")
    if old == new:
        return None
    lines = difflib.unified_diff(_text(old), _text(new), "before", "after", n=1, lineterm="")
    return Change(obj["kind"], name, "changed", tuple(list(lines)[2:]))


def _text(obj: Object) -> list[str]:
    return yaml.safe_dump(obj, sort_keys=True, width=110).splitlines()


def _only_stated(live: Any, wanted: Any) -> Any:
    """The part of a live value that the wanted one speaks of."""
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {key: _only_stated(live[key], item) for key, item in wanted.items() if key in live}
    if isinstance(live, list) and isinstance(wanted, list) and len(live) == len(wanted):
        return [_only_stated(one, other) for one, other in zip(live, wanted, strict=True)]
    return live


def markdown(changes: tuple[Change, ...], *, most: int = 20) -> str:
    """The changes as a page: a table, then the diffs of what changed."""
    if not changes:
        return "Nothing changes."
    rows = ["| what | kind | name |", "|---|---|---|"]
    rows += [f"| {change.what} | {change.kind} | {change.name} |" for change in changes]
    for change in [change for change in changes if change.lines][:most]:
        rows += ["", f"**{change.kind} {change.name}**", "```diff", *change.lines, "```"]
    return "\n".join(rows)
