"""Asking the Prometheus of a cluster, through the API server."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.rollouts.context import RolloutContext

Series = dict[str, Any]
SERVICE = "services/http:prometheus-operated:web/proxy"
REFUSED = (400, 422)
"""Prometheus' answers to a query that cannot be parsed, or not be carried out."""
AT_ONCE = 6


class QueryRefused(PermanentError):
    """A query that Prometheus will not answer, however often it is asked; with its own words."""


def query(context: RolloutContext, promql: str, **times: str) -> list[Series]:
    """An instant query (at `time`, else now), or one over `start`, `end`, `step`; the series that it gives."""
    at = f"namespaces/{context.cluster.monitoring_namespace}/{SERVICE}/api/v1"
    kind = "query_range" if "start" in times else "query"
    answer = context.client.proxy(f"{at}/{kind}", query={"query": promql, **times})
    if answer.status_code in REFUSED:
        raise QueryRefused(f"Prometheus refuses it: {_words(answer)}.", target=promql)
    if answer.status_code != 200:
        raise TemporaryError(f"Prometheus answered {answer.status_code}.", target=context.cluster.name)
    try:
        return answer.json()["data"]["result"]
    except (ValueError, KeyError, TypeError):
        raise TemporaryError("Prometheus' answer cannot be read.", target=context.cluster.name) from None


def query_all(context: RolloutContext, queries: Iterable[str], **times: str) -> dict[str, list[Series] | str]:
    """Several queries at once; by query its series, or why Prometheus refuses it. What is busy is an error."""

    def ask(promql: str) -> list[Series] | str:
        try:
            return query(context, promql, **times)
        except QueryRefused as error:
            return error.problem

    wanted = list(queries)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(wanted, pool.map(ask, wanted), strict=True))


def over(start: float, end: float, step: float) -> dict[str, str]:
    """The times of a range query, to the millisecond."""
    return {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}


def _words(answer: Any) -> str:
    try:
        return str(answer.json()["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:200]}"
