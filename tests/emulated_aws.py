"""An emulated AWS as a process of its own, for as long as somebody needs it."""

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from nexus_ops.sandbox.processes import answers, free_port


@contextmanager
def emulated_aws() -> Generator[str]:
    """Its endpoint."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "nexus_ops.sandbox.aws", "--port", str(port)])
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert server.poll() is None, "the emulated AWS has ended"
            assert time.monotonic() < deadline, "the emulated AWS does not answer"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
