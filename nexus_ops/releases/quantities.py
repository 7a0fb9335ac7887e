"""Kubernetes quantities: `500m`, `1Gi`, `1e3` as exact numbers, so that equal amounts in other words are equal.

The grammar is the API server's own (k8s.io/apimachinery/pkg/api/resource): a decimal number with a binary suffix
(Ki … Ei), a decimal one (n, u, m, k … E) or an exponent. The server may answer `1` to who wrote `1000m`.
"""

from __future__ import annotations

import re
from decimal import Decimal

from nexus_ops.errors import PermanentError

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?\d{1,2}))?")
_SUFFIXES: dict[str, Decimal] = {
    **{suffix: Decimal(10) ** power for suffix, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)},
    **{f"{suffix}i": Decimal(2) ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)},
}  # fmt: skip


class NoQuantity(PermanentError):
    """A text that is no amount."""


def amount(quantity: str | int | float) -> Decimal:
    """The amount in base units (cores, bytes): exact, so that it can be compared and summed. `NoQuantity` otherwise."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise NoQuantity(f"{str(quantity)!r} is no quantity.", todo="Write a number with a unit, such as 500m or 1Gi.")
    number, suffix, exponent = found.groups()
    factor = _SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0)
    return Decimal(number) * factor
