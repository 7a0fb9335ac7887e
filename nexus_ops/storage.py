"""The object store behind one small surface: files here, S3, Google Cloud or Azure elsewhere (obstore).

What is stored is written once: content is kept under its SHA-256, and a name is created, never overwritten, unless
the caller says so. Credentials come from the environment, as each cloud's own tools read them; those of an AWS profile
come through boto3. None of them is ever in an error: obstore's own texts can hold signed headers, and are not passed on.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.topology import project_folder


class NotStored(PermanentError):
    """Nothing is stored under this key."""


class AlreadyStored(PermanentError):
    """Something else is stored under this key, and it was to be created."""


class PointerMoved(TemporaryError):
    """Somebody else moved the pointer since it was read."""


class NoConditions(PermanentError):
    """A store that overwrites what was to be created: two who write at once would destroy each other's work."""


class StoreUnavailable(TemporaryError):
    """The object store did not do what it was asked, for a reason of its own."""


class StoreRefused(PermanentError):
    """The credentials in the environment do not allow it."""


class BadStore(PermanentError):
    """A URL that leads to no object store, or a key that no store can hold."""


_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3} [A-Z]\w+(?: [A-Z]\w+)*)")
_REFUSED = ("AccessDenied", "403 Forbidden", "401 Unauthorized")
_CAUSES = ("Connection refused", "timed out", "dns error", "No space left on device", "Read-only file system")
KNOWN = ("file", "s3", "gs", "az")
LOCK_SECONDS = 10
"""How long the store may take to say what it has locked."""


@dataclass(frozen=True)
class Stored:
    """One object of a listing."""

    key: str
    size: int
    modified: datetime
    """When it was written (UTC), by the store's clock."""


@dataclass(frozen=True)
class Pointer:
    """What a pointer said when it was read; `version` is what `move_pointer` compares."""

    data: bytes
    version: str


def state_folder() -> Path:
    """Where this machine keeps its state: $NEXUS_HOME, else .nexus in the project's folder."""
    return Path(os.environ.get("NEXUS_HOME") or project_folder() / ".nexus").absolute()


def default_store_url() -> str:
    """The object store: $NEXUS_STORE, else a folder under the state folder."""
    return os.environ.get("NEXUS_STORE") or (state_folder() / "store").as_uri()


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class ObjectStore:
    """Keys and bytes. Keys are paths with `/`, without a leading one."""

    def __init__(self, backend: Any, url: str) -> None:
        self._backend = backend
        self._seen = url.startswith("file:")
        """Whether the store itself is known to be there: a missing bucket answers as a missing key does."""
        self.url = url

    @classmethod
    def open(cls, url: str, **options: Any) -> ObjectStore:
        """A store by URL: `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://…`.

        `options` go to obstore (endpoint, region; in tests). A URL of another kind is an error that says which.
        """
        from obstore.store import from_url

        parts = urlsplit(url)
        name = f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else parts.path
        _check_url(parts, name)
        try:
            if parts.scheme == "file":
                Path(unquote(parts.path)).mkdir(parents=True, exist_ok=True)
            if parts.scheme == "s3" and (profile := _aws_profile(options)):
                options = {"credential_provider": profile, **options}
            # A bulk deletion of one object says of a refusal that the store is out of order, and not every S3 knows it.
            known = {"disable_bulk_delete": True, **_unsigned()} if parts.scheme == "s3" else {}
            return cls(from_url(url, **known, **options), name)
        except OSError as error:
            problem = f"the folder cannot be made: {error.strerror}."
            raise BadStore(problem, target=name, todo="Name a folder that can be written to.") from None
        except Exception as error:  # obstore raises many kinds; their texts repeat the options, credentials too
            todo = "Check its URL, and the settings of this cloud in the environment."
            raise BadStore(f"the store cannot be opened: {type(error).__name__}.", target=name, todo=todo) from None

    def put(self, key: str, data: bytes | bytearray | memoryview, *, create: bool = False) -> None:
        """Store bytes; with `create`, only when nothing is there (`AlreadyStored`)."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            # One request whatever the size: several parts would know no condition.
            mode = "create" if create else "overwrite"
            obstore.put(self._backend, _checked(key), data, mode=mode, use_multipart=False)
        except AlreadyExistsError:
            raise AlreadyStored("something is stored already.", target=self._name(key)) from None
        except Exception as error:  # obstore raises many kinds
            raise self._failed("write", key, error) from None

    def get(self, key: str) -> bytes:
        """The bytes of a key, or `NotStored`."""
        return bytes(self.view(key))

    def view(self, key: str) -> memoryview:
        """The bytes of a key as the store handed them out, not copied, or `NotStored`."""
        import obstore

        try:
            return memoryview(obstore.get(self._backend, _checked(key)).bytes())
        except FileNotFoundError:
            self._must_exist()
            raise NotStored("nothing is stored.", target=self._name(key)) from None
        except Exception as error:  # as in put
            raise self._failed("read", key, error) from None

    def exists(self, key: str) -> bool:
        """Whether something is stored; a store that cannot answer is an error, not a no."""
        import obstore

        try:
            obstore.head(self._backend, _checked(key))
        except FileNotFoundError:
            self._must_exist()
            return False
        except Exception as error:  # as in put
            raise self._failed("read", key, error) from None
        return True

    def list(self, prefix: str) -> list[str]:
        """Keys below a prefix (a whole path segment), sorted."""
        return [entry.key for entry in self.entries(prefix)]

    def entries(self, prefix: str) -> builtins.list[Stored]:
        """What is stored below a prefix (a whole path segment), sorted by key."""
        import obstore

        try:
            found = [
                Stored(str(entry["path"]), entry["size"], entry["last_modified"])
                for page in obstore.list(self._backend, prefix)
                for entry in page
            ]
        except Exception as error:  # as in put
            raise self._failed("list", prefix, error) from None
        self._seen = True
        return sorted(found, key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Remove what is stored; nothing there is as good."""
        import obstore

        try:
            obstore.delete(self._backend, _checked(key))
        except FileNotFoundError:
            self._must_exist()
        except Exception as error:  # as in put
            raise self._failed("delete", key, error) from None

    def pointer(self, key: str) -> Pointer | None:
        """The pointer under a key: a small object that only `move_pointer` writes; None where there is none."""
        import obstore

        if self._numbered:
            numbers = self.list(key)
            return Pointer(self.get(numbers[-1]), numbers[-1].rpartition("/")[2]) if numbers else None
        try:
            found = obstore.get(self._backend, _checked(key))
            return Pointer(bytes(found.bytes()), str(found.meta["e_tag"]))
        except FileNotFoundError:
            self._must_exist()
            return None
        except Exception as error:  # as in put
            raise self._failed("read", key, error) from None

    def check_conditions(self, key: str) -> None:
        """Make sure that the store refuses to create what is there (`NoConditions`): some S3 servers overwrite it instead."""
        for _ in range(2):  # the first one may make it
            try:
                self.put(key, b"", create=True)
            except AlreadyStored:
                return
        raise NoConditions(
            "it overwrites what was to be created.", target=self.url, todo="Use a store that honours If-None-Match."
        )

    def locked_until(self, key: str) -> datetime | None:
        """Until when the store itself keeps what is stored under a key from deletion: S3's Object Lock.

        None where it does not, or does not say (it needs `s3:GetObjectRetention`): that protects nobody's decision.
        """
        if not self.url.startswith("s3:"):
            return None
        from urllib.request import Request, urlopen

        import obstore

        try:  # obstore hands out no such header, and boto3 takes longer to load than some backups take
            address = obstore.sign(self._backend, "HEAD", _checked(key), timedelta(minutes=1))
            with urlopen(Request(address, method="HEAD"), timeout=LOCK_SECONDS) as answer:
                until = answer.headers.get("x-amz-object-lock-retain-until-date")
            return datetime.fromisoformat(until) if until else None
        except Exception:  # what is not known protects nobody's decision; and its text may hold the signed address
            return None

    def move_pointer(self, key: str, data: bytes, seen: Pointer | None) -> None:
        """Write a pointer if it is still as it was `seen` (None: there was none), else `PointerMoved`.

        Folders know no compare-and-swap, only create: there each value is a file of its own, by number, and the highest
        one counts.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        moved = PointerMoved("somebody else moved it.", target=self._name(key), todo="Read it again.")
        try:
            if self._numbered:
                number = int(seen.version) + 1 if seen else 1
                obstore.put(self._backend, _checked(f"{key}/{number:08}"), data, mode="create")
            elif seen is None:
                obstore.put(self._backend, _checked(key), data, mode="create", use_multipart=False)
            else:
                condition: Any = {"e_tag": seen.version}
                obstore.put(self._backend, _checked(key), data, mode=condition, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            raise moved from None
        except Exception as error:  # as in put
            raise self._failed("write", key, error) from None

    @property
    def _numbered(self) -> bool:
        return self.url.startswith("file:")

    def put_content(self, prefix: str, data: bytes) -> str:
        """Store bytes under their digest; the same bytes again make nothing new. The digest."""
        digest = digest_of(data)
        try:
            self.put(f"{prefix}/{digest}", data, create=True)
        except AlreadyStored:
            pass  # the same content, by its name
        return digest

    def get_content(self, prefix: str, digest: str) -> bytes:
        """Bytes by their digest, checked against it."""
        data = self.get(f"{prefix}/{digest}")
        if digest_of(data) != digest:
            raise PermanentError(
                "the stored content does not match its digest.", target=self._name(f"{prefix}/{digest}")
            )
        return data

    def _must_exist(self) -> None:
        """Ask once whether there is a store at all: only then has a missing key ever been looked for."""
        import obstore

        if self._seen:
            return
        try:
            next(iter(obstore.list(self._backend, chunk_size=1)), None)
        except Exception as error:  # as in put
            raise self._failed("read", "", error) from None
        self._seen = True

    def _name(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}".rstrip("/")

    def _failed(self, what: str, key: str, error: Exception) -> Exception:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        if isinstance(error, BadStore):
            return error
        reason = _reason(error)
        problem = f"could not {what}: {reason}."
        # A listing that is refused comes without a type of its own.
        refusals = PermissionDeniedError | UnauthenticatedError | PermissionError
        if isinstance(error, refusals) or reason in _REFUSED:
            todo = "Give these credentials the right to it, or use others."
            return StoreRefused(problem, target=self._name(key), todo=todo)
        todo = "Check that it is reachable and that the credentials in the environment allow it."
        return StoreUnavailable(problem, target=self._name(key), todo=todo)


def _checked(key: str) -> str:
    """A key that is a path below the store, spelt in the one way."""
    if not key or any(part in ("", ".", "..") for part in key.split("/")):
        raise BadStore(
            f"{key!r} is no key.", todo="A key is a path with single slashes, without a leading one, . or .."
        )
    return key


def _check_url(parts: SplitResult, name: str) -> None:
    if parts.scheme not in (*KNOWN, "memory"):
        raise BadStore("no such kind of object store.", target=name, todo=f"Known: {', '.join(KNOWN)}.")
    if parts.username or parts.password:
        raise BadStore("the URL holds credentials.", target=name, todo="Take them out; set them in the environment.")
    if parts.scheme in ("s3", "gs", "az") and not parts.hostname:
        raise BadStore("the URL names no bucket.", target=name, todo=f"Write it as {parts.scheme}://bucket/prefix.")


def _unsigned() -> dict[str, Any]:
    """Leave what is sent out of the signature, as AWS's own tools do: TLS protects it on its way, and a hash of ours ever after."""
    return {} if os.environ.get("AWS_UNSIGNED_PAYLOAD") else {"unsigned_payload": True}


def _aws_profile(options: dict[str, Any]) -> Any:
    """Credentials of an AWS profile, which obstore itself cannot read, through boto3; None where they come otherwise."""
    given = "access_key_id" in options or "credential_provider" in options or os.environ.get("AWS_ACCESS_KEY_ID")
    if given or not os.environ.get("AWS_PROFILE"):
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


def _reason(error: Exception) -> str:
    """Why, in words that hold no credential: the server's own code or status, else a known cause, else the error's kind."""
    text = str(error)
    if found := _CODE.search(text) or _STATUS.search(text):
        return found[1]
    return next((cause for cause in _CAUSES if cause in text), type(error).__name__)
