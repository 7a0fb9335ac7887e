"""From HTTPRoutes to Envoy's virtual hosts: one per hostname, its routes in the Gateway API's order of precedence.

Pure: the caller says which routes there are and which backends exist. What is not supported is said per route, and
never left out in silence (https://gateway-api.sigs.k8s.io/reference/spec/, HTTPRouteRule and HTTPRouteMatch).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Object = dict[str, Any]
HasBackend = Callable[[str, str, int], bool]
"""Whether a namespace has a Service of this name with this port."""

RULE_KEYS = {"name", "matches", "backendRefs", "timeouts"}
BACKEND_KEYS = {"group", "kind", "name", "namespace", "port", "weight"}
MATCH_KEYS = {"path", "method", "headers", "queryParams"}
PATH_RANK = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
"""The specification leaves regular expressions to the implementation: after exact paths, as Envoy Gateway does it."""
DURATION = re.compile(r"(\d+)(h|ms|m|s)")
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
DEFAULT_TIMEOUT = 30.0
ANYTHING: Object = {"path": {"type": "PathPrefix", "value": "/"}}


def cluster_name(namespace: str, service: str, port: int) -> str:
    """The name of Envoy's cluster for a Service's port."""
    return f"{namespace}/{service}/{port}"


def unsupported(route: Object) -> list[str]:
    """What this gateway cannot do of a route, one sentence each."""
    found: list[str] = []
    for number, rule in enumerate(route["spec"].get("rules") or ()):
        place = f"rules[{number}]"
        found += [f"{place}.{key} is not supported" for key in sorted(rule.keys() - RULE_KEYS)]
        if "backendRequest" in (rule.get("timeouts") or {}):
            found.append(f"{place}.timeouts.backendRequest is not supported")
        for index, match in enumerate(rule.get("matches") or ()):
            found += [f"{place}.matches[{index}].{key} is not supported" for key in sorted(match.keys() - MATCH_KEYS)]
        for index, backend in enumerate(rule.get("backendRefs") or ()):
            where = f"{place}.backendRefs[{index}]"
            found += [f"{where}.{key} is not supported" for key in sorted(backend.keys() - BACKEND_KEYS)]
    return found


def unresolved(route: Object, has_backend: HasBackend) -> tuple[str, str] | None:
    """Reason and message for the condition ResolvedRefs when a backend cannot be had; None when all can."""
    for backend in backends(route):
        if not _is_service(backend):
            return "InvalidKind", f"{backend.get('kind', 'Service')} {backend['name']}: only Services are supported"
    missing = [
        f"{backend['name']}:{backend.get('port', 0)}"
        for backend in backends(route)
        if not has_backend(_namespace(route, backend), backend["name"], backend.get("port", 0))
    ]
    return ("BackendNotFound", ", ".join(missing)) if missing else None


def virtual_hosts(routes: Iterable[Object]) -> list[Object]:
    """Envoy's virtual hosts. A host also serves what its wildcards say, after what is said for itself."""
    by_host: dict[str, list[tuple[Any, Object]]] = {}
    for route in routes:
        entries = _entries(route)
        for host in route["spec"].get("hostnames") or ["*"]:
            by_host.setdefault(host, []).extend(entries)
    hosts: list[Object] = []
    for host in sorted(by_host):
        covering = sorted((other for other in by_host if _covers(other, host)), key=len, reverse=True)
        found = [
            entry for other in covering for _, entry in sorted(by_host[other], key=lambda ranked_entry: ranked_entry[0])
        ]
        hosts.append({"name": host, "domains": [host], "routes": found})
    return hosts


def _covers(pattern: str, host: str) -> bool:
    return pattern in (host, "*") or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def backends(route: Object) -> list[Object]:
    """All that a route leads to, of all its rules."""
    return [backend for rule in route["spec"].get("rules") or () for backend in rule.get("backendRefs") or ()]


def _is_service(backend: Object) -> bool:
    return (backend.get("group", ""), backend.get("kind", "Service")) == ("", "Service")


def _target(route: Object, backend: Object) -> str:
    """Envoy's name of a backend; one that nobody has, where it is no Service."""
    name = cluster_name(_namespace(route, backend), backend["name"], backend.get("port", 0))
    return name if _is_service(backend) else f"{backend.get('kind', 'Service')}/{name}"


def _namespace(route: Object, backend: Object) -> str:
    return backend.get("namespace", route["metadata"]["namespace"])


def _entries(route: Object) -> list[tuple[Any, Object]]:
    """(rank, Envoy route) for every match of a route."""
    meta = route["metadata"]
    age = (meta.get("creationTimestamp", ""), f"{meta['namespace']}/{meta['name']}")
    found: list[tuple[Any, Object]] = []
    for number, rule in enumerate(route["spec"].get("rules") or ()):
        action = _action(route, rule)
        for index, match in enumerate(rule.get("matches") or [ANYTHING]):
            found.append(((*_precedence(match), *age, number, index), {"match": _match(match), **action}))
    return found


def _precedence(match: Object) -> tuple[int, int, bool, int, int]:
    """Smaller comes first: kind and length of the path, method, number of headers, number of parameters."""
    path = match.get("path") or ANYTHING["path"]
    headers, parameters = match.get("headers") or (), match.get("queryParams") or ()
    rank = PATH_RANK[path.get("type", "PathPrefix")]
    return rank, -len(path.get("value", "/")), "method" not in match, -len(headers), -len(parameters)


def _match(match: Object) -> Object:
    path = match.get("path") or ANYTHING["path"]
    kind, value = path.get("type", "PathPrefix"), path.get("value", "/")
    result: Object
    if kind == "Exact":
        result = {"path": value}
    elif kind == "RegularExpression":
        result = {"safe_regex": {"regex": value}}
    elif value.rstrip("/"):
        result = {"path_separated_prefix": value.rstrip("/")}
    else:
        result = {"prefix": "/"}
    headers = [{"name": name, "string_match": text} for name, text in _texts(match.get("headers"), fold=True).items()]
    if method := match.get("method"):
        headers.append({"name": ":method", "string_match": {"exact": method}})
    if headers:
        result["headers"] = headers
    if parameters := _texts(match.get("queryParams"), fold=False):
        result["query_parameters"] = [{"name": name, "string_match": text} for name, text in parameters.items()]
    return result


def _texts(entries: Any, *, fold: bool) -> dict[str, Object]:
    """String matchers by name; of several for one name the first counts, as the specification has it."""
    found: dict[str, Object] = {}
    for entry in entries or ():
        regex = entry.get("type") == "RegularExpression"
        text = {"safe_regex": {"regex": entry["value"]}} if regex else {"exact": entry["value"]}
        found.setdefault(entry["name"].lower() if fold else entry["name"], text)
    return found


def _action(route: Object, rule: Object) -> Object:
    """Where a rule leads. The share of a backend that is not there is answered with 500."""
    weighted = [
        {"name": _target(route, backend), "weight": backend.get("weight", 1)}
        for backend in rule.get("backendRefs") or ()
        if backend.get("weight", 1) > 0
    ]
    if not weighted:
        return {"direct_response": {"status": 503, "body": {"inline_string": "no backend has weight"}}}
    return {
        "route": {
            "weighted_clusters": {"clusters": weighted},
            "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
            "timeout": f"{_timeout(rule):.3f}s",
        }
    }


def _timeout(rule: Object) -> float:
    """Seconds, from a duration as GEP-2257 writes it (1h30m, 500ms); 0 is without end, as in Envoy."""
    text = (rule.get("timeouts") or {}).get("request")
    if text is None:
        return DEFAULT_TIMEOUT
    return sum(int(number) * SECONDS[unit] for number, unit in DURATION.findall(text))
