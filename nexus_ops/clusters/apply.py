"""Applying a rendering: wave after wave, concurrently within a wave, then pruning what the set no longer holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from nexus_ops.clusters.applyset import ApplySet, Identity, foreign_owner, inventory, mark, prune, write_inventory
from nexus_ops.clusters.client import ClusterClient, Kind
from nexus_ops.clusters.errors import FenceLost, FieldConflict, Refused
from nexus_ops.clusters.fence import Fenced, is_routed
from nexus_ops.clusters.settled import FIRST, wait_settled
from nexus_ops.errors import OperationError, TemporaryError
from nexus_ops.releases.waves import identity, in_waves

Object = dict[str, Any]
Place = tuple[Kind, str | None]
"""A kind in a namespace."""
MANY = 20
"""From so many objects of a kind in a namespace on, they are listed instead of read one by one."""
THREADS = 8
SETTLE_SECONDS = 30.0
"""How long a namespace or a definition may take before what needs it is applied."""


@dataclass
class ApplyResult:
    """What an apply did, by object name."""

    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    kept_back: list[str] = field(default_factory=list)
    """Members that would be pruned but hold data: a person decides. Told each time until they are gone."""


def apply_rendering(
    fenced: Fenced,
    objects: Iterable[Object],
    applyset: ApplySet,
    *,
    replicas: Mapping[str, int],
    adopt: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> ApplyResult:
    """Apply all objects of a set (but routed ones, which are the router's), then prune what left it.

    `replicas` are the first replicas of Deployments that do not exist yet, by name. An object of a Helm release or of
    another set is refused unless `adopt`, which takes it over with the fields that its owner set.
    """
    wanted = [mark(obj, applyset) for obj in objects]
    before = inventory(fenced.client, applyset)
    names = {identity(obj) for obj in wanted}
    write_inventory(fenced, applyset, {*before, *names})
    result = ApplyResult()
    with ThreadPoolExecutor(THREADS) as pool:
        for wave, members in in_waves([obj for obj in wanted if not is_routed(obj)]):
            report(f"{wave}: {len(members)} objects")
            live = live_of_many(fenced.client, members)
            running = [
                pool.submit(_apply, fenced, obj, applyset, replicas, adopt, live.get(_place(obj))) for obj in members
            ]
            for obj, changed in zip(members, _results(running), strict=True):
                (result.changed if changed else result.unchanged).append(_name(identity(obj)))
            wait_settled(fenced.client, [obj for obj in members if obj["kind"] in FIRST], seconds=SETTLE_SECONDS)
    pruned = prune(fenced, applyset, set(before) - names)
    write_inventory(fenced, applyset, {*names, *pruned.kept_back})
    result.pruned = [_name(member) for member in pruned.deleted]
    result.kept_back = [_name(member) for member in pruned.kept_back]
    return result


def live_of_many(client: ClusterClient, objects: Iterable[Object]) -> dict[Place, dict[str, Object]]:
    """What is live of the kinds of which there are many in a namespace, by name: one list takes the place of many reads.

    It is as good as reading each: what changes after it is refused by its version, and read then.
    """
    found: dict[Place, dict[str, Object]] = {}
    for (kind, namespace), number in Counter(map(_place, objects)).items():
        if number >= MANY:
            try:
                listed = client.list(kind, namespace)
            except Refused:
                continue  # we may read each, but not list: so each is read
            found[kind, namespace] = {obj["metadata"]["name"]: obj for obj in listed}
    return found


def _place(obj: Object) -> Place:
    return Kind.of(obj), obj["metadata"].get("namespace")


def foreign_objects(client: ClusterClient, objects: Iterable[Object], applyset: ApplySet) -> dict[str, str]:
    """Whose the live ones of a set's objects are, where they are not the set's: owner by kind and name."""

    def owner(obj: Object) -> str | None:
        live = client.get(Kind.of(obj), obj["metadata"]["name"], obj["metadata"].get("namespace"))
        return foreign_owner(live, applyset) if live else None

    wanted = [obj for obj in objects if not is_routed(obj)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = zip(wanted, pool.map(owner, wanted), strict=True)
        return {f"{obj['kind']} {obj['metadata']['name']}": whose for obj, whose in found if whose}


def _results(running: list[Future[bool]]) -> list[bool]:
    """Whether each object changed, once the whole wave is over; its errors as one."""
    errors = [error for future in running if (error := future.exception())]
    if errors:
        raise _the_error(errors)
    return [future.result() for future in running]


def _the_error(errors: list[BaseException]) -> BaseException:
    """The error of a wave: that we must stop before all, what may pass by itself next, conflicts of fields all at once."""
    for stopping in errors:
        if isinstance(stopping, FenceLost) or not isinstance(stopping, OperationError):
            return stopping
    for passing in errors:
        if isinstance(passing, TemporaryError):
            return passing
    conflicts = [error for error in errors if isinstance(error, FieldConflict)]
    return FieldConflict.of_all(conflicts) if len(conflicts) == len(errors) else errors[0]


def _apply(
    fenced: Fenced,
    obj: Object,
    applyset: ApplySet,
    replicas: Mapping[str, int],
    adopt: bool,
    seen: Mapping[str, Object] | None,
) -> bool:
    """Apply one object; whether that changed anything. `seen`: what is live of its kind, if that is known."""

    def admit(live: Object) -> bool:
        owner = foreign_owner(live, applyset)
        if owner and not adopt:
            message = f"it belongs to {owner}; take it over with adopt: true, or remove it there first"
            name = f"{fenced.client.name}/{live['kind']}/{live['metadata']['name']}"
            raise Refused(name, {"reason": "Foreign", "message": message})
        return owner is not None

    if obj["kind"] == "Deployment":
        return fenced.apply_workload(obj, replicas.get(obj["metadata"]["name"], 0), admit=admit)[1]
    return fenced.apply_release(obj, admit=admit, seen=seen)[1]


def _name(key: Identity) -> str:
    return f"{key[0]}/{key[3]}"
