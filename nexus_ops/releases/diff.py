"""What changes between two sets of objects, field by field, in words that a person can check.

The order of objects never matters, nor that of list items which have a name of their own (containers, variables,
ports); the order of other lists does, for a command line or a route's rules mean something else in another order.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import yaml

from nexus_ops.releases.model import canonical
from nexus_ops.releases.waves import identity, rank

Object = dict[str, Any]
KEYS = ("mountPath", "name", "key", "containerPort", "port", "topologyKey")
"""By what an item of a list is the same item, in order of preference."""
VERSION_LABEL = "app.kubernetes.io/version"
ORDERED = frozenset({"initContainers"})
"""Lists whose order counts although their items have names."""


class _Absent:
    """What a field is that is not there: not the same as one that is null."""


ABSENT = _Absent()


@dataclass(frozen=True)
class FieldChange:
    """One field by its path (`spec.template.spec.containers[agent].image`) with its values; `ABSENT` where it is not."""

    path: str
    before: Any
    after: Any
    by: str = ""
    """Who else set what is there before, and when; empty where that is nobody else, or not known."""


@dataclass(frozen=True)
class Change:
    """One object that is added, removed or changed, with the fields of a change."""

    kind: str
    namespace: str
    name: str
    what: Literal["added", "removed", "changed"]
    fields: tuple[FieldChange, ...] = ()
    note: str = ""
    """What else a person must know of it."""


def diff(old: Iterable[Object], new: Iterable[Object]) -> tuple[Change, ...]:
    """Changes from old to new by object identity, in wave order."""
    before = {identity(obj): obj for obj in old}
    after = {identity(obj): obj for obj in new}
    changes: list[Change] = []
    for key in sorted({**before, **after}, key=lambda key: rank(after.get(key) or before[key])):
        kind, _, namespace, name = key
        if key not in before or key not in after:
            changes.append(Change(kind, namespace, name, "removed" if key in before else "added"))
        elif found := tuple(fields(before[key], after[key])):
            changes.append(Change(kind, namespace, name, "changed", found))
    return tuple(changes)


def fields(before: Object, after: Object) -> Iterator[FieldChange]:
    """The fields in which two states of one object differ."""
    return _fields("", before, after)


def without_version(value: Any) -> Any:
    """An object without the version label, which changes everywhere with each release and says nothing."""
    if isinstance(value, list):
        return [without_version(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        items = cast(Object, value).items()
        return {key: without_version(item) for key, item in items if key != VERSION_LABEL}
    return value


def _fields(path: str, before: Any, after: Any) -> Iterator[FieldChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _members(path, cast(Object, before), cast(Object, after), member)
        return
    if isinstance(before, list) and isinstance(after, list):
        old, new = cast(list[Any], before), cast(list[Any], after)
        if key := key_of(path, old, new):
            yield from _members(path, {str(i[key]): i for i in old}, {str(i[key]): i for i in new}, item)
            return
        if all(isinstance(entry, dict) for entry in [*old, *new]):
            by_place = ({str(place): entry for place, entry in enumerate(entries)} for entries in (old, new))
            yield from _members(path, next(by_place), next(by_place), item)
            return
    if not _same(before, after):
        yield FieldChange(path, before, after)


def _members(
    path: str, old: Mapping[str, Any], new: Mapping[str, Any], step: Callable[[str, str], str]
) -> Iterator[FieldChange]:
    """What differs among the members of a mapping, or of a list by its items' names."""
    for name in [*new, *(name for name in old if name not in new)]:
        yield from _fields(step(path, name), old.get(name, ABSENT), new.get(name, ABSENT))


def member(path: str, name: str) -> str:
    """The path of a mapping's member."""
    return f'{path}["{name}"]' if "." in name or "/" in name else f"{path}.{name}".removeprefix(".")


def item(path: str, name: str) -> str:
    """The path of a list's item, by its name or its place."""
    return f"{path}[{name}]"


def key_of(path: str, old: Sequence[Any], new: Sequence[Any]) -> str | None:
    """The member that tells the items of two lists apart, if there is one."""
    if path.rpartition(".")[2] in ORDERED:
        return None
    for key in KEYS:
        if all(isinstance(one, dict) and isinstance(one.get(key), str | int) for one in [*old, *new]) and all(
            len({str(one[key]) for one in items}) == len(items) for items in (old, new)
        ):
            return key
    return None


def _same(before: Any, after: Any) -> bool:
    """Equal as JSON: Python holds 1, 1.0 and True to be the same."""
    if before is ABSENT or after is ABSENT:
        return before is after
    return before == after and canonical(before) == canonical(after)


def markdown(changes: tuple[Change, ...], *, most: int = 20) -> str:
    """The changes as a page: a table, then the fields of each object that changes, of at most `most` objects."""
    if not changes:
        return "Nothing changes."
    rows = ["| what | kind | name | fields |", "|---|---|---|---|"]
    rows += [f"| {c.what} | {c.kind} | {c.name} | {len(c.fields) or ''} |" for c in changes]
    rows += [f"\n{c.kind} {c.name}: {c.note}" for c in changes if c.note]
    changed = [change for change in changes if change.fields]
    for change in changed[:most]:
        fence = "````"  # longer than any fence that a value is likely to hold
        lines = [line for field in change.fields for line in _lines(field)]
        rows += ["", f"**{change.kind} {change.name}**", f"{fence}diff", *lines, fence]
    if len(changed) > most:
        rows += ["", f"… and {len(changed) - most} more objects that change."]
    return "\n".join(rows)


def _lines(field: FieldChange) -> Iterator[str]:
    """A field as lines of a diff: a text of several lines as its own diff, other values before and after.

    One that stays as it is (somebody else's, who is named) is a line without a sign.
    """
    old, new = field.before, field.after
    if field.by:
        yield f"# {field.by}:"
    if _same(old, new):
        yield from _value_lines(" ", field.path, old)
        return
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        yield f"  {field.path}:"
        found = difflib.unified_diff(old.splitlines(), new.splitlines(), n=1, lineterm="")
        yield from (line for place, line in enumerate(found) if place > 1)
        return
    for sign, value in (("-", old), ("+", new)):
        if value is not ABSENT:
            yield from _value_lines(sign, field.path, value)


def _value_lines(sign: str, path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield f"{sign} {path}:"
        text = yaml.safe_dump(value, sort_keys=True, width=110)
        yield from (f"{sign}   {line}" for line in text.splitlines())
        return
    yield f"{sign} {path}: {yaml.safe_dump(value, width=1000).splitlines()[0]}"
