"""PostgreSQL's own manifest of a backup, compared with a restored folder, where pg_verifybackup cannot run.

Files, sizes, the manifest's own checksum, and the log that recovery needs. Not the content of each file: its bundle's SHA-256 has
been checked on the way here. (backup-manifest-format in PostgreSQL's manual)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nexus_ops.backups.lsn import Lsn, segments_between

# What a server changes or adds after a restore (src/bin/pg_verifybackup/pg_verifybackup.c, ignore list).
IGNORED = ("backup_manifest", "pg_wal", "postgresql.auto.conf", "recovery.signal", "standby.signal")


def problems(data: Path, segment_bytes: int, ignored: tuple[str, ...] = ()) -> list[str]:
    """What does not fit, one sentence each; none: all is there."""
    content = (data / "backup_manifest").read_bytes()
    head, mark, _ = content.rpartition(b'"Manifest-Checksum"')
    try:
        document: dict[str, Any] = json.loads(content)
    except ValueError:
        return ["the server's manifest cannot be read."]
    if not mark or hashlib.sha256(head).hexdigest() != str(document.get("Manifest-Checksum")):
        return ["the server's manifest does not match its own checksum."]
    skip = (*IGNORED, *ignored)
    sizes = {entry["Path"]: entry["Size"] for entry in document["Files"] if not _within(entry.get("Path", ""), skip)}
    there = {
        str(path.relative_to(data)): path.stat().st_size
        for path in data.rglob("*")
        if path.is_file() and not _within(str(path.relative_to(data)), skip)
    }
    found = [f'"{name}" is in the manifest and not on disk.' for name in sorted(sizes.keys() - there.keys())]
    found += [f'"{name}" is on disk and not in the manifest.' for name in sorted(there.keys() - sizes.keys())]
    found += [
        f'"{name}" has {there[name]} bytes, and {size} in the manifest.'
        for name, size in sorted(sizes.items())
        if name in there and there[name] != size
    ]
    for part in document["WAL-Ranges"]:
        begin, end = Lsn.parse(part["Start-LSN"]), Lsn.parse(part["End-LSN"])
        for name in segments_between(part["Timeline"], begin, end, segment_bytes):
            path = data / "pg_wal" / name
            if not path.is_file() or path.stat().st_size != segment_bytes:
                found.append(f"the log's segment {name} is missing or not whole.")
    return found


def _within(name: str, skip: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in skip)
