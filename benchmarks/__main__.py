"""`make bench`: each figure beside what it is compared with, measured in the same run. Never a verdict.

`python -m benchmarks render apply` measures only these. What cannot be measured says why, and the rest goes on.
"""

from __future__ import annotations

import sys

from benchmarks import (
    bench_apply,
    bench_backups,
    bench_definitions,
    bench_judge,
    bench_redis,
    bench_render,
    bench_rollout,
    bench_sandbox,
    bench_sensor,
    bench_transcripts,
)
from benchmarks.measure import HEAD, leave_out
from nexus_ops.errors import OperationError

BENCHES = {
    "definitions": bench_definitions.bench,
    "render": bench_render.bench,
    "apply": bench_apply.bench,
    "backups": bench_backups.bench,
    "redis": bench_redis.bench,
    "judge": bench_judge.bench,
    "sandbox": bench_sandbox.bench,
    "rollout": bench_rollout.bench,
    "sensor": bench_sensor.bench,
    "transcripts": bench_transcripts.bench,
}


def main() -> None:
    """The named ones, or all; exit status 1 when one could not be carried out."""
    names = sys.argv[1:] or list(BENCHES)
    if unknown := sorted(set(names) - set(BENCHES)):
        sys.exit(f"there is no benchmark {unknown[0]}; there are: {', '.join(BENCHES)}")
    print(HEAD, flush=True)
    failed = False
    for name in names:
        try:
            BENCHES[name]()
        except (OperationError, AssertionError) as error:
            failed = True
            leave_out(name, f"it failed: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
