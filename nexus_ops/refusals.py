"""What an operation refuses, as one sentence in the run: not as the stack of how it came to that."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import dagster as dg

from nexus_ops.errors import OperationError

Op = TypeVar("Op", bound=Callable[..., Any])


def in_a_sentence(op: Op) -> Op:
    """An op's function whose `OperationError` fails the run with its own words. It is not tried again by Dagster: what
    may pass by itself is the rollout sensor's to resume."""

    def refusal(error: OperationError) -> dg.Failure:
        return dg.Failure(str(error), metadata={"kind": type(error).__name__}, allow_retries=False)

    @functools.wraps(op)
    def returning(*args: Any, **kwargs: Any) -> Any:
        try:
            return op(*args, **kwargs)
        except OperationError as error:
            raise refusal(error) from None

    @functools.wraps(op)
    def yielding(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from op(*args, **kwargs)
        except OperationError as error:
            raise refusal(error) from None

    return yielding if inspect.isgeneratorfunction(op) else returning  # pyright: ignore[reportReturnType]
