"""Label and field selectors, parsed as apimachinery's labels package parses them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nexus_ops.sandbox.kube.errors import ApiError

TOKEN = re.compile(r"\s*(==|!=|[=,()!<>]|[^\s=,()!<>]+)")
NAME = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$")
PREFIX = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
Matcher = Callable[[dict[str, str]], bool]


@dataclass
class _Tokens:
    items: list[str]
    at: int = 0

    def peek(self) -> str:
        return self.items[self.at] if self.at < len(self.items) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token


def _bad(message: str) -> ApiError:
    return ApiError(400, message)


def parse_labels(text: str) -> Matcher:
    """A matcher over labels; ApiError 400 says what was found and expected."""
    tokens = _Tokens([match.group(1) for match in TOKEN.finditer(text)])
    matchers: list[Matcher] = []
    while tokens.peek():
        if tokens.peek() in ("=", "==", "!=", ",", "(", ")", "<", ">"):
            raise _bad(f"found '{tokens.peek()}', expected: !, identifier, or 'end of string'")
        matchers.append(_requirement(tokens))
        if not tokens.peek():
            break
        if (token := tokens.take()) != ",":
            raise _bad(f"found '{token}', expected: ',' or 'end of string'")
        if not tokens.peek() or tokens.peek() in (",", ")", "(", "="):
            raise _bad(f"found '{tokens.peek()}', expected: identifier after ','")
    return lambda labels: all(matches(labels) for matches in matchers)


def _requirement(tokens: _Tokens) -> Matcher:
    negate = tokens.peek() == "!"
    if negate:
        tokens.take()
    key = tokens.take()
    _check_key(key)
    operator = tokens.peek()
    if negate:
        return lambda labels: key not in labels
    if operator in ("", ","):
        return lambda labels: key in labels
    tokens.take()
    if operator in ("=", "==", "!="):
        value = "" if tokens.peek() in ("", ",") else tokens.take()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if operator in ("<", ">"):
        return _comparison(key, operator, "" if tokens.peek() in ("", ",") else tokens.take())
    if operator in ("in", "notin"):
        values = _values(tokens)
        if operator == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: labels.get(key) not in values
    raise _bad(f"unable to parse requirement: found '{operator}', expected: in, notin, =, ==, !=, gt, lt")


def _comparison(key: str, operator: str, value: str) -> Matcher:
    if not re.fullmatch(r"-?\d+", value):
        message = "for 'Gt', 'Lt' operators, the value must be an integer"
        raise _bad(f'unable to parse requirement: values[0]: Invalid value: "{value}": {message}')
    bound = int(value)

    def matches(labels: dict[str, str]) -> bool:
        found = labels.get(key, "")
        if not re.fullmatch(r"-?\d+", found):
            return False
        return int(found) > bound if operator == ">" else int(found) < bound

    return matches


def _values(tokens: _Tokens) -> set[str]:
    if tokens.peek() != "(":
        raise _bad(f"unable to parse requirement: found '{tokens.peek()}' expected: '('")
    tokens.take()
    values: set[str] = set()
    while True:
        token = tokens.take()
        if token == ")":
            return values or {""}
        if token == "":
            raise _bad("unable to parse requirement: found '', expected: ',', or identifier")
        if token != ",":
            values.add(token)


def _check_key(key: str) -> None:
    prefix, _, name = key.rpartition("/")
    if not NAME.match(name) or len(name) > 63 or (prefix and not PREFIX.match(prefix)):
        raise _bad(
            f'unable to parse requirement: <nil>: Invalid value: "{key}": name part must consist of alphanumeric '
            "characters, '-', '_' or '.', and must start and end with an alphanumeric character"
        )


def parse_fields(text: str) -> Callable[[dict[str, Any]], bool]:
    """A matcher over objects for `metadata.name=a,status.phase!=Running`."""
    wanted: list[tuple[list[str], bool, str]] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", part)
        if not match:
            raise _bad(f"invalid selector: '{text}'; can't understand '{part}'")
        wanted.append((match[1].split("."), match[2] != "!=", match[3]))

    def matches(obj: dict[str, Any]) -> bool:
        for path, equal, value in wanted:
            place: Any = obj
            for name in path:
                place = place.get(name) if isinstance(place, dict) else None
            if (str(place if place is not None else "") == value) != equal:
                return False
        return True

    return matches
