"""What looks like a credential in a manifest: by its name, or by the shape of its value. Values are never repeated.

Manifests are stored, shown in the UI and put into diffs; a credential in one has been given away. The value patterns
are those by which the issuers mark their own tokens (AWS, GitHub, GitLab, Slack, Stripe, Google), PEM keys, JSON web
tokens, and a password within a URL. `$(NAME)` within a URL is Kubernetes' reference to another variable: no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

_NAME = re.compile(
    r"(?i)(passwo?r?d|passphrase|secret|token|credential|api[-_.]?key|private[-_.]?key|access[-_.]?key|mnemonic)"
)
_HARMLESS_END = re.compile(
    r"(?i)[-_.](name|path|file|dir|address|addresses|symbol|list|ttl|seconds|minutes|url|uri|endpoint|ref|header|issuer|"
    r"type|enabled|required|limit|count|size|length|decimals)$"
)
"""A name that ends so speaks about a secret or a token, and holds none: TOKEN_ADDRESS, SECRET_NAME."""
_HARMLESS_VALUE = re.compile(r"(?i)(true|false|\d{1,9}(\.\d+)?(ms|s|m|h|d)?|\$[({][A-Za-z0-9_.]+[)}])?")
_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]*:(?!\$[({])[^@/\s]+@"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abeprs]-[\w-]{10,}|hooks\.slack\.com/services/\w+/\w+"
    r"|\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,}|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+"
)
_LINE = re.compile(r"""(?m)^\s*["']?(?P<name>[\w.-]+)["']?\s*[:=]\s*["']?(?P<value>[^\s"',]+)""")


def is_secret(name: str, value: str) -> bool:
    """Whether a variable or key of this name with this value looks like it holds a credential."""
    if has_secret(value):
        return True
    if _HARMLESS_VALUE.fullmatch(value.strip()) and not ("pass" in name.lower() and value.strip().isdigit()):
        return False
    return bool(_NAME.search(name)) and not _HARMLESS_END.search(name)


def is_secret_file(name: str, text: str) -> bool:
    """Whether a file within a ConfigMap holds a credential: itself, or on a line `name: value` or `name=value`."""
    if "\n" not in text.strip():
        return is_secret(name, text)
    return has_secret(text) or any(is_secret(line["name"], line["value"]) for line in _LINE.finditer(text))


def has_secret(text: str) -> bool:
    """Whether a text holds something that is shaped like a credential."""
    return bool(_VALUE.search(text))


def secrets_within(value: Any, path: str = "") -> Iterator[str]:
    """The paths within an object of texts that hold something shaped like a credential."""
    if isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            yield from secrets_within(item, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for place, item in enumerate(cast(list[Any], value)):
            yield from secrets_within(item, f"{path}.{place}")
    elif isinstance(value, str) and has_secret(value):
        yield path
