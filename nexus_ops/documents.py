"""Reading YAML files that people write: a key given twice is an error, and errors name file and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from nexus_ops.errors import PermanentError, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class DocumentError(PermanentError):
    """A file that is missing, or is not the YAML that it should be."""


def first_error(error: ValidationError) -> ErrorDetails:
    """The one to tell of: a key that is unknown, for it is why another one seems to be missing; else the first."""
    found = error.errors()
    return next((one for one in found if one["type"] == "extra_forbidden"), found[0])


def unknown_key(key: str, known: Iterable[str]) -> str:
    """That a key is unknown, which ones are allowed, and which one was probably meant."""
    allowed = list(known)
    return f"unknown key; allowed: {', '.join(allowed)}.{nearest(key, allowed)}" if allowed else "unknown key."


class _UniqueKeys(yaml.SafeLoader):
    """A loader to which a repeated key is an error: plain YAML silently keeps the last one."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    construct = cast("Callable[..., Any]", loader.construct_object)  # pyright: ignore[reportUnknownMemberType]
    keys = [construct(key, deep=True) for key, _ in node.value]
    for key, uses in Counter(keys).items():
        if uses > 1:
            problem = f"{key!r} is declared {uses} times"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> Any:
    """The document in a YAML file; `DocumentError` when it is missing, malformed or repeats a key."""
    try:
        return yaml.load(path.read_text(), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise DocumentError("the file does not exist.", target=str(path)) from None
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise DocumentError(f"{error.problem}{line}.", target=path.name, todo="Each key once, valid YAML.") from None
