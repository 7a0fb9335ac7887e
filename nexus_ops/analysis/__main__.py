"""`python -m nexus_ops.analysis EVIDENCE.json [--alpha 0.05]`: re-judge stored evidence, on this machine alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nexus_ops.analysis.replay import from_bytes, rejudge
from nexus_ops.errors import OperationError


def main(arguments: list[str] | None = None) -> int:
    """Prints the verdict and its numbers; 0 when it was reached, 2 when the evidence cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m nexus_ops.analysis")
    parser.add_argument("evidence", type=Path)
    parser.add_argument("--alpha", type=float, help="another α than the stored one")
    options = parser.parse_args(arguments)
    try:
        judgement = rejudge(from_bytes(options.evidence.read_bytes()), options.alpha)
    except (OperationError, OSError) as error:
        print(f"{options.evidence}: {error}", file=sys.stderr)
        return 2
    print(f"{judgement.verdict}: {'; '.join(judgement.reasons)}")
    print(f"evidence {judgement.e_value:.4g}, at most {judgement.peak:.4g}, needed {judgement.threshold:.4g}")
    for name, value in sorted(judgement.e_values.items(), key=lambda item: -item[1])[:5]:
        print(f"  {name:50} {value:12.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
