"""Running a program as an ordinary user when we are root: PostgreSQL refuses root (initdb(1), postgres(1)).

That user may not be able to look into the folders above the state folder or the interpreter. It therefore keeps the
one right to read past them (capabilities(7)); where the machine withholds it, plain permissions decide.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """For a child about to be started: get a signal when its parent ends, however that happens (prctl(2))."""
    LIBC.prctl(PR_SET_PDEATHSIG, number)


def ordinary_user() -> pwd.struct_passwd | None:
    """Who runs what root must not: `postgres`, else `nobody`; None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def give(path: Path, user: pwd.struct_passwd | None) -> None:
    """Make a file or folder the user's own."""
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def become(user: pwd.struct_passwd | None, at_parents_end: signal.Signals) -> Callable[[], None]:
    """What a child does before it turns into the program: become `user`, and end when its parent ends.

    The kernel forgets the signal for the parent's end when the user changes, hence this order (prctl(2)).
    """

    def prepare() -> None:
        if user is not None:
            LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            any(map(_keep, (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)))
        os.umask(0o077)
        die_with_parent(at_parents_end)

    return prepare


def _keep(capability: int) -> bool:
    """Keep one right, across exec too; False when we do not have it."""
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    if LIBC.capset(header, sets) != 0:
        return False
    return LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0
