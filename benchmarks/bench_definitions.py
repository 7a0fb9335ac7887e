"""Loading the definitions, beside a bare `import dagster` (goal: at most 1.5 times its CPU time)."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.measure import say

TIMES = 5


def cpu_of(code: str) -> float:
    """CPU time of a fresh interpreter that runs some code (seconds)."""
    text = f"import time, json\n{code}\nprint(json.dumps(time.process_time()))"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def bench() -> None:
    """In turns, so that a busy machine is as busy for both."""
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(TIMES):
        ours.append(cpu_of("import nexus_ops.definitions"))
        bare.append(cpu_of("import dagster"))
    say("load the definitions (CPU)", statistics.median(ours), "s", "`import dagster`", statistics.median(bare))


if __name__ == "__main__":
    bench()
