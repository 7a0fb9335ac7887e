"""A test run that is killed leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from leftovers import MARK

HERE = Path(__file__).parent
TESTS = """
import subprocess, sys, time
from pathlib import Path

def test_starts_something():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path("started").write_text(str(process.pid))
    time.sleep(600)
"""


def test_what_a_killed_run_has_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nfrom leftovers import guard\ndef pytest_configure(config): guard()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"], cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    started = tmp_path / "started"
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.05)
    left = psutil.Process(int(started.read_text()))
    assert left.environ()[MARK] != os.environ[MARK]
    run.send_signal(signal.SIGKILL)
    run.wait()
    left.wait(timeout=20)
