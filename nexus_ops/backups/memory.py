"""Bundles are megabytes that come and go: what one has taken goes back to the system with it, and not to a heap for the next."""

from __future__ import annotations

from functools import cache

from nexus_ops.users import LIBC

MMAP_THRESHOLD = -3
"""Of mallopt(3): what is larger is mapped by itself. Set once, glibc does not raise it any more (it would up to 32 MB)."""
LARGE = 4 << 20


@cache
def bound_memory() -> None:
    """For the rest of this process. With another C library than glibc: nothing, memory is as that has it."""
    if (set_option := getattr(LIBC, "mallopt", None)) is not None:
        set_option(MMAP_THRESHOLD, LARGE)
