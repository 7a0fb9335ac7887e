"""How much of a real API server's recorded answers the sandbox gives, exchange by exchange.

The recordings lie beside the checkout (`../shared/k8s-transcripts`), with the script that replays them.
"""

from __future__ import annotations

import re
import subprocess
import sys

from benchmarks.measure import leave_out, say
from benchmarks.scene import CLUSTER, Scene
from nexus_ops.topology import project_folder

FOLDER = project_folder().parent / "shared" / "k8s-transcripts"
SCORE = re.compile(r"^fidelity: (\d+)/(\d+) exchanges$", re.MULTILINE)


def bench() -> None:
    """All scenarios, with and without the wording of messages."""
    if not FOLDER.is_dir():
        return leave_out("answers like a real API server's", "the recordings are not beside the checkout")
    files = sorted(str(path) for path in FOLDER.glob("*.json"))
    with Scene(parts=()) as scene:
        server = scene.state.clusters[CLUSTER]["api"]
        for what, options in (("as recorded", []), ("but for the wording", ["--loose-messages"])):
            command = [sys.executable, str(FOLDER / "replay.py"), "--server", server, *options, *files]
            ran = subprocess.run(command, capture_output=True, text=True)
            found = SCORE.search(ran.stdout)
            assert found is not None, ran.stdout + ran.stderr
            say(f"answers {what}", int(found[1]), "", "a real server's, recorded", int(found[2]))


if __name__ == "__main__":
    bench()
