"""Physical restores: bundles are checked, then unpacked into an empty folder, several at once.

`global/pg_control` gets its name last: without it no server starts, so that a restore that was cut short is never taken for
one that ended. Where bundles decode alone, a killed restore goes on with those that it has not unpacked yet.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping
from ctypes import c_int64
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nexus_ops.backups.lsn import Lsn
from nexus_ops.backups.manifest import Bundle, Manifest, Stream
from nexus_ops.backups.postgres.physical import BASE, OWN_MANIFEST, tablespace_stream
from nexus_ops.backups.postgres.tar import Member, Piece, TarScanner
from nexus_ops.backups.reading import BundleReader, Data, Journal
from nexus_ops.errors import PermanentError
from nexus_ops.users import LIBC, ordinary_user

CONTROL, HELD_BACK = "global/pg_control", "global/pg_control.restoring"
MARKER = "nexus-restore"
"""In the target while it is restored: the backup's id, and by line the bundles that are unpacked."""
PIECE, PIECES = 1 << 18, 64
"""Bytes that are decompressed at once, and how many such pieces may wait to be written."""
SPAN = 1 << 24
"""Bytes of a file after which the disk is to begin with them."""
SYNC_FILE_RANGE_WRITE = 2
"""Of sync_file_range(2)."""


class NotEmpty(PermanentError):
    """The target holds something that a restore would overwrite."""


class CannotWrite(PermanentError):
    """The target's disk does not take it."""


class BrokenStream(PermanentError):
    """Bundles that are as they were written, and yet no whole stream."""


@dataclass(frozen=True)
class Target:
    """Up to where a server replays its log: the end of the backup, or a moment, as far as there is an archive."""

    time: datetime | None = None
    position: Lsn | None = None
    latest: bool = False
    """All that there is of the log."""
    wal: Path | None = None
    """A folder with segments of the archive, moved into the restored server."""


@dataclass
class _Folder:
    """Where a stream is unpacked, and who will own it."""

    root: Path
    uid: int
    gid: int
    made: set[str] = field(default_factory=set)

    def path(self, name: str) -> Path:
        return self.root / os.fsdecode((HELD_BACK if name == CONTROL else name).encode("latin-1"))

    def parents(self, name: str) -> None:
        """Folders above: bundles come in any order."""
        parent = name.rpartition("/")[0]
        if parent and parent not in self.made:
            self.parents(parent)
            self.folder(parent)

    def folder(self, name: str) -> None:
        path = self.path(name)
        try:
            path.mkdir(mode=0o700)
            os.chown(path, self.uid, self.gid)
        except FileExistsError:
            pass  # by another bundle
        self.made.add(name)

    def open(self, name: str) -> int:
        self.parents(name)
        number = os.open(self.path(name), os.O_WRONLY | os.O_CREAT, 0o600)
        os.fchown(number, self.uid, self.gid)
        return number


class _Unpacker:
    """Writes one run of tar bytes: a whole stream, or one bundle of it."""

    def __init__(self, folder: _Folder, piece: Piece | None = None) -> None:
        self._folder = folder
        self._file = -1
        self._at = 0
        self.scanner = TarScanner(self._begin, self._data, piece)
        if piece is not None and piece.left:
            self._file, self._at = folder.open(piece.name), piece.at

    def close(self) -> None:
        if self._file >= 0:
            _begin_writing(self._file)
            os.close(self._file)
        self._file = -1

    def _begin(self, member: Member) -> None:
        self.close()
        if member.kind == "5":
            self._folder.parents(member.name)
            self._folder.folder(member.name)
        elif member.kind == "2":
            pass  # a link to a tablespace, as it was; `_relocate` makes the one that holds now
        else:
            self._file, self._at = self._folder.open(member.name), 0

    def _data(self, view: memoryview) -> None:
        while view:
            wrote = os.pwrite(self._file, view, self._at)
            if self._at // SPAN != (self._at + wrote) // SPAN:
                _begin_writing(self._file)
            self._at += wrote
            view = view[wrote:]


def restore(
    reader: BundleReader, target: Path, *, tablespaces: Mapping[int, Path] | None = None, until: Target | None = None
) -> None:
    """Restore a physical backup into an empty folder, ready to start, with settings that end recovery at `until`.

    `tablespaces`: where each goes, by OID; the default is where it was. Whatever is wrong with the backup is raised before
    the restored folder can be started, and the folder stays unusable; calling again goes on.
    """
    manifest = reader.manifest
    if manifest.kind != "physical" or manifest.postgres is None:
        raise PermanentError(f"the backup {manifest.id} is {manifest.kind}, and a physical one is needed.")
    spaces = {
        space.oid: (tablespaces or {}).get(space.oid, Path(space.location)) for space in manifest.postgres.tablespaces
    }
    journal = _claim(manifest, target, spaces)
    try:
        _restore(reader, manifest, target, spaces, until, journal)
    except OSError as error:
        raise CannotWrite(
            f"the restore cannot be written: {error.strerror}.",
            target=str(target),
            todo="Make room, or name another folder; the same restore goes on where it stopped.",
        ) from None


def _restore(
    reader: BundleReader,
    manifest: Manifest,
    target: Path,
    spaces: Mapping[int, Path],
    until: Target | None,
    journal: Journal,
) -> None:
    assert manifest.postgres is not None
    user = ordinary_user()
    uid, gid = (user.pw_uid, user.pw_gid) if user else (os.geteuid(), os.getegid())
    for name, root in ((BASE, target), *((tablespace_stream(oid), path) for oid, path in spaces.items())):
        unpack(reader, manifest.stream(name), _Folder(root, uid, gid), journal)
    folder = _Folder(target, uid, gid)
    _write(folder, "backup_manifest", b"".join(bytes(part) for part in reader.read(manifest.stream(OWN_MANIFEST))))
    _relocate(folder, manifest, spaces)
    # A standby cannot end its last segment: all of its log is the end there, and no record after it would stop recovery.
    _recovery(folder, until or Target(latest=manifest.postgres.from_standby))
    for root in (target, *spaces.values()):
        _sync(root)
    held_back = target / HELD_BACK
    if not held_back.exists():
        raise BrokenStream("the backup holds no global/pg_control.", target=f"backup {manifest.id}")
    held_back.rename(target / CONTROL)
    journal.path.unlink()
    _sync(target)


def retarget(target: Path) -> None:
    """Let recovery go to the end of the log instead of to a moment: the last setting of a name holds."""
    with (target / "postgresql.auto.conf").open("a") as file:
        file.write("recovery_target_time = ''\n")


def unpack(reader: BundleReader, stream: Stream, folder: _Folder, journal: Journal) -> None:
    """Unpack a tar: each bundle alone where they decode alone, else in order."""
    if stream.compressed_by == "client":
        todo = [bundle for bundle in stream.bundles if bundle.stored_sha256 not in journal]

        def act(bundle: Bundle, raw: Data) -> None:
            entry = bundle.entries[0] if bundle.entries else None
            unpacker = _Unpacker(folder, Piece(entry.name, entry.at, entry.size) if entry else None)
            try:
                unpacker.scanner.feed(raw)
            finally:
                unpacker.close()
            journal.add(bundle.stored_sha256)

        reader.each(stream, act, todo)
    else:
        _unpack_in_order(reader, stream, folder)


def _unpack_in_order(reader: BundleReader, stream: Stream, folder: _Folder) -> None:
    """One thread decompresses while another writes; the reader's own threads fetch and decrypt."""
    pieces: queue.Queue[memoryview | None] = queue.Queue()
    free: queue.Queue[bytearray] = queue.Queue()
    for _ in range(PIECES):
        free.put(bytearray(PIECE))
    unpacker = _Unpacker(folder)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            while (piece := pieces.get()) is not None:
                if not failed:
                    try:
                        unpacker.scanner.feed(piece)
                    except BaseException as error:
                        failed.append(error)
                assert isinstance(piece.obj, bytearray)
                free.put(piece.obj)
        finally:
            unpacker.close()

    thread = threading.Thread(target=write, name="unpack")
    thread.start()
    try:
        for piece in _decompressed(reader, stream, free):
            if failed:
                break
            pieces.put(piece)
    finally:
        pieces.put(None)
        thread.join()
    if failed:
        raise failed[0]
    if not unpacker.scanner.ended:
        raise BrokenStream("the server's tar has no end.", target=f"stream {stream.name}")


def _decompressed(reader: BundleReader, stream: Stream, free: queue.Queue[bytearray]) -> Iterator[memoryview]:
    """Pieces of a stream that the server compressed, each in a buffer of those that are free."""
    from zstandard import ZstdDecompressor, ZstdError

    source: Any = _Source(reader.read(stream))
    decompressor = ZstdDecompressor().stream_reader(source, read_size=PIECE)
    try:
        while size := decompressor.readinto(buffer := free.get()):
            reader.meter.add(done=size)
            yield memoryview(buffer)[:size]
    except ZstdError:
        raise BrokenStream("the server's zstd stream does not decode.", target=f"stream {stream.name}") from None


class _Source:
    """Bundles in order, as a file to read from."""

    def __init__(self, bundles: Iterator[Data]) -> None:
        self._bundles, self._left = bundles, memoryview(b"")

    def read(self, size: int) -> memoryview:
        """At most so many bytes; none at the end."""
        if not self._left:
            self._left = memoryview(next(self._bundles, b""))
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def _claim(manifest: Manifest, target: Path, spaces: Mapping[int, Path]) -> Journal:
    """Take the target: empty, or left by a restore that was cut short. Of another backup: begun anew."""
    marker = target / MARKER
    ours = f"backup {manifest.place}/{manifest.id} {manifest.digest}"
    try:
        if marker.exists() and ours not in marker.read_text().splitlines():
            for root in (target, *spaces.values()):
                _empty(root)
        for root in (target, *spaces.values()):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(root, 0o700)
            if user := ordinary_user():
                os.chown(root, user.pw_uid, user.pw_gid)
            if any(root.iterdir()) and not marker.exists():
                raise NotEmpty(
                    "the target is not empty, and nothing is overwritten.",
                    target=str(root),
                    todo="Name an empty folder, or empty it.",
                )
    except OSError as error:
        raise PermanentError(f"the target cannot be used: {error.strerror}.", target=str(target)) from None
    journal = Journal(marker)
    journal.add(ours)
    return journal


def _empty(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _write(folder: _Folder, name: str, data: bytes, *, append: bool = False) -> None:
    number = folder.open(name)
    with os.fdopen(number, "wb") as file:
        if append:
            file.seek(0, os.SEEK_END)
        else:
            file.truncate()
        file.write(data)


def _relocate(folder: _Folder, manifest: Manifest, spaces: Mapping[int, Path]) -> None:
    """Where the tablespaces are now: the server makes its links from tablespace_map when it recovers."""
    if spaces:
        lines = (f"{oid} {str(path.absolute()).replace(chr(92), chr(92) * 2)}\n" for oid, path in spaces.items())
        _write(folder, "tablespace_map", "".join(lines).encode())
    for oid, path in spaces.items():  # for whoever looks before the server has made them anew
        link = folder.path(f"pg_tblspc/{oid}")
        link.unlink(missing_ok=True)
        link.symlink_to(path.absolute())
        os.chown(link, folder.uid, folder.gid, follow_symlinks=False)


def _recovery(folder: _Folder, until: Target) -> None:
    """Settings after all others, and nothing of a standby that was the source.

    Recovery always ends in a new timeline: what is restored never continues the old log.
    """
    folder.path("standby.signal").unlink(missing_ok=True)
    settings = {
        "primary_conninfo": "",
        "primary_slot_name": "",
        "restore_command": "/bin/false",
        "recovery_target_action": "promote",
        "recovery_target_timeline": "latest",
    }
    if until.wal is not None:
        settings["restore_command"] = f"cp {until.wal.absolute()}/%f %p"
    if until.time is not None:
        settings["recovery_target_time"] = until.time.isoformat(sep=" ")
    elif until.position is not None:
        settings["recovery_target_lsn"] = str(until.position)
    elif not until.latest:
        settings["recovery_target"] = "immediate"
    text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    _write(folder, "postgresql.auto.conf", f"# Added by the restore:\n{text}".encode(), append=True)
    _write(folder, "recovery.signal", b"")


def _begin_writing(file: int) -> None:
    """Let the disk take what was written while the rest is unpacked: `_sync` then has little to wait for. Promises nothing."""
    if (begin := getattr(LIBC, "sync_file_range", None)) is not None:
        begin(file, c_int64(0), c_int64(0), SYNC_FILE_RANGE_WRITE)


def _sync(root: Path) -> None:
    number = os.open(root, os.O_RDONLY)
    try:
        if LIBC.syncfs(number) != 0:
            os.sync()
    finally:
        os.close(number)
