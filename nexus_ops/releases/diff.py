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
from nexus_ops.releases.quantities import NoQuantity, amount
from nexus_ops.releases.waves import identity, rank

Object = dict[str, Any]
KEYS = ("mountPath", "name", "key", "containerPort", "port", "topologyKey")
"""By what an item of a list is the same item, in order of preference."""
VERSION_LABEL = "app.kubernetes.io/version"
ORDERED = frozenset({"initContainers"})
"""Lists whose order counts although their items have names."""
AMOUNTS = frozenset({"requests", "limits"})
"""Fields that hold quantities, which a server may spell differently."""


class _Absent:
    """What a field is that is not there: not the same as one that is null."""


ABSENT = _Absent()


@dataclass(frozen=True)
class FieldChange:
    """One field by its path (`spec.template.spec.containers[agent].image`) with its values; `ABSENT` where it is not."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """One object that is added, removed or changed, with the fields of a change."""

    kind: str
    namespace: str
    name: str
    what: Literal["added", "removed", "changed"]
    fields: tuple[FieldChange, ...] = ()


def diff(old: Iterable[Object], new: Iterable[Object]) -> tuple[Change, ...]:
    """Changes from old to new by object identity, in wave order."""
    return _diff(old, new, lambda before, after: _fields("", before, after))


def diff_live(live: Iterable[Object], new: Iterable[Object]) -> tuple[Change, ...]:
    """Changes that applying `new` would make to live objects: only fields that `new` states are compared.

    What the server adds (defaults, status, managed fields) is no change, nor is another spelling of an amount.
    """
    return _diff(live, new, lambda before, after: _fields("", before, after, stated=True))


def without_version(value: Any) -> Any:
    """An object without the version label, which changes everywhere with each release and says nothing."""
    if isinstance(value, list):
        return [without_version(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        items = cast(Object, value).items()
        return {key: without_version(item) for key, item in items if key != VERSION_LABEL}
    return value


def _diff(
    old: Iterable[Object], new: Iterable[Object], fields: Callable[[Object, Object], Iterator[FieldChange]]
) -> tuple[Change, ...]:
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


def _fields(path: str, before: Any, after: Any, *, stated: bool = False) -> Iterator[FieldChange]:
    """The fields in which two values differ. With `stated`, only those that `after` speaks of."""
    if stated and _same_to_a_server(path, before, after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _members(path, cast(Object, before), cast(Object, after), ".{}", stated)
        return
    if isinstance(before, list) and isinstance(after, list):
        old, new = cast(list[Any], before), cast(list[Any], after)
        if key := _key_of(path, old, new):
            yield from _members(path, {str(i[key]): i for i in old}, {str(i[key]): i for i in new}, "[{}]", stated)
            return
        if stated and len(old) == len(new):
            for place, (one, other) in enumerate(zip(old, new, strict=True)):
                yield from _fields(f"{path}[{place}]", one, other, stated=True)
            return
        if all(isinstance(item, dict) for item in [*old, *new]):
            by_place = ({str(place): item for place, item in enumerate(items)} for items in (old, new))
            yield from _members(path, next(by_place), next(by_place), "[{}]", stated)
            return
    if not _same(before, after):
        yield FieldChange(path, before, after)


def _members(
    path: str, old: Mapping[str, Any], new: Mapping[str, Any], step: str, stated: bool
) -> Iterator[FieldChange]:
    """What differs among the members of a mapping, or of a list by its items' names."""
    # A named item that is only live is a change even so: the list is stated as a whole.
    names = list(new) if stated and step == ".{}" else [*new, *(name for name in old if name not in new)]
    for name in names:
        word = f'["{name}"]' if step == ".{}" and ("." in name or "/" in name) else step.format(name)
        place = f"{path}{word}".removeprefix(".")
        yield from _fields(place, old.get(name, ABSENT), new.get(name, ABSENT), stated=stated)


def _key_of(path: str, old: Sequence[Any], new: Sequence[Any]) -> str | None:
    """The member that tells the items of two lists apart, if there is one."""
    if path.rpartition(".")[2] in ORDERED:
        return None
    for key in KEYS:
        if all(isinstance(item, dict) and isinstance(item.get(key), str | int) for item in [*old, *new]) and all(
            len({str(item[key]) for item in items}) == len(items) for items in (old, new)
        ):
            return key
    return None


def _same(before: Any, after: Any) -> bool:
    """Equal as JSON: Python holds 1, 1.0 and True to be the same."""
    if before is ABSENT or after is ABSENT:
        return before is after
    return before == after and canonical(before) == canonical(after)


def _same_to_a_server(path: str, before: Any, after: Any) -> bool:
    """Whether a server keeps `after` as `before`: it leaves out what is empty, and spells amounts its own way."""
    if before is ABSENT:
        return after is None or after == {} or after == []
    if AMOUNTS.isdisjoint(path.split(".")[-2:-1]):
        return False
    try:
        return amount(before) == amount(after)
    except NoQuantity:
        return False


def markdown(changes: tuple[Change, ...], *, most: int = 20) -> str:
    """The changes as a page: a table, then the fields of each object that changes, of at most `most` objects."""
    if not changes:
        return "Nothing changes."
    rows = ["| what | kind | name | fields |", "|---|---|---|---|"]
    rows += [f"| {c.what} | {c.kind} | {c.name} | {len(c.fields) or ''} |" for c in changes]
    changed = [change for change in changes if change.fields]
    for change in changed[:most]:
        fence = "````"  # longer than any fence that a value is likely to hold
        lines = [line for field in change.fields for line in _lines(field)]
        rows += ["", f"**{change.kind} {change.name}**", f"{fence}diff", *lines, fence]
    if len(changed) > most:
        rows += ["", f"… and {len(changed) - most} more objects that change."]
    return "\n".join(rows)


def _lines(field: FieldChange) -> Iterator[str]:
    """A field as lines of a diff: a text of several lines as its own diff, other values before and after."""
    old, new = field.before, field.after
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
