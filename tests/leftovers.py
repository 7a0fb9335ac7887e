"""Ends what a test run leaves behind, however it ended: Ctrl-C leaves pytest's workers no time for their fixtures.

`python leftovers.py <mark> <pid>` waits for the end of a process. Then it kills whatever has the mark in its environment, as all
that a test starts inherits it.
"""

import os
import subprocess
import sys
import uuid

import psutil

MARK = "NEXUS_TEST_RUN"


def guard() -> None:
    """From now on, what this process and its children start ends with it at the latest."""
    os.environ[MARK] = uuid.uuid4().hex
    command, quiet = [sys.executable, __file__, os.environ[MARK], str(os.getpid())], subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def left_by(mark: str) -> list[psutil.Process]:
    """What runs with this mark, but for who asks."""
    every = (one for one in psutil.process_iter(["environ"]) if one.pid != os.getpid())
    return [one for one in every if (one.info["environ"] or {}).get(MARK) == mark]


def main(mark: str, run: int) -> None:
    if psutil.pid_exists(run):
        psutil.Process(run).wait()
    while left := left_by(mark):
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass  # it ended by itself
        psutil.wait_procs(left, timeout=5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
